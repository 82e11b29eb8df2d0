"""Contenders that train in a tenth of a second, and what is compared of two trainings."""

from pathlib import Path
from typing import Any

import torch

from helpers.outcomes import difference, flat
from lstm_models.config import AnyModel, Contender, FineTuning, Training

STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "lstm_flows")


def contender(
    model: AnyModel, epochs: int = 1, then: int | None = None, replicas: int = 1, **training: Any
) -> Contender:
    """A contender that trains for some epochs, and is fine-tuned until `then`, by default one epoch more."""
    return Contender(
        model=model,
        training=Training(**{"max_epochs": epochs, "num_threads": 1} | training),
        fine_tuning=FineTuning(max_epochs=then or epochs + 1),
        replicas=replicas,
    )


def content(path: Path) -> dict[str, Any]:
    """Return what a checkpoint file holds."""
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def assert_same_state(found: Path, expected: Path, *keys: str) -> None:
    """Assert that two checkpoints hold the same, to the last bit: by default all that training depends on."""
    one, other = content(found), content(expected)
    for key in keys or STATE:
        assert difference(flat(one[key], key), flat(other[key], key)) == ""
