"""Checkpoints: their content, invalid files and malicious files."""

import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.errors import names_all, refused_at
from helpers.memory import little_memory
from helpers.trainings import assert_same_state, contender, content

from lstm_models.config import BuiltIn, HandBuilt
from lstm_models.data.builders import in_sample_dataset
from lstm_models.data.sequences import Sequences
from lstm_models.evaluation.evaluate import predict
from lstm_models.training.checkpoint import (
    FORMAT_VERSION,
    CheckpointError,
    get_random_state,
    latest_valid_checkpoint,
    load_network,
    set_random_state,
)
from lstm_models.training.trainer import fit, new_network
from lstm_models.utils import atomic_files

SEQUENCES = Sequences(torch.linspace(-1, 1, 24).sin().reshape(4, 3, 2), torch.tensor([0.1, 0.9, 0.4, 0.6]))
DATA = in_sample_dataset(SEQUENCES)
MODELS = {
    "the tutorial's": HandBuilt(kind="hand_built", double_bias=False, init="normal"),
    "hand-built": HandBuilt(kind="hand_built", hidden_size=3, num_layers=2, dropout=0.5, head="linear"),
    "built-in": BuiltIn(kind="built_in", hidden_size=3, num_layers=2, dropout=0.5, head="linear"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a checkpoint after one epoch for each model, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, model in MODELS.items():
        fit(contender(model), DATA, seed=0, last_path=folder / f"{name}.ckpt")
    return {name: folder / f"{name}.ckpt" for name in MODELS}


@pytest.fixture(scope="module")
def checkpoint(trained: dict[str, Path]) -> Path:
    return trained["hand-built"]


# ---- content
def test_a_checkpoint_contains_tensors_and_primitives_only(checkpoint: Path) -> None:
    state = content(checkpoint)["lstm_flows"]  # loaded with weights_only=True
    assert state.pop("random_state").keys() == {"python", "numpy", "torch", "cuda"}
    assert state == {
        "format_version": FORMAT_VERSION,
        "network": MODELS["hand-built"].model_dump(),
        "input_size": 2,
        "output": DATA.output.model_dump(mode="json"),
        "scaled": False,
        "replicas": 1,
        "max_epochs": 1,
    }
    assert FORMAT_VERSION == 2


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_network_predicts_like_the_trained_one(trained: dict[str, Path], name: str) -> None:
    network = load_network(trained[name])
    untrained, expected = (new_network(contender(MODELS[name]), DATA, seed).eval() for seed in (0, 1))
    weights = content(trained[name])["state_dict"]
    expected.load_state_dict({key.removeprefix("network."): value for key, value in weights.items()}, strict=True)

    assert not network.training
    found = predict(network, SEQUENCES.x_BTD)
    assert torch.equal(found, predict(expected, SEQUENCES.x_BTD))
    assert torch.equal(found, predict(network, SEQUENCES.x_BTD))  # repeatable: dropout is off
    assert not torch.equal(found, predict(untrained, SEQUENCES.x_BTD))


def draws() -> list[float]:
    """Draw from every generator; an odd number of Gaussians, since NumPy and Python cache the second of each pair."""
    return [random.random(), random.gauss(), np.random.rand(), np.random.randn(), *torch.rand(3).tolist()]


def test_the_random_state_is_restored_and_reading_does_not_advance_it(tmp_path: Path) -> None:
    draws()
    torch.save(get_random_state(), tmp_path / "state.pt")
    expected = [draws(), draws()]
    random.seed(999)  # a seed that no test starts with, so that a state that is not restored differs
    np.random.seed(999)
    torch.manual_seed(999)
    assert draws() not in expected

    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    get_random_state()
    assert [draws(), draws()] == expected


# ---- invalid files
def test_a_file_that_is_not_a_checkpoint_is_rejected(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "last.ckpt"
    with refused_at(CheckpointError, path, "can't be read", "No such file"):
        load_network(path)
    with refused_at(CheckpointError, tmp_path, "can't be read", "directory"):
        load_network(tmp_path)
    for write in (
        lambda: path.write_text("weights: none\n"),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(checkpoint.read_bytes()[:1000]),
        lambda: torch.save([1, 2, 3], path),
        lambda: torch.save({"state_dict": {}}, path),
    ):
        write()
        with refused_at(CheckpointError, path, "not a checkpoint of lstm-flows"):
            load_network(path)


@pytest.mark.parametrize("position", [0.01, 0.5, 0.99])
def test_a_checkpoint_with_one_changed_byte_is_rejected(tmp_path: Path, checkpoint: Path, position: float) -> None:
    path, changed = tmp_path / "last.ckpt", bytearray(checkpoint.read_bytes())
    changed[int(len(changed) * position)] ^= 1
    path.write_bytes(changed)
    with refused_at(CheckpointError, path, "damaged", "checksum does not match"):
        load_network(path)


def test_another_format_version_is_rejected(tmp_path: Path, checkpoint: Path) -> None:
    path, changed = tmp_path / "last.ckpt", content(checkpoint)
    changed["lstm_flows"]["format_version"] = 1
    torch.save(changed, path)
    with refused_at(CheckpointError, path, "format version 1", "reads 2", "train again"):
        load_network(path)


def test_a_damaged_checkpoint_is_replaced_by_the_previous_one_with_a_warning(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, previous = tmp_path / "last.ckpt", tmp_path / "last.ckpt.previous"
    shutil.copy(checkpoint, path)
    shutil.copy(checkpoint, previous)
    assert latest_valid_checkpoint(path) == path
    assert caplog.messages == []
    path.write_bytes(b"cut short")
    assert latest_valid_checkpoint(path) == previous
    (warning,) = caplog.messages
    assert names_all(warning, f"{path}: not a checkpoint of lstm-flows (BadZipFile)", "the previous checkpoint is used")
    path.unlink()
    assert latest_valid_checkpoint(path) == previous
    previous.write_bytes(checkpoint.read_bytes()[:-1])
    with refused_at(CheckpointError, path, "can't be read", f"{previous}: ", "train again"):
        latest_valid_checkpoint(path)
    previous.unlink()
    with pytest.raises(CheckpointError, match=r"last.ckpt: can't be read: No such file or directory$"):
        latest_valid_checkpoint(path)


def test_training_resumed_from_the_previous_checkpoint_ends_bit_identically(tmp_path: Path) -> None:
    settings = contender(MODELS["built-in"])
    uninterrupted, broken, end = (tmp_path / name for name in ("uninterrupted.ckpt", "last.ckpt", "end.ckpt"))
    fit(settings, DATA, seed=1, last_path=uninterrupted, max_epochs=6)
    fit(settings, DATA, seed=1, last_path=broken, max_epochs=2)
    fit(settings, DATA, seed=1, last_path=broken, max_epochs=4, resume_from=broken)
    broken.write_bytes(broken.read_bytes()[:1000])
    fit(settings, DATA, seed=1, last_path=end, max_epochs=6, resume_from=broken)
    assert_same_state(end, uninterrupted)


# ---- malicious files
class Payload:
    """Object that creates a directory when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.mkdir, (self.folder,)


def test_the_payload_of_a_pickle_is_not_executed(tmp_path: Path) -> None:
    folder, path = tmp_path / "it ran", tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps({"lstm_flows": Payload(folder)}))
    with refused_at(CheckpointError, path, "BadZipFile"):
        load_network(path)
    assert not folder.exists()


@pytest.mark.parametrize("with_checksum", [False, True])
def test_a_payload_inside_a_checkpoint_is_not_executed(tmp_path: Path, checkpoint: Path, with_checksum: bool) -> None:
    folder, path = tmp_path / "it ran", tmp_path / "last.ckpt"
    torch.save(content(checkpoint) | {"more": Payload(folder)}, path)
    if with_checksum:  # a checksum detects damage, not a malicious author
        atomic_files.append_checksum(path)
    with refused_at(CheckpointError, path, "__builtin__.getattr", "not part of a tensor"):
        load_network(path)
    assert not folder.exists()

    torch.load(path, weights_only=False)
    assert folder.exists()  # the payload works


class Long:
    """Object of 100 MB from a few bytes of pickle, which torch's weights_only accepts."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return bytearray, (10**8,)


def test_a_large_object_in_a_pickle_is_not_allocated(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "last.ckpt"
    for protocol, named in ((2, "__builtin__.bytearray"), (4, "a hidden global")):
        torch.save(content(checkpoint) | {"more": Long()}, path, pickle_protocol=protocol)
        if protocol == 2:
            assert len(torch.load(path, weights_only=True)["more"]) == 10**8
        with little_memory(5e6), refused_at(CheckpointError, path, named, "not part of a tensor"):
            load_network(path)


def test_a_compressed_checkpoint_is_not_decompressed(tmp_path: Path, checkpoint: Path) -> None:
    path, small = tmp_path / "last.ckpt", tmp_path / "small.ckpt"
    torch.save(content(checkpoint) | {"more": torch.zeros(10**7)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert small.stat().st_size < path.stat().st_size / 100
    assert torch.load(small, weights_only=True)["more"].shape == (10**7,)
    with little_memory(5e6), refused_at(CheckpointError, small, "data.pkl", "compressed"):
        load_network(small)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": 10**6}, ("do not fit together", "head.weight")),
        ({"num_layers": 10**9}, ("1,000,000,000 layers", "736 bytes of weights")),
    ],
)
def test_a_false_description_allocates_no_memory(
    tmp_path: Path, checkpoint: Path, change: dict[str, int], named: tuple[str, ...]
) -> None:
    path, changed = tmp_path / "last.ckpt", content(checkpoint)
    changed["lstm_flows"]["network"] |= change
    torch.save(changed, path)
    with little_memory(5e6), refused_at(CheckpointError, path, "damaged", "ValueError", *named):
        load_network(path)


def test_a_weight_of_absurd_size_allocates_no_memory(tmp_path: Path, checkpoint: Path) -> None:
    path, changed = tmp_path / "last.ckpt", content(checkpoint)
    changed["lstm_flows"]["network"]["hidden_size"] = 10**6
    for name, shape in {"weight_ih_l0": (2,), "weight_hh_l0": (10**6,), "weight_ih_l1": (10**6,)}.items():
        # one number, expanded
        changed["state_dict"][f"network.recurrent.{name}"] = torch.zeros(1).expand(4 * 10**6, *shape)
    torch.save(changed, path)
    with little_memory(5e6), refused_at(CheckpointError, path, f"a file of {path.stat().st_size:,} bytes", "2 layers"):
        load_network(path)
