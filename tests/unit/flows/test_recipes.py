"""Recipes and the user's own files: what loads, and that all else is one line."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import recipes
from lstm_models import yaml_text
from lstm_models.config import CompareConfig, ConfigError, TableData
from lstm_models.data.dataset import load

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
def own(write: Any) -> str:
    """A file of the user's that is the tutorial's recipe."""
    return write(recipes.load("tutorial").to_yaml())


def test_the_recipes_the_default_first() -> None:
    assert recipes.names() == ["tutorial", "etth1", "forecast", "memory", "parity", "tutorial-seeds"]
    assert recipes.DEFAULT == "tutorial"


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_loads_has_its_own_name_and_a_description(name: str) -> None:
    config = recipes.load(name)
    assert config.experiment == name
    assert list(config.contenders) == ["hand_built", "built_in"] + ["rnn"] * (name == "memory")
    assert {name: contender.model.kind for name, contender in config.contenders.items()} == {
        name: name for name in config.contenders
    }
    assert recipes.description(name).endswith(".")
    assert not recipes.description(name).startswith("#")


def test_the_tutorial_is_the_tutorials_experiment() -> None:
    assert recipes.load("tutorial").model_dump() == {
        "experiment": "tutorial",
        "seed": 42,
        "data": {"kind": "tutorial"},
        "contenders": {
            "hand_built": {
                "model": {
                    "hidden_size": 1,
                    "num_layers": 1,
                    "dropout": 0.0,
                    "head": "none",
                    "kind": "hand_built",
                    "biases": "one",
                    "init": "normal",
                    "cell": "lstm",
                    "forget_bias": None,
                    "recurrent_dropout": 0.0,
                    "zoneout": 0.0,
                },
                "training": {
                    "max_epochs": 2000,
                    "learning_rate": 0.001,
                    "fused": True,
                    "batch_size": 1,
                    "shuffle": False,
                    "weight_decay": 0.0,
                    "schedule": "none",
                    "decay": 0.95,
                    "patience": None,
                    "precision": "32",
                    "device": "cpu",
                    "clip_norm": None,
                    "threads": 1,
                    "log_every_n_steps": 50,
                    "checkpoint_every_n_steps": None,
                    "checkpoint_every_n_minutes": 1.0,
                    "log_outputs": True,
                },
                "fine_tuning": {"max_epochs": 5000},
                "replicas": 1,
            },
            "built_in": {
                "model": {
                    "hidden_size": 1,
                    "num_layers": 1,
                    "dropout": 0.0,
                    "head": "none",
                    "kind": "built_in",
                    "forget_bias": None,
                },
                "training": {
                    "max_epochs": 300,
                    "learning_rate": 0.1,
                    "fused": False,
                    "batch_size": 1,
                    "shuffle": False,
                    "weight_decay": 0.0,
                    "schedule": "none",
                    "decay": 0.95,
                    "patience": None,
                    "precision": "32",
                    "device": "cpu",
                    "clip_norm": None,
                    "threads": 1,
                    "log_every_n_steps": 2,
                    "checkpoint_every_n_steps": None,
                    "checkpoint_every_n_minutes": 1.0,
                    "log_outputs": True,
                },
                "fine_tuning": {"max_epochs": 600},
                "replicas": 1,
            },
        },
        "converged": {"metric": "max_error", "below": 0.1},
        "margin": 0.0,
        "figures": {"gates_of": None, "gradients_through_time": False},
    }


def test_the_tutorial_from_many_seeds_differs_from_the_tutorial_in_the_copies_only() -> None:
    found, expected = recipes.load("tutorial-seeds").model_dump(), recipes.load("tutorial").model_dump()
    copies = {name: contender.pop("replicas") for name, contender in found["contenders"].items()}
    assert copies == {"hand_built": 64, "built_in": 8}
    for contender in expected["contenders"].values():
        del contender["replicas"]
    assert found | {"experiment": "tutorial"} == expected


def test_memory_s_contenders_differ_in_the_model_only() -> None:
    config = recipes.load("memory")
    first, *rest = config.contenders.values()
    assert [(other.training, other.fine_tuning, other.replicas) for other in rest] == [
        (first.training, first.fine_tuning, 5)
    ] * 2
    shared = {"hidden_size": 8, "num_layers": 1, "dropout": 0.0, "head": "linear"}
    models = {name: contender.model.model_dump() for name, contender in config.contenders.items()}
    assert all(model.items() >= shared.items() for model in models.values())
    assert [model.get("forget_bias") for model in models.values()] == [1.0, 1.0, None]
    assert models["hand_built"]["cell"] == "lstm"


def test_memory_is_the_adding_problem_over_100_steps() -> None:
    config = recipes.load("memory")
    assert config.data.model_dump() == {"kind": "adding", "length": 100, "count": 32_000, "seed": 0}
    assert config.converged.model_dump() == {"metric": "mse", "below": 0.005}
    assert config.figures.gradients_through_time
    training = config.contenders["rnn"].training
    assert (training.clip_norm, training.batch_size, training.shuffle) == (1.0, 32, True)
    batches = config.contenders["rnn"].fine_tuning.max_epochs * config.data.count // training.batch_size
    assert batches == 8000  # as the recipe's comment says


@pytest.mark.parametrize("name", ["parity", "forecast", "etth1"])
def test_the_two_contenders_differ_in_the_model_only(name: str) -> None:
    a, b = recipes.load(name).contenders.values()
    assert (a.training, a.fine_tuning) == (b.training, b.fine_tuning)
    assert (a.model.kind, b.model.kind) == ("hand_built", "built_in")
    assert (a.model.hidden_size, a.model.head) == (b.model.hidden_size, b.model.head)


def test_forecast_is_of_the_table_that_comes_along() -> None:
    config = recipes.load("forecast")
    dataset = load(config.data, config.seed)
    assert dataset.rows
    assert dataset.rows.read == dataset.rows.used
    assert (dataset.output.targets, dataset.output.steps, dataset.config) == (["co2"], 26, config.data)
    assert min(dataset.train.count, dataset.validation.count if dataset.validation else 0, dataset.test.count) > 100


def test_etth1_is_split_as_it_is_published() -> None:
    data = recipes.load("etth1").data
    assert isinstance(data, TableData)
    assert (data.target, data.time, data.features) == ("OT", "date", None)
    assert (data.split.train, data.split.validation, data.split.test) == (8640, 2880, 2880)  # 12, 4 and 4 months
    assert (data.context_length, data.horizon) == (96, 24)


TABLE = "data:\n  kind: table\n  path: mine.csv\n  target: y\n"


def test_a_file_on_a_table_needs_no_name_and_no_contenders(tmp_path: Path) -> None:
    path = tmp_path / "sales.yaml"
    path.write_text(TABLE)
    config = recipes.load(str(path))
    assert config.experiment == "sales"
    assert {name: contender.model.kind for name, contender in config.contenders.items()} == {
        "hand_built": "hand_built",
        "built_in": "built_in",
    }
    assert recipes.load(str(path), ["experiment=other"]).experiment == "other"
    # what is written out is complete: it runs under any name
    written = tmp_path / "elsewhere.yaml"
    written.write_text(config.to_yaml())
    assert recipes.load(str(written)) == config


def test_a_file_s_name_that_can_name_no_experiment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my sales.yaml"
    path.write_text(TABLE)
    assert message(str(path)).startswith(f"{path}: experiment: 'my sales' given, must be up to 100 letters")


def test_a_configuration_is_taken_as_it_is_and_not_changed_itself() -> None:
    config = recipes.load("tutorial")
    assert recipes.load(config) == config
    assert recipes.load(config, ["seed=7"]).seed == 7
    assert config.seed == 42


def test_a_written_configuration_loads_again(own: str) -> None:
    assert recipes.load(own) == recipes.load("tutorial")


def test_a_file_may_end_in_yml(tmp_path: Path) -> None:
    path = tmp_path / "my.yml"
    path.write_text(recipes.load("parity").to_yaml())
    assert recipes.load(str(path)) == recipes.load("parity")


def test_changes_reach_any_depth_and_nothing_else() -> None:
    before = recipes.load("tutorial").model_dump()
    after = recipes.load("tutorial", ["seed=7", f"{LEARNING_RATE}=0.25", " experiment = again "]).model_dump()
    assert after["seed"] == 7
    assert after["experiment"] == "again"
    assert after["contenders"]["hand_built"]["training"]["learning_rate"] == 0.25

    after["seed"], after["experiment"] = 42, "tutorial"
    after["contenders"]["hand_built"]["training"]["learning_rate"] = 0.001
    assert after == before


def test_of_two_changes_of_one_key_the_last_counts() -> None:
    assert recipes.load("tutorial", ["seed=1", "seed=2"]).seed == 2


def test_a_change_may_be_a_whole_section() -> None:
    config = recipes.load("tutorial", ["contenders.built_in.fine_tuning={max_epochs: 301}"])
    assert config.contenders["built_in"].fine_tuning.max_epochs == 301


def test_null_takes_a_contender_away() -> None:
    assert list(recipes.load("tutorial", ["contenders.built_in=null"]).contenders) == ["hand_built"]
    assert list(recipes.load("tutorial", ["contenders.hand_built=~"]).contenders) == ["built_in"]


def test_a_change_may_add_what_a_recipe_leaves_out() -> None:
    changes = [
        "contenders.hand_built.model.cell=layer_norm",
        "contenders.hand_built.training.clip_norm=1.0",
        "contenders.hand_built.replicas=8",
        "converged={below: 0.2}",
        "figures={gates_of: [2], gradients_through_time: true}",
        "data={kind: adding, count: 100}",
    ]
    config = recipes.load("tutorial", changes)
    ours = config.contenders["hand_built"]
    assert (ours.model.cell, ours.training.clip_norm, ours.replicas) == ("layer_norm", 1.0, 8)
    assert (config.converged.metric, config.converged.below) == ("max_error", 0.2)
    assert (config.figures.gates_of, config.figures.gradients_through_time) == ([2], True)
    assert config.data.model_dump() == {"kind": "adding", "length": 100, "count": 100, "seed": 0}


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "10e-4", "+1e-3"])
def test_a_number_with_an_exponent_is_a_number(text: str) -> None:
    assert recipes.load("tutorial", [f"{LEARNING_RATE}={text}"]).contenders["hand_built"].training.learning_rate == 1e-3


def test_a_number_with_an_exponent_is_a_number_in_a_file_too(own: str) -> None:
    path = Path(own)
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 3e-4"))
    assert recipes.load(own).contenders["hand_built"].training.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("seed", "--set seed: write KEY=VALUE, such as seed=7"),
        ("", "--set : write KEY=VALUE, such as seed=7"),
        ("=1", "--set =1: write KEY=VALUE, such as seed=7"),
        ("contenders..x=1", "--set contenders..x=1: write KEY=VALUE, such as seed=7"),
        (
            "training.max_epochs=1",
            "--set training.max_epochs=1: there is no 'training'; allowed here: experiment, seed, data, contenders",
        ),
        (
            "contenders.ours.training.max_epochs=1",
            "--set contenders.ours.training.max_epochs=1: there is no 'ours'; allowed here: hand_built, built_in",
        ),
        (
            "seed=[",
            "--set seed=[: not valid YAML at line 1, column 2: expected the node content, but found '<stream end>'",
        ),
        (
            "seed={a: 1, a: 2}",
            "--set seed={a: 1, a: 2}: not valid YAML at line 1, column 8: the key 'a' is given twice",
        ),
        (
            "seed=!!python/name:os.system",
            "--set seed=!!python/name:os.system: not valid YAML at line 1, column 1: could not determine a constructor "
            "for the tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
        ("seed=1e3", "tutorial: seed: 1000.0 given, must be a valid integer"),
        (
            "contenders.hand_built.model.cell=coupled_gate",
            "tutorial: contenders.hand_built.model.cell: 'coupled_gate' given, no such cell; "
            "did you mean coupled_gates? One of your own is module.Class",
        ),
        ("sead=1", "tutorial: sead: unknown key; did you mean seed?"),
        (f"{LEARNING_RATE}=null", f"tutorial: {LEARNING_RATE}: None given, must be a valid number"),
    ],
)
def test_a_change_that_can_not_be_is_refused(change: str, text: str) -> None:
    assert message("tutorial", change) == text


def test_the_last_contender_can_not_be_taken_away() -> None:
    assert message("tutorial", "contenders.hand_built=null", "contenders.built_in=null").startswith(
        "tutorial: contenders: "
    )


@pytest.mark.parametrize(
    "source",
    ["tutorail", "../tutorial", "../recipes/tutorial", "/etc/passwd", "", ".", "my.json", "..\\x"],
)
def test_a_name_that_is_no_recipe_is_refused_with_those_there_are(source: str) -> None:
    text = message(source)
    assert text.startswith(f"{source!r}: no such recipe; ")
    assert "tutorial" in text
    assert ".yaml" in text


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert message(str(missing)) == f"{missing}: can't be read: No such file or directory"
    directory = tmp_path / "directory.yaml"
    directory.mkdir()
    assert message(str(directory)) == f"{directory}: can't be read: Is a directory"
    below = tmp_path / "directory.yaml" / "none.yml"
    assert message(str(below)) == f"{below}: can't be read: No such file or directory"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"seed: \xe9\n", b"\x80"])
def test_a_file_that_is_not_utf_8(write: Any, content: bytes) -> None:
    path = write(content)
    assert message(path) == f"{path}: not a text file in UTF-8"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "the configuration: None given, must be a mapping"),
        ("# nothing\n", "the configuration: None given, must be a mapping"),
        ("- seed\n", "the configuration: ['seed'] given, must be a mapping"),
        ("seed: 1\nseed: 2\n", "not valid YAML at line 2, column 1: the key 'seed' is given twice"),
        ("data:\n  kind: a\n  kind: a\n", "not valid YAML at line 3, column 3: the key 'kind' is given twice"),
        ("seed: [1\n", "not valid YAML at line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        (
            "seed: 1\n\tdata: 2\n",
            "not valid YAML at line 2, column 1: found character '\\t' that cannot start any token",
        ),
        ("seed: *there\n", "not valid YAML at line 1, column 7: found undefined alias 'there'"),
        ("a: 1\n---\nb: 2\n", "not valid YAML at line 2, column 1: but found another document"),
        ("seed: \x07\n", "not valid YAML: unacceptable character #x0007: special characters are not allowed"),
        ("[" * 100_000, "not valid YAML: nested too deeply"),
        ("seed: !!timestamp 2020-13-45\n", "not valid YAML: month must be in 1..12"),
    ],
)
def test_a_file_that_is_no_configuration(write: Any, content: str, text: str) -> None:
    path = write(content)
    assert message(path).startswith(f"{path}: {text}")


@pytest.mark.parametrize(
    ("tag", "place"),
    [
        ("seed: !!python/object/apply:os.mkdir", "line 1, column 7"),
        ("!!python/object/apply:os.mkdir", "line 1, column 1"),
        ("seed: !!python/object/new:os.mkdir", "line 1, column 7"),
    ],
)
def test_a_python_tag_is_refused_and_nothing_runs(write: Any, tmp_path: Path, tag: str, place: str) -> None:
    folder = tmp_path / "it ran"
    text = f"{tag} ['{folder}']"
    fault = f"could not determine a constructor for the tag 'tag:yaml.org,2002:{tag.partition('!!')[2]}'"
    path = write(text)
    assert message(path) == f"{path}: not valid YAML at {place}: {fault}"
    change = text.replace("seed: ", "seed=") if text.startswith("seed") else f"seed={text}"
    assert message("tutorial", change) == f"--set {change}: not valid YAML at line 1, column 1: {fault}"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["my.yaml"]

    yaml.unsafe_load(text)
    assert folder.exists()  # the payload is a real one


def nested(first: str, pattern: str, levels: int) -> str:
    """YAML whose every line repeats the one before nine times."""
    lines = [pattern.format(name=f"a{level}", again=", ".join([f"*a{level - 1}"] * 9)) for level in range(1, levels)]
    return "\n".join([first, *lines])


TOO_MANY = "more than 100,000 values, with what aliases repeat; a configuration has fewer"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (nested("a0: &a0 [x, x, x]", "{name}: &{name} [{again}]", 9), TOO_MANY),
        (nested("a0: &a0 {k: 1}", "{name}: &{name} {{<<: [{again}]}}", 9), TOO_MANY),
        ("seed: &a [*a]", TOO_MANY),
        ("&a\nseed: *a", TOO_MANY),
        ("seed: [" + "1," * 100_000 + "]", TOO_MANY),
        ("seed: " + "{a: " * 10_000, "not valid YAML: nested too deeply"),
        ("- " * 10_000, "not valid YAML: nested too deeply"),
        ("#" * 1_000_001, "more than 1,000,000 characters; a configuration has fewer"),
    ],
    ids=["lists", "merged mappings", "a list in itself", "a mapping in itself", "many values",
         "deep mappings", "deep blocks", "long"],
)  # fmt: skip
def test_a_file_that_grows_when_it_is_read_is_refused_within_little_memory(
    write: Any, content: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content.startswith("seed: [1,"):  # as many would take seconds
        monkeypatch.setattr(yaml_text, "MOST_VALUES", 1000)
        text = text.replace("100,000", "1,000")
    path = write(content)
    tracemalloc.start()
    assert message(path) == f"{path}: {text}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15e6


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    with path.open("wb") as file:
        file.truncate(10**10)  # sparse: it takes no room
    tracemalloc.start()
    assert message(str(path)) == f"{path}: more than 1,000,000 characters; a configuration has fewer"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 15e6


def test_aliases_may_repeat_what_is_short(own: str) -> None:
    path = Path(own)
    path.write_text(
        path.read_text().replace("seed: 42", "seed: &seed 301").replace("max_epochs: 600", "max_epochs: *seed")
    )
    config = recipes.load(own)
    assert config.seed == config.contenders["built_in"].fine_tuning.max_epochs == 301


def test_loading_twice_gives_the_same_and_changes_do_not_stay() -> None:
    recipes.load("tutorial", ["seed=7", "contenders.built_in=null"])
    assert recipes.load("tutorial").seed == 42
    assert list(recipes.load("tutorial").contenders) == ["hand_built", "built_in"]
