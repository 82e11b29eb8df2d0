"""What is refused, and in which words: each of these was a fault once, found by whoever tried."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows import recipes
from lstm_models import LSTM
from lstm_models.checkpoint import CheckpointError, load_network
from lstm_models.config import BuiltIn, ConfigError, Contender, FineTuning, HandBuilt, Training, parse_config
from lstm_models.data.dataset import in_sample
from lstm_models.data.loader import BatchLoader
from lstm_models.data.tables import Columns, Sequences, TableError, inputs, read_csv
from lstm_models.training import fit

HB = "contenders.hand_built"


def message(source: Any, *changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        recipes.load(source, changes)
    return str(caught.value)


def values(name: str = "hand_built") -> dict[str, Any]:
    return recipes.load("tutorial").model_dump()


# ---- loader
def orders(epochs: int) -> set[tuple[int, ...]]:
    y_B = torch.arange(30.0)
    found = set()
    loader = BatchLoader(Sequences(y_B.reshape(30, 1, 1), y_B), batch_size=30, shuffle=True, seed=1)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        found.add(tuple(int(label) for batch in loader for label in batch.y))
    return found


def test_shuffled_each_epoch_has_an_order_of_its_own() -> None:
    assert len(orders(20)) == 20


def test_the_epoch_may_be_set_after_the_iterator_was_asked_for() -> None:
    y_B = torch.arange(30.0)

    def order(before: int, after: int) -> list[float]:
        loader = BatchLoader(Sequences(y_B.reshape(30, 1, 1), y_B), batch_size=30, shuffle=True, seed=1)
        loader.set_epoch(before)
        batches = iter(loader)
        loader.set_epoch(after)
        return next(batches).y.tolist()

    assert order(0, 3) == order(3, 3)
    assert order(0, 3) != order(0, 0)


# ---- recipes
def test_a_change_of_one_contender_leaves_the_other_alone_where_the_recipe_uses_anchors() -> None:
    config = recipes.load("parity", [f"{HB}.training.learning_rate=0.5"])
    assert config.contenders["hand_built"].training.learning_rate == 0.5
    assert config.contenders["built_in"].training.learning_rate == 0.001


@pytest.mark.parametrize("content", ["", "- 1\n", "text\n", "5\n"])
def test_a_change_of_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "my.yaml").write_text(content)
    assert message(str(tmp_path / "my.yaml"), "seed=7").isprintable()


def test_taking_away_a_contender_that_is_not_there_is_refused() -> None:
    assert message("tutorial", "contenders.hand_bilt=null")


FRAGMENTS = st.sampled_from(
    [*"{}[]:,-?&*!|>'\"#%@` \n\t", "a", "seed", ": ", "- ", "? ", "!!", "!!bool ", "!!int ", "!!float ", "!!map ",
     "!!set ", "!!timestamp ", "&a ", "*a", "<<: ", "---\n", "1e3", "~", "''", "\\n", "contenders:\n  "]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(FRAGMENTS, max_size=12).map("".join)))
@example("? [a]\n: b")
@example("[]: 1")
@example("a: !!bool x")
@example("a: !!int ''")
@example("a: !!float ''")
@example("a: !!timestamp x")
@example("a: !!map [1]")
@example("a: !!set [b]")
@example('"a\\nb": 1')
@example("seed: 0x" + "f" * 5000)
@settings(deadline=None)
def test_text_that_is_no_configuration_is_refused(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(content, encoding="utf-8", newline="")
    assert len(message(str(path)).splitlines()) == 1


def test_what_to_yaml_writes_loads_again_also_where_the_name_looks_like_a_number(tmp_path: Path) -> None:
    config = recipes.load("tutorial", ["experiment='1e3'"])
    (tmp_path / "my.yaml").write_text(config.to_yaml())
    assert recipes.load(str(tmp_path / "my.yaml")) == config


@pytest.mark.parametrize("source", ["a\0b.yaml", "a\nb.yaml"])
def test_a_path_that_can_not_be(source: str) -> None:
    assert len(message(source).splitlines()) == 1


def test_a_bomb_of_aliases_is_refused_in_a_short_line(tmp_path: Path) -> None:
    text = "[x]"
    for level in range(5):  # 300 kB; five levels more and it is 20 GB
        text = f"[&a{level} {text}{f', *a{level}' * 8}]"
    text = f"experiment: {text}"
    (tmp_path / "my.yaml").write_text(text)
    assert len(message(str(tmp_path / "my.yaml"))) < 1000


# ---- config
@pytest.mark.parametrize("name", ["v1", "v20"])
def test_a_contender_can_not_have_a_name_that_mlflow_refuses_as_an_alias(name: str) -> None:
    config = values()
    config["contenders"] = {name: config["contenders"]["hand_built"]}
    with pytest.raises(ConfigError):
        parse_config(config, "x.yaml")


def test_the_message_of_a_reserved_name_names_the_field_once() -> None:
    config = values()
    config["contenders"] = {"champion": config["contenders"]["hand_built"]}
    with pytest.raises(ConfigError, match=r"^x\.yaml: contenders\.champion: "):
        parse_config(config, "x.yaml")


def test_the_message_of_no_contenders_is_in_the_users_words() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**values(), "contenders": {}}, "x.yaml")
    assert "Dictionary" not in str(caught.value)


def test_the_message_of_dropout_in_one_layer_tells_field_and_value() -> None:
    text = message("tutorial", f"{HB}.model.dropout=0.5")
    assert "dropout 0.5" in text
    assert "num_layers" in text


def test_a_key_with_a_newline_stays_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**values(), "a\nb": 1}, "x.yaml")
    assert len(str(caught.value).splitlines()) == 1


# ---- tables
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_is_told_as_a_user_writes_it(value: float) -> None:
    with pytest.raises(TableError) as caught:
        inputs(pd.DataFrame({"a": [1.0, value]}), Columns(("a",), "y"))
    assert "np." not in str(caught.value)


def test_a_number_beyond_float32_is_refused_without_a_warning() -> None:
    with pytest.raises(TableError, match="column a, row 2"):
        inputs(pd.DataFrame({"a": [1.0, 1e39]}), Columns(("a",), "y"))


def test_a_row_with_a_field_too_many_is_refused_in_the_first_row_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2,3\n4,5,6\n")
    with pytest.raises(TableError):
        read_csv(tmp_path / "t.csv")  # gives a = 2, 5 and b = 3, 6


# ---- checkpoints
WAVES = Sequences(torch.arange(30.0).sin().reshape(5, 6, 1), torch.tensor([0.3, -0.2, 0.8, 0.1, 0.5]))
TINY = Contender(
    model=HandBuilt(kind="hand_built"), training=Training(max_epochs=1), fine_tuning=FineTuning(max_epochs=2)
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    fit(TINY, in_sample(WAVES), seed=0, save_to=tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def change(path: Path, edit: Any) -> None:
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


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
def test_a_damaged_checkpoint_is_refused(checkpoint: Path, edit: Any) -> None:
    change(checkpoint, edit)
    with pytest.raises(CheckpointError):
        load_network(checkpoint)


def test_the_message_of_a_bad_checkpoint_is_one_line(checkpoint: Path) -> None:
    checkpoint.write_text("weights: none\n")
    with pytest.raises(CheckpointError) as caught:
        load_network(checkpoint)
    assert len(str(caught.value).splitlines()) == 1


def test_loading_a_network_does_not_move_the_global_random_state(checkpoint: Path) -> None:
    before = torch.get_rng_state()
    load_network(checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.pop("lstm_flows"),
        lambda content: content["lstm_flows"].update(format_version=1),
    ],
)
def test_resuming_from_what_is_no_checkpoint_of_this_program_is_refused(checkpoint: Path, edit: Any) -> None:
    change(checkpoint, edit)
    with pytest.raises(CheckpointError):
        fit(TINY, in_sample(WAVES), seed=0, save_to=checkpoint.with_name("more.ckpt"), resume_from=checkpoint)


def test_resuming_from_a_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_text("weights: none\n")
    with pytest.raises(CheckpointError):
        fit(TINY, in_sample(WAVES), seed=0, save_to=tmp_path / "more.ckpt", resume_from=tmp_path / "last.ckpt")


def test_resuming_with_another_network_is_refused(checkpoint: Path) -> None:
    """nn.LSTM's parameters have the same names: a hand-built checkpoint goes on as a built-in one in silence."""
    other = TINY.model_copy(update={"model": BuiltIn(kind="built_in")})
    with pytest.raises(ValueError, match="hand_built"):
        fit(other, in_sample(WAVES), seed=0, save_to=checkpoint.with_name("more.ckpt"), resume_from=checkpoint)


def test_resuming_to_an_epoch_already_reached_does_not_pass_in_silence(checkpoint: Path) -> None:
    longer = TINY.model_copy(update={"training": Training(max_epochs=2)})
    fit(longer, in_sample(WAVES), seed=0, save_to=checkpoint)
    done = None
    with pytest.raises(ValueError):
        done = fit(TINY, in_sample(WAVES), seed=0, save_to=checkpoint.with_name("more.ckpt"), resume_from=checkpoint)
    assert done is None  # now: no epoch trained, a loss of nan


# ---- LSTM
@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"biases": "none"}, "biases must be one or two, got 'none'"),
        ({"init": "uniform"}, "init must be default or normal, got 'uniform'"),
    ],
)
def test_an_unknown_variant_is_refused(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        LSTM(1, 1, **setting)


# ---- comparison
