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
    RNN,
    AddingData,
    AnyModel,
    BuiltIn,
    CompareConfig,
    ConfigError,
    Contender,
    Converged,
    EvaluateConfig,
    Figures,
    FineTuneConfig,
    FineTuning,
    HandBuilt,
    Output,
    Split,
    Sql,
    TableData,
    Training,
    TutorialData,
    UserError,
    parse_config,
)
from lstm_models.config.compare import RESERVED_NAMES

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
            "clip_norm, threads, log_every_n_steps, checkpoint_every_n_steps, checkpoint_every_n_minutes, log_outputs",
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
        ({7: 1}, "7: unknown key; allowed here: experiment, seed, data, contenders, converged, margin, figures"),
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
        ({"data": {"kind": "csv"}}, "data.kind: 'csv' given, must be 'tutorial' or 'adding' or 'table'"),
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
    parts = (HandBuilt, BuiltIn, RNN, Training, FineTuning, AddingData, TableData, Sql, Output, Converged, Figures)
    for section in (CompareConfig, FineTuneConfig, EvaluateConfig, Split, *parts):
        for name, field in section.model_fields.items():
            # what a split is stands where the split is
            assert name in ("kind", "split") or field.description, f"{section.__name__}.{name}"


# ---- tables of one's own
TABLE = {"kind": "table", "path": "a.csv", "target": "y", "horizon": 24}
FEWEST = {"experiment": "x", "data": TABLE}


def of_table(**contenders: Any) -> dict[str, Contender]:
    """What becomes of these contenders, trained on a table."""
    return parse_config({**FEWEST, "contenders": contenders}, "my.yaml").contenders


def default(model: AnyModel) -> Contender:
    return Contender(
        model=model,
        training=Training(max_epochs=10, batch_size=64, shuffle=True, clip_norm=1.0, patience=3, threads=1),
        fine_tuning=FineTuning(max_epochs=15),
        replicas=1,
    )


def test_for_a_table_its_path_and_its_target_are_enough() -> None:
    expected = CompareConfig(
        experiment="x",
        seed=42,
        data=TableData(
            kind="table",
            path="a.csv",
            sql=None,
            task="forecast",
            target="y",
            features=None,
            time=None,
            group=None,
            context_length=96,
            horizon=24,
            stride=1,
            evaluation_stride=1,
            residual="last_value",
            season=None,
            split=Split(train=0.7, validation=0.1, test=None),
            scaling="standard",
            missing="refuse",
            gaps="refuse",
            duplicates="refuse",
            unsorted="sort",
        ),
        contenders={
            "hand_built": default(HandBuilt(kind="hand_built", hidden_size=64, head="linear")),
            "built_in": default(BuiltIn(kind="built_in", hidden_size=64, head="linear")),
        },
        converged=Converged(),
        figures=Figures(),
    )
    found = parse_config(FEWEST, "my.yaml")
    assert found == expected
    assert list(found.contenders) == ["hand_built", "built_in"]
    assert CompareConfig(experiment="x", data=TableData(kind="table", path="a.csv", target="y", horizon=24)) == expected
    assert CompareConfig.model_validate(FEWEST) == expected
    assert parse_config(yaml.safe_load(found.to_yaml()), "my.yaml") == expected
    assert FEWEST == {"experiment": "x", "data": TABLE}  # what is given stays as it is


def test_of_a_contender_for_a_table_what_is_not_given_is_the_default() -> None:
    found = of_table(
        rnn={},
        mine={"model": {"kind": "hand_built", "cell": "peephole", "hidden_size": 8}},
        built_in={"model": {"kind": "rnn", "num_layers": 2}},
        hand_built={
            "training": {"max_epochs": 4, "learning_rate": 0.1, "shuffle": False, "clip_norm": None, "patience": None}
        },
    )
    assert list(found) == ["rnn", "mine", "built_in", "hand_built"]
    assert found["rnn"] == default(RNN(kind="rnn", hidden_size=64, head="linear"))
    assert found["mine"] == default(HandBuilt(kind="hand_built", cell="peephole", hidden_size=8, head="linear"))
    assert found["built_in"] == default(RNN(kind="rnn", hidden_size=64, num_layers=2, head="linear"))
    assert found["hand_built"] == Contender(
        model=HandBuilt(kind="hand_built", hidden_size=64, head="linear"),
        training=Training(max_epochs=4, learning_rate=0.1, batch_size=64, threads=1),
        fine_tuning=FineTuning(max_epochs=6),
    )


