"""What the figures say, and that a contender looks the same in each."""

import io
import struct

from matplotlib.colors import to_hex

from lstm_models.figures import BLUE, ORANGE, Curve, Points, loss_curves, predictions_against_targets

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
