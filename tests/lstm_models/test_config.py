"""The configuration: what is refused, in which words, and that it survives YAML."""

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lstm_models import cells
from lstm_models.config import (
    CELLS,
    RESERVED_NAMES,
    RNN,
    AddingData,
    AnyModel,
    BuiltIn,
    CompareConfig,
    ConfigError,
    Contender,
    Converged,
    Figures,
    FineTuning,
    HandBuilt,
    Training,
    TutorialData,
    UserError,
    parse_config,
)

VALID: dict[str, Any] = {
    "experiment": "waves",
    "seed": 1,
    "data": {"kind": "tutorial"},
    "contenders": {
        "ours": {
            "model": {"kind": "hand_built", "hidden_size": 1},
            "training": {"max_epochs": 10, "learning_rate": 0.01},
            "fine_tuning": {"max_epochs": 20},
        }
    },
}
GONE = object()

NAME = "must be up to 100 letters, digits, '_', '.' or '-', no sign first"


def changed(changes: dict[str, Any]) -> Any:
    """The valid configuration with other values at dotted places."""
    values = copy.deepcopy(VALID)
    for place, value in changes.items():
        *sections, key = place.split(".")
        here = values
        for section in sections:
            here = here[section]
        if value is GONE:
            del here[key]
        else:
            here[key] = value
    return values


def message(values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "my.yaml")
    return str(caught.value)


OURS = "contenders.ours"
KINDS = "must be 'hand_built' or 'built_in' or 'rnn'"
EPOCHS = "epoch counts are absolute, so fine_tuning.max_epochs must be above training.max_epochs"


