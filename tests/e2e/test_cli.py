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
import torch
import yaml
from helpers.configurations import TINY
from helpers.processes import eventually

from flows import recipes
from flows.cli import main
from lstm_models.cells import Step
from lstm_models.data import tables, tutorial
from lstm_models.tracing import trace
from tasks.registry import load_model

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
        *(
            (
                [command, "models:/x@champion", "nothing.csv"],
                "models:/x@champion: no models here, since there is no mlflow.db in HERE",
            )
            for command in ("predict", "inspect")
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], empty_directory: Path, arguments: list[str], message: str
) -> None:
    message = message.replace("HERE", str(empty_directory))
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


def test_what_is_hostile_is_one_line(capsys: pytest.CaptureFixture[str], empty_directory: Path) -> None:
    Path("my.yaml").write_text("seed: !!python/object/apply:os.mkdir [it ran]\n")
    fault = "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.mkdir'"
    expected = f"lstm-flows: my.yaml: not valid YAML at line 1, column 7: {fault}\n"
    assert run(capsys, "compare", "my.yaml", "--dry-run") == (2, "", expected)
    change = "seed=!!python/object/apply:os.mkdir [it ran]"
    expected = f"lstm-flows: --set {change}: not valid YAML at line 1, column 1: {fault}\n"
    assert run(capsys, "compare", "--dry-run", "--set", change) == (2, "", expected)
    for uri in ("file:///etc/passwd", "runs:/0/model", "models:/../x", "s3://bucket/x"):
        expected = f"lstm-flows: {uri}: not a model URI; write models:/NAME@ALIAS or models:/NAME/VERSION\n"
        assert run(capsys, "predict", uri, "days.csv") == (2, "", expected)
    assert [entry.name for entry in empty_directory.iterdir()] == ["my.yaml"]


def test_a_setting_that_a_recipe_leaves_out_can_be_changed(
    capsys: pytest.CaptureFixture[str], empty_directory: Path
) -> None:
    code, out, errors = run(capsys, "compare", "--dry-run", "--set", "figures.gates_of=[2]")
    assert (code, errors) == (0, "")
    assert yaml.safe_load(out)["figures"]["gates_of"] == [2]


def test_recipes_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "recipes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [
        "tutorial",
        "etth1",
        "forecast",
        "memory",
        "parity",
        "tutorial-seeds",
    ]
    # the names are a column
    assert len({len(line) - len(line.split(maxsplit=1)[1]) for line in out.splitlines()}) == 1


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help")
    listed = out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    names = [line.split()[0] for line in listed]
    assert names == [
        "compare", "evaluate", "fine-tune", "history", "inspect", "predict", "prune", "recipes", "rollback", "ui",
    ]  # fmt: skip
    about = listed[names.index("inspect")].split(maxsplit=1)[1]
    assert about.startswith("Open a registered LSTM: its gates and states at every step")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["compare"],
        ["evaluate"],
        ["fine-tune"],
        ["history"],
        ["inspect"],
        ["predict"],
        ["prune"],
        ["recipes"],
        ["rollback"],
        ["ui"],
    ],
    ids=" ".join,
)
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


