"""The native loop over time: as exact as nn.LSTM, the same bits however it is called, and never where it can't."""

import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import lstm_parity
from helpers.errors import names_all
from helpers.lstm_parity import assert_identical, draw_state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode

import lstm_models
from lstm_models import LSTM
from lstm_models.nn.cells import LSTMState
from lstm_models.nn.kernels import native
from lstm_models.nn.kernels.dispatch import unroll
from lstm_models.nn.kernels.reference import reference_loop

is_native = pytest.mark.skipif(native.library().code is None, reason=native.backend())


def test_where_there_is_a_compiler_the_native_code_runs() -> None:
    if native.BACKEND_VARIABLE in os.environ:
        assert lstm_models.backend() == f"python: {native.BACKEND_VARIABLE}={os.environ[native.BACKEND_VARIABLE]}"
    elif shutil.which("g++") and (capability := torch.backends.cpu.get_cpu_capability()) in native.INSTRUCTION_SETS:
        assert lstm_models.backend() == f"native {native.INSTRUCTION_SETS[capability]}"
    elif not list(native.LIBRARY_DIR.glob("_native_*.so")):
        assert lstm_models.backend().startswith("python: ")


def test_without_the_library_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LIBRARY_DIR", tmp_path)
    reasons = {}
    for switch, capability in (("python", "AVX2"), ("native", "DEFAULT"), ("native", "AVX2"), ("native", "AVX512")):
        monkeypatch.setenv(native.BACKEND_VARIABLE, switch)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)  # noqa: B023
        name, *code = native.library.__wrapped__()
        assert code == [None, None]
        assert name.startswith("python: ")
        reasons[switch, capability] = name
    assert reasons["python", "AVX2"] == "python: LSTM_FLOWS_BACKEND=python"
    assert names_all(reasons["native", "DEFAULT"], "default")
    assert names_all(reasons["native", "AVX2"], "_native_avx2", "installation")
    assert names_all(reasons["native", "AVX512"], "_native_avx512", "installation")


@is_native
def test_a_library_that_is_not_ours_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = native.backend().removeprefix("native ")
    path = tmp_path / f"_native_{name}.so"
    (ours,) = native.LIBRARY_DIR.glob(f"_native_{name}.*so")
    monkeypatch.setattr(native, "LIBRARY_DIR", tmp_path)
    path.write_bytes(b"")
    refused = native.library.__wrapped__()
    assert names_all(refused.name, "python: ", path, "too short")
    assert refused.code is None
    path.unlink()
    shutil.copy(ours, path)
    assert native.library.__wrapped__().name == f"native {name}"
    monkeypatch.setattr(native, "VERSION", 0)
    refused = native.library.__wrapped__()
    assert names_all(refused.name, "python: ", path.name, "version", "install")
    assert refused.code is None


@is_native
def test_it_has_pytorchs_threads() -> None:
    assert native.library().parallel is not None


# ---- as exact as nn.LSTM
class Case(NamedTuple):
    T: int = 5
    B: int = 3
    D: int = 2
    H: int = 3
    layers: int = 1
    bidirectional: bool = False
    batch_first: bool = False
    bias: bool = True
    packed: bool = False
    state: bool = True
    frozen: bool = False  # whether the input wants no gradient
    scale: float = 1.0  # of the input: at 30 most gates are shut or open
    seed: int = 0


CASES = st.builds(
    Case,
    T=st.integers(1, 40),
    B=st.integers(1, 20),
    D=st.integers(1, 70),
    H=st.integers(1, 70),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    packed=st.booleans(),
    state=st.booleans(),
    frozen=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)


def new(case: Case, dtype: torch.dtype = torch.float32) -> nn.LSTM:
    torch.manual_seed(case.seed)
    module = nn.LSTM(
        case.D, case.H, case.layers, bias=case.bias, bidirectional=case.bidirectional, batch_first=case.batch_first
    )
    return module.to(dtype)


