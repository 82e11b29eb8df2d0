"""What a checkpoint holds, and what is no checkpoint."""

import pickle
import random
import re
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lstm_models import files
from lstm_models.checkpoint import (
    FORMAT_VERSION,
    CheckpointError,
    load_network,
    newest,
    random_state,
    set_random_state,
)
from lstm_models.config import BuiltIn, Contender, FineTuning, HandBuilt, Training
from lstm_models.data.dataset import in_sample
from lstm_models.data.tables import Sequences
from lstm_models.evaluation import predict
from lstm_models.training import fit, new_network

SEQUENCES = Sequences(torch.linspace(-1, 1, 24).sin().reshape(4, 3, 2), torch.tensor([0.1, 0.9, 0.4, 0.6]))
MODELS = {
    "the tutorial's": HandBuilt(kind="hand_built", biases="one", init="normal"),
    "hand-built": HandBuilt(kind="hand_built", hidden_size=3, num_layers=2, dropout=0.5, head="linear"),
    "built-in": BuiltIn(kind="built_in", hidden_size=3, num_layers=2, dropout=0.5, head="linear"),
}


def trained(model: HandBuilt | BuiltIn, path: Path) -> Path:
    contender = Contender(model=model, training=Training(max_epochs=1), fine_tuning=FineTuning(max_epochs=2))
    fit(contender, in_sample(SEQUENCES), seed=0, save_to=path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(MODELS["hand-built"], tmp_path_factory.mktemp("checkpoint") / "last.ckpt")


def test_a_checkpoint_holds_tensors_and_primitives_only(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    ours = content["lstm_flows"]
    assert ours["format_version"] == FORMAT_VERSION == 2
    assert ours["network"] == MODELS["hand-built"].model_dump()
    assert ours["input_size"] == 2
    assert ours["max_epochs"] == 1
    assert ours["random_state"].keys() == {"python", "numpy", "torch", "cuda"}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_loaded_network_predicts_as_the_trained_one(tmp_path: Path, model: HandBuilt | BuiltIn) -> None:
    path = trained(model, tmp_path / "last.ckpt")
    network = load_network(path)

    contender = Contender(model=model, training=Training(max_epochs=1), fine_tuning=FineTuning(max_epochs=2))
    expected = new_network(contender, in_sample(SEQUENCES), seed=1).eval()
    weights = torch.load(path, weights_only=True)["state_dict"]
    expected.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()}, strict=True)

    assert not network.training
    assert torch.equal(predict(network, SEQUENCES.x_BTD), predict(expected, SEQUENCES.x_BTD))
    # twice the same: dropout is off
    assert torch.equal(predict(network, SEQUENCES.x_BTD), predict(network, SEQUENCES.x_BTD))


def test_the_trained_weights_are_not_the_untrained_ones(checkpoint: Path) -> None:
    contender = Contender(
        model=MODELS["hand-built"], training=Training(max_epochs=1), fine_tuning=FineTuning(max_epochs=2)
    )
    untrained = new_network(contender, in_sample(SEQUENCES), seed=0).eval()
    assert not torch.equal(predict(load_network(checkpoint), SEQUENCES.x_BTD), predict(untrained, SEQUENCES.x_BTD))


def draws() -> list[float]:
    """Some of every generator's; an odd number of Gaussian ones, of which NumPy and Python keep a second in reserve."""
    return [random.random(), random.gauss(), np.random.rand(), np.random.randn(), *torch.rand(3).tolist()]


def test_the_random_state_is_taken_up_where_it_was(tmp_path: Path) -> None:
    draws()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = [draws(), draws()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert draws() not in expected

    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draws(), draws()] == expected


def test_asking_for_the_random_state_does_not_move_it() -> None:
    state = random_state()
    expected = draws()
    set_random_state(state)
    random_state()
    assert draws() == expected


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.mkdir, (self.folder,)


def assert_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: not a checkpoint of lstm-flows "):
        load_network(path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(CheckpointError, match="can't be read: No such file or directory"):
        load_network(path)
    path.write_text("weights: none\n")
    assert_refused(path)
    path.write_bytes(b"")
    assert_refused(path)
    torch.save([1, 2, 3], path)
    assert_refused(path)
    torch.save({"state_dict": {}}, path)
    assert_refused(path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, checkpoint: Path, part: float) -> None:
    path = tmp_path / "last.ckpt"
    content = checkpoint.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match=r"not a checkpoint of lstm-flows|not those that were written"):
        load_network(path)


@pytest.mark.parametrize("place", [0.01, 0.3, 0.7, 0.99])
def test_a_checkpoint_with_one_changed_byte_is_refused(tmp_path: Path, checkpoint: Path, place: float) -> None:
    path = tmp_path / "last.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path}: the checkpoint is damaged: its bytes are not those that were"):
        load_network(path)


