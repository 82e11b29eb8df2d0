"""The recipe `parity`: that hand-built and built-in differ in nothing but who wrote them, at every logged point."""

from pathlib import Path

from helpers.recording_logger import Points

from flows import recipes
from lstm_models.data import tables, tutorial
from lstm_models.data.dataset import in_sample
from lstm_models.training import fit


def test_every_logged_point_of_the_two_lies_within_1e_5(tmp_path: Path) -> None:
    config = recipes.load("parity")
    sequences = tables.to_sequences(tutorial.table(), tutorial.COLUMNS)
    curves = {}
    for name, contender in config.contenders.items():
        points = Points()
        initial, last = tmp_path / f"{name}-initial.ckpt", tmp_path / f"{name}.ckpt"
        fit(contender, in_sample(sequences), seed=config.seed, save_to=initial, loggers=[points])
        fit(contender, in_sample(sequences), seed=config.seed, save_to=last, resume_from=initial, loggers=[points])
        assert all(step is not None for step, _ in points.logged)
        curves[name] = {(step, key): float(value) for step, point in points.logged for key, value in point.items()}
    hand_built, built_in = curves.values()
    assert hand_built.keys() == built_in.keys()
    steps = {step for step, _ in hand_built}
    assert steps == set(range(49, 8000, 50))
    assert {key for _, key in hand_built} == {"train_loss", "train_loss_epoch", "out_0", "out_1", "epoch"}
    # float32 over 8000 steps of Adam, each rounded in an order of its own; the bound is the recipe's promise
    assert max(abs(hand_built[point] - built_in[point]) for point in hand_built) < 1e-5