def test_two_first_runs_at_once_end_well(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> None:
    newcomer, ended = first_runs
    assert [code for code, _, _ in ended] == [0, 0]
    assert {status for name in ("tutorial", "parity") for _, status in newcomer.statuses(name)} == {"FINISHED"}


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


def test_json_is_one_object_and_nothing_else(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> None:
    _, out, _ = first_runs[1][1]
    answer: dict[str, Any] = json.loads(out)
    assert out.count("\n") == 1
    assert (answer["experiment"], len(answer["results"]), answer["reused"]) == ("parity", 6, False)


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


@pytest.fixture
def there(
    first_runs: tuple[Newcomer, list[tuple[int, str, str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """The newcomer's directory as the working directory; and, elsewhere, the tutorial's two companies as a table."""
    directory = first_runs[0].directory
    monkeypatch.chdir(directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
    days = tmp_path / "days.csv"
    days.write_text("company,day_1,day_2,day_3,day_4\nA,0,0.5,0.25,1\nB,1,0.5,0.25,1\n")
    return days


def traced(model_uri: str) -> Step:
    """The gates and states of a registered version on the tutorial's companies, (1, 2, 4, 1) each."""
    x_BTD = tables.inputs(tutorial.table(), tutorial.COLUMNS)
    with torch.no_grad():
        return trace(load_model(model_uri).network.recurrent, x_BTD)


@pytest.mark.parametrize("contender", ["hand_built", "built_in"])
def test_inspect_opens_either_model(there: Path, capsys: pytest.CaptureFixture[str], contender: str) -> None:
    model_uri = f"models:/parity@{contender}"
    code, out, errors = run(capsys, "inspect", model_uri, str(there))
    assert (code, errors) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    head, rule, *lines = out.splitlines()
    assert (head.split(), set(rule)) == (["sequence", "step", *"ifgoch"], {"\u2500"})
    opened = traced(model_uri)
    assert [line.split() for line in lines] == [
        [company, str(step + 1), *(f"{part[0, number, step, 0]:.4f}" for part in opened)]
        for number, company in enumerate("AB")
        for step in range(4)
    ]
    # without a head the last hidden state is the prediction
    _, predicted, _ = run(capsys, "predict", model_uri, str(there))
    predictions = [float(line.split(",")[-1]) for line in predicted.splitlines()[1:]]
    assert [float(lines[row].split()[-1]) for row in (3, 7)] == pytest.approx(predictions, abs=5.1e-5)


def test_inspect_gives_a_program_every_digit(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, errors = run(capsys, "inspect", "models:/parity/1", str(there), "--json")
    assert (code, errors, out.count("\n")) == (0, "", 1)
    answer = json.loads(out)
    assert answer["model"] == "models:/parity/1"
    assert [sequence.pop("sequence") for sequence in answer["sequences"]] == ["A", "B"]
    opened = traced("models:/parity/1")
    for number, sequence in enumerate(answer["sequences"]):
        assert sequence == {letter: part[:, number].tolist() for letter, part in opened._asdict().items()}


def test_inspect_draws_a_picture(there: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "gates.png"
    code, out, errors = run(capsys, "inspect", "models:/parity@built_in", str(there), "--figure", str(picture))
    assert (code, errors) == (0, "")
    assert out.startswith("sequence ")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    # another name does not change what is in it
    other = tmp_path / "gates"
    run(capsys, "inspect", "models:/parity@built_in", str(there), "--json", "--figure", str(other))
    assert other.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_inspect_calls_sequences_by_their_rows_where_they_have_no_names(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there.write_text("day_1,day_2,day_3,day_4\n0,0.5,0.25,1\n1,0.5,0.25,1\n")
    _, out, _ = run(capsys, "inspect", "models:/parity/1", str(there))
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["1"] * 4 + ["2"] * 4


def test_inspect_prints_names_as_they_are(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that a terminal library would take for its own markup."""
    there.write_text("company,day_1,day_2,day_3,day_4\n[red],0,0.5,0.25,1\n[/B],1,0.5,0.25,1\n")
    code, out, _ = run(capsys, "inspect", "models:/parity/1", str(there))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["[red]"] * 4 + ["[/B]"] * 4


@pytest.mark.parametrize(
    ("model_uri", "table", "figure", "message"),
    [
        ("models:/nothing@champion", None, None, "MODEL: Registered Model with name=nothing not found"),
        ("models:/parity/99", None, None, "MODEL: Model Version (name=parity, version=99) not found"),
        ("parity", None, None, "MODEL: not a model URI; write models:/NAME@ALIAS or models:/NAME/VERSION"),
        (
            "models:/parity/1",
            "company,day_1,day_2,day_3\nA,0,0.5,0.25\n",
            None,
            "DAYS: column day_4 is missing; needed: day_1, day_2, day_3, day_4; found: company, day_1, day_2, day_3",
        ),
        ("models:/parity/1", "company,day_1,day_2,day_3,day_4\n", None, "DAYS: the table has no rows"),
        ("models:/parity/1", None, "nowhere/gates.png", "FIGURE: can't be written: No such file or directory"),
        ("models:/parity/1", None, ".", "FIGURE: can't be written: Is a directory"),
    ],
    ids=["no name", "no version", "no URI", "no column", "no rows", "no folder", "a folder"],
)
@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_what_inspect_and_predict_refuse_is_one_line(
    there: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    model_uri: str,
    table: str | None,
    figure: str | None,
    message: str,
) -> None:
    option = "--figure" if command == "inspect" else "--output"
    arguments = [option, str(tmp_path / figure)] if figure else []
    if table:
        there.write_text(table)
    for place, name in (("MODEL", model_uri), ("DAYS", there), ("FIGURE", tmp_path / (figure or ""))):
        message = message.replace(place, str(name))
    assert run(capsys, command, model_uri, str(there), *arguments) == (2, "", f"lstm-flows: {message}\n")


@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_a_table_that_is_not_there(there: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(capsys, command, "models:/parity/1", "nothing.csv") == (
        2,
        "",
        "lstm-flows: nothing.csv: can't be read: No such file or directory\n",
    )


def test_ctrl_c_kills_the_run_and_says_so(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> None:
    newcomer, _ = first_runs
    process = newcomer.start("compare", "--set", "experiment=interrupted")
    eventually(lambda: ("hand_built/initial", "RUNNING") in newcomer.statuses("interrupted"), 120)
    eventually(lambda: has_points(newcomer), 60)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: every process of the group gets it
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors.strip()) == (
        130,
        "",
        "lstm-flows: interrupted; lstm-flows compare --resume goes on",
    )
    assert newcomer.statuses("interrupted") == [("compare interrupted", "KILLED"), ("hand_built/initial", "KILLED")]


def has_points(newcomer: Newcomer) -> bool:
    """Whether the training of the experiment `interrupted` has logged a point."""
    client = newcomer.tracking()
    experiment = client.get_experiment_by_name("interrupted")
    assert experiment
    return any("train_loss" in run.data.metrics for run in client.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def failures(first_runs: tuple[Newcomer, list[tuple[int, str, str]]]) -> dict[str, tuple[int, str, str]]:
    """Runs that can't end well, started at once: exit code, standard output and error of each, by its experiment."""
    newcomer, _ = first_runs
    cell = "contenders.hand_built.model.cell=cell_of_mine.Mine"
    processes = {
        "broken": newcomer.start("compare", *CHANGES, "--set", "experiment=broken", *OVERFLOW),
        "cellless": newcomer.start("compare", *CHANGES, "--set", "experiment=cellless", "--set", cell),
    }
    ended = {}
    for name, process in processes.items():
        out, errors = process.communicate(timeout=120)
        ended[name] = (process.returncode, out, errors)
    return ended


def test_a_failing_run_exits_with_one_and_the_cause(
    first_runs: tuple[Newcomer, list[tuple[int, str, str]]], failures: dict[str, tuple[int, str, str]]
) -> None:
    newcomer, _ = first_runs
    code, out, errors = failures["broken"]
    assert (code, out) == (1, "")
    assert errors == (
        "lstm-flows: the run failed: NonFiniteLoss: the loss became inf in epoch 1; "
        "a learning_rate below 1e+25 may help; -v shows more\n"
    )
    assert newcomer.statuses("broken") == [("compare broken", "FAILED"), ("hand_built/initial", "FAILED")]


def test_a_cell_that_can_not_be_imported_is_wrong_input_and_leaves_no_run(
    first_runs: tuple[Newcomer, list[tuple[int, str, str]]], failures: dict[str, tuple[int, str, str]]
) -> None:
    newcomer, _ = first_runs
    message = "cell cell_of_mine.Mine: can't be imported: No module named 'cell_of_mine'"
    assert failures["cellless"] == (2, "", f"lstm-flows: {message}\n")
    assert newcomer.tracking().get_experiment_by_name("cellless") is None