def test_a_configuration_is_what_it_says_and_the_rest_has_defaults() -> None:
    assert parse_config(VALID, "my.yaml") == CompareConfig(
        experiment="waves",
        seed=1,
        data=TutorialData(kind="tutorial"),
        contenders={
            "ours": Contender(
                model=HandBuilt(
                    kind="hand_built",
                    hidden_size=1,
                    num_layers=1,
                    dropout=0.0,
                    head="none",
                    biases="two",
                    init="default",
                    cell="lstm",
                    forget_bias=None,
                    recurrent_dropout=0.0,
                    zoneout=0.0,
                ),
                training=Training(
                    max_epochs=10,
                    learning_rate=0.01,
                    fused=False,
                    batch_size=1,
                    shuffle=False,
                    clip_norm=None,
                    threads=None,
                    log_every_n_steps=50,
                    log_outputs=False,
                ),
                fine_tuning=FineTuning(max_epochs=20),
                replicas=1,
            )
        },
        converged=Converged(metric="max_error", below=0.1),
        figures=Figures(gates_of=None, gradients_through_time=False),
    )
    assert CompareConfig(experiment="waves", contenders={"ours": Contender(**VALID["contenders"]["ours"])}).seed == 42
    assert Training(max_epochs=1).learning_rate == 0.001


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {f"{OURS}.training.learningrate": 0.1},
            f"{OURS}.training.learningrate: unknown key; did you mean learning_rate?",
        ),
        ({"contender": {}}, "contender: unknown key; did you mean contenders?"),
        (
            {f"{OURS}.training.patience": 3},
            "the configuration: contender ours with patience 3: the data tutorial has no validation part to watch",
        ),
        (
            {f"{OURS}.training.zzz": 1},
            f"{OURS}.training.zzz: unknown key; allowed here: max_epochs, learning_rate, fused, batch_size, shuffle, "
            "weight_decay, schedule, decay, patience, precision, device, "
            "clip_norm, threads, log_every_n_steps, log_outputs",
        ),
        (
            {f"{OURS}.model.zzz": 1},
            f"{OURS}.model.zzz: unknown key; allowed here: hidden_size, num_layers, dropout, head, kind, biases, init, "
            "cell, forget_bias, recurrent_dropout, zoneout",
        ),
        (
            {f"{OURS}.model": {"kind": "built_in", "biases": "one"}},
            f"{OURS}.model.biases: unknown key; "
            "allowed here: hidden_size, num_layers, dropout, head, kind, forget_bias",
        ),
        ({7: 1}, "7: unknown key; allowed here: experiment, seed, data, contenders, converged, figures"),
        (
            {f"{OURS}.training.max_epochs": "5"},
            f"{OURS}.training.max_epochs: '5' given, must be a valid integer",
        ),
        (
            {f"{OURS}.training.max_epochs": True},
            f"{OURS}.training.max_epochs: True given, must be a valid integer",
        ),
        (
            {f"{OURS}.training.max_epochs": 5.0},
            f"{OURS}.training.max_epochs: 5.0 given, must be a valid integer",
        ),
        (
            {f"{OURS}.training.learning_rate": "fast"},
            f"{OURS}.training.learning_rate: 'fast' given, must be a valid number",
        ),
        (
            {f"{OURS}.training.learning_rate": True},
            f"{OURS}.training.learning_rate: True given, must be a valid number",
        ),
        ({f"{OURS}.training.shuffle": 1}, f"{OURS}.training.shuffle: 1 given, must be a valid boolean"),
        (
            {f"{OURS}.training.learning_rate": float("nan")},
            f"{OURS}.training.learning_rate: nan given, must be a finite number",
        ),
        (
            {f"{OURS}.training.learning_rate": float("inf")},
            f"{OURS}.training.learning_rate: inf given, must be a finite number",
        ),
        (
            {f"{OURS}.training.learning_rate": 0.0},
            f"{OURS}.training.learning_rate: 0.0 given, must be greater than 0",
        ),
        (
            {f"{OURS}.training.batch_size": 0},
            f"{OURS}.training.batch_size: 0 given, must be greater than or equal to 1",
        ),
        ({f"{OURS}.model.hidden_size": 0}, f"{OURS}.model.hidden_size: 0 given, must be greater than or equal to 1"),
        (
            {f"{OURS}.model.num_layers": 2, f"{OURS}.model.dropout": 1.0},
            f"{OURS}.model.dropout: 1.0 given, must be less than 1",
        ),
        ({f"{OURS}.model.biases": "three"}, f"{OURS}.model.biases: 'three' given, must be 'one' or 'two'"),
        ({f"{OURS}.model.head": None}, f"{OURS}.model.head: None given, must be 'none' or 'linear'"),
        (
            {f"{OURS}.model.hidden_size": 2},
            f"{OURS}.model: hidden_size 2 with head none: without a head the last hidden state is the one prediction, "
            "so hidden_size must be 1, or head linear",
        ),
        (
            {f"{OURS}.training.max_epochs": 21},
            f"{OURS}: fine_tuning.max_epochs 20 with training.max_epochs 21: {EPOCHS}",
        ),
        (
            {f"{OURS}.training.max_epochs": 20},
            f"{OURS}: fine_tuning.max_epochs 20 with training.max_epochs 20: {EPOCHS}",
        ),
        ({f"{OURS}.training.max_epochs": GONE}, f"{OURS}.training.max_epochs: missing"),
        ({f"{OURS}.fine_tuning": GONE}, f"{OURS}.fine_tuning: missing"),
        ({"experiment": GONE}, "experiment: missing"),
        ({f"{OURS}.model.kind": "gru"}, f"{OURS}.model.kind: 'gru' given, {KINDS}"),
        ({f"{OURS}.model.kind": GONE}, f"{OURS}.model.kind: missing"),
        ({f"{OURS}.model": "hand_built"}, f"{OURS}.model: 'hand_built' given, must be a mapping"),
        ({f"{OURS}.training": None}, f"{OURS}.training: None given, must be a mapping"),
        ({"contenders": ["ours"]}, "contenders: ['ours'] given, must be a mapping"),
        ({"contenders": "ours"}, "contenders: 'ours' given, must be a mapping"),
        ({"data": {"kind": "csv"}}, "data.kind: 'csv' given, must be 'tutorial' or 'adding'"),
        ({"seed": -1}, "seed: -1 given, must be greater than or equal to 0"),
        ({"seed": 2**32}, "seed: 4294967296 given, must be less than 4294967296"),
        ({"experiment": 5}, "experiment: 5 given, must be a valid string"),
        ({"experiment": "a/b"}, f"experiment: 'a/b' given, {NAME}"),
        ({"experiment": "a\n"}, f"experiment: 'a\\n' given, {NAME}"),
        ({"experiment": ""}, f"experiment: '' given, {NAME}"),
        ({"experiment": "x" * 101}, f"experiment: '{'x' * 37}...{'x' * 38}' given, {NAME}"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(changes: dict[str, Any], text: str) -> None:
    values = changed(changes) if all(isinstance(place, str) for place in changes) else VALID | changes
    assert message(values) == f"my.yaml: {text}"


ALL_CELLS = (
    "there are lstm, peephole, no_input_gate, no_forget_gate, no_output_gate, no_input_activation, "
    "no_output_activation, coupled_gates, full_gate_recurrence, layer_norm."
)
OWN = "One of your own is module.Class"
ADDING = {"kind": "adding", "count": 10}
PLAIN = {"kind": "rnn", "hidden_size": 1}
BUILT_IN = {"kind": "built_in", "hidden_size": 1}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        # cells
        (
            {f"{OURS}.model.cell": "peephol"},
            f"{OURS}.model.cell: 'peephol' given, no such cell; did you mean peephole? {OWN}",
        ),
        (
            {f"{OURS}.model.cell": "LSTM"},
            f"{OURS}.model.cell: 'LSTM' given, no such cell; {ALL_CELLS} {OWN}",
        ),
        *(
            ({f"{OURS}.model.cell": cell}, f"{OURS}.model.cell: {cell!r} given, no such cell; {ALL_CELLS} {OWN}")
            for cell in (
                "",
                ".",
                "zzz",
                "zzz.",
                ".Zzz",
                "9.Zzz",
                "my zzz.Zzz",
                "zzz:Zzz",
                "zzz/z.Zzz",
                "zzz.Zzz\n",
                "..Zzz",
            )
        ),
        ({f"{OURS}.model.cell": None}, f"{OURS}.model.cell: None given, must be a valid string"),
        ({f"{OURS}.model.forget_bias": "1"}, f"{OURS}.model.forget_bias: '1' given, must be a valid number"),
        ({f"{OURS}.model.forget_bias": float("inf")}, f"{OURS}.model.forget_bias: inf given, must be a finite number"),
        ({f"{OURS}.model.zoneout": 1}, f"{OURS}.model.zoneout: 1 given, must be less than 1"),
        (
            {f"{OURS}.model.recurrent_dropout": -0.1},
            f"{OURS}.model.recurrent_dropout: -0.1 given, must be greater than or equal to 0",
        ),
        (
            {f"{OURS}.model": BUILT_IN | {"forget_bias": True}},
            f"{OURS}.model.forget_bias: True given, must be a valid number",
        ),
        *(
            (
                {f"{OURS}.model": BUILT_IN | {key: value}},
                f"{OURS}.model.{key}: unknown key; "
                "allowed here: hidden_size, num_layers, dropout, head, kind, forget_bias",
            )
            for key, value in (("cell", "lstm"), ("zoneout", 0.1), ("recurrent_dropout", 0.1))
        ),
        # the plain network
        (
            {f"{OURS}.model": PLAIN | {"forget_bias": 1.0}},
            f"{OURS}.model.forget_bias: unknown key; allowed here: hidden_size, num_layers, dropout, head, kind",
        ),
        (
            {f"{OURS}.model": PLAIN | {"hidden_size": 2}},
            f"{OURS}.model: hidden_size 2 with head none: without a head the last hidden state is the one prediction, "
            "so hidden_size must be 1, or head linear",
        ),
        (
            {f"{OURS}.model": PLAIN | {"dropout": 0.5}},
            f"{OURS}.model: dropout 0.5 with num_layers 1: dropout acts between layers, so it needs at least 2",
        ),
        # training
        ({f"{OURS}.training.clip_norm": 0.0}, f"{OURS}.training.clip_norm: 0.0 given, must be greater than 0"),
        ({f"{OURS}.training.clip_norm": -1}, f"{OURS}.training.clip_norm: -1 given, must be greater than 0"),
        ({f"{OURS}.training.clip_norm": "1"}, f"{OURS}.training.clip_norm: '1' given, must be a valid number"),
        (
            {f"{OURS}.training.clip_norm": float("inf")},
            f"{OURS}.training.clip_norm: inf given, must be a finite number",
        ),
        ({f"{OURS}.replicas": 0}, f"{OURS}.replicas: 0 given, must be greater than or equal to 1"),
        ({f"{OURS}.replicas": 1001}, f"{OURS}.replicas: 1001 given, must be less than or equal to 1000"),
        ({f"{OURS}.replicas": 2.0}, f"{OURS}.replicas: 2.0 given, must be a valid integer"),
        ({f"{OURS}.replicas": None}, f"{OURS}.replicas: None given, must be a valid integer"),
        ({f"{OURS}.replica": 2}, f"{OURS}.replica: unknown key; did you mean replicas?"),
        # when a copy has converged
        ({"converged": None}, "converged: None given, must be a mapping"),
        (
            {"converged": {"metric": "rmse"}},
            "converged.metric: 'rmse' given, must be 'max_error', 'mse' or 'mae'",
        ),
        ({"converged": {"below": 0}}, "converged.below: 0 given, must be greater than 0"),
        ({"converged": {"above": 1}}, "converged.above: unknown key; allowed here: metric, below"),
        # figures
        ({"figures": {"gates_of": [1, 0]}}, "figures.gates_of: 0 given, must be greater than or equal to 1"),
        ({"figures": {"gates_of": 1}}, "figures.gates_of: 1 given, must be a valid list"),
        ({"figures": {"gates_of": ["1"]}}, "figures.gates_of: '1' given, must be a valid integer"),
        ({"figures": {"gates_of": []}}, "figures.gates_of: must not be empty"),
        (
            {"figures": {"gradients_through_time": "yes"}},
            "figures.gradients_through_time: 'yes' given, must be a valid boolean",
        ),
        ({"figures": {"gates": [1]}}, "figures.gates: unknown key; did you mean gates_of?"),
        # the adding problem
        ({"data": {"kind": "adding"}}, "data.count: missing"),
        ({"data": {"count": 10}}, "data.kind: missing"),
        ({"data": ADDING | {"count": 0}}, "data.count: 0 given, must be greater than or equal to 1"),
        ({"data": ADDING | {"count": 10**7 + 1}}, "data.count: 10000001 given, must be less than or equal to 10000000"),
        ({"data": ADDING | {"length": 1}}, "data.length: 1 given, must be greater than or equal to 2"),
        ({"data": ADDING | {"length": 10_001}}, "data.length: 10001 given, must be less than or equal to 10000"),
        ({"data": ADDING | {"seed": -1}}, "data.seed: -1 given, must be greater than or equal to 0"),
        ({"data": ADDING | {"seed": 2**32}}, "data.seed: 4294967296 given, must be less than 4294967296"),
        ({"data": ADDING | {"size": 5}}, "data.size: unknown key; allowed here: kind, length, count, seed"),
        ({"data": {"kind": "tutorial", "count": 5}}, "data.count: unknown key; allowed here: kind"),
        ({"data": None}, "data: None given, must be a mapping"),
    ],
)
def test_what_else_can_not_be_is_refused_in_one_line(changes: dict[str, Any], text: str) -> None:
    assert message(changed(changes)) == f"my.yaml: {text}"


