"""Settings of fine-tuning and monitoring: the derived configurations, and invalid settings."""

from typing import Any

import pytest
from helpers.errors import names_all
from hypothesis import given
from hypothesis import strategies as st

from flows.recipes import load_for_experiment
from lstm_models.config import (
    CompareConfig,
    Config,
    ConfigError,
    Contender,
    FineTuneConfig,
    FineTuning,
    MonitorConfig,
    Split,
    Sql,
    fine_tuning_config,
    parse,
    parse_config,
    with_new_data,
    yaml,
)

VALUES: dict[str, Any] = {
    "experiment": "demand",
    "seed": 7,
    "data": {"kind": "table", "path": "a.csv", "target": "y", "time": "t", "split": {"train": 0.6, "validation": 0.2}},
    "contenders": {
        "small": {
            "model": {"kind": "hand_built", "hidden_size": 4},
            "training": {"max_epochs": 10, "learning_rate": 0.01, "patience": 2, "lr_schedule": "cosine"},
            "fine_tuning": {"max_epochs": 15},
        },
        "large": {"model": {"kind": "built_in", "hidden_size": 16}, "training": {"max_epochs": 8}, "replicas": 1},
    },
    "min_improvement": 0.25,
    "figures": {"gate_examples": [3]},
}
DEMAND = parse_config(VALUES, "demand.yaml")
FROM_SQL = parse_config(
    VALUES | {"data": {"kind": "table", "sql": {"url": "sqlite:///a.db", "query": "SELECT 1"}, "target": "y"}}, "sql"
)
OURS = {"model": {"kind": "hand_built"}, "training": {"max_epochs": 2}, "fine_tuning": {"max_epochs": 3}, "replicas": 4}
NO_TABLES = {
    data["kind"]: parse_config({"experiment": "demand", "data": data, "contenders": {"ours": OURS}}, "")
    for data in ({"kind": "tutorial"}, {"kind": "adding", "count": 8})
}


def fine_tune(**values: Any) -> FineTuneConfig:
    return FineTuneConfig(experiment="demand", **values)


def expected(config: CompareConfig, name: str, training: dict[str, Any], total: int, **others: Any) -> CompareConfig:
    """Return the configuration with one contender and other epochs, otherwise unchanged."""
    original = config.contenders[name]
    contender = Contender(
        model=original.model,
        training=original.training.model_copy(update=training),
        fine_tuning=FineTuning(max_epochs=total),
        replicas=original.replicas,
    )
    return config.model_copy(update={"contenders": {name: contender}, **others})


# ---- derived configurations
def test_mode_continue_keeps_the_epoch_count_and_all_other_settings() -> None:
    before = DEMAND.model_copy(deep=True)
    assert fine_tuning_config(DEMAND, "small", 12, fine_tune(epochs=3)) == expected(
        DEMAND, "small", {"max_epochs": 12}, 15
    )
    assert fine_tuning_config(DEMAND, "large", 1, fine_tune()) == expected(DEMAND, "large", {"max_epochs": 1}, 6)
    for config in NO_TABLES.values():
        assert fine_tuning_config(config, "ours", 3, fine_tune(epochs=2)) == expected(
            config, "ours", {"max_epochs": 3}, 5
        )
    for margin in (None, 0.0, 0.5):  # the requested min_improvement does not change the configuration
        assert fine_tuning_config(DEMAND, "small", 12, fine_tune(min_improvement=margin)).min_improvement == 0.25
    assert before == DEMAND


@pytest.mark.parametrize(("requested", "rate"), [(None, 0.01), (0.25, 0.25), (1e-30, 1e-30)])
@pytest.mark.parametrize("trained_for", [1, 99])
def test_a_warm_start_counts_epochs_from_1_with_the_requested_or_previous_learning_rate(
    requested: float | None, rate: float, trained_for: int
) -> None:
    found = fine_tuning_config(
        DEMAND, "small", trained_for, fine_tune(mode="warm_start", epochs=3, learning_rate=requested)
    )
    assert found == expected(DEMAND, "small", {"max_epochs": 3, "learning_rate": rate}, 6)


def test_a_fine_tuned_model_can_be_fine_tuned_again() -> None:
    again = fine_tuning_config(
        fine_tuning_config(DEMAND, "small", 12, fine_tune(epochs=3)), "small", 15, fine_tune(epochs=2)
    )
    assert again == expected(DEMAND, "small", {"max_epochs": 15}, 17)
    warm = fine_tuning_config(again, "small", 17, fine_tune(mode="warm_start", learning_rate=0.5, epochs=4))
    assert warm == expected(DEMAND, "small", {"max_epochs": 4, "learning_rate": 0.5}, 8)
    # the next warm start uses the same learning rate
    assert fine_tuning_config(warm, "small", 4, fine_tune(mode="warm_start", epochs=4)) == warm


