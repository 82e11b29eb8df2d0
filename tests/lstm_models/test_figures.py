"""What the figures say, and that a contender looks the same in each."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from lstm_models.cells import Step
from lstm_models.figures import (
    BLUE,
    DASHES,
    GREY,
    ORANGE,
    Copies,
    Curve,
    Points,
    errors_of_copies,
    gates,
    gradients_through_time,
    loss_curves,
    predictions_against_targets,
)

CURVES = {
    "hand_built": Curve(steps=[49, 99, 149], losses=[0.5, 0.2, 0.1], resumed_at=99),
    "built_in": Curve(steps=[49, 99], losses=[0.3, 0.01], resumed_at=None),
}


def points(error: float) -> Points:
    return Points(targets=[0.0, 1.0], predictions=[error, 1.0 - error], mse=error**2)


def test_loss_curves_tell_who_ends_lowest_on_a_log_axis() -> None:
    axes = loss_curves(CURVES).axes[0]
    assert axes.get_title() == "built_in ends lowest: a loss of 0.01 after 100 steps"
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer steps", "squared error, mean over an epoch")


def test_the_resume_point_is_marked_on_the_curve_that_has_one() -> None:
    axes = loss_curves(CURVES).axes[0]
    assert [text.get_text().strip() for text in axes.texts] == ["hand_built", "resumed", "built_in"]
    assert [line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata()) == 1] == [[[99.0, 0.2]]]


def test_a_contender_has_its_colour_everywhere() -> None:
    curves = loss_curves(CURVES).axes[0]
    assert [to_hex(curves.lines[index].get_color()).upper() for index in (0, 2)] == [BLUE, ORANGE]
    phases = {"initial": {"hand_built": points(0.4), "built_in": points(0.1)}}
    panel = predictions_against_targets(phases).axes[0]
    assert [to_hex(dots.get_edgecolor()[0]).upper() for dots in panel.collections] == [BLUE, ORANGE]


def test_predictions_tell_who_comes_nearest_in_the_last_phase() -> None:
    phases = {
        "initial": {"hand_built": points(0.4), "built_in": points(0.1)},
        "fine_tuned": {"hand_built": points(0.01), "built_in": points(0.1)},
    }
    figure = predictions_against_targets(phases)
    assert figure.get_suptitle() == "hand_built comes nearest to the targets (on the line), in sample"
    assert [axes.get_title() for axes in figure.axes] == ["initial", "fine-tuned"]


def test_figures_are_800_pixels_wide() -> None:
    buffer = io.BytesIO()
    loss_curves(CURVES).savefig(buffer, format="png")
    assert struct.unpack(">I", buffer.getvalue()[16:20]) == (800,)


def test_a_plain_network_is_grey() -> None:
    axes = loss_curves({"rnn": CURVES["built_in"]}).axes[0]
    assert to_hex(axes.lines[0].get_color()).upper() == GREY


def written(figure: Figure) -> int:
    """The width of the PNG in pixels; drawing it must raise no warning."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int(struct.unpack(">I", buffer.getvalue()[16:20])[0])


# ---- copies
INFINITY = float("inf")
COPIES = {
    "initial": {
        "hand_built": Copies(errors=[0.3, 0.1, INFINITY, 0.2], converged=0),
        "built_in": Copies(errors=[0.5], converged=0),
    },
    "fine_tuned": {
        "hand_built": Copies(errors=[1e-3, INFINITY, 1e-5, INFINITY], converged=2),
        "built_in": Copies(errors=[0.01], converged=1),
    },
}


def test_errors_of_copies_tell_how_many_converged_in_the_last_phase() -> None:
    figure = errors_of_copies(COPIES)
    assert figure.get_suptitle() == "2 of 4 copies of hand_built and 1 of 1 copies of built_in converged"
    assert [axes.get_title() for axes in figure.axes] == ["initial", "fine-tuned"]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["mean squared error"] * 2
    assert figure.axes[0].get_ylabel() == "share of copies with at most this error"
    assert written(figure) == 800


