"""Configurations: defaults, defaults for tables, and errors that name the field, the value and the remedy."""

import copy
from typing import Any

import pytest
import yaml
from helpers.errors import names_all
from pydantic import ValidationError

from lstm_models.config import (
    CELLS,
    RNN,
    AddingProblemData,
    AnyModel,
    BuiltIn,
    CompareConfig,
    ConfigError,
    Contender,
    ConvergenceCriterion,
    FigureOptions,
    FineTuneConfig,
    FineTuning,
    HandBuilt,
    MonitorConfig,
    Split,
    Sql,
    TableData,
    Training,
    TutorialData,
    parse_config,
)
from lstm_models.config.compare import RESERVED_NAMES
from lstm_models.data.output import OutputSpec
from lstm_models.nn import cell_variants
from lstm_models.utils.errors import UserError

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
OURS = "contenders.ours"
ADDING = {"kind": "adding", "count": 10}
TABLE = {"kind": "table", "path": "a.csv", "target": "y", "horizon": 24}
SQL = {"url": "sqlite:///a.db", "query": "SELECT * FROM t"}
MINIMAL = {"experiment": "x", "data": TABLE}  # contenders are optional for a table
REMOVED = object()


def changed(changes: dict[str, Any], base: dict[str, Any] = VALID) -> dict[str, Any]:
    """Return a valid configuration with the values of some dotted keys changed or removed."""
    values = copy.deepcopy(base)
    for field, value in changes.items():
        *path, key = full(field).split(".")
        section = values
        for name in path:
            section = section.setdefault(name, {})
        if value is REMOVED:
            del section[key]
        else:
            section[key] = value
    return values


def full(field: str) -> str:
    """Return the full dotted key of a field; model, training and the like are sections of OURS."""
    return f"{OURS}.{field}" if field.partition(".")[0] in Contender.model_fields else field