@given(
    contender=st.sampled_from(["small", "large"]),
    epochs=st.integers(1, 10**9),
    more=st.integers(1, 10**9),
    rate=st.none() | st.floats(min_value=1e-300, max_value=1e30),
    warm=st.booleans(),
    margin=st.none() | st.floats(0, 1, exclude_max=True),
)
def test_the_derived_configuration_is_valid_and_survives_serialization(
    contender: str, epochs: int, more: int, rate: float | None, warm: bool, margin: float | None
) -> None:
    mode: Any = "warm_start" if warm else "continue"
    found = fine_tuning_config(
        DEMAND,
        contender,
        epochs,
        fine_tune(epochs=more, min_improvement=margin, mode=mode, learning_rate=rate if warm else None),
    )
    assert parse_config(found.model_dump(mode="json"), "again") == found
    assert parse_config(yaml.load(found.to_yaml()), "again") == found
    assert CompareConfig.model_validate_json(found.model_dump_json()) == found
    derived = found.contenders[contender]
    epochs_of = derived.training.max_epochs, derived.fine_tuning.max_epochs
    assert epochs_of == ((more, 2 * more) if warm else (epochs, epochs + more))
    assert derived.training.learning_rate == ((warm and rate) or DEMAND.contenders[contender].training.learning_rate)


# ---- path and split of the new data
@pytest.mark.parametrize("kind", [FineTuneConfig, MonitorConfig])
@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({"path": "b.csv"}, {"path": "b.csv"}),
        ({"split": Split(train=0.8)}, {"split": Split(train=0.8, validation=0.1)}),
        (
            {"path": "s3://b/", "split": Split(train="2024-01-01", validation="2024-02-01")},
            {"path": "s3://b/", "split": Split(train="2024-01-01", validation="2024-02-01")},
        ),
    ],
)
def test_requested_path_and_split_replace_those_of_the_configuration(
    kind: type[FineTuneConfig | MonitorConfig], changes: dict[str, Any], data: dict[str, Any]
) -> None:
    updated = DEMAND.model_copy(update={"data": DEMAND.data.model_copy(update=data)})
    config = kind(experiment="demand", **changes)
    assert with_new_data(DEMAND, config) == updated
    if isinstance(config, FineTuneConfig):
        assert fine_tuning_config(DEMAND, "small", 12, config) == expected(updated, "small", {"max_epochs": 12}, 17)


def test_without_path_and_split_the_data_is_unchanged_and_a_path_replaces_a_query() -> None:
    for config in (DEMAND, FROM_SQL, *NO_TABLES.values()):
        assert with_new_data(config, fine_tune()) is config
        assert with_new_data(config, MonitorConfig(experiment="demand")) is config
    data = with_new_data(FROM_SQL, fine_tune(path="b.csv")).data
    assert data == FROM_SQL.data.model_copy(update={"path": "b.csv", "sql": None})
    data = with_new_data(FROM_SQL, fine_tune(split=Split(train=5))).data
    assert data == FROM_SQL.data.model_copy(update={"split": Split(train=5)})
    assert data.model_dump()["sql"] == Sql(url="sqlite:///a.db", query="SELECT 1").model_dump()