def test_each_copy_is_a_step_up_and_one_that_failed_is_none() -> None:
    """So a contender whose copies failed does not reach 1."""
    initial, fine_tuned = errors_of_copies(COPIES).axes
    assert [line.get_xydata().tolist() for line in initial.lines] == [
        [[0.1, 0.25], [0.2, 0.5], [0.3, 0.75]],
        [[0.5, 1.0]],
    ]
    assert [line.get_xydata().tolist() for line in fine_tuned.lines] == [[[1e-5, 0.25], [1e-3, 0.5]], [[0.01, 1.0]]]
    assert [line.get_drawstyle() for line in initial.lines] == ["steps-post"] * 2
    assert [to_hex(line.get_color()).upper() for line in initial.lines] == [BLUE, ORANGE]
    texts = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (initial, fine_tuned)]
    assert texts == [["hand_built, 4 copies", "built_in, 1 copies"]] * 2


def test_a_contender_all_of_whose_copies_failed_is_drawn_as_nothing() -> None:
    figure = errors_of_copies({"initial": {"rnn": Copies(errors=[INFINITY, INFINITY], converged=0)}})
    assert figure.get_suptitle() == "0 of 2 copies of rnn converged"
    assert len(figure.axes[0].lines[0].get_xydata()) == 0
    assert written(figure) == 800


# ---- gradients through time
def falling(factor: float, steps: int = 20) -> dict[int, float]:
    """A gradient that is multiplied by the factor at each step back."""
    return {step: 2 * factor ** (steps - step) for step in range(1, steps + 1)}


GRADIENTS = {
    "untrained": {
        "hand_built": {"h": falling(0.5), "c": falling(0.9)},
        "rnn": {"h": falling(0.1)},
    },
    "fine_tuned": {
        "hand_built": {"h": falling(0.3), "c": falling(0.5)},
        "rnn": {"h": falling(0.25)},
    },
}


def test_gradients_tell_how_far_back_a_thousandth_reaches_in_the_last_phase() -> None:
    """Of c where there is one: 0.5^9 is above a thousandth and 0.5^10 below, so that 10 steps have one above."""
    figure = gradients_through_time(GRADIENTS)
    assert figure.get_suptitle() == "A thousandth of the gradient reaches back: hand_built 10 steps, rnn 5 steps"
    assert [axes.get_title() for axes in figure.axes] == ["untrained", "fine-tuned"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["time step t"] * 2
    assert figure.axes[0].get_ylabel() == "|dLoss/dh_t|, |dLoss/dc_t|"
    assert written(figure) == 800


@pytest.mark.parametrize(
    ("curve", "steps"),
    [
        (falling(0.9), 20),  # 0.9^19 is above a thousandth: all there are
        (falling(1.5), 20),
        ({1: 5.0, 2: 1e-4, 3: 1.0}, 1),  # what comes back after it has died does not count
        ({1: 0.001, 2: 1.0}, 2),  # a thousandth is a thousandth
        ({1: 0.7}, 1),
    ],
)
def test_how_far_back_the_gradient_reaches(curve: dict[int, float], steps: int) -> None:
    title = gradients_through_time({"untrained": {"rnn": {"h": curve}}}).get_suptitle()
    assert title == f"A thousandth of the gradient reaches back: rnn {steps} steps"


def test_each_state_is_a_curve_over_time_in_its_contenders_colour() -> None:
    axes = gradients_through_time(GRADIENTS).axes[0]
    of_states = [curve for states in GRADIENTS["untrained"].values() for curve in states.values()]
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[step, value] for step, value in curve.items()] for curve in of_states
    ]
    assert [to_hex(line.get_color()).upper() for line in axes.lines] == [BLUE, BLUE, GREY]
    assert [line.get_label() for line in axes.lines] == ["hand_built, h", "hand_built, c", "rnn, h"]
    solid = [line.get_linestyle() == "-" for line in axes.lines]
    assert solid == [True, False, True]
    assert axes.lines[1]._unscaled_dash_pattern == DASHES[1]