def test_the_cells_are_those_that_there_are() -> None:
    assert tuple(cells.CELLS) == CELLS


@pytest.mark.parametrize("cell", [*CELLS, "my.Cell", "_my.cells.of_2026.Cell"])
def test_a_cell_is_one_of_ours_or_a_dotted_name(cell: str) -> None:
    assert parse_config(changed({f"{OURS}.model.cell": cell}), "my.yaml").contenders["ours"].model.cell == cell


def test_the_adding_problem_has_defaults() -> None:
    found = parse_config(changed({"data": ADDING}), "my.yaml").data
    assert found == AddingData(kind="adding", length=100, count=10, seed=0)
    assert parse_config(changed({"data": GONE}), "my.yaml").data == TutorialData()


def test_a_plain_network_has_what_all_have() -> None:
    model = parse_config(changed({f"{OURS}.model": PLAIN}), "my.yaml").contenders["ours"].model
    assert model == RNN(kind="rnn", hidden_size=1, num_layers=1, dropout=0.0, head="none")


@pytest.mark.parametrize("values", [None, [1, 2], "text", 5, []])
def test_what_is_no_mapping_is_no_configuration(values: Any) -> None:
    assert message(values) == f"my.yaml: the configuration: {values!r} given, must be a mapping"


def test_every_fault_is_told_in_the_same_line() -> None:
    assert message({}) == "my.yaml: experiment: missing; contenders: missing"
    assert (
        message(changed({"seed": "a", f"{OURS}.training.max_epochs": 0, f"{OURS}.model.kind": "gru"}))
        == "my.yaml: seed: 'a' given, must be a valid integer; "
        f"contenders.ours.model.kind: 'gru' given, {KINDS}; "
        "contenders.ours.training.max_epochs: 0 given, must be greater than or equal to 1"
    )