def results(case: Case, module: LSTM | nn.LSTM) -> dict[str, Tensor]:
    """What a call returns, and all gradients; from the same numbers each time."""
    torch.manual_seed(case.seed + 1)
    x = torch.randn(case.T, case.B, case.D) * case.scale
    x = x.transpose(0, 1).contiguous() if case.batch_first else x
    lengths = torch.randint(1, case.T + 1, (case.B,))
    state = draw_state(module, case.B, dtype=torch.float32) if case.state else None

    def pack(x: Tensor) -> Tensor | PackedSequence:
        return pack_padded_sequence(x, lengths, case.batch_first, enforce_sorted=False) if case.packed else x

    dtype = module.weight_ih_l0.dtype
    given = [part.detach().to(dtype).requires_grad_() for part in (x, *(state or ()))]
    given[0].requires_grad_(not case.frozen)
    found = lstm_parity.results(module, given[0], tuple(given[1:]) or None, pack=pack)
    return {name: value for name, value in found.items() if value is not None and value.is_floating_point()}


def assert_as_exact(case: Case) -> None:
    """At most three times as far from float64 as nn.LSTM is, in the root of the mean square.

    nn.LSTM may be right by chance, so an error of four units in the last place of the largest number always passes: of
    the three numbers that a gradient can consist of, one rounding more or less is a factor. And where the input is
    large, so does what a rounding of the gates' sums makes: an error as large in results; in gradients it is multiplied
    by the input, and summed over steps and sequences.
    """
    of_results = 2**-24 * case.scale * case.D**0.5 if case.scale > 1 else 0.0
    of_gradients = of_results * case.scale * (case.T * case.B) ** 0.5
    builtin, exact = new(case), new(case, torch.float64)
    expected, its = results(case, exact), results(case, builtin)
    for name, own in results(case, LSTM.from_builtin(builtin)).items():
        size = expected[name].square().mean().sqrt().item()
        error, allowed = ((each - expected[name]).square().mean().sqrt().item() for each in (own, its[name]))
        largest = expected[name].abs().max().item()
        floor = 2**-21 * largest + (of_gradients if name[0] == "d" and name != "data" else of_results)
        assert error <= 3 * allowed + floor, f"{name}: {error:.1e} and not {allowed:.1e} of {size:.1e}"


@is_native
@given(CASES)
def test_it_is_as_exact_as_the_built_in_one(case: Case) -> None:
    assert_as_exact(case)


@is_native
@pytest.mark.parametrize(
    "case",
    [
        Case(T=3, B=4, D=5, H=700),
        Case(T=3, B=4, D=2048, H=64),
        Case(T=2, B=4096, D=3, H=5),
        Case(T=2_000, B=1, D=3, H=4),
        Case(T=30, B=70, D=17, H=129, bidirectional=True, layers=2, packed=True),
        Case(T=1, B=1, D=1, H=1),
    ],
    ids=str,
)
def test_it_is_as_exact_at_the_ends_of_its_range(case: Case) -> None:
    assert_as_exact(case)