@pytest.mark.parametrize("kind", NO_TABLES)
@pytest.mark.parametrize("changes", [{"path": "b.csv"}, {"split": Split(train=0.8)}, {"path": "b", "split": Split()}])
def test_path_and_split_are_rejected_for_data_that_is_not_a_table(kind: str, changes: dict[str, Any]) -> None:
    config = NO_TABLES[kind]
    for call in (
        lambda: with_new_data(config, MonitorConfig(experiment="demand", **changes)),
        lambda: fine_tuning_config(config, "ours", 2, fine_tune(**changes)),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(f"{next(iter(changes))}: ")
        assert names_all(caught.value, "demand", kind)


# ---- settings
def test_defaults() -> None:
    common = {"experiment": "demand", "path": None, "split": None}
    assert MonitorConfig(experiment="demand").model_dump() == common
    assert fine_tune().model_dump() == common | {
        "version": None,
        "mode": "continue",
        "epochs": 5,
        "learning_rate": None,
        "min_improvement": None,
        "max_psi": None,
        "max_ks": None,
        "keep_versions": None,
    }


def test_settings_are_parsed_as_for_compare() -> None:
    changes = (
        "epochs=3 mode=warm_start learning_rate=1e-4 version=2 path=b.csv split.train=0.8 split.validation=0.1 "
        "min_improvement=0.02 max_psi=0.25 max_ks=0.5 keep_versions=10"
    )
    assert load_for_experiment(FineTuneConfig, "demand", changes.split()) == fine_tune(
        epochs=3, mode="warm_start", learning_rate=1e-4, version=2, path="b.csv",
        split=Split(train=0.8, validation=0.1), min_improvement=0.02, max_psi=0.25, max_ks=0.5, keep_versions=10,
    )  # fmt: skip
    lowest = "epochs=1 version=1 min_improvement=0 max_ks=1 keep_versions=1 path=null"
    assert load_for_experiment(FineTuneConfig, "demand", lowest.split()) == fine_tune(
        epochs=1, version=1, min_improvement=0, max_ks=1, keep_versions=1
    )
    for kind in (FineTuneConfig, MonitorConfig):
        assert load_for_experiment(kind, "demand") == kind(experiment="demand")
        for text, split in (
            ("split.train=0.8", Split(train=0.8)),
            ("split.train='2024-01-01'", Split(train="2024-01-01")),
            ("split.train=2024-01-01", Split(train="2024-01-01")),  # a date needs no quotes
            ("split={train: 100, test: 20}", Split(train=100, test=20)),
        ):
            assert load_for_experiment(kind, "demand", [text]).split == split
    text = "split: {train: 2024-01-01, validation: 2024-07-01 12:00:00}"
    assert yaml.load(text) == {"split": {"train": "2024-01-01", "validation": "2024-07-01 12:00:00"}}


KEYS = "experiment, path, split"
MORE_KEYS = f"{KEYS}, version, mode, epochs, learning_rate, min_improvement, max_psi, max_ks, keep_versions"


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        (FineTuneConfig, "learning_rate=0.1", ("learning_rate", "0.1", "mode continue", "mode=warm_start")),
        (FineTuneConfig, "epoch=3", ("epoch: unknown key", "epochs?")),
        (FineTuneConfig, "zzz=3", ("zzz: unknown key", f": {MORE_KEYS}")),
        (MonitorConfig, "keep_versions=3", ("keep_versions: unknown key", f": {KEYS}")),
        (FineTuneConfig, "split.zzz=1", ("split.zzz: unknown key", ": train, validation, test")),
        (MonitorConfig, "split.trian=1", ("split.trian: unknown key", "train?")),
        (MonitorConfig, "split=5", ("split: 5", "mapping")),
        (FineTuneConfig, "mode=cold", ("mode: 'cold'", "'continue' or 'warm_start'")),
        (FineTuneConfig, "epochs=0", ("epochs: 0", "greater than or equal to 1")),
        (FineTuneConfig, "epochs=2.5", ("epochs: 2.5", "valid integer")),
        (FineTuneConfig, "version=0", ("version: 0", "greater than or equal to 1")),
        (FineTuneConfig, "mode=warm_start learning_rate=0", ("learning_rate: 0", "greater than 0")),
        (FineTuneConfig, "mode=warm_start learning_rate=2e30", ("learning_rate: 2e+30", "less than or equal to 1000")),
        (FineTuneConfig, "min_improvement=1", ("min_improvement: 1", "less than 1")),
        (FineTuneConfig, "min_improvement=-0.1", ("min_improvement: -0.1", "greater than or equal to 0")),
        (FineTuneConfig, "max_psi=0", ("max_psi: 0", "greater than 0")),
        (FineTuneConfig, "max_psi=.nan", ("max_psi: nan", "finite number")),
        (FineTuneConfig, "max_ks=1.5", ("max_ks: 1.5", "less than or equal to 1")),
        (FineTuneConfig, "max_ks=0", ("max_ks: 0", "greater than 0")),
        (FineTuneConfig, "keep_versions=0", ("keep_versions: 0", "greater than or equal to 1")),
        (FineTuneConfig, "path=5", ("path: 5", "valid string")),
        (FineTuneConfig, "experiment=other", ("experiment=other",)),
    ],
)
def test_invalid_settings_are_rejected_in_one_line(kind: type[Config], changes: str, named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_for_experiment(kind, "demand", changes.split())
    assert names_all(caught.value, "experiment", *named)


@pytest.mark.parametrize("change", ["epochs", "=3", "split..train=1"])
def test_a_change_without_a_key_or_value_is_rejected(change: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_for_experiment(FineTuneConfig, "demand", [change])
    assert names_all(caught.value, f"--set {change}", "KEY=VALUE")


@pytest.mark.parametrize("kind", [FineTuneConfig, MonitorConfig])
def test_the_experiment_name_must_be_a_valid_model_name(kind: type[Config]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_for_experiment(kind, "a/b")
    assert names_all(caught.value, "experiment: 'a/b'", "100 letters")


part = st.none() | st.integers(0, 10**6) | st.floats(0, 1) | st.dates().map(str)
splits = st.builds(Split, train=part.filter(lambda value: value is not None), test=part)
rows = {"experiment": st.just("demand"), "path": st.none() | st.text("aé/'\" :#\n{-"), "split": st.none() | splits}
positive = st.none() | st.integers(1, 10**6)
configs = st.builds(
    FineTuneConfig,
    **rows,
    version=positive,
    mode=st.just("warm_start"),
    epochs=st.integers(1, 10**6),
    learning_rate=st.none() | st.floats(min_value=1e-300, max_value=1e30),
    min_improvement=st.none() | st.floats(0, 1, exclude_max=True),
    max_psi=st.none() | st.floats(min_value=1e-300, allow_infinity=False),
    max_ks=st.none() | st.floats(0, 1, exclude_min=True),
    keep_versions=positive,
)


@given(configs | st.builds(MonitorConfig, **rows))
def test_settings_survive_json_and_yaml(config: FineTuneConfig | MonitorConfig) -> None:
    kind = type(config)
    assert kind.model_validate_json(config.model_dump_json()) == config
    assert parse(kind, config.model_dump(mode="json"), "again") == config
    assert parse(kind, yaml.load(config.to_yaml()), "again") == config