@pytest.mark.parametrize(
    "values",
    [
        changed({"contenders": {}}),
        changed({f"{OURS}.model.dropout": 0.5}),
        *(changed({"contenders": {name: VALID["contenders"]["ours"]}}) for name in RESERVED_NAMES),
        *(
            changed({"contenders": {name: VALID["contenders"]["ours"]}})
            for name in ("Ours", "9ours", "our-s", "our.s", "", "ü", "x" * 101, 5, None, True)
        ),
    ],
)
def test_what_else_can_not_be_is_refused(values: Any) -> None:
    text = message(values)
    assert text.startswith("my.yaml: ")
    assert "contenders" in text
    assert text.isprintable()


def test_a_reserved_name_is_refused_as_a_contenders_only() -> None:
    assert RESERVED_NAMES == ("champion", "challenger", "latest")
    assert parse_config(changed({"experiment": "champion"}), "my.yaml").experiment == "champion"


def test_limits_are_allowed() -> None:
    config = parse_config(
        changed(
            {
                "seed": 2**32 - 1,
                "data": {"kind": "adding", "length": 2, "count": 10**7, "seed": 2**32 - 1},
                "figures": {"gates_of": [1]},
                f"{OURS}.training.max_epochs": 19,
                f"{OURS}.training.learning_rate": 1,
                f"{OURS}.training.clip_norm": 1e-30,
                f"{OURS}.model.forget_bias": -1,
                f"{OURS}.model.zoneout": 0.999,
                f"{OURS}.replicas": 1000,
            }
        ),
        "my.yaml",
    )
    assert config.seed == config.data.seed == 2**32 - 1
    assert config.contenders["ours"].training.learning_rate == 1.0
    assert config.contenders["ours"].model.forget_bias == -1.0
    assert config.contenders["ours"].replicas == 1000
    assert parse_config(changed({"data": ADDING | {"length": 10_000, "count": 1}}), "my.yaml").data.length == 10_000
    assert parse_config(changed({"seed": 0, "experiment": "x" * 100}), "my.yaml").seed == 0
    BuiltIn(kind="built_in", hidden_size=2, num_layers=2, dropout=0.999, head="linear")


