"""Measure the time of an optimizer step of many replicas relative to a step of one network.

    python benchmarks/replicas.py > replicas.md

Run it with the Python of the environment in which lstm-flows is installed, on an otherwise idle machine; it takes a
minute. The models are the tutorial's hand-built model with all of its settings (one sequence per step, fused Adam, one
thread), and the same model with 16 hidden units and a linear head. Each round times every number of replicas once, in
an order that rotates from round to round, so that drift of the machine affects all of them equally.

Standard output is Markdown. A bare loop is SequenceModule.training_step, backward and the optimizer's step, 40 times
per round, without Lightning; fit is lstm_models.training.trainer.fit, 100 steps per round. The milliseconds per step
are the median over the rounds; the ratios to the time of one network in the same round are medians and quartiles.
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
from lstm_models.data.builders import in_sample_dataset
from lstm_models.data.loader import BatchLoader
from lstm_models.data.sequences import to_sequences
from lstm_models.data.synthetic import tutorial
from lstm_models.training.module import SequenceModule
from lstm_models.training.trainer import fit, new_network

REPLICAS = (1, 8, 64, 256)
MODELS = {"the tutorial's": ["hidden_size=1"], "hidden size 16": ["hidden_size=16", "head=linear"]}
MAX_RATIO = {("a bare loop", "the tutorial's", 64): 2.0}  # time of a step / time of a step of one network
DATASET = in_sample_dataset(to_sequences(tutorial.table(), tutorial.COLUMNS))


def bare_loop(settings: Contender) -> Iterator[float]:
    """Yield the seconds per step of each round; all rounds belong to one training."""
    module = SequenceModule(new_network(settings, DATASET, seed=42), settings.training)
    optimizer = module.configure_optimizers()
    batches = 20 * list(BatchLoader(DATASET.train, batch_size=1))
    while True:
        began = time.perf_counter()
        for index, batch in enumerate(batches):
            loss = module.training_step(batch, index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield (time.perf_counter() - began) / len(batches)


def in_fit(settings: Contender) -> Iterator[float]:
    """Yield the seconds per step that fit reports; each round is a separate training."""
    while True:
        with tempfile.TemporaryDirectory() as directory:
            result = fit(settings, DATASET, seed=42, last_path=Path(directory, "last.ckpt"))
        yield result.seconds / result.steps


def table_rows(loop: str, name: str, contenders: list[Iterator[float]], rounds: int) -> Iterator[str]:
    """Yield the rows of a model's table, one for each number of replicas."""
    times: list[list[float]] = [[] for _ in REPLICAS]
    for number in range(rounds + 2):  # two to warm up
        for index in sorted(range(len(REPLICAS)), key=lambda index, number=number: (index - number) % len(REPLICAS)):
            times[index].append(next(contenders[index]))
    for count, (_, _, *seconds) in zip(REPLICAS, times, strict=True):
        ratios = [many / single for many, single in zip(seconds, times[0][2:], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
        limit = MAX_RATIO.get((loop, name, count))
        target = "" if limit is None else f"at most {limit:g}: {'met' if median <= limit else 'missed'}"
        ms, ratio = f"{1000 * statistics.median(seconds):.3f}", f"{median:.2f} ({low:.2f} to {high:.2f})"
        yield " | ".join([name, str(count), ms, ratio, target])


if __name__ == "__main__":
    torch.set_num_threads(1)
    gc.freeze()  # as lstm-flows does: exclude long-lived objects from garbage collection
    for loop, start, rounds in (("a bare loop", bare_loop, 21), ("fit", in_fit, 7)):
        print(
            f"\n| {loop}, {rounds} rounds | replicas | ms per step | ratio to one | target |\n|---|---:|---:|---:|---:|"
        )
        for name, changes in MODELS.items():
            shared = ["training.max_epochs=50", *(f"model.{change}" for change in changes)]
            overrides = [[f"contenders.hand_built.{key}" for key in (*shared, f"replicas={n}")] for n in REPLICAS]
            settings = [recipes.load("tutorial", each).contenders["hand_built"] for each in overrides]
            for row in table_rows(loop, name, [start(each) for each in settings], rounds):
                print(f"| {row} |", flush=True)
