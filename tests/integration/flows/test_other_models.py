"""The flow with a user-defined cell, replicas, a plain recurrent network, two features and more steps."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from helpers.cli_runner import selected_plots, working_in
from helpers.errors import names_all
from mlflow.entities import Run

from flows.compare import compare
from lstm_models.config import CompareConfig, ConfigError, parse_config
from lstm_models.data import sequences
from lstm_models.data.synthetic import adding
from lstm_models.evaluation.evaluate import predict
from tasks import introspection, tracking
from tasks.orchestration.resume import find_finished_run
from tasks.schemas import ComparisonReport
from tasks.summary import tables
from tasks.tracking.model_loader import ModelError, load_model

LENGTH = 6
CELL = '''
from lstm_models import Cell
from lstm_models.nn.cells import Step


class Minimal(Cell):
    """A cell with a forget gate and a candidate only."""

    gates = "fg"

    def step(self, z_BG, previous, weights):
        f, g = self.preactivations(z_BG, previous, weights)
        f, g = f.sigmoid(), g.tanh()
        c = f * previous.c + (1 - f) * g
        return Step(i=1 - f, f=f, g=g, o=f.new_ones(f.shape), c=c, h=c.tanh())
'''


def configuration() -> CompareConfig:
    def contender(replicas: int = 1, **model: object) -> dict[str, object]:
        return {
            "model": {"head": "linear", "hidden_size": 2, **model},
            "replicas": replicas,
            "training": {"max_epochs": 1, "learning_rate": 0.01, "batch_size": 4, "log_every_n_steps": 1},
            "fine_tuning": {"max_epochs": 2},
        }

    values = {
        "experiment": "others",
        "data": {"kind": "adding", "length": LENGTH, "count": 8},
        "converged": {"metric": "mse", "threshold": 1e6},
        "figures": {"gradients_through_time": True, "gate_examples": [8]},
        "contenders": {
            "minimal": contender(kind="hand_built", cell="cell_of_a_user.Minimal", replicas=3),
            "built_in": contender(kind="built_in", replicas=2),
            "rnn": contender(kind="rnn"),
        },
    }
    return parse_config(values, "others")


@pytest.fixture(scope="module")
def compared(
    harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path
) -> Iterator[tuple[Path, ComparisonReport]]:
    """A directory with a user-defined cell in which the flow has run once, and its result."""
    directory = tmp_path_factory.mktemp("others")
    (directory / "cell_of_a_user.py").write_text(CELL)
    with working_in(directory, database), selected_plots(gates="minimal/fine_tuned", exports=[2, 6]):
        result = compare(configuration())
    yield directory, result
    sys.modules.pop("cell_of_a_user", None)


@pytest.fixture
def report(compared: tuple[Path, ComparisonReport], monkeypatch: pytest.MonkeyPatch) -> ComparisonReport:
    """The flow's result, with its directory as the working directory."""
    monkeypatch.chdir(compared[0])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{compared[0]}/mlflow.db")
    return compared[1]


def children() -> list[Run]:
    client = mlflow.MlflowClient()
    runs = client.search_runs([tracking.get_or_create_experiment("others")], order_by=["attributes.start_time"])
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def files(run_id: str, folder: str | None = None) -> set[str]:
    return {Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run_id, folder)}


def test_all_contenders_finish_with_statistics_of_their_replicas(report: ComparisonReport) -> None:
    assert not report.reused
    replicas = [
        (result.contender, result.phase, result.replicas and (result.replicas.count, result.replicas.converged))
        for result in report.results
    ]
    phases = ("untrained", "initial", "fine_tuned")
    assert replicas == [
        (contender, phase, counts)
        for contender, counts in (("minimal", (3, 3)), ("built_in", (2, 2)), ("rnn", None))
        for phase in phases
    ]
    # of one replica: weights of 2 features and 2 units, two biases, and the head
    assert {result.contender: result.parameters for result in report.results} == {
        "minimal": 2 * 2 * (2 + 2 + 1 + 1) + 3,
        "built_in": 4 * 2 * (2 + 2 + 1 + 1) + 3,
        "rnn": 2 * (2 + 2 + 1 + 1) + 3,
    }
    versions = mlflow.MlflowClient().search_model_versions("name = 'others'")
    assert sorted((version.tags["contender"], version.tags["phase"]) for version in versions) == sorted(
        (contender, phase) for contender in configuration().contenders for phase in phases[1:]
    )
    aliases = tracking.aliases("others")
    assert aliases == {"minimal": 2, "built_in": 4, "rnn": 6, "champion": aliases["champion"]}


