"""The bootstrap, against blocks concatenated in a loop, closed forms, and its coverage of the true mean."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from helpers.errors import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal, stats

from lstm_models.evaluation import bootstrap
from lstm_models.evaluation.bootstrap import Interval, block_bootstrap, block_length, paired_difference

lengths = st.integers(2, 60)
blocks = st.integers(1, 8)
seeds = st.integers(0, 1000)


def random_losses(W: int, seed: int = 0) -> bootstrap.Floats:
    """Return losses, of which two differ: multiples of 1/1024, so that shifts and powers of two are exact."""
    losses = np.random.default_rng(seed).integers(0, 4096, W) / 1024
    losses[:2] = 0, 1
    return losses


def autoregressive(generator: np.random.Generator, W: int, phi: float) -> bootstrap.Floats:
    """Return AR(1) noise about 0, after a burn-in."""
    noise: bootstrap.Floats = signal.lfilter([1], [1, -phi], generator.standard_normal(W + 200))[200:]
    return noise


def loop_bootstrap(losses: bootstrap.Floats, block: int, samples: int, seed: int) -> list[float]:
    """Return low and high as documented, with each resample concatenated from its blocks."""
    W, count = len(losses), -(-len(losses) // block)
    starts = range(W - block + 1)
    drawn = np.random.default_rng(seed).integers(0, len(starts), (samples, count))
    means = [np.concatenate([losses[start : start + block] for start in row])[:W].mean() for row in drawn]
    # the expected value of a resampled mean: all starts are equally likely
    full = sum(losses[start : start + block].sum() for start in starts) / len(starts)
    remainder = W - (count - 1) * block
    cut = sum(losses[start : start + remainder].sum() for start in starts) / len(starts)
    k = W / block
    widening = math.sqrt(k / (k - 1)) * stats.t.ppf(0.975, k - 1) / stats.norm.ppf(0.975)
    deviations = (np.quantile(means, [0.025, 0.975]) - ((count - 1) * full + cut) / W) * widening
    return [float(end) for end in losses.mean() + deviations]


@given(lengths, blocks, seeds)
def test_the_interval_equals_a_loop_over_blocks(W: int, block: int, seed: int) -> None:
    losses = random_losses(W, seed)
    found = block_bootstrap(losses, block, samples=50, seed=seed)
    if 2 * block > W:
        assert found == (-math.inf, math.inf)
    else:
        assert list(found) == pytest.approx(loop_bootstrap(losses, block, 50, seed), rel=1e-9, abs=1e-12)


def test_for_independent_losses_it_is_close_to_students_interval() -> None:
    losses = np.random.default_rng(3).normal(2, 3, 40)
    expected = stats.t.interval(0.95, 39, losses.mean(), stats.sem(losses))
    # 20,000 resamples determine the ends to about 1 % of the width
    assert block_bootstrap(losses, 1, samples=20_000) == pytest.approx(expected, abs=0.02 * (expected[1] - expected[0]))


@pytest.mark.parametrize("block", [1, 10])
def test_drawing_in_chunks_does_not_change_the_interval(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = random_losses(95)
    expected = block_bootstrap(losses, block)
    monkeypatch.setattr(bootstrap, "MAX_DRAWN_BLOCKS", 200)
    assert block_bootstrap(losses, block) == expected


def test_memory_does_not_grow_with_losses_times_samples() -> None:
    losses = np.random.default_rng(0).standard_normal(2**18)
    tracemalloc.start()
    block_bootstrap(losses, 1, samples=64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6  # the starts of all draws would take 134 MB


@pytest.mark.parametrize(
    ("W", "phi", "block", "low", "high"),
    [
        (500, 0.0, 1, 0.95, 0.95),
        (600, 0.5, 20, 0.95, 0.95),
        (384, 0.5, 96, 0.95, 0.99),  # four blocks: a little too wide
        (600, 0.5, 1, 0.68, 0.80),  # neighbours treated as independent: 74 % in normal theory
    ],
)
def test_the_coverage_of_the_true_mean(W: int, phi: float, block: int, low: float, high: float) -> None:
    trials = 400
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(trials):
        interval = block_bootstrap(autoregressive(generator, W, phi), block, samples=300)
        covered += interval.low <= 0 <= interval.high
    # three standard deviations of a binomial proportion of this many trials: 3.3 %
    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    assert low - slack < covered / trials < high + slack


@given(lengths, blocks, seeds, st.integers(-5, 5), st.integers(-100, 100))
def test_scaled_and_shifted_losses_scale_and_shift_the_interval(
    W: int, block: int, seed: int, power: int, shift: int
) -> None:
    losses = random_losses(W, seed)
    low, high = block_bootstrap(losses, block, samples=50)
    assert block_bootstrap(losses * 2.0**power, block, samples=50) == (low * 2.0**power, high * 2.0**power)
    assert block_bootstrap(losses + shift, block, samples=50) == pytest.approx((low + shift, high + shift), abs=1e-10)


@given(lengths, blocks, seeds)
def test_a_paired_difference_is_the_interval_of_the_differences_and_antisymmetric(
    W: int, block: int, seed: int
) -> None:
    a, b = random_losses(W, seed), random_losses(W, seed + 1) + 0.5
    one, other = (paired_difference(*pair, block, samples=50, seed=seed) for pair in ((a, b), (b, a)))
    assert (one.low, one.high) == block_bootstrap(a - b, block, samples=50, seed=seed)
    assert one.mean == (a - b).mean()
    assert one.verdict == ("better" if one.high < 0 else "worse" if one.low > 0 else "not significant")
    assert (one.mean, one.low, one.high) == (-other.mean, -other.high, -other.low)
    assert other.verdict == {"better": "worse", "worse": "better", "not significant": "not significant"}[one.verdict]
    assert paired_difference(a, b, block, 50, seed, min_improvement=0.0) == one


# ---- min_improvement
margins = st.integers(0, 15).map(lambda n: n / 16)


@pytest.mark.parametrize(
    ("a", "margin", "verdict"),
    [
        (7.0, 0.0, "better"),
        (7.0, 0.0625, "better"),
        (7.0, 0.125, "not significant"),  # by exactly an eighth
        (7.0, 0.25, "not significant"),
        (4.5, 0.5, "not significant"),  # of b's mean, 8: half of a's would be less
        (3.5, 0.5, "better"),
        (9.0, 0.0625, "worse"),
        (9.0, 0.125, "not significant"),
        (12.5, 0.5, "worse"),
        (8.0, 0.0, "not significant"),
    ],
)
def test_min_improvement_is_a_share_of_the_second_mean_loss(a: float, margin: float, verdict: str) -> None:
    """The interval of a constant difference has no width."""
    b_W = np.resize([6.0, 10.0], 50)
    assert paired_difference(b_W + (a - 8), b_W, 2, min_improvement=margin) == (a - 8, a - 8, a - 8, verdict)


@given(lengths, blocks, seeds, st.integers(-4, 4), margins, margins)
def test_a_larger_min_improvement_only_removes_verdicts(
    W: int, block: int, seed: int, shift: int, one: float, other: float
) -> None:
    a, b = random_losses(W, seed) + 4 + shift, random_losses(W, seed + 1) + 4
    small, large = (paired_difference(a, b, block, 50, min_improvement=margin) for margin in sorted((one, other)))
    assert large.verdict in (small.verdict, "not significant")
    assert large[:3] == small[:3]
    least = max(one, other) * b.mean()
    rounding = bootstrap.ROUNDING * (a.mean() + b.mean())
    assert (large.verdict == "better") == (large.high < -max(least, rounding))
    assert (large.verdict == "worse") == (large.low > max(least, rounding))


def test_a_difference_by_rounding_only_is_not_significant() -> None:
    losses_W = np.linspace(1, 2, 500)
    for factor, margin, verdict in (
        (1 + 1e-7, 0, "not significant"),
        (1 - 1e-7, 0, "not significant"),
        (1 - 1e-7, 1e-9, "not significant"),  # nor with a small min_improvement
        (1 + 1e-4, 0, "worse"),
        (1 - 1e-4, 0, "better"),
    ):
        assert paired_difference(factor * losses_W, losses_W, block=1, min_improvement=margin).verdict == verdict


@pytest.mark.parametrize(("W", "block"), [(1, 1), (1, 5), (3, 2), (9, 5), (95, 48), (4, 100)])
def test_fewer_than_two_blocks_have_an_infinite_interval(W: int, block: int) -> None:
    losses = np.arange(1.0, W + 1)
    assert block_bootstrap(losses, block) == Interval(-math.inf, math.inf)
    assert paired_difference(losses, losses + 1, block) == (-1.0, -math.inf, math.inf, "not significant")


def test_two_blocks_have_a_finite_interval() -> None:
    for W, block in ((2, 1), (10, 5)):
        low, high = block_bootstrap(np.arange(float(W)), block)
        assert -math.inf < low < (W - 1) / 2 < high < math.inf


def test_losses_that_are_all_equal_have_an_interval_of_no_width() -> None:
    losses = np.full(50, 0.1)
    assert block_bootstrap(losses, 3) == Interval(0.1, 0.1)
    assert paired_difference(losses, losses, 3) == (0.0, 0.0, 0.0, "not significant")
    assert paired_difference(losses, losses * 2, 3).verdict == "better"  # by the same amount on every window


def test_the_draws_depend_on_the_seed_only() -> None:
    losses = random_losses(100)
    np.random.seed(1)
    first = block_bootstrap(losses, 4)
    np.random.seed(2)
    assert block_bootstrap(losses, 4) == first
    assert block_bootstrap(losses, 4, seed=1) != first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_are_accepted_and_floats_returned(dtype: torch.dtype) -> None:
    losses = torch.tensor(random_losses(60), dtype=dtype, requires_grad=True)
    found = paired_difference(losses, losses.flip(0), 3)
    assert found == paired_difference(losses.detach().double().numpy(), losses.detach().flip(0).double().numpy(), 3)
    assert [type(value) for value in found] == [float, float, float, str]


def test_block_length() -> None:
    for windows, horizon, expected in (
        (1, 1, 1), (2, 1, 2), (8, 1, 2), (9, 1, 3), (1000, 1, 10), (1001, 1, 11), (1000, 24, 24), (10**6, 96, 100),
    ):  # fmt: skip
        assert block_length(windows, horizon) == expected
    # the root of a cube is not rounded up
    assert [block_length(root**3) for root in range(1, 200)] == list(range(1, 200))


@pytest.mark.parametrize(
    ("losses", "settings", "parts"),
    [
        (np.ones(0), {}, ("(0,)", "one or more windows")),
        (np.ones((3, 2)), {}, ("(3, 2)", "one or more windows")),
        (np.array([0, 1, math.nan]), {}, ("window 2", "nan", "finite")),
        (torch.tensor([0, math.inf]), {}, ("window 1", "inf", "finite")),
        (np.ones(3), {"block": 0}, ("block", "0", "1 or more")),
        (np.ones(3), {"samples": 39}, ("samples", "39", "40 or more")),
    ],
)
def test_invalid_arguments_raise(losses: bootstrap.Losses, settings: dict[str, int], parts: tuple[str, ...]) -> None:
    arguments = {"block": 1, **settings}
    with refused(ValueError, *parts):
        block_bootstrap(losses, **arguments)
    with refused(ValueError, *parts):
        paired_difference(losses, losses, **arguments)


def test_limits_of_valid_arguments() -> None:
    assert block_bootstrap(np.arange(4.0), 1, samples=40).low < 1.5
    with refused(ValueError, "3", "4 windows"):
        paired_difference(np.ones(3), np.ones(4), 1)