# ---- the one before
def test_of_a_damaged_checkpoint_the_one_before_is_used_and_said_so(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, before = tmp_path / "last.ckpt", tmp_path / "last.ckpt.previous"
    shutil.copy(checkpoint, path)
    shutil.copy(checkpoint, before)
    assert newest(path) == path
    assert caplog.text == ""
    path.write_bytes(b"cut short")
    assert newest(path) == before
    assert f"{path}: not a checkpoint of lstm-flows (BadZipFile); the one before is used" in caplog.text
    path.unlink()
    assert newest(path) == before
    before.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"last.ckpt: can't be read.*; and the one before: .*train anew"):
        newest(path)
    before.unlink()
    with pytest.raises(CheckpointError, match=r"last.ckpt: can't be read: No such file or directory$"):
        newest(path)


def test_training_goes_on_from_the_one_before_to_the_same_end(tmp_path: Path) -> None:
    model = MODELS["built-in"]
    contender = Contender(model=model, training=Training(max_epochs=1), fine_tuning=FineTuning(max_epochs=2))
    data = in_sample(SEQUENCES)
    straight, broken = tmp_path / "straight.ckpt", tmp_path / "last.ckpt"
    fit(contender, data, seed=1, save_to=straight, max_epochs=6)
    for epochs in (2, 4):
        before = broken if epochs == 4 else None
        fit(contender, data, seed=1, save_to=broken, resume_from=before, max_epochs=epochs)
    broken.write_bytes(broken.read_bytes()[:1000])
    fit(contender, data, seed=1, save_to=tmp_path / "end.ckpt", resume_from=broken, max_epochs=6)
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in (straight, tmp_path / "end.ckpt")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_another_format_version_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["lstm_flows"]["format_version"] = 1
    torch.save(content, path)
    text = f"{path}: format version 1, this program reads 2; train anew"
    with pytest.raises(CheckpointError, match=f"^{re.escape(text)}$"):
        load_network(path)


def refused(path: Path, reason: str) -> "pytest.RaisesExc[CheckpointError]":
    return pytest.raises(CheckpointError, match=f"^{re.escape(f'{path}: not a checkpoint of lstm-flows ({reason})')}$")


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickles_payload_does_not_run(tmp_path: Path, protocol: int) -> None:
    folder, path = tmp_path / "it ran", tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps({"lstm_flows": Payload(folder)}, protocol))
    with refused(path, "BadZipFile"):
        load_network(path)
    assert not folder.exists()


@pytest.mark.parametrize("sealed", [False, True])
def test_a_payload_inside_a_checkpoint_does_not_run(tmp_path: Path, checkpoint: Path, sealed: bool) -> None:
    folder, path = tmp_path / "it ran", tmp_path / "last.ckpt"
    torch.save(torch.load(checkpoint, weights_only=True) | {"more": Payload(folder)}, path)
    if sealed:  # a seal tells of damage, not of who made it
        files.seal(path)
    with refused(path, "its pickle names __builtin__.getattr, no part of a tensor"):
        load_network(path)
    assert not folder.exists()

    torch.load(path, weights_only=False)
    assert folder.exists()  # the payload is a real one


class Long:
    """A hundred megabytes, in the pickle a few bytes: torch's weights_only has nothing against it."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return bytearray, (10**8,)


def test_what_a_pickle_asks_for_is_not_made(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"more": Long()}, path)
    assert len(torch.load(path, weights_only=True)["more"]) == 10**8
    assert_little_memory(path, "its pickle names __builtin__.bytearray, no part of a tensor")
    torch.save(content | {"more": Long()}, path, pickle_protocol=4)
    assert_little_memory(path, "its pickle names what it hides, no part of a tensor")


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path: Path, checkpoint: Path) -> None:
    path, small = tmp_path / "last.ckpt", tmp_path / "small.ckpt"
    torch.save(torch.load(checkpoint, weights_only=True) | {"more": torch.zeros(10**7)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert small.stat().st_size < path.stat().st_size / 100
    assert torch.load(small, weights_only=True)["more"].shape == (10**7,)
    assert_little_memory(small, "last/data.pkl in it is compressed")


def assert_little_memory(path: Path, reason: str) -> None:
    tracemalloc.start()
    with refused(path, reason):
        load_network(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"hidden_size": 10**6},
            "description and weights do not fit together, first in head.weight",
        ),
        ({"num_layers": 10**9}, "can't hold 1,000,000,000 layers in 736 bytes of weights"),
    ],
)
def test_a_description_that_lies_takes_no_memory(
    tmp_path: Path, checkpoint: Path, change: dict[str, int], fault: str
) -> None:
    path = tmp_path / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["lstm_flows"]["network"] |= change
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"^{path}: the checkpoint is damaged \(ValueError: .*{fault}\)$"):
        load_network(path)


def test_a_weight_of_an_absurd_size_takes_no_memory(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["lstm_flows"]["network"]["hidden_size"] = 10**6
    weights = content["state_dict"]
    for name, shape in {"weight_ih_l0": (2,), "weight_hh_l0": (10**6,), "weight_ih_l1": (10**6,)}.items():
        weights[f"network.recurrent.{name}"] = torch.zeros(1).expand(4 * 10**6, *shape)  # one number, told of often
    torch.save(content, path)
    size = path.stat().st_size
    with pytest.raises(CheckpointError, match=rf"a file of {size:,} bytes can't hold 2 layers in [0-9,]+ bytes of"):
        load_network(path)
