"""Invalid input that is almost valid; each case is a regression test for a fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.errors import names_all

from flows import recipes
from lstm_models.config import BuiltIn, ConfigError, Contender, FineTuning, HandBuilt, Training, parse_config
from lstm_models.data.builders import in_sample_dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.data.sequences import Sequences
from lstm_models.training.checkpoint import CheckpointError, load_network
from lstm_models.training.trainer import fit

HB = "contenders.hand_built"


def message(source: Any, *changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        recipes.load(source, changes)
    return str(caught.value)


# ---- configurations
def test_a_change_to_one_contender_does_not_affect_another_one_that_shares_a_yaml_anchor() -> None:
    config = recipes.load("parity", [f"{HB}.training.learning_rate=0.5"])
    assert config.contenders["hand_built"].training.learning_rate == 0.5
    assert config.contenders["built_in"].training.learning_rate == 0.001


@pytest.mark.parametrize("content", ["", "- 1\n", "text\n", "5\n"])
def test_a_change_to_a_file_without_a_mapping_is_rejected(tmp_path: Path, content: str) -> None:
    (tmp_path / "my.yaml").write_text(content)
    assert names_all(message(str(tmp_path / "my.yaml"), "seed=7"))


def test_removing_an_unknown_contender_is_rejected() -> None:
    assert names_all(message("tutorial", "contenders.hand_bilt=null"), "hand_bilt", "hand_built")


@pytest.mark.parametrize(
    "content",
    ["? [a]\n: b", "[]: 1", "a: !!bool x", "a: !!int ''", "a: !!float ''", "a: !!timestamp x", "a: !!map [1]",
     "a: !!set [b]", '"a\\nb": 1', "seed: 0x" + "f" * 5000],
)  # fmt: skip
def test_text_that_is_not_a_configuration_is_rejected_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "any.yaml").write_text(content)
    assert names_all(message(str(tmp_path / "any.yaml")), "any.yaml: ")


def test_a_name_that_looks_like_a_number_survives_a_round_trip(tmp_path: Path) -> None:
    config = recipes.load("tutorial", ["experiment='1e3'"])
    (tmp_path / "my.yaml").write_text(config.to_yaml())
    assert recipes.load(str(tmp_path / "my.yaml")) == config


@pytest.mark.parametrize("source", ["a\0b.yaml", "a\nb.yaml"])
def test_an_impossible_path_is_rejected(source: str) -> None:
    assert names_all(message(source))


def test_a_billion_laughs_file_is_rejected_in_a_short_line(tmp_path: Path) -> None:
    text = "[x]"
    for depth in range(5):  # 300 kB; five levels more are 20 GB
        text = f"[&a{depth} {text}{f', *a{depth}' * 8}]"
    (tmp_path / "my.yaml").write_text(f"experiment: {text}")
    assert len(message(str(tmp_path / "my.yaml"))) < 1000


def test_a_key_with_a_newline_is_reported_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**recipes.load("tutorial").model_dump(), "a\nb": 1}, "x.yaml")
    assert names_all(caught.value, "x.yaml: ", "unknown")


# ---- loader
def test_the_epoch_may_be_set_after_the_iterator_is_created() -> None:
    y_B = torch.arange(30.0)

    def order(first_epoch: int, epoch: int) -> list[float]:
        loader = BatchLoader(Sequences(y_B.reshape(30, 1, 1), y_B), batch_size=30, shuffle=True, seed=1)
        loader.set_epoch(first_epoch)
        batches = iter(loader)
        loader.set_epoch(epoch)
        return next(batches).y.tolist()

    assert order(0, 3) == order(3, 3) != order(0, 0)


# ---- checkpoints
WAVES = Sequences(torch.arange(30.0).sin().reshape(5, 6, 1), torch.tensor([0.3, -0.2, 0.8, 0.1, 0.5]))
TINY = Contender(
    model=HandBuilt(kind="hand_built"), training=Training(max_epochs=1), fine_tuning=FineTuning(max_epochs=2)
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "last.ckpt"
    fit(TINY, in_sample_dataset(WAVES), seed=0, last_path=path)
    return path


Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def altered(trained: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """Return a function that writes the checkpoint with an edit of its content and returns the path."""

    def write(edit: Edit) -> Path:
        content = torch.load(trained, weights_only=True)
        edit(content)
        torch.save(content, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    return write


def resume(path: Path, contender: Contender = TINY) -> None:
    fit(contender, in_sample_dataset(WAVES), seed=0, last_path=path.with_name("more.ckpt"), resume_from=path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["lstm_flows"].pop("network"),
        lambda content: content["lstm_flows"].pop("input_size"),
        lambda content: content["lstm_flows"].update(network={"kind": "gru"}),
        lambda content: content["lstm_flows"].update(input_size="1"),
        lambda content: content.pop("state_dict"),
        lambda content: content["state_dict"].popitem(),
        lambda content: content["lstm_flows"]["network"].update(hidden_size=2, head="linear"),
    ],
)
def test_a_damaged_checkpoint_is_rejected(altered: Callable[[Edit], Path], edit: Edit) -> None:
    path = altered(edit)
    with pytest.raises(CheckpointError) as caught:
        load_network(path)
    assert names_all(caught.value, path)


def test_loading_a_network_does_not_change_the_global_random_state(trained: Path) -> None:
    before = torch.get_rng_state()
    load_network(trained)
    assert torch.equal(torch.get_rng_state(), before)


def test_resuming_from_a_file_that_is_not_a_checkpoint_is_rejected(
    altered: Callable[[Edit], Path], tmp_path: Path
) -> None:
    (text := tmp_path / "text.ckpt").write_text("weights: none\n")
    for make in (
        lambda: text,
        lambda: altered(lambda content: content.pop("lstm_flows")),
        lambda: altered(lambda content: content["lstm_flows"].update(format_version=1)),
    ):
        path = make()
        with pytest.raises(CheckpointError) as caught:
            resume(path)
        assert names_all(caught.value, path)


def test_resuming_with_another_network_is_rejected(altered: Callable[[Edit], Path]) -> None:
    """The parameters of nn.LSTM have the same names, so the weights of a hand-built LSTM would load."""
    path = altered(lambda content: None)
    with pytest.raises(ValueError, match="hand_built"):
        resume(path, TINY.model_copy(update={"model": BuiltIn(kind="built_in")}))


def test_resuming_to_an_epoch_already_reached_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    fit(TINY.model_copy(update={"training": Training(max_epochs=2)}), in_sample_dataset(WAVES), seed=0, last_path=path)
    with pytest.raises(ValueError) as caught:
        resume(path)
    assert names_all(caught.value, path, "2 epochs", "max_epochs 2")