def error_message(values: Any) -> str:
    """Return the error message for an invalid configuration."""
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_defaults() -> None:
    model = {"hidden_size": 1, "num_layers": 1, "dropout": 0.0, "head": "none"}
    hand_built = {
        **model, "kind": "hand_built", "double_bias": True, "init": "default", "cell": "lstm", "forget_bias": None,
        "recurrent_dropout": 0.0, "zoneout": 0.0,
    }  # fmt: skip
    training = {
        "max_epochs": 10, "learning_rate": 0.01, "fused": False, "batch_size": 1, "shuffle": False, "weight_decay": 0.0,
        "lr_schedule": "none", "lr_gamma": 0.95, "patience": None, "precision": "32", "device": "cpu",
        "gradient_clip_norm": None, "num_threads": None,
        "log_every_n_steps": 50, "checkpoint_every_n_steps": None, "checkpoint_every_n_minutes": 1.0,
        "log_predictions": False,
    }  # fmt: skip
    contender = {"model": hand_built, "training": training, "fine_tuning": {"max_epochs": 20}, "replicas": 1}
    found = parse_config(VALID, "my.yaml")
    assert found.model_dump() == {
        "experiment": "waves",
        "seed": 1,
        "data": {"kind": "tutorial"},
        "contenders": {"ours": contender},
        "converged": {"metric": "max_error", "threshold": 0.1},
        "min_improvement": 0.0,
        "figures": {"gate_examples": None, "gradients_through_time": False},
    }
    assert CompareConfig(experiment="waves", contenders={"ours": Contender(**VALID["contenders"]["ours"])}) == (
        found.model_copy(update={"seed": 42})
    )
    assert parse_config(changed({"data": REMOVED}), "my.yaml").data == TutorialData()
    assert parse_config(changed({"data": ADDING}), "my.yaml").data.model_dump() == {
        "kind": "adding", "length": 100, "count": 10, "seed": 0,
    }  # fmt: skip
    assert Training(max_epochs=1).learning_rate == 0.001
    assert BuiltIn(kind="built_in").model_dump() == {**model, "kind": "built_in", "forget_bias": None}
    assert RNN(kind="rnn").model_dump() == {**model, "kind": "rnn"}


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        # no implicit conversion
        ("training.max_epochs", "5", "integer"),
        ("training.max_epochs", True, "integer"),
        ("training.max_epochs", 5.0, "integer"),
        ("replicas", None, "integer"),
        ("figures.gate_examples", ["1"], "integer"),
        ("training.learning_rate", "fast", "number"),
        ("training.learning_rate", True, "number"),
        ("training.learning_rate", float("nan"), "finite"),
        ("training.learning_rate", float("inf"), "finite"),
        ("model.forget_bias", "1", "number"),
        ("model.forget_bias", -float("inf"), "finite"),
        ("training.shuffle", 1, "boolean"),
        ("figures.gradients_through_time", "yes", "boolean"),
        ("figures.gate_examples", 1, "list"),
        ("model.cell", None, "string"),
        ("experiment", 5, "string"),
        # sections
        ("model", "hand_built", "mapping"),
        ("training", None, "mapping"),
        ("contenders", ["ours"], "mapping"),
        ("contenders", "ours", "mapping"),
        ("converged", None, "mapping"),
        ("data", None, "mapping"),
        # choices
        ("model.double_bias", "three", "valid boolean"),
        ("model.head", None, "'none' or 'linear'"),
        ("model.kind", "gru", "'hand_built' or 'built_in' or 'rnn'"),
        ("data.kind", "csv", "'tutorial' or 'adding' or 'table'"),
        ("converged.metric", "rmse", "'max_error', 'mse' or 'mae'"),
        # names
        *(("experiment", name, "100 letters") for name in ("a/b", "a\n", "", "-a", ".a")),
    ],
)
def test_invalid_value_is_rejected(field: str, value: Any, remedy: str) -> None:
    shown = value[0] if field.endswith("gate_examples") and isinstance(value, list) else value
    assert names_all(error_message(changed({field: value})), f"my.yaml: {full(field)}: ", repr(shown), remedy)


@pytest.mark.parametrize("values", [None, [1, 2], "text", 5, []])
def test_non_mapping_is_rejected(values: Any) -> None:
    assert names_all(error_message(values), "my.yaml: the configuration: ", repr(values), "mapping")


@pytest.mark.parametrize(
    ("field", "allowed", "rejected", "bound"),
    [
        ("seed", 0, -1, "0"),
        ("seed", 2**32 - 1, 2**32, "4294967296"),
        ("experiment", "x" * 100, "x" * 101, "100"),
        ("min_improvement", 0.0, -0.1, "0"),
        ("min_improvement", 0.999, 1.0, "1"),
        ("replicas", 1, 0, "1"),
        ("replicas", 1000, 1001, "1000"),
        ("model.hidden_size", 1, 0, "1"),
        ("model.forget_bias", -1, "x", "number"),
        ("model.dropout", 0.999, 1.0, "1"),
        ("model.recurrent_dropout", 0, -0.1, "0"),
        ("model.zoneout", 0.999, 1, "1"),
        ("training.max_epochs", 1, 0, "1"),
        ("training.learning_rate", 1e-30, 0.0, "0"),
        ("training.learning_rate", 1, 1e31, "1" + 30 * "0"),
        ("training.batch_size", 1, 0, "1"),
        ("training.gradient_clip_norm", 1e-30, 0.0, "0"),
        ("fine_tuning.max_epochs", 2**63 - 1, 2**63, "64 bits"),
        ("converged.threshold", 1e-30, 0, "0"),
        ("figures.gate_examples", [1], [1, 0], "1"),
        ("figures.gate_examples", [2**63 - 1], [2**63], "64 bits"),
        ("data.count", 1, 0, "1"),
        ("data.count", 10**7, 10**7 + 1, "10000000"),
        ("data.length", 2, 1, "2"),
        ("data.length", 10_000, 10_001, "10000"),
        ("data.seed", 0, -1, "0"),
        ("data.seed", 2**32 - 1, 2**32, "4294967296"),
    ],
)
def test_bounds(field: str, allowed: Any, rejected: Any, bound: str) -> None:
    base = changed({"model.num_layers": 2, **({"data": ADDING} if field.startswith("data.") else {})})
    found: Any = parse_config(changed({field: allowed}, base), "my.yaml").model_dump()
    for name in full(field).split("."):
        found = found[name]
    assert found == allowed
    message = error_message(changed({field: rejected}, base))
    assert names_all(message, f"my.yaml: {full(field)}: ", bound)
    assert isinstance(rejected, list | str) or repr(rejected) in message
    assert len(message) < 250


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("training.learningrate", "mean learning_rate?"),
        ("contender", "mean contenders?"),
        (f"{OURS}.replica", "mean replicas?"),
        ("figures.gates", "gate_examples"),
        ("training.zzz", f"allowed here: {', '.join(Training.model_fields)}"),
        ("model.zzz", f"allowed here: {', '.join(HandBuilt.model_fields)}"),
        ("data.zzz", "allowed here: kind"),
        ("converged.zzz", "allowed here: metric, threshold"),
    ],
)
def test_unknown_key_is_rejected_with_the_allowed_keys(field: str, hint: str) -> None:
    assert names_all(error_message(changed({field: 0.1})), f"my.yaml: {full(field)}: ", "unknown", hint)