def test_a_configuration_error_is_a_users_error_and_a_value_error() -> None:
    assert issubclass(ConfigError, UserError)
    assert issubclass(UserError, ValueError)


def test_configurations_are_frozen() -> None:
    config = parse_config(VALID, "my.yaml")
    contender = config.contenders["ours"]
    parts = (config.data, config.converged, config.figures, contender.model, contender.training, contender.fine_tuning)
    for section in (config, contender, *parts):
        for name, value in section:
            with pytest.raises(ValidationError, match="Instance is frozen"):
                setattr(section, name, value)


def test_parsing_leaves_the_given_values_as_they_are() -> None:
    values = copy.deepcopy(VALID)
    parse_config(values, "my.yaml")
    assert values == VALID


def test_every_setting_is_described() -> None:
    parts = (HandBuilt, BuiltIn, RNN, Training, FineTuning, AddingData, Converged, Figures)
    for section in (CompareConfig, *parts):
        for name, field in section.model_fields.items():
            assert name == "kind" or field.description, f"{section.__name__}.{name}"


counts = st.integers(1, 2**40)


probabilities = st.floats(0, 1, exclude_max=True)
biases = st.none() | st.floats(-1e30, 1e30)


@st.composite
def models(draw: st.DrawFn) -> AnyModel:
    head = draw(st.sampled_from(["none", "linear"]))
    layers = draw(st.integers(1, 4))
    shared: dict[str, Any] = {
        "head": head,
        "hidden_size": 1 if head == "none" else draw(counts),
        "num_layers": layers,
        "dropout": draw(probabilities) if layers > 1 else 0.0,
    }
    match draw(st.sampled_from(["hand_built", "built_in", "rnn"])):
        case "rnn":
            return RNN(kind="rnn", **shared)
        case "built_in":
            return BuiltIn(kind="built_in", forget_bias=draw(biases), **shared)
    return HandBuilt(
        kind="hand_built",
        biases=draw(st.sampled_from(["one", "two"])),
        init=draw(st.sampled_from(["default", "normal"])),
        cell=draw(st.sampled_from([*CELLS, "my.own.Cell"])),
        forget_bias=draw(biases),
        recurrent_dropout=draw(probabilities),
        zoneout=draw(probabilities),
        **shared,
    )