def test_a_contender_for_a_table_may_be_given_whole() -> None:
    """Even so as it would be for the tutorial; and as the object that it is."""
    whole = VALID["contenders"]["ours"]
    small = {**whole["model"], "head": "none"}
    assert of_table(ours={**whole, "model": small})["ours"] == Contender(
        model=HandBuilt(kind="hand_built", hidden_size=1),
        training=Training(
            max_epochs=10, learning_rate=0.01, batch_size=64, shuffle=True, clip_norm=1.0, patience=3, threads=1
        ),
        fine_tuning=FineTuning(max_epochs=20),
    )
    as_object = Contender(**whole)
    assert of_table(ours=as_object) == {"ours": as_object}


@pytest.mark.parametrize(("epochs", "further"), [(1, 2), (2, 3), (3, 5), (4, 6), (10, 15), (11, 17), (1000, 1500)])
def test_fine_tuning_on_a_table_goes_on_for_half_as_many_epochs_more(epochs: int, further: int) -> None:
    found = of_table(rnn={"training": {"max_epochs": epochs}}, mine={"model": {"kind": "rnn"}, "training": {}})
    assert found["rnn"].fine_tuning.max_epochs == further
    own = of_table(rnn={"training": {"max_epochs": epochs}, "fine_tuning": {"max_epochs": epochs + 100}})
    assert own["rnn"].fine_tuning.max_epochs == epochs + 100


SQL = {"url": "sqlite:///a.db", "query": "SELECT * FROM t"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        # the contenders
        (FEWEST | {"contenders": {}}, "contenders: must not be empty"),
        (FEWEST | {"contenders": None}, "contenders: None given, must be a mapping"),
        (FEWEST | {"contenders": ["rnn"]}, "contenders: ['rnn'] given, must be a mapping"),
        (FEWEST | {"contenders": {"rnn": None}}, "contenders.rnn: None given, must be a mapping"),
        (
            FEWEST | {"contenders": {"rnn": {"model": "lstm"}}},
            "contenders.rnn.model: 'lstm' given, must be a mapping; contenders.rnn.training: missing; "
            "contenders.rnn.fine_tuning: missing",
        ),
        (
            FEWEST | {"contenders": {"mine": {"model": {"kind": "gru"}}}},
            f"contenders.mine.model.kind: 'gru' given, {KINDS}",
        ),
        (
            FEWEST | {"contenders": {"rnn": {"modle": {}}}},
            "contenders.rnn.modle: unknown key; did you mean model?",
        ),
        (
            FEWEST | {"contenders": {"rnn": {"model": {"hidden_size": 4, "head": "none"}}}},
            "contenders.rnn.model: hidden_size 4 with head none: without a head the last hidden state is the one "
            "prediction, so hidden_size must be 1, or head linear",
        ),
        (
            FEWEST | {"contenders": {"rnn": {"fine_tuning": {"max_epochs": 10}}}},
            f"contenders.rnn: fine_tuning.max_epochs 10 with training.max_epochs 10: {EPOCHS}",
        ),
        # what goes with which data
        (
            FEWEST | {"contenders": {"rnn": {"replicas": 2}}},
            "the configuration: contender rnn with replicas 2: the data table takes no copies",
        ),
        (
            changed({"data": ADDING, f"{OURS}.training.patience": 3}),
            "the configuration: contender ours with patience 3: the data adding has no validation part to watch",
        ),
        (changed({"data": ADDING, "contenders": GONE}), "contenders: missing"),
        (changed({f"{OURS}.training": GONE}), "contenders.ours.training: missing"),
        # the table
        (FEWEST | {"data": {"kind": "table", "path": "a.csv"}}, "data.target: missing"),
        (FEWEST | {"data": {"path": "a.csv", "target": "y"}}, "data.kind: missing; contenders: missing"),
        (FEWEST | {"data": {"kind": "table", "target": "y"}}, "data: give either path or sql"),
        (FEWEST | {"data": TABLE | {"sql": SQL}}, "data: give either path or sql"),
        (FEWEST | {"data": TABLE | {"task": "classify"}}, "data: task classify needs a group column: a label for each"),
        (FEWEST | {"data": TABLE | {"task": "regress"}}, "data: task regress needs a group column: a label for each"),
        (
            FEWEST | {"data": TABLE | {"task": "predict"}},
            "data.task: 'predict' given, must be 'forecast', 'classify' or 'regress'",
        ),
        (FEWEST | {"data": TABLE | {"horizont": 3}}, "data.horizont: unknown key; did you mean horizon?"),
        (FEWEST | {"data": TABLE | {"horizon": 0}}, "data.horizon: 0 given, must be greater than or equal to 1"),
        (
            FEWEST | {"data": TABLE | {"context_length": 100_001}},
            "data.context_length: 100001 given, must be less than or equal to 100000",
        ),
        (
            FEWEST | {"data": TABLE | {"evaluation_stride": 0.5}},
            "data.evaluation_stride: 0.5 given, must be a valid integer",
        ),
        (FEWEST | {"data": TABLE | {"season": 0}}, "data.season: 0 given, must be greater than or equal to 1"),
        (
            FEWEST | {"data": TABLE | {"split": {"training": 0.5}}},
            "data.split.training: unknown key; did you mean train?",
        ),
        (
            FEWEST | {"data": TABLE | {"gaps": "fill"}},
            "data.gaps: 'fill' given, must be 'refuse', 'allow' or 'split'",
        ),
    ],
)
def test_what_can_not_be_of_a_table_is_refused_in_one_line(values: dict[str, Any], text: str) -> None:
    assert message(values) == f"my.yaml: {text}"