def test_one_legend_tells_the_curves() -> None:
    first, last = gradients_through_time(GRADIENTS).axes
    assert first.get_legend() is None
    assert [text.get_text() for text in last.get_legend().get_texts()] == ["hand_built, h", "hand_built, c", "rnn, h"]


# ---- gates
LETTERS = [
    "x\ninput",
    "i\ninput gate",
    "f\nforget gate",
    "g\ncandidate",
    "o\noutput gate",
    "c\ncell state",
    "h\nhidden state",
]


def opened(B: int, layers: int = 1, T: int = 4, H: int = 1, c: float = 0.5) -> Step:
    """i = 0.1 in all places, f = 0.2 and so on; c as given."""
    parts = [torch.full((layers, B, T, H), value) for value in (0.1, 0.2, -0.3, 0.4, c, -0.6)]
    return Step(*parts)


def apart(*last: float) -> Step:
    """Cell states after the last step, of one unit; before it they are all 0."""
    step = opened(len(last), c=0.0)
    step.c[0, :, -1, 0] = torch.tensor(last)
    return step


X_BTD = torch.tensor([[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.75, 0.0]]).unsqueeze(-1)


@pytest.mark.parametrize(
    ("rows", "step", "text"),
    [
        ([0], apart(-0.25), "after step 4 the cell state of A is 0.25 long"),
        (
            [0, 1],
            apart(0.25, -0.5),
            "A and B differ in step 1 alone, and are 0.75 apart in the cell state after step 4",
        ),
        ([0, 2], apart(0.25, -0.5), "A and C are 0.75 apart in the cell state after step 4"),
        ([1, 1], apart(0.25, 0.25), "B and B are 0 apart in the cell state after step 4"),
        ([0, 1, 2], apart(0.25, -0.5, 1.0), "after step 4 the cell states are up to 1.5 apart"),
    ],
)
def test_gates_tell_what_the_cell_state_has_kept_at_the_end(rows: list[int], step: Step, text: str) -> None:
    figure = gates("hand_built", X_BTD[rows], step, [list("ABC")[row] for row in rows])
    assert figure.get_suptitle() == f"hand_built: {text}"


def test_the_cell_state_is_measured_over_all_layers_and_units() -> None:
    step = opened(1, layers=2, H=2, c=0.5)  # sqrt(4 * 0.25)
    title = gates("ours", X_BTD[:1], step, ["A"]).get_suptitle()
    assert title == "ours: after step 4 the cell state of A is 1 long"
    both = opened(2, layers=2, H=2, c=0.5)
    both.c[:, 1] = -1  # sqrt(4 * 1.5^2)
    title = gates("ours", X_BTD[[0, 2]], both, ["A", "C"]).get_suptitle()
    assert title == "ours: A and C are 3 apart in the cell state after step 4"


def test_sequences_that_differ_in_one_step_differ_there_in_any_feature() -> None:
    x_BTD = torch.zeros(2, 4, 3)
    x_BTD[1, 2, 1:] = 1
    title = gates("ours", x_BTD, apart(0.0, 1.0), ["A", "B"]).get_suptitle()
    assert title == "ours: A and B differ in step 3 alone, and are 1 apart in the cell state after step 4"


def panels(figure: Figure, rows: int = 7) -> np.ndarray:
    """The panels by row and column, without the colour bars."""
    drawn = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    return np.array(drawn).reshape(rows, -1)