@st.composite
def contenders(draw: st.DrawFn) -> Contender:
    first = draw(counts)
    training = st.builds(
        Training,
        max_epochs=st.just(first),
        learning_rate=st.floats(0, 1e30, exclude_min=True),
        fused=st.booleans(),
        batch_size=counts,
        shuffle=st.booleans(),
        clip_norm=st.none() | st.floats(0, 1e30, exclude_min=True),
        log_every_n_steps=counts,
        log_outputs=st.booleans(),
    )
    return Contender(
        model=draw(models()),
        training=draw(training),
        fine_tuning=FineTuning(max_epochs=first + draw(counts)),
        replicas=draw(st.integers(1, 1000)),
    )


configurations = st.builds(
    CompareConfig,
    experiment=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,11}", fullmatch=True),
    seed=st.integers(0, 2**32 - 1),
    data=st.just(TutorialData())
    | st.builds(
        AddingData,
        kind=st.just("adding"),
        length=st.integers(2, 10_000),
        count=st.integers(1, 10_000_000),
        seed=st.integers(0, 2**32 - 1),
    ),
    converged=st.builds(
        Converged,
        metric=st.sampled_from(["max_error", "mse", "mae"]),
        below=st.floats(0, 1e30, exclude_min=True),
    ),
    figures=st.builds(
        Figures,
        gates_of=st.none() | st.lists(st.integers(1, 100), min_size=1, max_size=3),
        gradients_through_time=st.booleans(),
    ),
    contenders=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True).filter(
            # aliases, reserved here and (v1, v2, ...) in MLflow
            lambda name: name not in RESERVED_NAMES and not name.removeprefix("v").isdigit()
        ),
        contenders(),
        min_size=1,
        max_size=2,
    ),
)


@given(configurations)
@settings(deadline=None, max_examples=50)  # a shared machine may pause for longer than the default allows
def test_a_configuration_survives_yaml(config: CompareConfig) -> None:
    assert parse_config(yaml.safe_load(config.to_yaml()), "my.yaml") == config


@given(configurations)
@settings(deadline=None)  # as above
def test_a_configuration_survives_json_as_prefect_passes_it(config: CompareConfig) -> None:
    assert CompareConfig.model_validate_json(config.model_dump_json()) == config