def test_a_table_has_no_few_labels_to_draw() -> None:
    text = message(FEWEST | {"contenders": {"rnn": {"training": {"log_outputs": True}}}})
    assert text.startswith("my.yaml: the configuration: contender rnn with log_outputs ")
    assert text.endswith(": the data table has no few labels to draw")


def test_a_log_of_outputs_copies_and_patience_are_for_the_data_that_they_fit() -> None:
    assert of_table(rnn={"training": {"log_outputs": False}, "replicas": 1})["rnn"].training.patience == 3
    fitting = changed({f"{OURS}.training.log_outputs": True, f"{OURS}.replicas": 2})
    assert parse_config(fitting, "my.yaml").contenders["ours"].replicas == 2


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


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
fractions = st.floats(0, 1)
dates = st.dates().map(str)


@st.composite
def tables(draw: st.DrawFn) -> TableData:
    columns = draw(st.lists(names, min_size=6, max_size=6, unique=True))
    task = draw(st.sampled_from(["forecast", "classify", "regress"]))
    parts = draw(st.sampled_from([fractions, counts, dates]))
    test = draw(st.none() | parts)
    source: dict[str, Any] = draw(
        st.fixed_dictionaries({"path": names})
        | st.fixed_dictionaries({"sql": st.builds(Sql, url=names, query=names, password_env=st.none() | names)})
    )
    return TableData(
        kind="table",
        task=task,
        target=columns[:2] if task == "forecast" and draw(st.booleans()) else columns[0],
        features=draw(st.none() | st.just(columns[2:4])),
        time=draw(st.none() | st.just(columns[4])),
        group=columns[5] if task != "forecast" else draw(st.none() | st.just(columns[5])),
        context_length=draw(st.integers(1, 100_000)),
        horizon=draw(st.integers(1, 10_000)),
        stride=draw(counts),
        evaluation_stride=draw(counts),
        residual=draw(st.sampled_from(["none", "last_value"])),
        season=draw(st.none() | counts),
        split=Split(train=draw(parts), validation=draw(parts), test=test),
        scaling=draw(st.sampled_from(["standard", "minmax", "none"])),
        missing=draw(st.sampled_from(["refuse", "drop", "forward_fill", "interpolate"])),
        gaps=draw(st.sampled_from(["refuse", "allow", "split"])),
        duplicates=draw(st.sampled_from(["refuse", "first", "last", "mean"])),
        unsorted=draw(st.sampled_from(["refuse", "sort"])),
        **source,
    )


def trained_on_a_table(contender: Contender, patience: int | None) -> Contender:
    training = contender.training.model_copy(update={"log_outputs": False, "patience": patience})
    return contender.model_copy(update={"training": training, "replicas": 1})


of_tables = st.builds(
    CompareConfig,
    experiment=st.just("x"),
    data=tables(),
    contenders=st.dictionaries(
        st.sampled_from(["hand_built", "mine", "rnn"]),
        st.builds(trained_on_a_table, contenders(), st.none() | counts),
        min_size=1,
        max_size=2,
    ),
)


@given(of_tables)
@settings(derandomize=True, deadline=None, max_examples=50)  # a shared machine may pause for longer than by default
def test_a_configuration_of_a_table_survives_yaml_and_json(config: CompareConfig) -> None:
    """No default takes the place of what was written down: of none neither."""
    assert parse_config(yaml.safe_load(config.to_yaml()), "my.yaml") == config
    assert CompareConfig.model_validate_json(config.model_dump_json()) == config


@given(configurations)
@settings(deadline=None, max_examples=50)  # a shared machine may pause for longer than the default allows
def test_a_configuration_survives_yaml(config: CompareConfig) -> None:
    assert parse_config(yaml.safe_load(config.to_yaml()), "my.yaml") == config


@given(configurations)
@settings(deadline=None)  # as above
def test_a_configuration_survives_json_as_prefect_passes_it(config: CompareConfig) -> None:
    assert CompareConfig.model_validate_json(config.model_dump_json()) == config
