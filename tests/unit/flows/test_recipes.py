"""Recipes and configuration files: loading, changes by --set, and errors in one line.

The validation of configurations is tested in tests/unit/lstm_models/config/test_config.py.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.errors import names_all
from helpers.memory import little_memory

from flows import recipes
from lstm_models.config import CompareConfig, ConfigError, TableData, parse_config
from lstm_models.config import yaml as config_yaml
from lstm_models.data.builders import read_dataset

LEARNING_RATE = "contenders.hand_built.training.learning_rate"


def message(source: CompareConfig | str, *changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        recipes.load(source, changes)
    text = str(caught.value)
    assert text.isprintable(), "one line"
    return text


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def _write(content: str | bytes) -> str:
        path = tmp_path / "my.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return _write


@pytest.fixture
def tutorial_file(write: Any) -> str:
    """Return the path of a user's file with the tutorial's recipe."""
    return write(recipes.load("tutorial").to_yaml())


def test_recipes_are_sorted_with_the_default_first() -> None:
    assert recipes.names() == ["tutorial", "etth1", "forecast", "memory", "parity", "tutorial-seeds"]
    assert recipes.DEFAULT == "tutorial"


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_has_its_name_as_experiment_and_a_description(name: str) -> None:
    config = recipes.load(name)
    assert config.experiment == name
    assert list(config.contenders) == ["hand_built", "built_in"] + ["rnn"] * (name == "memory")
    assert {name: contender.model.kind for name, contender in config.contenders.items()} == {
        name: name for name in config.contenders
    }
    assert recipes.description(name).endswith(".")
    assert not recipes.description(name).startswith("#")


def test_the_tutorial_recipe_has_the_settings_of_the_tutorial() -> None:
    training = {"batch_size": 1, "num_threads": 1, "log_predictions": True}
    expected = {
        "experiment": "tutorial",
        "seed": 42,
        "data": {"kind": "tutorial"},
        "contenders": {
            "hand_built": {
                "model": {"kind": "hand_built", "double_bias": False, "init": "normal"},
                "training": training | {"max_epochs": 2000, "learning_rate": 0.001, "fused": True},
                "fine_tuning": {"max_epochs": 5000},
            },
            "built_in": {
                "model": {"kind": "built_in"},
                "training": training | {"max_epochs": 300, "learning_rate": 0.1, "log_every_n_steps": 2},
                "fine_tuning": {"max_epochs": 600},
            },
        },
        "converged": {"metric": "max_error", "threshold": 0.1},
    }
    assert recipes.load("tutorial") == parse_config(expected, "the tutorial")


def test_tutorial_seeds_differs_from_the_tutorial_in_the_replicas_only() -> None:
    found, expected = recipes.load("tutorial-seeds").model_dump(), recipes.load("tutorial").model_dump()
    replicas = {name: contender.pop("replicas") for name, contender in found["contenders"].items()}
    assert replicas == {"hand_built": 64, "built_in": 8}
    for contender in expected["contenders"].values():
        del contender["replicas"]
    assert found | {"experiment": "tutorial"} == expected


def test_memory_is_the_adding_problem_over_100_steps() -> None:
    config = recipes.load("memory")
    assert config.data.model_dump() == {"kind": "adding", "length": 100, "count": 32_000, "seed": 0}
    assert config.converged.model_dump() == {"metric": "mse", "threshold": 0.005}
    assert config.figures.gradients_through_time
    first, *rest = config.contenders.values()
    assert [(other.training, other.fine_tuning, other.replicas) for other in rest] == [
        (first.training, first.fine_tuning, 5)
    ] * 2
    assert (first.training.gradient_clip_norm, first.training.batch_size, first.training.shuffle) == (1.0, 32, True)
    assert first.fine_tuning.max_epochs * config.data.count // 32 == 8000  # batches, as the recipe's comment says
    models = {name: contender.model.model_dump() for name, contender in config.contenders.items()}
    shared = {"hidden_size": 8, "num_layers": 1, "dropout": 0.0, "head": "linear"}
    assert all(model.items() >= shared.items() for model in models.values())
    assert [model.get("forget_bias") for model in models.values()] == [1.0, 1.0, None]
    assert models["hand_built"]["cell"] == "lstm"


@pytest.mark.parametrize("name", ["parity", "forecast", "etth1"])
def test_the_two_contenders_differ_in_the_model_only(name: str) -> None:
    a, b = recipes.load(name).contenders.values()
    assert (a.training, a.fine_tuning) == (b.training, b.fine_tuning)
    assert (a.model.kind, b.model.kind) == ("hand_built", "built_in")
    assert (a.model.hidden_size, a.model.head) == (b.model.hidden_size, b.model.head)


def test_the_forecast_recipe_uses_the_included_table() -> None:
    config = recipes.load("forecast")
    dataset = read_dataset(config.data, config.seed)
    assert dataset.rows
    assert dataset.rows.read == dataset.rows.used
    assert (dataset.output.targets, dataset.output.horizon, dataset.config) == (["co2"], 26, config.data)
    assert min(dataset.train.count, dataset.validation.count if dataset.validation else 0, dataset.test.count) > 100


def test_etth1_has_the_published_split() -> None:
    data = recipes.load("etth1").data
    assert isinstance(data, TableData)
    assert (data.target, data.time, data.features) == ("OT", "date", None)
    assert (data.split.train, data.split.validation, data.split.test) == (8640, 2880, 2880)  # 12, 4 and 4 months
    assert (data.context_length, data.horizon) == (96, 24)


TABLE = "data:\n  kind: table\n  path: mine.csv\n  target: y\n"


def test_a_file_with_a_table_needs_no_experiment_and_no_contenders(tmp_path: Path) -> None:
    path = tmp_path / "sales.yaml"
    path.write_text(TABLE)
    config = recipes.load(str(path))
    assert config.experiment == "sales"
    assert {name: contender.model.kind for name, contender in config.contenders.items()} == {
        "hand_built": "hand_built",
        "built_in": "built_in",
    }
    assert recipes.load(str(path), ["experiment=other"]).experiment == "other"
    # the written configuration is complete, and loads under any file name
    written = tmp_path / "elsewhere.yaml"
    written.write_text(config.to_yaml())
    assert recipes.load(str(written)) == config


def test_a_file_name_that_is_not_a_valid_experiment_name_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "my sales.yaml"
    path.write_text(TABLE)
    assert names_all(message(str(path)), f"{path}: experiment: ", "'my sales'", "100 letters")


def test_loading_a_configuration_object_does_not_change_it() -> None:
    config = recipes.load("tutorial")
    assert recipes.load(config) == config
    assert recipes.load(config, ["seed=7"]).seed == 7
    assert config.seed == 42


def test_a_written_configuration_loads_again_from_yaml_or_yml(tmp_path: Path) -> None:
    for name, suffix in (("tutorial", "yaml"), ("parity", "yml")):
        path = tmp_path / f"my.{suffix}"
        path.write_text(recipes.load(name).to_yaml())
        assert recipes.load(str(path)) == recipes.load(name)


def test_changes_apply_at_any_depth_and_change_nothing_else() -> None:
    before = recipes.load("tutorial").model_dump()
    after = recipes.load("tutorial", ["seed=7", f"{LEARNING_RATE}=0.25", " experiment = again "]).model_dump()
    assert after["seed"] == 7
    assert after["experiment"] == "again"
    assert after["contenders"]["hand_built"]["training"]["learning_rate"] == 0.25

    after["seed"], after["experiment"] = 42, "tutorial"
    after["contenders"]["hand_built"]["training"]["learning_rate"] = 0.001
    assert after == before


def test_valid_changes() -> None:
    assert recipes.load("tutorial", ["seed=1", "seed=2"]).seed == 2  # the last one applies
    config = recipes.load("tutorial", ["contenders.built_in.fine_tuning={max_epochs: 301}"])  # a whole section
    assert config.contenders["built_in"].fine_tuning.max_epochs == 301
    # in a section that the recipe leaves out
    assert recipes.load("tutorial", ["figures.gate_examples=[2]"]).figures.gate_examples == [2]
    assert list(recipes.load("tutorial", ["contenders.built_in=null"]).contenders) == ["hand_built"]
    assert list(recipes.load("tutorial", ["contenders.hand_built=~"]).contenders) == ["built_in"]
    for number in ("1e-3", "1E-3", "1.0e-3", "0.001", "10e-4", "+1e-3"):
        training = recipes.load("tutorial", [f"{LEARNING_RATE}={number}"]).contenders["hand_built"].training
        assert training.learning_rate == 1e-3
    # changes do not persist
    assert recipes.load("tutorial").seed == 42
    assert list(recipes.load("tutorial").contenders) == ["hand_built", "built_in"]


def test_a_change_may_add_settings_that_a_recipe_leaves_out() -> None:
    changes = [
        "contenders.hand_built.model.cell=layer_norm",
        "contenders.hand_built.training.gradient_clip_norm=1.0",
        "contenders.hand_built.replicas=8",
        "converged={threshold: 0.2}",
        "figures={gate_examples: [2], gradients_through_time: true}",
        "data={kind: adding, count: 100}",
    ]
    config = recipes.load("tutorial", changes)
    contender = config.contenders["hand_built"]
    assert (contender.model.cell, contender.training.gradient_clip_norm, contender.replicas) == ("layer_norm", 1.0, 8)
    assert (config.converged.metric, config.converged.threshold) == ("max_error", 0.2)
    assert (config.figures.gate_examples, config.figures.gradients_through_time) == ([2], True)
    assert config.data.model_dump() == {"kind": "adding", "length": 100, "count": 100, "seed": 0}


def test_a_number_with_an_exponent_in_a_file_is_a_number(tutorial_file: str) -> None:
    path = Path(tutorial_file)
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 3e-4"))
    assert recipes.load(tutorial_file).contenders["hand_built"].training.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        *((change, (f"--set {change}: ", "KEY=VALUE")) for change in ("seed", "", "=1", "contenders..x=1")),
        ("training.max_epochs=1", ("'training'", "experiment, seed, data, contenders")),
        ("contenders.ours.training.max_epochs=1", ("'ours'", "hand_built, built_in")),
        ("seed=[", ("--set seed=[: ", "YAML", "line 1, column 2")),
        ("seed={a: 1, a: 2}", ("--set seed={a: 1, a: 2}: ", "YAML", "line 1, column 8", "'a'", "twice")),
        ("seed=1e3", ("tutorial: seed: ", "1000.0", "integer")),  # the same error as for a file
        (f"{LEARNING_RATE}=null", (f"tutorial: {LEARNING_RATE}: ", "None", "number")),
        ("sead=1", ("tutorial: sead: ", "seed?")),
    ],
)
def test_an_invalid_change_is_rejected(change: str, parts: tuple[str, ...]) -> None:
    assert names_all(message("tutorial", change), *parts)


def test_the_last_contender_can_not_be_removed() -> None:
    text = message("tutorial", "contenders.hand_built=null", "contenders.built_in=null")
    assert text.startswith("tutorial: contenders: ")


@pytest.mark.parametrize(
    "source",
    ["tutorail", "../tutorial", "../recipes/tutorial", "/etc/passwd", "", ".", "my.json", "..\\x"],
)
def test_an_unknown_recipe_is_rejected_with_the_available_ones(source: str) -> None:
    assert names_all(message(source), repr(source), "no such recipe", "tutorial", ".yaml")


def test_a_missing_file_or_a_directory_is_rejected(tmp_path: Path) -> None:
    directory = tmp_path / "directory.yaml"
    directory.mkdir()
    for path, reason in (
        (tmp_path / "none.yaml", "No such file"),
        (directory, "Is a directory"),
        (directory / "none.yml", "No such file"),
    ):
        assert names_all(message(str(path)), f"{path}: ", reason)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"seed: \xe9\n", b"\x80"])
def test_a_file_that_is_not_utf_8_is_rejected(write: Any, content: bytes) -> None:
    path = write(content)
    assert names_all(message(path), f"{path}: ", "UTF-8")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("None", "mapping")),
        ("# nothing\n", ("None", "mapping")),
        ("- seed\n", ("['seed']", "mapping")),
        ("seed: 1\nseed: 2\n", ("line 2, column 1", "'seed'", "twice")),
        ("data:\n  kind: a\n  kind: a\n", ("line 3, column 3", "'kind'", "twice")),
        ("seed: [1\n", ("line 2, column 1", "']'")),
        ("seed: 1\n\tdata: 2\n", ("line 2, column 1", "'\\t'")),
        ("seed: *there\n", ("line 1, column 7", "'there'")),
        ("a: 1\n---\nb: 2\n", ("line 2, column 1", "another document")),
        ("seed: \x07\n", ("YAML", "#x0007")),
        ("[" * 2_000, ("YAML", "too deeply")),
        ("seed: !!timestamp 2020-13-45\n", ("YAML", "1..12")),
    ],
)
def test_a_file_that_is_not_a_configuration_is_rejected(write: Any, content: str, parts: tuple[str, ...]) -> None:
    path = write(content)
    assert names_all(message(path), f"{path}: ", *parts)


@pytest.mark.parametrize(
    ("tag", "location"),
    [
        ("seed: !!python/object/apply:os.mkdir", "line 1, column 7"),
        ("!!python/object/apply:os.mkdir", "line 1, column 1"),
        ("seed: !!python/object/new:os.mkdir", "line 1, column 7"),
    ],
)
def test_a_python_tag_is_rejected_and_not_executed(write: Any, tmp_path: Path, tag: str, location: str) -> None:
    folder = tmp_path / "it ran"
    text = f"{tag} ['{folder}']"
    path, name = write(text), tag.partition("!!")[2]
    assert names_all(message(path), f"{path}: ", "YAML", location, "tag", name)
    change = text.replace("seed: ", "seed=") if text.startswith("seed") else f"seed={text}"
    assert names_all(message("tutorial", change), f"--set {change}: ", "YAML", "line 1, column 1", "tag", name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["my.yaml"]

    yaml.unsafe_load(text)
    assert folder.exists()  # the payload works


def nested(first: str, pattern: str, levels: int) -> str:
    """Return YAML in which every line repeats the previous one nine times."""
    lines = [pattern.format(name=f"a{depth}", again=", ".join([f"*a{depth - 1}"] * 9)) for depth in range(1, levels)]
    return "\n".join([first, *lines])


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (nested("a0: &a0 [x, x, x]", "{name}: &{name} [{again}]", 9), "100,000 values"),
        (nested("a0: &a0 {k: 1}", "{name}: &{name} {{<<: [{again}]}}", 9), "100,000 values"),
        ("seed: &a [*a]", "100,000 values"),
        ("&a\nseed: *a", "100,000 values"),
        ("seed: [" + "1," * 1000 + "]", "1,000 values"),
        ("seed: " + "{a: " * 2_000, "too deeply"),
        ("- " * 2_000, "too deeply"),
        ("#" * 1_000_001, "1,000,000 characters"),
    ],
    ids=["lists", "merged mappings", "a list in itself", "a mapping in itself", "many values",
         "deep mappings", "deep blocks", "long"],
)  # fmt: skip
def test_a_file_that_expands_when_parsed_is_rejected_within_little_memory(
    write: Any, content: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "1,000 values":  # 100,000 values without aliases would take seconds
        monkeypatch.setattr(config_yaml, "MAX_VALUES", 1000)
    path = write(content)
    with little_memory(15e6):
        assert names_all(message(path), f"{path}: ", limit)


def test_a_huge_file_is_not_read_completely(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    with path.open("wb") as file:
        file.truncate(10**10)  # sparse: it takes no disk space
    with little_memory(15e6):
        assert names_all(message(str(path)), f"{path}: ", "1,000,000 characters")


def test_aliases_of_short_values_are_allowed(tutorial_file: str) -> None:
    path = Path(tutorial_file)
    path.write_text(
        path.read_text().replace("seed: 42", "seed: &seed 301").replace("max_epochs: 600", "max_epochs: *seed")
    )
    config = recipes.load(tutorial_file)
    assert config.seed == config.contenders["built_in"].fine_tuning.max_epochs == 301