def test_non_string_key_is_rejected() -> None:
    assert names_all(error_message(VALID | {7: 1}), "my.yaml: 7: ", "unknown", ", ".join(CompareConfig.model_fields))


def test_settings_of_the_hand_built_model_are_rejected_for_built_in_ones() -> None:
    for kind, keys in {
        "built_in": ("double_bias", "cell", "zoneout", "recurrent_dropout"),
        "rnn": ("double_bias", "cell", "zoneout", "recurrent_dropout", "forget_bias"),
    }.items():
        for key in keys:
            message = error_message(changed({"model": {"kind": kind, key: 0.1}}))
            hint = "did you mean forget_bias?" if (kind, key) == ("built_in", "double_bias") else "allowed here: hidden"
            assert names_all(message, f"{OURS}.model.{key}: ", "unknown", hint)


@pytest.mark.parametrize(
    ("base", "field"),
    [
        (VALID, "experiment"),
        (VALID, "training"),
        (VALID, "training.max_epochs"),
        (VALID, "fine_tuning"),
        (VALID, "model.kind"),
        (changed({"data": ADDING}), "data.count"),
        (changed({"data": ADDING}), "data.kind"),
        (changed({"data": ADDING}), "contenders"),
        (MINIMAL, "data.target"),
    ],
)
def test_missing_key_is_rejected(base: dict[str, Any], field: str) -> None:
    assert names_all(error_message(changed({field: REMOVED}, base)), f"my.yaml: {full(field)}: missing")


