"""Contenders that train in a tenth of a second, and the comparison of two checkpoints."""

from pathlib import Path
from typing import Any

import torch

from helpers.outcomes import difference, flat
from lstm_models.config import AnyModel, Contender, FineTuning, Training

STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "lstm_flows")


def contender(
    model: AnyModel, epochs: int = 1, then: int | None = None, replicas: int = 1, **training: Any
) -> Contender:
    """Return a contender that trains for `epochs`, and is fine-tuned to epoch `then`, by default one more."""
    return Contender(
        model=model,
        training=Training(**{"max_epochs": epochs, "num_threads": 1} | training),
        fine_tuning=FineTuning(max_epochs=then or epochs + 1),
        replicas=replicas,
    )


def content(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file."""
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def assert_same_state(actual: Path, expected: Path, *keys: str) -> None:
    """Assert that two checkpoints are bit-identical in these keys, by default in all that training depends on."""
    actual_content, expected_content = content(actual), content(expected)
    for key in keys or STATE:
        assert difference(flat(actual_content[key], key), flat(expected_content[key], key)) == ""
