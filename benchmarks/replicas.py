"""What an optimizer step of many copies costs beside a step of one network.

    python benchmarks/replicas.py > replicas.md

Run it with the Python of the environment of lstm-flows, on a machine that does nothing else, for a minute. The models
are the tutorial's hand-built one, with all its settings (one sequence a step, fused Adam, one thread), and the same
with 16 hidden units and a linear head. Each round times every number of copies once, in an order that rotates from
round to round, so that a drift of the machine hits all alike.

Standard output is Markdown. A bare loop is SequenceModule.training_step, backward and the optimizer's step, 40 times a
round, without Lightning; fit is lstm_models.training.fit, 100 steps a round. The milliseconds of a step are the median
over the rounds; the ratios, to the time of one network in the same round, are their median and quartiles.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from flows import recipes
from lstm_models.config import Contender
from lstm_models.data.loader import SequenceLoader
from lstm_models.data.sequences import to_sequences
from lstm_models.data.synthetic import tutorial
from lstm_models.training.module import SequenceModule
from lstm_models.training.trainer import fit, new_network

COPIES = (1, 8, 64, 256)
MODELS = {"the tutorial's": ["hidden_size=1"], "hidden size 16": ["hidden_size=16", "head=linear"]}
MOST = {("a bare loop", "the tutorial's", 64): 2.0}  # of one's time
SEQUENCES = to_sequences(tutorial.table(), tutorial.COLUMNS)


def bare_loop(settings: Contender) -> Iterator[float]:
    """The seconds of a step, round by round of one long training."""
    module = SequenceModule(new_network(settings, SEQUENCES, seed=42), settings.training)
    optimizer = module.configure_optimizers()
    batches = 20 * list(SequenceLoader(SEQUENCES, batch_size=1, shuffle=False, seed=42))
    while True:
        began = time.perf_counter()
        for index, batch in enumerate(batches):
            loss = module.training_step(batch, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield (time.perf_counter() - began) / len(batches)


def in_fit(settings: Contender) -> Iterator[float]:
    """The seconds of a step by fit's own count; each round is a training of its own."""
    while True:
        with tempfile.TemporaryDirectory() as directory:
            done = fit(settings, SEQUENCES, seed=42, last_path=Path(directory, "last.ckpt"))
        yield done.seconds / done.steps


def lines(place: str, name: str, contenders: list[Iterator[float]], rounds: int) -> Iterator[str]:
    """A model's lines of a table, one for each number of copies."""
    times: list[list[float]] = [[] for _ in COPIES]
    for number in range(rounds + 2):  # two to warm up
        for index in sorted(range(len(COPIES)), key=lambda index, number=number: (index - number) % len(COPIES)):
            times[index].append(next(contenders[index]))
    for copies, (_, _, *own) in zip(COPIES, times, strict=True):
        ratios = [many / one for many, one in zip(own, times[0][2:], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        most = MOST.get((place, name, copies))
        target = "" if most is None else f"at most {most:g}: {'met' if median <= most else 'missed'}"
        ms, ratio = f"{1000 * statistics.median(own):.3f}", f"{median:.2f} ({low:.2f} to {high:.2f})"
        yield " | ".join([name, str(copies), ms, ratio, target])


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # as lstm-flows does: the collector is not to walk through what stays
    for place, start, rounds in (("a bare loop", bare_loop, 21), ("fit", in_fit, 7)):
        print(f"\n| {place}, {rounds} rounds | copies | ms a step | to one's | target |\n|---|---:|---:|---:|---:|")
        for name, changes in MODELS.items():
            given = ["training.max_epochs=50", *(f"model.{change}" for change in changes)]
            wanted = [[f"contenders.hand_built.{one}" for one in (*given, f"replicas={n}")] for n in COPIES]
            settings = [recipes.load("tutorial", each).contenders["hand_built"] for each in wanted]
            for line in lines(place, name, [start(each) for each in settings], rounds):
                print(f"| {line} |", flush=True)