def test_up_to_ten_errors_are_listed_in_one_line() -> None:
    assert names_all(error_message({}), "experiment: missing; contenders: missing")
    assert names_all(
        error_message(changed({"seed": "a", "training.max_epochs": 0, "model.kind": "gru"})),
        "my.yaml: seed: ", f"; {OURS}.model.kind: ", f"; {OURS}.training.max_epochs: ",
    )  # fmt: skip
    many = error_message(MINIMAL | {"data": TABLE | {"features": [1] * 1000}})
    assert many.count("1 given") == 10
    assert names_all(many, "; and 990 more")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        # model and training settings
        *(
            (changed({"model": {"kind": kind, "hidden_size": 2}}), ("model: ", "hidden_size 2", "head", "linear"))
            for kind in ("hand_built", "rnn")
        ),
        *(
            (changed({"model": {"kind": kind, "dropout": 0.5}}), ("model: ", "dropout 0.5", "num_layers 1", "2"))
            for kind in ("hand_built", "rnn")
        ),
        *(
            (changed({"training.max_epochs": epochs}), (f"{OURS}: ", "max_epochs 20", f"max_epochs {epochs}", "above"))
            for epochs in (20, 21)
        ),
        # training settings and the data
        *(
            (changed({"data": data, "training.patience": 3}), ("ours", "patience 3", data["kind"], "validation"))
            for data in ({"kind": "tutorial"}, ADDING)
        ),
        (changed({"contenders.rnn.replicas": 2}, MINIMAL), ("rnn", "replicas 2", "table", "does not support replicas")),
        (
            changed({"contenders.rnn.training": {"log_predictions": True}}, MINIMAL),
            ("rnn", "log_predictions", "table", "labels"),
        ),
        # contenders
        (changed({"contenders": {}}), ("contenders: ", "empty")),
        (MINIMAL | {"contenders": {}}, ("contenders: ", "empty")),
        (MINIMAL | {"contenders": None}, ("contenders: ", "None", "mapping")),
        (MINIMAL | {"contenders": ["rnn"]}, ("contenders: ", "['rnn']", "mapping")),
        (MINIMAL | {"contenders": {"rnn": None}}, ("contenders.rnn: ", "None", "mapping")),
        (changed({"contenders.rnn.model": "lstm"}, MINIMAL), ("contenders.rnn.model: ", "'lstm'", "mapping")),
        (changed({"contenders.a.model": {"kind": "gru"}}, MINIMAL), ("contenders.a.model.kind: ", "'gru'", "'rnn'")),
        (changed({"contenders.rnn.modle": {}}, MINIMAL), ("contenders.rnn.modle: ", "unknown", "model?")),
        (
            changed({"contenders.rnn.model": {"hidden_size": 4, "head": "none"}}, MINIMAL),
            ("contenders.rnn.model: ", "hidden_size 4", "head"),
        ),
        (
            changed({"contenders.rnn.fine_tuning": {"max_epochs": 10}}, MINIMAL),
            ("contenders.rnn: ", "max_epochs 10", "above"),
        ),
        # the table
        (MINIMAL | {"data": {"path": "a.csv", "target": "y"}}, ("data.kind: missing", "contenders: missing")),
        (MINIMAL | {"data": {"kind": "table", "target": "y"}}, ("data: ", "path or sql")),
        (MINIMAL | {"data": TABLE | {"sql": SQL}}, ("data: ", "path or sql")),
        (MINIMAL | {"data": TABLE | {"task": "classify"}}, ("data: ", "classify", "group")),
        (MINIMAL | {"data": TABLE | {"task": "regress"}}, ("data: ", "regress", "group")),
        (MINIMAL | {"data": TABLE | {"task": "predict"}}, ("data.task: ", "'predict'", "'forecast', 'classify' or 'r")),
        (MINIMAL | {"data": TABLE | {"horizont": 3}}, ("data.horizont: ", "unknown", "horizon?")),
        (MINIMAL | {"data": TABLE | {"horizon": 0}}, ("data.horizon: ", "0 given", "1")),
        (MINIMAL | {"data": TABLE | {"context_length": 100_001}}, ("data.context_length: ", "100001", "100000")),
        (MINIMAL | {"data": TABLE | {"evaluation_stride": 0.5}}, ("data.evaluation_stride: ", "0.5", "integer")),
        (MINIMAL | {"data": TABLE | {"season_length": 0}}, ("data.season_length: ", "0 given", "1")),
        (MINIMAL | {"data": TABLE | {"split": {"training": 0.5}}}, ("data.split.training: ", "unknown", "train?")),
        (MINIMAL | {"data": TABLE | {"gaps": "fill"}}, ("data.gaps: ", "'fill'", "'error', 'allow' or 'split'")),
    ],
)
def test_invalid_combination_is_rejected(values: dict[str, Any], parts: tuple[str, ...]) -> None:
    assert names_all(error_message(values), *parts)