def test_every_run_has_its_figures_and_metrics(report: ComparisonReport) -> None:
    runs = {run.info.run_name: run for run in children()}
    assert list(runs) == [
        f"{name}/{phase}" for name in configuration().contenders for phase in ("initial", "fine_tuned")
    ]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, run in runs.items():
        expected = {"result_cache", "predictions.csv", "checkpoint", "training.json"}
        expected |= set() if name.startswith("rnn") else {"replicas.csv"}
        assert files(run.info.run_id) == expected | ({"gates.png"} if name == "minimal/fine_tuned" else set())
        assert ("converged" in run.data.metrics) == ("dloss_dc" in run.data.metrics) == (not name.startswith("rnn"))
        assert list(tracking.read_curve(run.info.run_id, "dloss_dh")) == list(range(1, LENGTH + 1))
    # the parent has the untrained phase and what belongs to all contenders
    parent = report.parent_run_id
    assert files(parent) == {
        *("result_cache", "config.yaml", "comparison.json", "comparison.md", "data", "minimal", "built_in", "rnn"),
        *("loss_curves.png", "predictions.png", "replicas.png", "gradients_through_time.png"),
    }
    for contender in configuration().contenders:
        replica_files = set() if contender == "rnn" else {"replicas.csv"}
        assert files(parent, f"{contender}/untrained") == {"predictions.csv", *replica_files}
        assert list(tracking.read_curve(parent, f"{contender}/untrained/dloss_dh")) == list(range(1, LENGTH + 1))


def test_the_table_has_the_number_of_converged_replicas(report: ComparisonReport) -> None:
    stored = tracking.download(f"runs:/{report.parent_run_id}/comparison.md").read_text()
    _, _, head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in stored.splitlines()]
    column = head.index("converged")
    by_contender = {row[0]: row[column] for row in rows if len(row) == len(head)}
    # Wilson's interval for 3 of 3 and for 2 of 2
    assert by_contender == {"minimal": "3/3 (0.44-1.00)", "built_in": "2/2 (0.34-1.00)", "rnn": "-"}
    assert "Contenders with replicas show the median replica." in stored
    # the same table has to fit the terminal
    shown = tables.comparison_table(report)
    width = sum(max(map(len, [name, *shown[name]])) + 1 for name in shown.columns)
    assert width <= 100


def test_a_user_defined_cell_is_inspected_from_the_registry(
    report: ComparisonReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "sequences.csv"
    adding.table(LENGTH, 3, seed=1).to_csv(table, index=False)
    inspection = introspection.inspect_model("models:/others@minimal", table)
    assert (inspection.names, inspection.trace.c.shape) == (["1", "2", "3"], (1, 3, LENGTH, 2))
    assert inspection.trace.i.equal(1 - inspection.trace.f)
    model = load_model("models:/others@minimal")
    with torch.no_grad():
        predicted = model.network.head(inspection.trace.h[0, :, -1]).squeeze(-1).tolist()
    # the exported program sums in another order: float32's last digits
    assert predict(model.program, inspection.x_BTD).tolist() == pytest.approx(predicted, abs=1e-6)
    with pytest.raises(ModelError) as caught:
        introspection.inspect_model("models:/others@rnn", table)
    assert names_all(caught.value, "models:/others@rnn", "rnn has no gates")
    # with another cell in the file the gates would be wrong
    with another_cell(monkeypatch), pytest.raises(ModelError) as caught:
        introspection.inspect_model("models:/others@minimal", table)
    assert names_all(caught.value, "cell_of_a_user.Minimal")


def test_a_user_defined_cell_predicts_without_its_file_in_plain_mlflow(
    report: ComparisonReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registered program is self-contained, but running it requires trust; lstm-flows never runs it."""
    monkeypatch.setitem(sys.modules, "cell_of_a_user", None)  # as if it could not be imported
    x_BTD = sequences.input_tensor(adding.table(LENGTH, 3, seed=1), adding.columns(LENGTH))
    served = mlflow.pyfunc.load_model("models:/others@minimal").predict(x_BTD.numpy())
    assert np.isfinite(served).tolist() == [True] * 3
    with pytest.raises(ConfigError, match=r"cell cell_of_a_user\.Minimal: can't be imported: "):
        load_model("models:/others@minimal")


def test_an_equal_run_is_reused_until_the_cell_changes(
    report: ComparisonReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_cell(monkeypatch):
        assert find_finished_run.fn(configuration(), report.dataset.digest) is None
    assert find_finished_run.fn(configuration(), report.dataset.digest) == report.model_copy(update={"reused": True})


@contextmanager
def another_cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change the equations in the user's file, and have it imported again as in a new process."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # bytecode caches compare modification times in seconds
    source = Path("cell_of_a_user.py")
    try:
        source.write_text(CELL.replace("(1 - f) * g", "g"))
        sys.modules.pop("cell_of_a_user", None)
        yield
    finally:
        source.write_text(CELL)
        sys.modules.pop("cell_of_a_user", None)
