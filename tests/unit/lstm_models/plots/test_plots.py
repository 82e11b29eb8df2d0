"""Figures: titles, labels and data; each contender looks the same in every figure."""

import io
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from lstm_models.nn.cells import Step
from lstm_models.plots import (
    ACTUAL,
    BLUE,
    DASHES,
    DOTTED,
    GREY,
    ORANGE,
    OTHERS,
    Curve,
    Forecast,
    PredictionPairs,
    ReplicaErrors,
    confusion_matrices,
    errors_by_step,
    forecasts,
    gates,
    gradients_through_time,
    loss_curves,
    predictions_against_targets,
    replica_errors,
)

CURVES = {
    "hand_built": Curve(steps=[49, 99, 149], losses=[0.5, 0.2, 0.1], fine_tuned_from=99),
    "built_in": Curve(steps=[49, 99], losses=[0.3, 0.01], fine_tuned_from=None),
}


VALIDATED = {
    "hand_built": Curve([49, 99], [0.5, 0.2], None, validation={49: 0.6, 99: 0.3}),
    "built_in": Curve([49, 99], [0.4, 0.1], None, validation={49: 0.25, 99: 0.7}),
    "rnn": Curve([49, 99], [0.01, 0.001], None),
}


def png_width(figure: Figure) -> int:
    """Return the width of the PNG in pixels; drawing must not raise a warning."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return int(struct.unpack(">I", buffer.getvalue()[16:20])[0])


def colors_of(lines: Any) -> list[str]:
    return [to_hex(line.get_color()).upper() for line in lines]


def data_of(axes: Any) -> list[Any]:
    return [line.get_xydata().tolist() for line in axes.lines]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def names(texts: Any) -> list[str]:
    return [text.get_text() for text in texts]


# ---- losses
def test_loss_curves_name_the_lowest_final_loss_and_mark_the_start_of_fine_tuning() -> None:
    figure = loss_curves(CURVES)
    axes = figure.axes[0]
    assert figure.get_suptitle() == "built_in has the lowest final loss: 0.01 after 100 steps"
    assert axes.get_yscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer steps", "squared error, mean over an epoch")
    assert names(axes.texts) == ["fine-tuning starts", "hand_built", "built_in"]
    assert data_of(axes)[1] == [[99.0, 0.2]]
    assert colors_of(axes.lines[::2]) == [BLUE, ORANGE]
    assert colors_of(loss_curves({"rnn": CURVES["built_in"]}).axes[0].lines) == [GREY]


@pytest.mark.parametrize(("last", "side"), [(399, "left"), (149, "right")])
def test_the_start_of_fine_tuning_is_labelled_where_there_is_space(last: int, side: str) -> None:
    curve = Curve(steps=[49, 99, last], losses=[0.5, 0.2, 0.1], fine_tuned_from=99)
    assert loss_curves({"hand_built": curve}).axes[0].texts[0].get_horizontalalignment() == side


def test_validation_is_dotted_and_the_title_names_the_lowest_validation_loss() -> None:
    """The lowest validation loss counts, not the final training or validation loss."""
    figure = loss_curves(VALIDATED, loss="cross-entropy")
    axes = figure.axes[0]
    assert figure.get_suptitle() == "built_in has the lowest validation loss: 0.25 after 50 steps"
    assert axes.get_ylabel() == "cross-entropy, mean over an epoch\n(thin dots: validation)"
    dotted = [line for line in axes.lines if line._unscaled_dash_pattern == DOTTED]
    assert [line.get_xydata().tolist() for line in dotted] == [[[49, 0.6], [99, 0.3]], [[49, 0.25], [99, 0.7]]]
    assert colors_of(dotted) == [BLUE, ORANGE]
    assert {line.get_linewidth() < axes.lines[0].get_linewidth() for line in dotted} == {True}
    assert names(axes.texts) == ["hand_built", "built_in", "rnn", "lowest"]
    assert data_of(axes)[-1] == [[49, 0.25]]
    assert png_width(figure) == 800
    nan_first = loss_curves({"rnn": Curve([4, 9], [0.5, 0.2], None, validation={4: float("nan"), 9: 0.3})})
    assert nan_first.get_suptitle() == "rnn has the lowest validation loss: 0.3 after 10 steps"


# ---- predictions
def points(error: float) -> PredictionPairs:
    return PredictionPairs(targets=[0.0, 1.0], predictions=[error, 1.0 - error], mse=error**2)


def test_predictions_name_the_closest_contender_of_the_last_phase() -> None:
    initial = {"hand_built": points(0.4), "built_in": points(0.1)}
    figure = predictions_against_targets(
        {"initial": initial, "fine_tuned": {"hand_built": points(0.01), "built_in": points(0.1)}}
    )
    assert figure.get_suptitle() == "hand_built is closest to the targets (on the line), in sample"
    assert titles(figure) == ["initial", "fine-tuned"]
    dots = figure.axes[0].collections
    assert [to_hex(each.get_edgecolor()[0]).upper() for each in dots] == [BLUE, ORANGE]
    assert [each.get_offsets().tolist() for each in dots] == [[[0, 0.4], [1, 0.6]], [[0, 0.1], [1, 0.9]]]
    on_test = predictions_against_targets({"initial": initial}, in_sample=False).get_suptitle()
    assert on_test == "built_in is closest to the targets (on the line), on the test part"


def test_many_predictions_of_many_contenders_have_small_markers() -> None:
    few, many = PredictionPairs([0.5], [0.5], 0.0), PredictionPairs([0.5, 1.0] * 2000, [0.5, 1.0] * 2000, 0.0)
    contenders = ["hand_built", "built_in", "rnn", "a", "b"]
    large, small = (predictions_against_targets({"i": dict.fromkeys(contenders, points)}) for points in (few, many))
    sizes = [[dots.get_sizes()[0] for dots in figure.axes[0].collections] for figure in (large, small)]
    assert sizes[0] == [90, 50, 10, 10, 10]
    assert sizes[1] == pytest.approx([11, 6.1, 6, 6, 6], rel=0.01)
    assert png_width(small) == 800


# ---- replicas
INFINITY = float("inf")
REPLICAS = {
    "initial": {
        "hand_built": ReplicaErrors(errors=[0.3, 0.1, INFINITY, 0.2], converged=0),
        "built_in": ReplicaErrors(errors=[0.5], converged=0),
    },
    "fine_tuned": {
        "hand_built": ReplicaErrors(errors=[1e-3, INFINITY, 1e-5, INFINITY], converged=2),
        "built_in": ReplicaErrors(errors=[0.01], converged=1),
    },
}


def test_replica_errors_are_steps_and_the_title_counts_converged_replicas_of_the_last_phase() -> None:
    """Each replica is one step; a failed replica adds none, so the curve of its contender does not reach 1."""
    figure = replica_errors(REPLICAS)
    initial, fine_tuned = figure.axes
    assert figure.get_suptitle() == "2 of 4 replicas of hand_built and 1 of 1 replicas of built_in converged"
    assert titles(figure) == ["initial", "fine-tuned"]
    assert [(axes.get_xscale(), axes.get_xlabel()) for axes in figure.axes] == [("log", "mean squared error")] * 2
    assert initial.get_ylabel() == "share of replicas with at most this error"
    assert data_of(initial) == [[[0.1, 0.25], [0.2, 0.5], [0.3, 0.75]], [[0.5, 1.0]]]
    assert data_of(fine_tuned) == [[[1e-5, 0.25], [1e-3, 0.5]], [[0.01, 1.0]]]
    assert [line.get_drawstyle() for line in initial.lines] == ["steps-post"] * 2
    assert colors_of(initial.lines) == [BLUE, ORANGE]
    legends = [names(axes.get_legend().get_texts()) for axes in (initial, fine_tuned)]
    assert legends == [["hand_built, 4 replicas", "built_in, 1 replicas"]] * 2


def test_a_contender_without_finite_replica_errors_has_an_empty_line() -> None:
    figure = replica_errors({"initial": {"rnn": ReplicaErrors(errors=[INFINITY, INFINITY], converged=0)}})
    assert figure.get_suptitle() == "0 of 2 replicas of rnn converged"
    assert data_of(figure.axes[0]) == [[]]
    assert png_width(figure) == 800


# ---- gradients through time
def falling(factor: float, steps: int = 20) -> dict[int, float]:
    """Return a gradient that is multiplied by the factor at each step back."""
    return {step: 2 * factor ** (steps - step) for step in range(1, steps + 1)}


GRADIENTS = {
    "untrained": {"hand_built": {"h": falling(0.5), "c": falling(0.9)}, "rnn": {"h": falling(0.1)}},
    "fine_tuned": {"hand_built": {"h": falling(0.3), "c": falling(0.5)}, "rnn": {"h": falling(0.25)}},
}


def test_gradients_are_curves_over_time_and_the_title_gives_the_steps_above_a_thousandth() -> None:
    """The title uses c if present: 0.5^9 is above a thousandth and 0.5^10 below, so 10 steps are above."""
    figure = gradients_through_time(GRADIENTS)
    first, last = figure.axes
    assert figure.get_suptitle() == "The gradient reaches back (to a thousandth): hand_built 10 steps, rnn 5 steps"
    assert titles(figure) == ["untrained", "fine-tuned"]
    assert [(axes.get_yscale(), axes.get_xlabel()) for axes in figure.axes] == [("log", "time step t")] * 2
    assert first.get_ylabel() == "|dLoss/dh_t|, |dLoss/dc_t|"
    of_states = [curve for states in GRADIENTS["untrained"].values() for curve in states.values()]
    assert data_of(first) == [[[step, value] for step, value in curve.items()] for curve in of_states]
    assert colors_of(first.lines) == [BLUE, BLUE, GREY]
    assert [line.get_linestyle() == "-" for line in first.lines] == [True, False, True]
    assert first.lines[1]._unscaled_dash_pattern == DASHES[1]
    assert first.get_legend() is None
    labels = [line.get_label() for line in first.lines]
    assert names(last.get_legend().get_texts()) == labels == ["hand_built, h", "hand_built, c", "rnn, h"]
    assert png_width(figure) == 800


@pytest.mark.parametrize(
    ("curve", "steps"),
    [
        (falling(0.9), 20),  # 0.9^19 is above a thousandth: all steps
        (falling(1.5), 20),
        ({1: 5.0, 2: 1e-4, 3: 1.0}, 1),  # a gradient that rises again further back does not count
        ({1: 0.001, 2: 1.0}, 2),  # exactly a thousandth counts
        ({1: 0.7}, 1),
    ],
)
def test_the_gradient_reaches_back_to_the_first_step_below_a_thousandth(curve: dict[int, float], steps: int) -> None:
    title = gradients_through_time({"untrained": {"rnn": {"h": curve}}}).get_suptitle()
    assert title == f"The gradient reaches back (to a thousandth): rnn {steps} steps"


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


def constant_steps(B: int, layers: int = 1, T: int = 4, H: int = 1, c: float = 0.5) -> Step:
    """Return steps with i = 0.1 everywhere, f = 0.2 and so on, and the given c."""
    parts = [torch.full((layers, B, T, H), value) for value in (0.1, 0.2, -0.3, 0.4, c, -0.6)]
    return Step(*parts)


def with_last_cell_states(*last: float) -> Step:
    """Return steps of one unit with these cell states after the last step, and 0 before."""
    step = constant_steps(len(last), c=0.0)
    step.c[0, :, -1, 0] = torch.tensor(last)
    return step


X_BTD = torch.tensor([[0.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.25, 1.0], [1.0, 0.5, 0.75, 0.0]]).unsqueeze(-1)


@pytest.mark.parametrize(
    ("rows", "step", "text"),
    [
        ([0], with_last_cell_states(-0.25), "after step 4 the cell state of A has norm 0.25"),
        (
            [0, 1],
            with_last_cell_states(0.25, -0.5),
            "A and B differ only in step 1 and are 0.75 apart in the cell state after step 4",
        ),
        ([0, 2], with_last_cell_states(0.25, -0.5), "A and C are 0.75 apart in the cell state after step 4"),
        ([1, 1], with_last_cell_states(0.25, 0.25), "B and B are 0 apart in the cell state after step 4"),
        ([0, 1, 2], with_last_cell_states(0.25, -0.5, 1.0), "after step 4 the cell states are up to 1.5 apart"),
    ],
)
def test_the_title_of_gates_describes_the_last_cell_states(rows: list[int], step: Step, text: str) -> None:
    figure = gates("hand_built", X_BTD[rows], step, [list("ABC")[row] for row in rows])
    assert figure.get_suptitle() == f"hand_built: {text}"


def title_of(x_BTD: Tensor, step: Step, *sequences: str) -> str:
    return str(gates("ours", x_BTD, step, sequences).get_suptitle()).removeprefix("ours: ")


def test_cell_states_are_compared_over_all_layers_and_units_and_inputs_over_all_features() -> None:
    title = title_of(X_BTD[:1], constant_steps(1, layers=2, H=2, c=0.5), "A")  # sqrt(4 * 0.25)
    assert title == "after step 4 the cell state of A has norm 1"
    both = constant_steps(2, layers=2, H=2, c=0.5)
    both.c[:, 1] = -1  # sqrt(4 * 1.5^2)
    assert title_of(X_BTD[[0, 2]], both, "A", "C") == "A and C are 3 apart in the cell state after step 4"
    x_BTD = torch.zeros(2, 4, 3)
    x_BTD[1, 2, 1:] = 1
    text = "A and B differ only in step 3 and are 1 apart in the cell state after step 4"
    assert title_of(x_BTD, with_last_cell_states(0.0, 1.0), "A", "B") == text


def panels(figure: Figure, rows: int = 7) -> np.ndarray:
    """Return the panels by row and column, without the color bars."""
    drawn = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    return np.array(drawn).reshape(rows, -1)


def shown(axes: Any) -> Tensor:
    return torch.tensor(axes.images[0].get_array())


def test_a_panel_shows_the_units_of_all_layers_over_time() -> None:
    """Columns are sequences; rows are the input and each gate or state."""
    torch.manual_seed(0)
    layers, B, T, H = 2, 3, 4, 5
    step = Step(*(torch.rand(layers, B, T, H).requires_grad_() for _ in range(6)))
    x_BTD = torch.rand(B, T, 2)
    by_row = panels(gates("hand_built", x_BTD, step, ["A", "B", "C"]))
    assert by_row.shape == (7, 3)
    assert [axes.get_title() for axes in by_row[0]] == ["A", "B", "C"]
    assert {axes.get_title() for axes in by_row[1:].flat} == {""}
    assert [axes.get_ylabel() for axes in by_row[:, 0]] == LETTERS
    assert [axes.get_xlabel() for axes in by_row[-1]] == ["time step"] * 3
    for column in range(B):
        assert torch.equal(shown(by_row[0, column]), x_BTD[column].T)
        for row, part in enumerate(step, start=1):
            assert torch.equal(shown(by_row[row, column]), torch.cat([part[0, column].T, part[1, column].T]))
    assert by_row[0, 0].images[0].get_extent() == [0.5, 4.5, 0, 1]  # step 1 is at 1
    assert all(part.requires_grad for part in step)  # the given tensors still require gradients


def test_color_limits_are_0_and_1_for_gates_and_symmetric_about_0_for_all_others() -> None:
    """Numbers are white on dark cells."""
    step = constant_steps(1, c=-2.5)
    step.i[0, 0, :, 0] = torch.tensor([0.0, 0.55, 0.65, 1.0])
    step.g[0, 0, :, 0] = torch.tensor([-1.0, -0.55, 0.55, 0.65])
    by_row = panels(gates("hand_built", 3 * X_BTD[:1], step, ["A"]))
    limits = [axes.images[0].get_clim() for axes in by_row[:, 0]]
    assert limits == [(-3, 3), (0, 1), (0, 1), (-1, 1), (0, 1), (-2.5, 2.5), (-1, 1)]
    assert [text.get_color() for text in by_row[1, 0].texts] == ["black", "black", "white", "white"]
    assert [text.get_color() for text in by_row[3, 0].texts] == ["white", "black", "black", "white"]


def test_up_to_12_numbers_are_written_in_their_cells() -> None:
    step = constant_steps(1, H=3)
    step.i[0, 0, :, 1] = 0.9
    few = panels(gates("hand_built", X_BTD[:1], step, ["A"]))[:, 0]
    assert [(text.get_text(), text.get_position()[0]) for text in few[0].texts] == [
        ("0.00", 1), ("0.50", 2), ("0.25", 3), ("1.00", 4),
    ]  # fmt: skip
    assert [(text.get_text(), round(6 * text.get_position()[1])) for text in few[1].texts] == [
        *[("0.10", 5)] * 4, *[("0.90", 3)] * 4, *[("0.10", 1)] * 4,
    ]  # fmt: skip
    assert few[1].images[0].origin == "upper"
    many = panels(gates("hand_built", X_BTD[:1], constant_steps(1, H=4), ["A"]))[:, 0]
    assert [len(axes.texts) for axes in many] == [4, 0, 0, 0, 0, 0, 0]


def test_a_figure_of_many_units_and_steps_fits_on_the_page() -> None:
    figure = gates("hand_built", torch.rand(2, 300, 1), constant_steps(2, T=300, H=64), ["A", "B"])
    assert png_width(figure) == 800
    assert figure.get_size_inches()[1] <= 12


# ---- labels at the ends of lines
LONG = "hand_built_with_layer_norm_and_a_forget_bias_of_"


def labels(figure: Figure, axes: Any) -> list[Text]:
    """Return the labels of the lines from the top; all are within the figure and none overlap."""
    figure.savefig(io.BytesIO(), format="png")
    texts = sorted(axes.texts, key=lambda text: -Text.get_window_extent(text).y0)
    boxes = [Text.get_window_extent(text) for text in texts]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))
    assert all(0 <= box.x0 < box.x1 <= 800 and 0 <= box.y0 < box.y1 <= figure.bbox.height for box in boxes)
    return texts


@pytest.mark.parametrize("ends", [[0.5] * 8, [0.9] * 7 + [0.1], [0.5, 0.50001, 0.50002] + [0.1] * 5])
def test_labels_of_lines_with_close_ends_do_not_overlap_and_are_in_the_order_of_the_lines(ends: list[float]) -> None:
    lines = {f"contender_{rank}": [1.0, end] for rank, end in enumerate(ends)}
    figure = errors_by_step(lines, {}, "1")
    from_the_top = sorted(lines, key=lambda name: lines[name][1], reverse=True)  # stable: ties stay in order
    assert names(labels(figure, figure.axes[0])) == from_the_top


def test_labels_without_overlap_stay_beside_their_lines() -> None:
    figure = errors_by_step({"hand_built": [1.0, 1.0], "built_in": [0.5, 0.5], "rnn": [0.0, 0.1]}, {}, "1")
    axes = figure.axes[0]
    for text, end in zip(labels(figure, axes), (1.0, 0.5, 0.1), strict=True):
        box = Text.get_window_extent(text)
        assert (box.y0 + box.y1) / 2 == pytest.approx(axes.transData.transform((2, end))[1], abs=2)
        assert box.x0 > axes.transData.transform((2, end))[0]


def test_long_names_are_abbreviated_beside_a_line_but_not_in_the_title() -> None:
    figure = errors_by_step({f"{LONG}one": [0.2], f"{LONG}two": [0.1]}, {}, "1")
    assert names(labels(figure, figure.axes[0])) == ["hand_built_w…bias_of_one", "hand_built_w…bias_of_two"]
    assert figure.get_suptitle() == f"{LONG}two, lowest of 2: 0.10 at step 1"


def test_a_line_with_a_last_value_of_nan_has_its_label_at_the_bottom() -> None:
    assert png_width(forecasts([window({"a": [float("nan"), 104.0]})])) == 800
    figure = errors_by_step({"hand_built": [0.2, 0.3], "rnn": [0.3, float("nan")]}, {}, "1")
    assert names(labels(figure, figure.axes[0])) == ["hand_built", "rnn"]
    assert figure.get_suptitle() == "hand_built, lowest of 2: from 0.20 at step 1 to 0.30 at step 2"


# ---- forecasts
def window(predictions: dict[str, list[float]], name: str = "14:00", target: str = "OT") -> Forecast:
    return Forecast(
        name, target, past=[float(value) for value in range(100)], targets=[100.0, 102.0], predictions=predictions
    )


HALF_OFF = window({"hand_built": [100.0, 103.0], "built_in": [98.0, 102.0]})  # by 0.5 and by 1


def test_predictions_and_actual_values_follow_the_past() -> None:
    figure = forecasts([HALF_OFF, window(dict(HALF_OFF.predictions), name="15:00", target="$x$ and $y")])
    assert [axes.get_title() for axes in figure.axes] == ["14:00", "15:00"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["OT", "$x$ and $y"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "steps from the forecast's origin (grey: the past)"]
    for axes in figure.axes:
        origin, past, *ahead = axes.lines
        assert origin.get_xdata() == [0, 0]
        assert past.get_xydata().tolist() == [[step, 99 + step] for step in range(-23, 1)]
        assert [line.get_xydata().tolist() for line in ahead] == [
            [[1, 100], [2, 102]],
            [[1, 100], [2, 103]],
            [[1, 98], [2, 102]],
        ]
        assert colors_of([past, *ahead]) == [GREY, ACTUAL, BLUE, ORANGE]
        assert ahead[1].get_linestyle() == "-"
        assert ahead[2]._unscaled_dash_pattern == DASHES[1]
    first, second = figure.axes
    assert names(labels(figure, first)) == ["hand_built", "actual", "built_in"]
    assert len(second.texts) == 0
    assert png_width(figure) == 800


def test_forecasts_show_one_horizon_of_the_past_and_at_least_24_steps() -> None:
    for S, available, shown in ((1, 100, 24), (24, 100, 24), (30, 100, 30), (30, 10, 10), (3, 0, 0)):
        past, targets = list(np.arange(-available, 0.0)), list(np.arange(float(S)))
        figure = forecasts([Forecast("A", "OT", past, targets, {"hand_built": targets})])
        assert figure.axes[0].lines[1].get_ydata().tolist() == past[len(past) - shown :]


@pytest.mark.parametrize(
    ("windows", "title"),
    [
        ([HALF_OFF], "In this window hand_built is closest to the actual values: mean absolute error 0.50"),
        (
            [HALF_OFF, window({"hand_built": [110.0, 102.0], "built_in": [100.0, 102.0]})],
            "In these 2 windows built_in is closest to the actual values: mean absolute error 0.50",
        ),
        ([window({"rnn": [400.0, 402.0]})], "In this window the mean absolute error of rnn is 300"),
        (
            [window({"a": [100.0, 104.0], "b": [100.0, 103.99], "c": [100.0, 104.03]})],
            "In this window a and b (equal within 1 %) are closest to the actual values: mean absolute error 1.0",
        ),
        (
            [window({"a": [100.0, 102.0], "b": [100.0, 102.0]}), window({"a": [100.0, 102.0], "b": [100.0, 102.0]})],
            "In these 2 windows a and b (equal within 1 %) are closest to the actual values: mean absolute error 0.0",
        ),
        (
            [window({"a": [float("nan"), 104.0], "b": [0.0, 103.0]})],
            "In this window b is closest to the actual values: mean absolute error 50",
        ),
        ([window({"a": [float("nan"), 104.0]})], "In this window no mean absolute error is finite"),
        (  # errors of two targets are not added up
            [HALF_OFF, HALF_OFF, window({"hand_built": [100.0, 110.0], "built_in": [100.0, 104.0]}, target="HUFL")],
            "Lowest mean absolute errors in these 3 windows: OT: hand_built 0.50; HUFL: built_in 1.0",
        ),
    ],
)
def test_the_title_of_forecasts_names_the_closest_contender_in_the_windows_shown(
    windows: list[Forecast], title: str
) -> None:
    assert str(forecasts(windows).get_suptitle()).replace("\n", " ") == title


def test_a_forecast_of_one_step_is_drawn_as_a_marker() -> None:
    one_step = Forecast("A", "OT", [1.0, 2.0], [3.0], {"hand_built": [3.5], "built_in": [2.5]})
    figure = forecasts([one_step])
    assert [line.get_marker() for line in figure.axes[0].lines] == ["None", "None", "D", "o", "s"]
    assert names(labels(figure, figure.axes[0])) == ["hand_built", "actual", "built_in"]


def test_labels_of_many_contenders_do_not_overlap() -> None:
    ends = {f"{LONG}{rank}": list(np.full(720, 2.0 + 1e-3 * rank)) for rank in range(12)}
    figure = forecasts([Forecast("A", "OT", [1.0] * 2000, [2.0] * 720, ends)] * 2)
    assert len(labels(figure, figure.axes[0])) == 13


# ---- errors by step
BASELINES = {"last_value": [0.02, 0.05, 0.04], "mean": [0.03, 0.03, 0.03]}
ERRORS = {"hand_built": [0.012, 0.02, 0.035], "built_in": [0.03, 0.03, 0.041]}


def test_errors_by_step_start_at_step_1_and_baselines_are_grey() -> None:
    figure = errors_by_step(ERRORS, BASELINES, "°C²")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step of the horizon", "mean squared error (°C²)")
    assert [line.get_ydata().tolist() for line in axes.lines] == [*BASELINES.values(), *ERRORS.values()]
    assert {tuple(line.get_xdata()) for line in axes.lines} == {(1, 2, 3)}
    assert colors_of(axes.lines) == [GREY, GREY, BLUE, ORANGE]
    assert [line.is_dashed() for line in axes.lines] == [False, True, False, True]
    beside = {text.get_text(): (to_hex(text.get_color()).upper(), text.get_fontweight()) for text in axes.texts}
    assert beside == {
        "last_value": (GREY, "normal"),
        "mean": (GREY, "normal"),
        "hand_built": (BLUE, "bold"),
        "built_in": (ORANGE, "bold"),
    }
    assert names(labels(figure, axes)) == ["built_in", "last_value", "hand_built", "mean"]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] == 0
    assert png_width(figure) == 800


@pytest.mark.parametrize(
    ("errors", "baselines", "title"),
    [
        (
            ERRORS,
            BASELINES,
            "hand_built, lowest of 2: from 0.012 at step 1 to 0.035 at step 3; below all baselines at 2 of 3 steps",
        ),
        ({"rnn": [0.012, 0.041]}, {}, "rnn: from 0.012 at step 1 to 0.041 at step 2"),
        (
            {"rnn": [1.0, 2.0]},
            {"mean": [1.5, 2.5]},
            "rnn: from 1.0 at step 1 to 2.0 at step 2; below mean at every step",
        ),
        ({"rnn": [1.0, 2.0]}, {"mean": [0.5, 2.0]}, "rnn: from 1.0 at step 1 to 2.0 at step 2; below mean at no step"),
        ({"rnn": [1.0]}, {"mean": [1.5], "ridge": [2.0]}, "rnn: 1.0 at step 1; below all baselines"),
        ({"rnn": [1.0]}, {"mean": [0.5]}, "rnn: 1.0 at step 1; not below mean"),
        (
            {"a": [1.0, 3.0], "b": [2.0, 2.03], "c": [3.0, 3.0]},
            {},
            "a and b (equal within 1 %), lowest of 3: from 1.0 at step 1 to 3.0 at step 2",
        ),
        ({"a": [100.0], "b": [100.5]}, {}, "a and b (equal within 1 %): 100 at step 1"),
        ({"a": [INFINITY, 1.0]}, {}, "No contender's error is finite"),
    ],
)
def test_the_title_of_errors_by_step_gives_the_lowest_errors_at_the_first_and_last_step(
    errors: dict[str, list[float]], baselines: dict[str, list[float]], title: str
) -> None:
    figure = errors_by_step(errors, baselines, "1")
    assert figure.get_suptitle().replace("\n", " ") == title


@pytest.mark.parametrize(
    ("lowest", "highest", "scale"),
    [(0.01, 0.2, "linear"), (0.01, 0.25, "log"), (0.01, INFINITY, "linear"), (0.0, 2.0, "linear")],
)
def test_errors_that_differ_more_than_twentyfold_are_on_a_log_axis(lowest: float, highest: float, scale: str) -> None:
    axes = errors_by_step({"rnn": [lowest, 0.02]}, {"mean": [highest, 0.1]}, "1").axes[0]
    assert axes.get_yscale() == scale


def test_errors_of_one_step_are_markers_and_of_a_thousand_steps_are_lines() -> None:
    one_step = errors_by_step({"hand_built": [0.1]}, {"mean": [0.2], "ridge": [0.1]}, "1")
    assert [line.get_marker() for line in one_step.axes[0].lines] == ["o", "s", "o"]
    assert one_step.axes[0].get_xticks().tolist() == [1]
    many = errors_by_step({"hand_built": [0.1] * 1000}, {"mean": [0.2] * 1000}, "1")
    assert [line.get_marker() for line in many.axes[0].lines] == ["None", "None"]
    assert png_width(many) == 800


# ---- confusion
COUNTS = [[90, 10, 0], [5, 95, 0], [0, 0, 0]]  # the third class is absent
CLASSES = ["no", "yes", "$maybe$ $"]


def panels_without_color_bar(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_each_confusion_matrix_has_counts_and_shares_of_the_row() -> None:
    figure = confusion_matrices({"hand_built": COUNTS, "built_in": [[100, 0, 0], [20, 80, 0], [0, 0, 0]]}, CLASSES)
    assert figure.get_suptitle() == "hand_built is correct in 92 %, built_in in 90 % of 200"
    ours, theirs = panels_without_color_bar(figure)
    assert [(axes.get_title(), to_hex(axes.title.get_color()).upper()) for axes in (ours, theirs)] == [
        ("hand_built", BLUE),
        ("built_in", ORANGE),
    ]
    assert shown(ours).tolist() == [[0.9, 0.1, 0], [0.05, 0.95, 0], [0, 0, 0]]
    assert shown(theirs).tolist() == [[1, 0, 0], [0.2, 0.8, 0], [0, 0, 0]]
    assert {axes.images[0].get_clim() for axes in (ours, theirs)} == {(0, 1)}
    written_in = {text.get_position(): (text.get_text(), text.get_color()) for text in ours.texts}
    assert written_in[1, 0] == ("10", "black")  # column, row
    assert written_in[0, 0] == ("90", "white")
    assert [written_in[column, row][0] for row in range(3) for column in range(3)] == [
        str(count) for row in COUNTS for count in row
    ]
    assert [text.get_text() for text in ours.get_yticklabels()] == CLASSES
    assert [text.get_text() for text in theirs.get_xticklabels()] == CLASSES
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in (ours, theirs)] == [
        ("predicted", "actual"),
        ("predicted", ""),
    ]
    assert figure.axes[-1].get_ylabel() == "share of the actual class (row)"
    assert png_width(figure) == 800


def test_the_accuracy_in_the_title_is_100_percent_only_if_all_are_correct() -> None:
    for correct, wrong, percent in (
        (3, 0, "100"), (999, 1, "over 99"), (989, 11, "99"), (0, 5, "0"), (1, 999, "under 1"), (2, 1, "67"),
    ):  # fmt: skip
        figure = confusion_matrices({"rnn": [[correct, wrong], [0, 0]]}, ["no", "yes"])
        assert figure.get_suptitle() == f"rnn is correct in {percent} % of {correct + wrong:,}"
    figure = confusion_matrices(dict.fromkeys(["hand_built", "built_in", "rnn", "gru"], COUNTS), CLASSES)
    rows = {axes.get_subplotspec().rowspan.start for axes in panels_without_color_bar(figure)}
    assert rows == {0}  # few classes: one row
    # names may contain any word
    figure = confusion_matrices({"a_in_b": [[1, 0], [0, 1]], "in": [[1, 0], [0, 1]]}, ["no", "yes"])
    assert figure.get_suptitle() == "a_in_b is correct in 100 %, in in 100 % of 2"


@pytest.mark.parametrize(("contenders", "rows", "classes"), [(1, 1, 13), (2, 1, 12), (3, 2, 100)])
def test_counts_are_written_up_to_12_classes_and_a_hundred_are_drawn(contenders: int, rows: int, classes: int) -> None:
    counts = (1000 * np.eye(classes, dtype=int)).tolist()
    named = [f"a long name of a class, {number}" for number in range(classes)]
    figure = confusion_matrices({f"{LONG}{rank}": counts for rank in range(contenders)}, named)
    drawn = panels_without_color_bar(figure)
    assert len(drawn) == contenders
    assert {len(axes.texts) for axes in drawn} == {144 if classes == 12 else 0}
    assert len({axes.get_subplotspec().rowspan.start for axes in drawn}) == rows
    assert [to_hex(axes.title.get_color()).upper() for axes in drawn] == list(OTHERS[:contenders])
    assert png_width(figure) == 800
    ticks = drawn[0].get_yticklabels()
    boxes = [text.get_window_extent() for text in ticks]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))
    assert ticks[0].get_text() == "a long …ass, 0"
    assert len(ticks) == classes if classes < 100 else 10 <= len(ticks) <= 26
