"""Run the tutorial's experiment as a plain script: the reference of benchmarks/tutorial.py.

    python benchmarks/plain_tutorial.py [--seed 42] [--workdir DIRECTORY]

The script is an independent implementation of the tutorial (https://ziheng5.github.io/2024/12/13/LSTM/): it trains an
LSTM cell of twelve scalars for 2,000 epochs, continues from its best checkpoint to epoch 5,000, then trains nn.LSTM for
300 epochs. It uses Lightning's defaults, including logger, checkpoints, progress bar and batches of one, because their
cost is part of the measurement. It imports nothing from lstm-flows. Lightning writes lightning_logs/ into the working
directory and its progress to standard error.

Standard output is one line of JSON:
    predictions   untrained, initial, resumed, built_in: predictions for company A (target 0) and B (target 1)
    fits          initial, resumed, built_in: seconds in Trainer.fit, and optimizer steps
"""

import argparse
import json
import os
import sys
import time
from contextlib import redirect_stdout

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

COMPANIES = torch.tensor([[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0]])
TARGETS = torch.tensor([0.0, 1.0])


class Regressor(L.LightningModule):
    """Module that minimises the squared error of one sequence at a time and logs loss and prediction at every step."""

    learning_rate = 0.001  # Adam's default

    def configure_optimizers(self) -> Optimizer:
        return Adam(self.parameters(), lr=self.learning_rate)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        sequences, targets = batch
        prediction = self(sequences[0])
        loss = (prediction - targets) ** 2
        self.log("train_loss", loss)
        self.log("out_0" if targets == 0 else "out_1", prediction)
        return loss


class ScalarLSTM(Regressor):
    """LSTM cell with twelve scalar parameters: per gate the weights of h and x, from N(0, 1), and a bias of 0."""

    def __init__(self) -> None:
        super().__init__()
        for gate in ("forget", "input", "candidate", "output"):
            setattr(self, f"{gate}_h", nn.Parameter(torch.randn(())))
            setattr(self, f"{gate}_x", nn.Parameter(torch.randn(())))
            setattr(self, f"{gate}_bias", nn.Parameter(torch.zeros(())))

    def step(self, x: Tensor, h: Tensor | int, c: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return h and c after one day."""
        f = torch.sigmoid(h * self.forget_h + x * self.forget_x + self.forget_bias)
        i = torch.sigmoid(h * self.input_h + x * self.input_x + self.input_bias)
        g = torch.tanh(h * self.candidate_h + x * self.candidate_x + self.candidate_bias)
        o = torch.sigmoid(h * self.output_h + x * self.output_x + self.output_bias)
        c = c * f + g * i
        return torch.tanh(c) * o, c

    def forward(self, days: Tensor) -> Tensor:
        h, c = 0, 0
        for day in range(4):
            h, c = self.step(days[day], h, c)
        return h


class BuiltInLSTM(Regressor):
    """nn.LSTM with input size and hidden size 1."""

    learning_rate = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 1)

    def forward(self, days: Tensor) -> Tensor:
        hidden_states, _ = self.lstm(days.view(-1, 1))
        return hidden_states[-1]


def predict(model: Regressor) -> list[float]:
    """Return the predictions for A and B."""
    with torch.no_grad():
        return [model(days).item() for days in COMPANIES]


def fit(trainer: L.Trainer, model: Regressor, loader: DataLoader, checkpoint: str | None = None) -> dict[str, float]:
    """Train, from a checkpoint if one is passed; return the seconds and the number of optimizer steps."""
    initial_steps = torch.load(checkpoint, weights_only=True)["global_step"] if checkpoint else 0
    began = time.perf_counter()
    trainer.fit(model, train_dataloaders=loader, ckpt_path=checkpoint)
    return {"seconds": time.perf_counter() - began, "steps": trainer.global_step - initial_steps}


def run(seed: int) -> dict[str, object]:
    """Run all three fits; set the seed before each of the two models is created."""
    loader = DataLoader(TensorDataset(COMPANIES, TARGETS))
    predictions, fits = {}, {}

    L.seed_everything(seed, verbose=False)
    model = ScalarLSTM()
    predictions["untrained"] = predict(model)
    first = L.Trainer(max_epochs=2000)
    fits["initial"] = fit(first, model, loader)
    predictions["initial"] = predict(model)
    fits["resumed"] = fit(L.Trainer(max_epochs=5000), model, loader, first.checkpoint_callback.best_model_path)
    predictions["resumed"] = predict(model)

    L.seed_everything(seed, verbose=False)
    built_in = BuiltInLSTM()
    fits["built_in"] = fit(L.Trainer(max_epochs=300, log_every_n_steps=2), built_in, loader)
    predictions["built_in"] = predict(built_in)
    return {"seed": seed, "predictions": predictions, "fits": fits}


def main() -> None:
    """Parse the arguments, run the experiment and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--workdir", default=".", help="where Lightning writes lightning_logs/")
    arguments = parser.parse_args()
    os.chdir(arguments.workdir)
    with redirect_stdout(sys.stderr):  # Lightning's progress bar writes to standard output
        result = run(arguments.seed)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
