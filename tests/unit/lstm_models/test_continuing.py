"""How a model goes on: what becomes of its configuration, and what is refused, in which words."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.recipes import of_experiment
from lstm_models import yaml_text
from lstm_models.config import (
    CompareConfig,
    Config,
    ConfigError,
    Contender,
    EvaluateConfig,
    FineTuneConfig,
    FineTuning,
    Split,
    Sql,
    continued,
    on_new_rows,
    parse,
    parse_config,
)

few = settings(
    derandomize=True, deadline=None, max_examples=50
)  # a shared machine may pause for longer than the default allows

VALUES: dict[str, Any] = {
    "experiment": "demand",
    "seed": 7,
    "data": {"kind": "table", "path": "a.csv", "target": "y", "time": "t", "split": {"train": 0.6, "validation": 0.2}},
    "contenders": {
        "small": {
            "model": {"kind": "hand_built", "hidden_size": 4},
            "training": {"max_epochs": 10, "learning_rate": 0.01, "patience": 2, "schedule": "cosine"},
            "fine_tuning": {"max_epochs": 15},
        },
        "large": {"model": {"kind": "built_in", "hidden_size": 16}, "training": {"max_epochs": 8}},
    },
    "margin": 0.25,
    "figures": {"gates_of": [3]},
}
DEMAND = parse_config(VALUES, "demand.yaml")
FROM_SQL = parse_config(
    VALUES | {"data": {"kind": "table", "sql": {"url": "sqlite:///a.db", "query": "SELECT 1"}, "target": "y"}}, "sql"
)
OTHERS = {
    "tutorial": {"kind": "tutorial"},
    "adding": {"kind": "adding", "count": 8},
}


def of_others(kind: str) -> CompareConfig:
    """A configuration of data that is no table of one's own."""
    contenders = {
        "ours": {
            "model": {"kind": "hand_built"},
            "training": {"max_epochs": 2},
            "fine_tuning": {"max_epochs": 3},
            "replicas": 4,
        }
    }
    return parse_config({"experiment": "demand", "data": OTHERS[kind], "contenders": contenders}, kind)


def asked(**values: Any) -> FineTuneConfig:
    return FineTuneConfig(experiment="demand", **values)


def expected(config: CompareConfig, name: str, training: dict[str, Any], further: int, **others: Any) -> CompareConfig:
    """One contender with other epochs, and all else as it was."""
    own = config.contenders[name]
    contender = Contender(
        model=own.model,
        training=own.training.model_copy(update=training),
        fine_tuning=FineTuning(max_epochs=further),
        replicas=own.replicas,
    )
    return config.model_copy(update={"contenders": {name: contender}, **others})


# ---- what becomes of a configuration
def test_what_is_resumed_goes_on_from_its_epochs_with_everything_as_it_was() -> None:
    assert continued(DEMAND, "small", 12, asked(epochs=3)) == expected(DEMAND, "small", {"max_epochs": 12}, 15)
    assert continued(DEMAND, "large", 1, asked()) == expected(DEMAND, "large", {"max_epochs": 1}, 6)


@pytest.mark.parametrize(("given", "rate"), [(None, 0.01), (0.25, 0.25), (1e-30, 1e-30)])
def test_a_warm_start_counts_from_1_at_a_rate_of_its_own_or_the_one_before(given: float | None, rate: float) -> None:
    found = continued(DEMAND, "small", 12, asked(mode="warm_start", epochs=3, learning_rate=given))
    assert found == expected(DEMAND, "small", {"max_epochs": 3, "learning_rate": rate}, 6)


def test_it_does_not_matter_for_how_long_a_warm_start_was_trained() -> None:
    wish = asked(mode="warm_start", epochs=3)
    assert len({continued(DEMAND, "small", epochs, wish).to_yaml() for epochs in (1, 3, 99)}) == 1


