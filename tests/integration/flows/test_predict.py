"""The commands `predict` and `inspect` on registered models, in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch
from helpers.cli_runner import lstm_flows, working_in
from helpers.configurations import TINY
from helpers.errors import names_all

from flows import recipes
from flows.compare import compare
from lstm_models.data import sequences
from lstm_models.data.synthetic import tutorial
from lstm_models.nn.cells import Step
from lstm_models.nn.introspection import record_gates
from tasks import introspection
from tasks.schemas import ComparisonReport
from tasks.tracking.model_loader import load_model

HEADER = "company,day_1,day_2,day_3,day_4\n"
PNG = b"\x89PNG\r\n\x1a\n"


class Compared(NamedTuple):
    directory: Path
    comparison: ComparisonReport


@pytest.fixture(scope="module")
def compared(harness: None, tmp_path_factory: pytest.TempPathFactory, database: Path) -> Compared:
    """A directory in which the flow has run with the recipe `parity` and real exports."""
    directory = tmp_path_factory.mktemp("compared")
    with working_in(directory, database), pytest.MonkeyPatch.context() as patch:
        patch.setattr(introspection, "log_gates", lambda *_: None)
        return Compared(directory, compare(recipes.load("parity", TINY)))


@pytest.fixture
def days(compared: Compared, tmp_path: Path) -> Iterator[Path]:
    """A table with the tutorial's two companies, outside the working directory."""
    path = tmp_path / "days.csv"
    path.write_text(f"{HEADER}A,0,0.5,0.25,1\nB,1,0.5,0.25,1\n")
    with working_in(compared.directory):
        yield path


def traced(model_uri: str) -> Step:
    """The gates and states of a registered version on the tutorial's companies, (1, 2, 4, 1) each."""
    x_BTD = sequences.input_tensor(tutorial.table(), tutorial.COLUMNS)
    with torch.no_grad():
        return record_gates(load_model(model_uri).network.recurrent, x_BTD)


def test_predict_adds_a_column_by_the_champion(compared: Compared, days: Path) -> None:
    champion = compared.comparison.champion
    (result,) = [
        result
        for result in compared.comparison.results
        if (result.contender, result.phase) == (champion.contender, champion.phase)
    ]
    output = days.with_name("out.csv")
    days.write_text("company,day_4,day_3,day_2,day_1\nA,1,0.25,0.5,0\nB,1,0.25,0.5,1\n")
    code, out, _ = lstm_flows("predict", "models:/parity@champion", str(days), "--output", str(output))
    assert (code, out) == (0, "")
    table = pd.read_csv(output)
    assert table.columns.tolist() == ["company", "day_4", "day_3", "day_2", "day_1", "prediction"]
    # the registered program sums in another order than the network that was evaluated: float32 rounding
    assert table["prediction"].to_numpy() == pytest.approx(result.predictions, rel=2**-20)


@pytest.mark.parametrize("contender", ["hand_built", "built_in"])
def test_inspect_shows_gates_and_states_of_either_model(days: Path, contender: str) -> None:
    model_uri = f"models:/parity@{contender}"
    code, out, errors = lstm_flows("inspect", model_uri, str(days))
    assert (code, errors) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    head, rule, *lines = out.splitlines()
    assert (head.split(), set(rule)) == (["sequence", "step", *"ifgoch"], {"\u2500"})
    gates = traced(model_uri)
    assert [line.split() for line in lines] == [
        [company, str(step + 1), *(f"{part[0, number, step, 0]:.4f}" for part in gates)]
        for number, company in enumerate("AB")
        for step in range(4)
    ]
    # without a head the last hidden state is the prediction
    _, predicted, _ = lstm_flows("predict", model_uri, str(days))
    predictions = [float(line.split(",")[-1]) for line in predicted.splitlines()[1:]]
    assert [float(lines[row].split()[-1]) for row in (3, 7)] == pytest.approx(predictions, abs=5.1e-5)


def test_inspect_as_json_has_every_digit_and_a_figure_is_a_png_whatever_its_name(days: Path) -> None:
    figure = days.with_name("gates")
    code, out, errors = lstm_flows("inspect", "models:/parity/1", str(days), "--json", "--figure", str(figure))
    assert (code, errors, out.count("\n")) == (0, "", 1)
    assert figure.read_bytes().startswith(PNG)
    result = json.loads(out)
    assert result["model"] == "models:/parity/1"
    assert [sequence.pop("sequence") for sequence in result["sequences"]] == ["A", "B"]
    gates = traced("models:/parity/1")
    for number, sequence in enumerate(result["sequences"]):
        assert sequence == {letter: part[:, number].tolist() for letter, part in gates._asdict().items()}


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("day_1,day_2,day_3,day_4\n0,0.5,0.25,1\n1,0.5,0.25,1\n", ["1", "2"]),  # numbered by row
        # names that rich could interpret as markup
        (f"{HEADER}[red],0,0.5,0.25,1\n[/B],1,0.5,0.25,1\n", ["[red]", "[/B]"]),
    ],
    ids=["no names", "markup"],
)
def test_inspect_prints_the_names_of_sequences_as_they_are(days: Path, table: str, names: list[str]) -> None:
    days.write_text(table)
    code, out, _ = lstm_flows("inspect", "models:/parity/1", str(days))
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == [name for name in names for _ in range(4)]


@pytest.mark.parametrize(
    ("model_uri", "table", "figure", "parts"),
    [
        ("models:/nothing@champion", None, None, ["MODEL", "nothing", "not found"]),
        ("models:/parity/99", None, None, ["MODEL", "parity", "99", "not found"]),
        ("parity", None, None, ["MODEL", "models:/NAME@ALIAS", "models:/NAME/VERSION"]),
        (
            "models:/parity/1", "company,day_1,day_2,day_3\nA,0,0.5,0.25\n", None,
            ["DAYS", "column day_4", "day_1, day_2, day_3, day_4", "company, day_1, day_2, day_3"],
        ),
        ("models:/parity/1", f"{HEADER}A,1,2,3,4\nB,1,2,much,4\n", None, ["DAYS", "column day_3, row 2", "'much'"]),
        ("models:/parity/1", HEADER, None, ["DAYS", "no rows"]),
        ("models:/parity/1", "", None, ["DAYS", "No such file or directory"]),
        ("models:/parity/1", None, "nowhere/gates.png", ["FIGURE", "No such file or directory"]),
        ("models:/parity/1", None, ".", ["FIGURE", "Is a directory"]),
    ],
    ids=["no name", "no version", "no URI", "no column", "no number", "no rows", "no file", "no folder", "a folder"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_invalid_input_is_a_one_line_error(
    days: Path, command: str, model_uri: str, table: str | None, figure: str | None, parts: list[str]
) -> None:
    option = "--figure" if command == "inspect" else "--output"
    output = days.parent / (figure or "")
    if table == "":
        days.unlink()
    elif table:
        days.write_text(table)
    code, out, errors = lstm_flows(command, model_uri, str(days), *([option, str(output)] if figure else []))
    assert (code, out) == (2, "")
    named = {"MODEL": model_uri, "DAYS": str(days), "FIGURE": str(output)}
    assert names_all(errors, *(named.get(part, part) for part in parts))