# ---- the same bits
@is_native
@settings(max_examples=15)  # on a busy machine, threads that wait for each other take most of the time
@given(CASES, st.integers(2, 9))
def test_no_number_depends_on_the_threads(case: Case, number: int) -> None:
    module, before = LSTM.from_builtin(new(case)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = results(case, module)
        torch.set_num_threads(number)
        assert_identical(results(case, module), expected)
        assert_identical(results(case, module), expected)  # and from run to run
    finally:
        torch.set_num_threads(before)


@is_native
@given(CASES)
def test_a_call_without_gradients_returns_what_one_with_them_returns(case: Case) -> None:
    module = LSTM.from_builtin(new(case))
    x = torch.randn((case.B, case.T, case.D) if case.batch_first else (case.T, case.B, case.D))
    out, state = module(x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            again, state_again = module(x)
        assert torch.equal(out, again)
        assert all(map(torch.equal, state, state_again))


@is_native
@given(CASES)
def test_a_sequence_has_the_same_result_alone_and_in_a_packed_batch(case: Case) -> None:
    """Whoever its neighbours are, wherever it lies: nothing is padded, nothing reads another's row."""
    module = LSTM.from_builtin(new(case._replace(batch_first=False)))
    lengths = torch.randint(1, case.T + 1, (case.B,))
    x = torch.randn(case.T, case.B, case.D)
    out, (hidden, cell) = module(pack_padded_sequence(x, lengths, enforce_sorted=False))
    out_TBH, _ = pad_packed_sequence(out)
    for b, length in enumerate(lengths.tolist()):
        alone, (hidden_K, cell_K) = module(x[:length, b])
        assert torch.equal(out_TBH[:length, b], alone)
        assert torch.equal(hidden[:, b], hidden_K)
        assert torch.equal(cell[:, b], cell_K)


@is_native
@pytest.mark.parametrize("layout", ["batch first", "every other step", "expanded", "features apart"])
def test_however_the_input_lies_in_memory(layout: str) -> None:
    torch.manual_seed(0)
    module, x = LSTM(5, 20), torch.randn(7, 4, 5)
    given = {
        "batch first": x.transpose(0, 1).contiguous().transpose(0, 1),
        "every other step": torch.stack([x, x], 1).flatten(0, 1)[::2],
        "expanded": x[:, :1].expand(-1, 4, -1),
        "features apart": x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    }[layout]
    expected = x[:, :1].repeat(1, 4, 1) if layout == "expanded" else x
    found, wanted = ([out, *torch.autograd.grad(out.cos().sum(), value)] for value in (given, expected)
                     for out in [module(value.requires_grad_())[0]])  # fmt: skip
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("batch_first", [False, True])
def test_what_comes_back_is_ones_own(batch_first: bool) -> None:
    """Contiguous, changed in place at will, and with no more behind it than it shows."""
    module = LSTM(5, 20, batch_first=batch_first)
    for x in (torch.randn(4, 7, 5), torch.randn(7, 4, 5).transpose(0, 1)):
        out, state = module(x)
        for part in state:
            assert part.is_contiguous()
            assert part.untyped_storage().nbytes() == 4 * part.numel()
            part.detach().mul_(2)
        out.mul_(2)
    out, _ = LSTM(5, 20)(torch.randn(4, 7, 5).transpose(0, 1))
    assert out.is_contiguous()


@is_native
def test_nothing_is_read_that_was_not_written() -> None:
    """PyTorch fills new memory with NaN where algorithms are to be deterministic: none of it comes out."""
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3)
    packed = pack_padded_sequence(x, torch.tensor([7, 6, 6, 2, 1]))
    for size in (1, 15, 16, 20):
        module = LSTM(3, size, num_layers=2, bidirectional=True)
        for batch in (x, packed):
            before = _all_of(module, batch)
            torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms imports the compiler
            try:
                after = _all_of(module, batch)
            finally:
                torch.set_deterministic_debug_mode("default")
            assert all(map(torch.equal, after, before))
            assert all(value.isfinite().all() for value in after)


def _all_of(module: LSTM, batch: Tensor | PackedSequence) -> list[Tensor]:
    out, state = module(batch)
    out = out.data if isinstance(out, PackedSequence) else out
    return [out, *state, *torch.autograd.grad(out.square().sum() + state[1].sum(), list(module.parameters()))]


# ---- what numbers can be
@is_native
def test_saturated_gates_are_saturated() -> None:
    """One unit, no bias, weights 1: the gates are functions of x alone."""
    x = torch.tensor([0.0, -0.0, 1e-8, 5.0, 20.0, 87.5, 88.5, 89.0, 104.0, 1e4, 3e38, torch.inf])
    x = torch.cat([x, -x]).unsqueeze(1)
    weights = {"weight_ih": torch.ones(4, 1), "weight_hh": torch.zeros(4, 1)}
    zeros = torch.zeros(len(x), 1)
    _, after = unroll(x.unsqueeze(0), LSTMState(zeros, zeros), weights)
    exact = x.double()
    expected = exact.sigmoid() * exact.tanh()
    torch.testing.assert_close(after.cell[0].double(), expected, rtol=4e-7, atol=1e-37)
    torch.testing.assert_close(after.hidden[0].double(), exact.sigmoid() * expected.tanh(), rtol=6e-7, atol=1e-37)


@is_native
@pytest.mark.parametrize("where", ["x", "h_0", "c_0", "weight"])
def test_nan_spreads_as_far_as_in_the_built_in_one(where: str) -> None:
    torch.manual_seed(0)
    builtin, x = nn.LSTM(3, 20), torch.randn(6, 5, 3)
    state = torch.randn(1, 5, 20), torch.randn(1, 5, 20)
    {"x": x[2], "h_0": state[0][0], "c_0": state[1][0], "weight": builtin.weight_hh_l0.data}[where][1, 2] = torch.nan
    x.requires_grad_()
    found, expected = [], []
    for module, into in ((LSTM.from_builtin(builtin), found), (builtin, expected)):
        out, after = module(x, state)
        into += [out, *after, *torch.autograd.grad(out.sum(), x)]
    for own, its in zip(found, expected, strict=True):
        assert torch.equal(own.isnan(), its.isnan())
    assert any(its.isnan().any() for its in expected)


# ---- one rule
class Sub(Tensor):
    pass


def takes(**changes: Any) -> bool:
    given: dict[str, Any] = {
        "x": torch.randn(3, 2, 1), "hidden": torch.zeros(2, 4), "cell": torch.zeros(2, 4),
        "weight_ih": nn.Parameter(torch.randn(16, 1)), "weight_hh": torch.randn(16, 4), "bias_ih": torch.zeros(16),
    }  # fmt: skip
    given |= changes
    return native.supports(given.pop("x"), LSTMState(given.pop("hidden"), given.pop("cell")), given)


@is_native
def test_what_it_takes() -> None:
    assert takes()
    assert not takes(x=torch.randn(3, 2, 1, dtype=torch.float64))
    assert not takes(x=torch.randn(3, 2, 1, dtype=torch.bfloat16))
    assert not takes(weight_hr=torch.randn(3, 4))
    assert not takes(x=torch.randn(3, 0, 1))
    assert not takes(x=torch.randn(3, 2, 1, device="meta"))
    assert not takes(x=torch.randn(3, 2, 1).as_subclass(Sub))
    assert not takes(weight_ih=torch.randn(16, 1).to_sparse())
    assert not takes(x=torch.complex(torch.ones(3, 2, 1), torch.ones(3, 2, 1)).conj().imag)
    assert not takes(weight_ih=torch.randn(16, 2))
    assert not takes(weight_hh=torch.randn(16, 5))
    assert takes(bias_hh=torch.zeros(16))
    assert not takes(bias_hh=torch.zeros(4))
    assert not takes(hidden=torch.zeros(1, 4))
    assert not takes(x=torch.randn(3, 3, 1))
    with FlopCounterMode(display=False):
        assert not takes()


@pytest.mark.parametrize("shape", [(16, 1), (16, 3), (15, 2)])
def test_a_weight_that_does_not_fit_is_refused(shape: tuple[int, int]) -> None:
    module, x = LSTM(2, 4), torch.randn(3, 5, 2)
    with pytest.raises(RuntimeError):
        torch.func.functional_call(module, {"weight_ih_l0": torch.randn(shape)}, (x,))


def test_a_gradient_with_the_negative_bit_is_taken_at_its_value() -> None:
    for hidden_size in (1, 4):
        module = LSTM(2, hidden_size)
        out, _ = module(torch.randn(3, 5, 2))
        minus = torch.complex(torch.ones_like(out), torch.ones_like(out)).conj().imag
        assert minus.is_neg()
        found = torch.autograd.grad(out, module.weight_ih_l0, minus, retain_graph=True)
        assert torch.equal(*found, *torch.autograd.grad(out, module.weight_ih_l0, -torch.ones_like(out)))


def test_batch_sizes_may_be_of_any_integer_type() -> None:
    module, data = LSTM(2, 4), torch.randn(3, 2)
    found, expected = (
        module(PackedSequence(data, torch.tensor([2, 1], dtype=dtype)))[0].data for dtype in (torch.int32, torch.int64)
    )
    assert torch.equal(found, expected)


@is_native
@pytest.mark.parametrize("into", ["y", "h_n", "c_n", "all"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    "shorter", [{}, {"batch_sizes": torch.tensor([4, 4, 2, 1, 1])}, {"lengths_B": torch.tensor([2, 5, 1, 3])}], ids=str
)
def test_results_gradients_and_theirs_and_many_at_once_are_the_plain_loops(
    shorter: dict[str, Tensor], backwards: bool, into: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(*((12,) if "batch_sizes" in shorter else (5, 4)), 3, requires_grad=True)
    state = LSTMState(*(torch.randn(4, 6, requires_grad=True) for _ in range(2)))
    weights = {"weight_ih": torch.randn(24, 3), "weight_hh": torch.randn(24, 6) / 3, "bias_ih": torch.randn(24)}
    weights |= {"bias_hh": torch.randn(24)} if backwards else {}
    given = [x, *state, *(value.requires_grad_() for value in weights.values())]
    found: list[list[Tensor]] = []
    for loop in (None, reference_loop):
        assert native.supports(x, state, weights)
        y, (h_n, c_n) = unroll(x, state, weights, backwards=backwards, loop=loop, **shorter)
        if "lengths_B" in shorter:  # what lies behind a sequence is nobody's
            y = y * (torch.arange(5).unsqueeze(1) < shorter["lengths_B"]).unsqueeze(-1)
        results = {"y": [y], "h_n": [h_n], "c_n": [c_n], "all": [y, h_n, c_n]}[into]
        loss = torch.stack([(each.square() + each.cos()).sum() for each in results]).sum()
        plainly = torch.autograd.grad(loss, given, retain_graph=True)
        first = torch.autograd.grad(loss, given, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), given, retain_graph=True)
        directions = [torch.stack([torch.ones_like(each), each.detach()]) for each in results]
        many = torch.autograd.grad(results, given, directions, is_grads_batched=True)
        found.append([*results, *plainly, *first, *second, *many])
    for own, plain in zip(*found, strict=True):  # float32, and products summed in another order
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


@is_native
@pytest.mark.parametrize("sizes", [[2, 3], [2, 0], [3, 3], [2], [2, 1, 1]])
def test_batch_sizes_of_no_packed_sequence_are_refused(sizes: list[int]) -> None:
    data = torch.randn(5, 3)
    zeros = torch.zeros(sizes[0], 4)
    weights = {"weight_ih": torch.randn(16, 3), "weight_hh": torch.randn(16, 4)}
    with pytest.raises(RuntimeError) as caught:
        unroll(data, LSTMState(zeros, zeros), weights, batch_sizes=torch.tensor(sizes))
    assert names_all(caught.value, "PackedSequence", "5 rows", sizes)


@is_native
def test_saved_tensors_may_be_kept_elsewhere() -> None:
    torch.manual_seed(0)
    module, x = LSTM(3, 20), torch.randn(6, 5, 3)
    expected = torch.autograd.grad(module(x)[0].cos().sum(), list(module.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved.numpy().copy(), torch.from_numpy):
        loss = module(x)[0].cos().sum()
    for _ in range(2):
        found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        assert all(map(torch.equal, found, expected))


# ---- beside others
@is_native
def test_two_threads_train_at_once() -> None:
    torch.manual_seed(0)
    module, x = LSTM(5, 40), torch.randn(50, 8, 5)
    barrier, found = threading.Barrier(2), []

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(module(x)[0].cos().sum(), list(module.parameters()))

    def train() -> None:
        barrier.wait()
        found.extend(gradients() for _ in range(20))

    expected = gradients()
    both = [threading.Thread(target=train) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(found) == 40
    assert all(torch.equal(own, its) for each in found for own, its in zip(each, expected, strict=True))


@is_native
def test_other_threads_run_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter is let go: nobody else gets it by waiting, for it would be taken away after 1,000 s only."""
    code, counted, gained, ended = native.code(), [0], [], threading.Event()

    class Watched:
        def forward(self, *given: Any) -> Any:
            before = counted[0]
            done = code.forward(*given)
            gained.append(counted[0] - before)
            return done

    def count() -> None:
        while not ended.is_set():
            counted[0] += 1
            time.sleep(0)

    monkeypatch.setattr(native, "code", Watched)
    interval, beside = sys.getswitchinterval(), threading.Thread(target=count)
    module, x = LSTM(64, 128), torch.randn(100, 64, 64)
    try:
        sys.setswitchinterval(1000)
        beside.start()
        with torch.no_grad():
            for _ in range(50):
                module(x)
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        beside.join()
    assert max(gained) > 0


@is_native
@pytest.mark.parametrize("shape", [(2**40, 2**20, 1), (3, 2**61, 1), (1, 2**45, 1)], ids=str)
@pytest.mark.parametrize("hidden_size", [1, 7])
def test_sizes_that_no_memory_holds_are_refused(shape: tuple[int, ...], hidden_size: int) -> None:
    with pytest.raises(RuntimeError, match=r"overflowed|can't allocate memory"):
        LSTM(1, hidden_size)(torch.zeros(1, 1, 1).expand(shape))
