"""The command line: what users get wrong, in this process; and whole processes, from an empty directory on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from conftest import TINY, eventually

from flows import recipes
from flows.cli import main

LSTM_FLOWS = Path(sys.executable).with_name("lstm-flows")
# a step so large that the next squared error overflows float32
OVERFLOW = [
    part
    for change in ("model.head=linear", "training.learning_rate=1e25")
    for part in ("--set", f"contenders.hand_built.{change}")
]
CHANGES = [part for change in TINY for part in ("--set", change)]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    code = exited.value.code
    assert isinstance(code, int)
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "nothing.yaml"], "nothing.yaml: can't be read: No such file or directory"),
        (["compare", "tutoria"], "'tutoria': no such recipe; did you mean tutorial? A file's name ends in .yaml"),
        (
            ["compare", "../tutorial"],
            "'../tutorial': no such recipe; did you mean tutorial? A file's name ends in .yaml",
        ),
        (["compare", "--set", "seed"], "--set seed: write KEY=VALUE, such as seed=7"),
        (["compare", "--set", "seed=x"], "tutorial: seed: 'x' given, must be a valid integer"),
        (
            ["compare", "--set", "contenders.built_in.training.learnin_rate=1"],
            "tutorial: contenders.built_in.training.learnin_rate: unknown key; did you mean learning_rate?",
        ),
        (
            ["compare", "--set", "contenders.hand_built.training.max_epochs=5001"],
            "tutorial: contenders.hand_built: fine_tuning.max_epochs 5000 with training.max_epochs 5001: epoch counts "
            "are absolute, so fine_tuning.max_epochs must be above training.max_epochs",
        ),
        (
            ["compare", "--set", "contenders.hand_built.model.hidden_size=0"],
            "tutorial: contenders.hand_built.model.hidden_size: 0 given, must be greater than or equal to 1",
        ),
        (
            ["compare", "--set", "contenders.hand_built.training.learning_rate=.nan"],
            "tutorial: contenders.hand_built.training.learning_rate: nan given, must be a finite number",
        ),
        (["compare", "--nothing"], "No such option '--nothing'."),
        (["comparee"], "No such command 'comparee'. Did you mean 'compare'?"),
        (["predict", "models:/x@champion", "nothing.csv"], "nothing.csv: can't be read: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], empty_directory: Path, arguments: list[str], message: str
) -> None:
    assert run(capsys, *arguments) == (2, "", f"lstm-flows: {message}\n")
    assert list(empty_directory.iterdir()) == []


def test_a_python_tag_in_yaml_is_refused_and_not_run(capsys: pytest.CaptureFixture[str], empty_directory: Path) -> None:
    Path("evil.yaml").write_text("seed: !!python/object/apply:os.mkdir [owned]\n")
    code, out, errors = run(capsys, "compare", "evil.yaml")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("lstm-flows: evil.yaml: not valid YAML at line 1, column 7: could not determine a constr")
    assert [path.name for path in empty_directory.iterdir()] == ["evil.yaml"]


def test_a_dry_run_prints_what_would_run_and_does_nothing(
    capsys: pytest.CaptureFixture[str], empty_directory: Path
) -> None:
    code, out, errors = run(capsys, "compare", "parity", "--dry-run", "--set", "seed=7")
    assert (code, errors) == (0, "")
    assert yaml.safe_load(out) == recipes.load("parity", ["seed=7"]).model_dump(mode="json")
    assert list(empty_directory.iterdir()) == []


def test_recipes_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "recipes")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, ["tutorial", "parity"])


@pytest.mark.parametrize("command", [[], ["compare"], ["recipes"], ["predict"], ["ui"]], ids=" ".join)
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert f"Example: lstm-flows {' '.join(command)}".strip() in out


def test_help_waits_for_no_heavy_import() -> None:
    code = (
        "import sys, flows.cli\ntry: flows.cli.main(['compare', '--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'lightning', 'prefect', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


class Newcomer:
    """An empty directory and an empty PREFECT_HOME, and commands started there."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "work"
        self.directory.mkdir()
        kept = {"PATH", "HOME", "LANG", "TMPDIR"}
        self.environment = {key: value for key, value in os.environ.items() if key in kept}
        self.environment["PREFECT_HOME"] = str(home / "prefect")
        self.environment["PATH"] = f"{LSTM_FLOWS.parent}:{os.environ['PATH']}"

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start lstm-flows in a process group of its own, as a shell does."""
        return subprocess.Popen(
            [LSTM_FLOWS, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tracking(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.directory}/mlflow.db")

    def statuses(self, experiment: str) -> list[tuple[str, str]]:
        client = self.tracking()
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time"]) if found else []
        return [(run.info.run_name, run.info.status) for run in runs]


@pytest.fixture(scope="module")
def first_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Newcomer, list[tuple[int, str, str]]]:
    """Two runs started at once where nothing has ever run: one for a person, one for a program."""
    newcomer = Newcomer(tmp_path_factory.mktemp("a newcomer"))  # with a space
    processes = [
        newcomer.start("compare", *CHANGES),
        newcomer.start("compare", "parity", *CHANGES, "--json"),
    ]
    ended = []
    for process in processes:
        out, errors = process.communicate(timeout=280)
        ended.append((process.returncode, out, errors))
    return newcomer, ended


@pytest.mark.server
def test_two_first_runs_at_once_end_well(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> None:
    newcomer, ended = first_runs
    assert [code for code, _, _ in ended] == [0, 0]
    assert {status for name in ("tutorial", "parity") for _, status in newcomer.statuses(name)} == {"FINISHED"}


@pytest.mark.server
def test_a_newcomer_sees_progress_a_table_and_two_hints(
    first_runs: tuple[Newcomer, list[tuple[int, str, str]]],
) -> None:
    _, out, errors = first_runs[1][0]
    names = [line.split()[0] for line in errors.splitlines()]
    assert names == ["hand_built/initial", "hand_built/fine_tuned", "built_in/initial", "built_in/fine_tuned"]
    assert max(map(len, out.splitlines()[:-3])) <= 100
    assert out.splitlines()[-2].startswith("Look: lstm-flows ui   then http://127.0.0.1:5000/#/experiments/")
    assert out.splitlines()[-1] == "Next: lstm-flows compare parity"
    assert "\x1b" not in out + errors  # no colour where there is no terminal


@pytest.mark.server
def test_json_is_one_object_and_nothing_else(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> None:
    _, out, _ = first_runs[1][1]
    answer: dict[str, Any] = json.loads(out)
    assert out.count("\n") == 1
    assert (answer["experiment"], len(answer["results"]), answer["reused"]) == ("parity", 6, False)


@pytest.mark.server
def test_predict_adds_a_column_by_the_champion(
    first_runs: tuple[Newcomer, list[tuple[int, str, str]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    newcomer, ended = first_runs
    answer = json.loads(ended[1][1])
    champion = next(
        result
        for result in answer["results"]
        if (result["contender"], result["phase"]) == (answer["champion"]["contender"], answer["champion"]["phase"])
    )
    monkeypatch.chdir(newcomer.directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{newcomer.directory}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    days, output = tmp_path / "days.csv", tmp_path / "out.csv"
    days.write_text("company,day_4,day_3,day_2,day_1\nA,1,0.25,0.5,0\nB,1,0.25,0.5,1\n")
    code, out, _ = run(capsys, "predict", "models:/parity@champion", str(days), "--output", str(output))
    assert (code, out) == (0, "")
    table = pd.read_csv(output)
    assert table.columns.tolist() == ["company", "day_4", "day_3", "day_2", "day_1", "prediction"]
    # the registered program sums in another order than the network that was evaluated: float32 rounding
    assert table["prediction"].to_numpy() == pytest.approx(champion["predictions"], rel=2**-20)

    days.write_text("company,day_1,day_2\nA,1,2\n")
    code, out, errors = run(capsys, "predict", "models:/parity@champion", str(days))
    assert (code, out) == (2, "")
    assert errors == (
        f"lstm-flows: {days}: column day_3 is missing; needed: day_1, day_2, day_3, day_4; "
        "found: company, day_1, day_2\n"
    )
    days.write_text("day_1,day_2,day_3,day_4\n1,2,3,4\n1,2,much,4\n")
    code, _, errors = run(capsys, "predict", "models:/parity@champion", str(days))
    assert (code, errors) == (2, f"lstm-flows: {days}: column day_3, row 2: 'much' is not a finite number\n")


@pytest.mark.server
def test_ctrl_c_kills_the_run_and_says_so(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> None:
    newcomer, _ = first_runs
    process = newcomer.start("compare", "--set", "experiment=interrupted")
    eventually(lambda: ("hand_built/initial", "RUNNING") in newcomer.statuses("interrupted"), 120)
    eventually(lambda: has_points(newcomer), 60)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: every process of the group gets it
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors.strip()) == (130, "", "lstm-flows: interrupted")
    assert newcomer.statuses("interrupted") == [("compare interrupted", "KILLED"), ("hand_built/initial", "KILLED")]


def has_points(newcomer: Newcomer) -> bool:
    """Whether the training of the experiment `interrupted` has logged a point."""
    client = newcomer.tracking()
    experiment = client.get_experiment_by_name("interrupted")
    assert experiment
    return any("train_loss" in run.data.metrics for run in client.search_runs([experiment.experiment_id]))


@pytest.mark.server
def test_a_failing_run_exits_with_one_and_the_cause(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> None:
    newcomer, _ = first_runs
    broken = ["--set", "experiment=broken", *OVERFLOW]
    process = newcomer.start("compare", *CHANGES, *broken)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert errors == (
        "lstm-flows: the run failed: NonFiniteLoss: the loss became inf in epoch 1; "
        "a learning_rate below 1e+25 may help; -v shows more\n"
    )
    assert newcomer.statuses("broken") == [("compare broken", "FAILED"), ("hand_built/initial", "FAILED")]