def test_what_went_on_goes_on_again() -> None:
    again = continued(continued(DEMAND, "small", 12, asked(epochs=3)), "small", 15, asked(epochs=2))
    assert again == expected(DEMAND, "small", {"max_epochs": 15}, 17)
    warm = continued(again, "small", 17, asked(mode="warm_start", learning_rate=0.5, epochs=4))
    assert warm == expected(DEMAND, "small", {"max_epochs": 4, "learning_rate": 0.5}, 8)
    # the rate of a warm start is the one to go on with
    assert continued(warm, "small", 4, asked(mode="warm_start", epochs=4)) == warm


@pytest.mark.parametrize("kind", OTHERS)
def test_data_that_is_no_table_goes_on_as_it_is(kind: str) -> None:
    config = of_others(kind)
    assert continued(config, "ours", 3, asked(epochs=2)) == expected(config, "ours", {"max_epochs": 3}, 5)


@pytest.mark.parametrize("given", [None, 0.0, 0.5])
def test_the_margin_of_one_night_is_not_that_of_the_next(given: float | None) -> None:
    assert continued(DEMAND, "small", 12, asked(margin=given)).margin == DEMAND.margin == 0.25


def test_the_configuration_that_is_given_stays_what_it_is() -> None:
    before = DEMAND.model_copy(deep=True)
    continued(DEMAND, "small", 12, asked(path="b.csv", split=Split(train=5), margin=0.5, mode="warm_start"))
    assert before == DEMAND


@given(
    contender=st.sampled_from(["small", "large"]),
    epochs=st.integers(1, 10**9),
    more=st.integers(1, 10**9),
    rate=st.none() | st.floats(min_value=1e-300, max_value=1e30),
    warm=st.booleans(),
    margin=st.none() | st.floats(0, 1, exclude_max=True),
)
@few
def test_what_comes_of_it_is_a_configuration_itself(
    contender: str, epochs: int, more: int, rate: float | None, warm: bool, margin: float | None
) -> None:
    wish = asked(
        epochs=more, margin=margin, mode="warm_start" if warm else "resume", learning_rate=rate if warm else None
    )
    found = continued(DEMAND, contender, epochs, wish)
    assert parse_config(found.model_dump(mode="json"), "again") == found
    assert parse_config(yaml_text.read(found.to_yaml()), "again") == found
    assert CompareConfig.model_validate_json(found.model_dump_json()) == found
    own = found.contenders[contender]
    assert (own.training.max_epochs, own.fine_tuning.max_epochs) == (
        (more, 2 * more) if warm else (epochs, epochs + more)
    )
    assert own.training.learning_rate == ((warm and rate) or DEMAND.contenders[contender].training.learning_rate)


# ---- the table as it is now
@pytest.mark.parametrize("kind", [FineTuneConfig, EvaluateConfig])
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
def test_path_and_split_are_those_of_today(
    kind: type[FineTuneConfig | EvaluateConfig], changes: dict[str, Any], data: dict[str, Any]
) -> None:
    wanted = DEMAND.model_copy(update={"data": DEMAND.data.model_copy(update=data)})
    wish = kind(experiment="demand", **changes)
    assert on_new_rows(DEMAND, wish) == wanted
    if isinstance(wish, FineTuneConfig):
        assert continued(DEMAND, "small", 12, wish) == expected(wanted, "small", {"max_epochs": 12}, 17)


def test_where_nothing_is_said_of_the_table_it_is_the_one_before() -> None:
    for config in (DEMAND, FROM_SQL, of_others("tutorial"), of_others("adding")):
        assert on_new_rows(config, asked()) is config
        assert on_new_rows(config, EvaluateConfig(experiment="demand")) is config