# ---- names and cells
def test_invalid_contender_name_is_rejected() -> None:
    ours = VALID["contenders"]["ours"]
    assert RESERVED_NAMES == ("champion", "challenger", "latest")
    for name in (*RESERVED_NAMES, "v1", "Ours", "9ours", "our-s", "our.s", "", "ü", "x" * 101, 5, None, True):
        field = f"contenders.{name}: " if isinstance(name, str) else "contenders"
        assert names_all(error_message(changed({"contenders": {name: ours}})), f"my.yaml: {field}")
    for name in ("x" * 100, "a", "a_9", "v1a"):
        assert list(parse_config(changed({"contenders": {name: ours}}), "my.yaml").contenders) == [name]
    assert parse_config(changed({"experiment": "champion"}), "my.yaml").experiment == "champion"


def test_cell_is_a_known_name_or_a_dotted_name() -> None:
    assert tuple(cell_variants.CELLS) == CELLS
    for cell in (*CELLS, "my.Cell", "_my.cells.of_2026.Cell"):
        assert parse_config(changed({"model.cell": cell}), "my.yaml").contenders["ours"].model.cell == cell
    malformed = ("", ".", "zzz", "zzz.", ".Zzz", "9.Zzz", "my zzz.Zzz", "zzz:Zzz", "zzz/z.Zzz", "zzz.Zzz\n", "..Zzz")
    for cell in (*malformed, "LSTM"):
        message = error_message(changed({"model.cell": cell}))
        assert names_all(message, f"{OURS}.model.cell: ", repr(cell), ", ".join(CELLS), "module.Class")
    assert names_all(error_message(changed({"model.cell": "peephol"})), "'peephol'", "mean peephole?", "module.Class")


# ---- configuration objects
def test_configuration_error_is_a_user_error_and_a_value_error() -> None:
    assert issubclass(ConfigError, UserError)
    assert issubclass(UserError, ValueError)


def test_configurations_are_frozen() -> None:
    config = parse_config(VALID, "my.yaml")
    contender = config.contenders["ours"]
    parts = (config.data, config.converged, config.figures, contender.model, contender.training, contender.fine_tuning)
    for section in (config, contender, *parts):
        for name, value in section:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(section, name, value)


def test_parsing_does_not_change_its_input() -> None:
    for values in (VALID, MINIMAL):
        before = copy.deepcopy(values)
        parse_config(values, "my.yaml")
        assert values == before


def test_every_setting_has_a_description() -> None:
    parts = (
        HandBuilt,
        BuiltIn,
        RNN,
        Training,
        FineTuning,
        AddingProblemData,
        TableData,
        Sql,
        OutputSpec,
        ConvergenceCriterion,
        FigureOptions,
    )
    for section in (CompareConfig, FineTuneConfig, MonitorConfig, Split, *parts):
        for name, field in section.model_fields.items():
            # Split describes its fields itself
            assert name in ("kind", "split") or field.description, f"{section.__name__}.{name}"


# ---- defaults for tables
def of_table(**contenders: Any) -> dict[str, Contender]:
    """Return these contenders with the defaults for a table."""
    return parse_config({**MINIMAL, "contenders": contenders}, "my.yaml").contenders


def default(model: AnyModel) -> Contender:
    return Contender(
        model=model,
        training=Training(
            max_epochs=10, batch_size=64, shuffle=True, gradient_clip_norm=1.0, patience=3, num_threads=1
        ),
        fine_tuning=FineTuning(max_epochs=15),
        replicas=1,
    )


