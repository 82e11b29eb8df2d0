"""The recipes `tutorial` and `parity`, trained in full: the tutorial's results, and equal curves."""

from pathlib import Path

import pytest
from helpers.recording_logger import Points

from flows import recipes
from lstm_models.data.builders import in_sample_dataset
from lstm_models.data.sequences import to_sequences
from lstm_models.data.synthetic import tutorial
from lstm_models.evaluation.evaluate import predict
from lstm_models.training.checkpoint import load_network
from lstm_models.training.trainer import FitResult, fit, new_network

COMPANIES = to_sequences(tutorial.table(), tutorial.COLUMNS)


def test_the_tutorials_results(tmp_path: Path) -> None:
    config = recipes.load("tutorial")

    def train(phase: str, name: str, resume_from: Path | None = None) -> tuple[list[float], FitResult]:
        path, contender = tmp_path / f"{phase}.ckpt", config.contenders[name]
        done = fit(contender, in_sample_dataset(COMPANIES), seed=config.seed, last_path=path, resume_from=resume_from)
        return predict(load_network(path), COMPANIES.x_BTD).tolist(), done

    untrained = new_network(config.contenders["hand_built"], in_sample_dataset(COMPANIES), config.seed)
    # predictions of the tutorial's code with seed 42, in all digits; 1e-6 is the rounding of float32
    expected = [-0.037653036415576935, -0.0382717065513134]
    assert predict(untrained, COMPANIES.x_BTD).tolist() == pytest.approx(expected, rel=0, abs=1e-6)
    # the recipe's fused Adam stays within 4e-6 of the tutorial's Adam; the values below have five digits
    for phase, name, resume_from, expected, epochs in (
        ("initial", "hand_built", None, [0.43420, 0.61709], 2000),
        ("resumed", "hand_built", tmp_path / "initial.ckpt", [0.00217, 0.96926], 5000),
        ("built_in", "built_in", None, [0.000068, 0.98094], 300),
    ):
        predictions, done = train(phase, name, resume_from)
        assert predictions == pytest.approx(expected, rel=0, abs=1e-4)
        assert (done.epochs, done.steps) == (epochs, 2 * epochs)


def test_every_logged_point_of_hand_built_and_built_in_agrees_within_1e_5(tmp_path: Path) -> None:
    config = recipes.load("parity")
    curves = {}
    for name, contender in config.contenders.items():
        points = Points()
        initial, last = tmp_path / f"{name}-initial.ckpt", tmp_path / f"{name}.ckpt"
        fit(contender, in_sample_dataset(COMPANIES), seed=config.seed, last_path=initial, loggers=[points])
        fit(
            contender,
            in_sample_dataset(COMPANIES),
            seed=config.seed,
            last_path=last,
            resume_from=initial,
            loggers=[points],
        )
        assert all(step is not None for step, _ in points.logged)
        curves[name] = {(step, key): float(value) for step, point in points.logged for key, value in point.items()}
    hand_built, built_in = curves.values()
    assert hand_built.keys() == built_in.keys()
    assert {step for step, _ in hand_built} == set(range(49, 8000, 50))
    assert {key for _, key in hand_built} == {"train_loss", "train_loss_epoch", "out_0", "out_1", "epoch"}
    # 8000 steps of Adam in float32, each with its own order of rounding
    assert max(abs(hand_built[point] - built_in[point]) for point in hand_built) < 1e-5