def test_a_column_a_sequence_and_a_row_for_the_input_and_each_letter() -> None:
    by_row = panels(gates("hand_built", X_BTD[:2], opened(2), ["A", "B"]))
    assert by_row.shape == (7, 2)
    assert [axes.get_title() for axes in by_row[0]] == ["A", "B"]
    assert [axes.get_ylabel() for axes in by_row[:, 0]] == LETTERS
    assert [axes.get_xlabel() for axes in by_row[-1]] == ["time step"] * 2
    assert {axes.get_title() for axes in by_row[1:].flat} == {""}


def shown(axes: Any) -> Tensor:
    return torch.tensor(axes.images[0].get_array())


def test_each_panel_shows_a_sequences_units_of_all_layers_over_time() -> None:
    torch.manual_seed(0)
    layers, B, T, H = 2, 3, 4, 5
    step = Step(*(torch.rand(layers, B, T, H) for _ in range(6)))
    x_BTD = torch.rand(B, T, 2)
    by_row = panels(gates("hand_built", x_BTD, step, ["A", "B", "C"]))
    for column in range(B):
        assert torch.equal(shown(by_row[0, column]), x_BTD[column].T)
        for row, part in enumerate(step, start=1):
            assert torch.equal(shown(by_row[row, column]), torch.cat([part[0, column].T, part[1, column].T]))
    assert by_row[0, 0].images[0].get_extent() == [0.5, 4.5, 0, 1]  # step 1 lies at 1


def test_shades_go_from_0_to_1_for_gates_and_are_even_on_both_sides_of_0_for_the_rest() -> None:
    step = opened(1, c=-2.5)
    by_row = panels(gates("hand_built", 3 * X_BTD[:1], step, ["A"]))
    limits = [axes.images[0].get_clim() for axes in by_row[:, 0]]
    assert limits == [(-3, 3), (0, 1), (0, 1), (-1, 1), (0, 1), (-2.5, 2.5), (-1, 1)]


def test_a_few_numbers_are_written_and_many_are_not() -> None:
    few = panels(gates("hand_built", X_BTD[:1], opened(1, H=3), ["A"]))
    assert [text.get_text() for text in few[0, 0].texts] == ["0.00", "0.50", "0.25", "1.00"]
    assert [text.get_text() for text in few[3, 0].texts] == ["-0.30"] * 12
    assert [text.get_position()[0] for text in few[0, 0].texts] == [1, 2, 3, 4]
    many = panels(gates("hand_built", X_BTD[:1], opened(1, H=4), ["A"]))
    assert len(many[0, 0].texts) == 4
    assert len(many[3, 0].texts) == 0


def test_numbers_are_white_where_it_is_dark() -> None:
    step = opened(1)
    step.i[0, 0, :, 0] = torch.tensor([0.0, 0.55, 0.65, 1.0])
    step.g[0, 0, :, 0] = torch.tensor([-1.0, -0.55, 0.55, 0.65])
    by_row = panels(gates("hand_built", X_BTD[:1], step, ["A"]))
    assert [text.get_color() for text in by_row[1, 0].texts] == ["black", "black", "white", "white"]
    assert [text.get_color() for text in by_row[3, 0].texts] == ["white", "black", "black", "white"]


def test_units_lie_from_the_top_as_their_shades_do() -> None:
    step = opened(1, H=2)
    step.i[0, 0, :, 1] = 0.9
    axes = panels(gates("hand_built", X_BTD[:1], step, ["A"]))[1, 0]
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("0.10", 0.75)] * 4 + [
        ("0.90", 0.25)
    ] * 4
    assert axes.images[0].origin == "upper"


def test_gates_that_carry_a_gradient_are_drawn_and_left_alone() -> None:
    step = Step(*(part.requires_grad_() for part in opened(1)))
    assert written(gates("hand_built", X_BTD[:1], step, ["A"])) == 800
    assert all(part.requires_grad for part in step)


def test_many_units_and_steps_fit_on_the_page() -> None:
    figure = gates("hand_built", torch.rand(2, 300, 1), opened(2, T=300, H=64), ["A", "B"])
    assert written(figure) == 800
    assert figure.get_size_inches()[1] <= 12