def test_a_path_takes_the_place_of_a_query_and_a_split_does_not() -> None:
    data = on_new_rows(FROM_SQL, asked(path="b.csv")).data
    assert data == FROM_SQL.data.model_copy(update={"path": "b.csv", "sql": None})
    data = on_new_rows(FROM_SQL, asked(split=Split(train=5))).data
    assert data == FROM_SQL.data.model_copy(update={"split": Split(train=5)})
    assert data.model_dump()["sql"] == Sql(url="sqlite:///a.db", query="SELECT 1").model_dump()


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"path": "b.csv"}, "path"),
        ({"split": Split(train=0.8)}, "split"),
        ({"path": "b.csv", "split": Split()}, "path"),
    ],
)
def test_what_is_no_table_has_neither_path_nor_split(kind: str, changes: dict[str, Any], named: str) -> None:
    text = f"{named}: given, but demand is of the data {kind}"
    for call in (
        lambda: on_new_rows(of_others(kind), EvaluateConfig(experiment="demand", **changes)),
        lambda: on_new_rows(of_others(kind), asked(**changes)),
        lambda: continued(of_others(kind), "ours", 2, asked(**changes)),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == text


# ---- what may be asked
def test_what_is_not_said() -> None:
    assert asked().model_dump() == {
        "experiment": "demand",
        "path": None,
        "split": None,
        "version": None,
        "mode": "resume",
        "epochs": 5,
        "learning_rate": None,
        "margin": None,
        "max_psi": None,
        "max_ks": None,
        "keep": None,
    }
    assert EvaluateConfig(experiment="demand").model_dump() == {"experiment": "demand", "path": None, "split": None}


def test_changes_are_written_as_for_compare() -> None:
    changes = (
        "epochs=3 mode=warm_start learning_rate=1e-4 version=2 path=b.csv split.train=0.8 split.validation=0.1 "
        "margin=0.02 max_psi=0.25 max_ks=0.5 keep=10"
    )
    assert of_experiment(FineTuneConfig, "demand", changes.split()) == asked(
        epochs=3, mode="warm_start", learning_rate=1e-4, version=2, path="b.csv",
        split=Split(train=0.8, validation=0.1), margin=0.02, max_psi=0.25, max_ks=0.5, keep=10,
    )  # fmt: skip
    assert of_experiment(FineTuneConfig, "demand") == asked()
    assert of_experiment(EvaluateConfig, "demand") == EvaluateConfig(experiment="demand")


@pytest.mark.parametrize("kind", [FineTuneConfig, EvaluateConfig])
def test_of_a_split_one_part_may_be_said(kind: type[FineTuneConfig | EvaluateConfig]) -> None:
    assert of_experiment(kind, "demand", ["split.train=0.8"]).split == Split(train=0.8)
    assert of_experiment(kind, "demand", ["split.train='2024-01-01'"]).split == Split(train="2024-01-01")
    assert of_experiment(kind, "demand", ["split={train: 100, test: 20}"]).split == Split(train=100, test=20)


KEYS = "experiment, path, split"
MORE_KEYS = f"{KEYS}, version, mode, epochs, learning_rate, margin, max_psi, max_ks, keep"
RESUME = "with mode resume: the optimizer goes on as it is; set mode=warm_start"


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        (FineTuneConfig, "learning_rate=0.1", f"the configuration: learning_rate 0.1 {RESUME}"),
        (FineTuneConfig, "learning_rate=0.1 mode=resume", f"the configuration: learning_rate 0.1 {RESUME}"),
        (FineTuneConfig, "epoch=3", "epoch: unknown key; did you mean epochs?"),
        (FineTuneConfig, "zzz=3", f"zzz: unknown key; allowed here: {MORE_KEYS}"),
        (EvaluateConfig, "zzz=3", f"zzz: unknown key; allowed here: {KEYS}"),
        (EvaluateConfig, "keep=3", f"keep: unknown key; allowed here: {KEYS}"),
        (FineTuneConfig, "split.zzz=1", "split.zzz: unknown key; allowed here: train, validation, test"),
        (EvaluateConfig, "split.trian=1", "split.trian: unknown key; did you mean train?"),
        (EvaluateConfig, "split=5", "split: 5 given, must be a mapping"),
        (FineTuneConfig, "mode=cold", "mode: 'cold' given, must be 'resume' or 'warm_start'"),
        (FineTuneConfig, "epochs=0", "epochs: 0 given, must be greater than or equal to 1"),
        (FineTuneConfig, "epochs=2.5", "epochs: 2.5 given, must be a valid integer"),
        (FineTuneConfig, "version=0", "version: 0 given, must be greater than or equal to 1"),
        (FineTuneConfig, "mode=warm_start learning_rate=0", "learning_rate: 0 given, must be greater than 0"),
        (FineTuneConfig, "margin=1", "margin: 1 given, must be less than 1"),
        (FineTuneConfig, "margin=-0.1", "margin: -0.1 given, must be greater than or equal to 0"),
        (FineTuneConfig, "max_psi=0", "max_psi: 0 given, must be greater than 0"),
        (FineTuneConfig, "max_psi=.nan", "max_psi: nan given, must be a finite number"),
        (FineTuneConfig, "max_ks=1.5", "max_ks: 1.5 given, must be less than or equal to 1"),
        (FineTuneConfig, "keep=0", "keep: 0 given, must be greater than or equal to 1"),
        (FineTuneConfig, "path=5", "path: 5 given, must be a valid string"),
    ],
)
def test_what_is_refused_is_told_in_a_line(kind: type[Config], changes: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of_experiment(kind, "demand", changes.split())
    assert str(caught.value) == f"experiment demand: {text}"


@pytest.mark.parametrize("change", ["epochs", "=3", "split..train=1"])
def test_a_change_without_a_key_is_refused(change: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of_experiment(FineTuneConfig, "demand", [change])
    assert str(caught.value) == f"--set {change}: write KEY=VALUE, such as seed=7"


def test_an_experiments_name_is_that_of_a_registered_model() -> None:
    text = "experiment: 'a/b' given, must be up to 100 letters, digits, '_', '.' or '-', no sign first"
    for kind in (FineTuneConfig, EvaluateConfig):
        with pytest.raises(ConfigError) as caught:
            of_experiment(kind, "a/b")
        assert str(caught.value) == f"experiment a/b: {text}"


part = st.none() | st.integers(0, 10**6) | st.floats(0, 1) | st.dates().map(str)
splits = st.builds(Split, train=part.filter(lambda value: value is not None), test=part)
rows = {"experiment": st.just("demand"), "path": st.none() | st.text(), "split": st.none() | splits}
positive = st.none() | st.integers(1, 10**6)
wishes = st.builds(
    FineTuneConfig,
    **rows,
    version=positive,
    mode=st.just("warm_start"),
    epochs=st.integers(1, 10**6),
    learning_rate=st.none() | st.floats(min_value=1e-300, max_value=1e30),
    margin=st.none() | st.floats(0, 1, exclude_max=True),
    max_psi=st.none() | st.floats(min_value=1e-300, allow_infinity=False),
    max_ks=st.none() | st.floats(0, 1, exclude_min=True),
    keep=positive,
)


@given(wishes | st.builds(EvaluateConfig, **rows))
@few
def test_what_is_asked_survives_json(wish: FineTuneConfig | EvaluateConfig) -> None:
    kind = type(wish)
    assert kind.model_validate_json(wish.model_dump_json()) == wish
    assert parse(kind, wish.model_dump(mode="json"), "again") == wish


def test_what_is_asked_survives_yaml() -> None:
    wish = asked(mode="warm_start", learning_rate=1e-5, path="a b.csv", split=Split(train="2024-01-01", validation=3))
    assert parse(FineTuneConfig, yaml_text.read(wish.to_yaml()), "again") == wish


def test_a_date_needs_no_quotes() -> None:
    text = "split: {train: 2024-01-01, validation: 2024-07-01 12:00:00}"
    assert yaml_text.read(text) == {"split": {"train": "2024-01-01", "validation": "2024-07-01 12:00:00"}}
    assert of_experiment(FineTuneConfig, "demand", ["split.train=2024-01-01"]).split == Split(train="2024-01-01")


def test_what_is_none_can_be_set_to_none() -> None:
    assert of_experiment(FineTuneConfig, "demand", ["path=null"]) == FineTuneConfig(experiment="demand")


def test_an_experiment_is_named_once() -> None:
    with pytest.raises(ConfigError, match="experiment=other given; name the one that is meant"):
        of_experiment(FineTuneConfig, "demand", ["experiment=other"])