def test_a_table_needs_only_path_and_target() -> None:
    expected = CompareConfig(
        experiment="x",
        seed=42,
        data=TableData(
            kind="table", path="a.csv", sql=None, task="forecast", target="y", features=None, time=None, group=None,
            context_length=96, horizon=24, stride=1, evaluation_stride=1, residual="last_value", season_length=None,
            split=Split(train=0.7, validation=0.1, test=None), scaling="standard", missing="error", gaps="error",
            duplicates="error", unsorted="sort",
        ),
        contenders={
            "hand_built": default(HandBuilt(kind="hand_built", hidden_size=64, head="linear")),
            "built_in": default(BuiltIn(kind="built_in", hidden_size=64, head="linear")),
        },
        converged=ConvergenceCriterion(),
        figures=FigureOptions(),
    )  # fmt: skip
    found = parse_config(MINIMAL, "my.yaml")
    assert found == expected
    assert list(found.contenders) == ["hand_built", "built_in"]
    assert CompareConfig(experiment="x", data=TableData(kind="table", path="a.csv", target="y", horizon=24)) == expected
    assert CompareConfig.model_validate(MINIMAL) == expected
    assert parse_config(yaml.safe_load(found.to_yaml()), "my.yaml") == expected


def test_missing_contender_settings_get_the_defaults_for_tables() -> None:
    found = of_table(
        rnn={},
        mine={"model": {"kind": "hand_built", "cell": "peephole", "hidden_size": 8}},
        built_in={"model": {"kind": "rnn", "num_layers": 2}},
        hand_built={
            "training": {
                "max_epochs": 4,
                "learning_rate": 0.1,
                "shuffle": False,
                "gradient_clip_norm": None,
                "patience": None,
            }
        },
    )
    assert list(found) == ["rnn", "mine", "built_in", "hand_built"]
    assert found == {
        "rnn": default(RNN(kind="rnn", hidden_size=64, head="linear")),
        "mine": default(HandBuilt(kind="hand_built", cell="peephole", hidden_size=8, head="linear")),
        "built_in": default(RNN(kind="rnn", hidden_size=64, num_layers=2, head="linear")),
        "hand_built": Contender(
            model=HandBuilt(kind="hand_built", hidden_size=64, head="linear"),
            training=Training(max_epochs=4, learning_rate=0.1, batch_size=64, num_threads=1),
            fine_tuning=FineTuning(max_epochs=6),
        ),
    }


def test_a_complete_contender_for_a_table_stays_as_it_is() -> None:
    """As a mapping, and as a Contender object."""
    complete = VALID["contenders"]["ours"]
    small = {**complete["model"], "head": "none"}
    assert of_table(ours={**complete, "model": small})["ours"] == Contender(
        model=HandBuilt(kind="hand_built", hidden_size=1),
        training=Training(
            max_epochs=10,
            learning_rate=0.01,
            batch_size=64,
            shuffle=True,
            gradient_clip_norm=1.0,
            patience=3,
            num_threads=1,
        ),
        fine_tuning=FineTuning(max_epochs=20),
    )
    as_object = Contender(**complete)
    assert of_table(ours=as_object) == {"ours": as_object}


def test_fine_tuning_on_a_table_adds_half_as_many_epochs_by_default() -> None:
    for epochs, total in {1: 2, 2: 3, 3: 5, 4: 6, 10: 15, 11: 17, 1000: 1500}.items():
        assert of_table(rnn={"training": {"max_epochs": epochs}})["rnn"].fine_tuning.max_epochs == total
        explicit = of_table(rnn={"training": {"max_epochs": epochs}, "fine_tuning": {"max_epochs": epochs + 100}})
        assert explicit["rnn"].fine_tuning.max_epochs == epochs + 100


def test_log_predictions_replicas_and_patience_are_accepted_for_supported_data() -> None:
    assert of_table(rnn={"training": {"log_predictions": False}, "replicas": 1})["rnn"].training.patience == 3
    fitting = parse_config(changed({"training.log_predictions": True, "replicas": 2}), "my.yaml").contenders["ours"]
    assert (fitting.training.log_predictions, fitting.replicas) == (True, 2)
