"""Hand-built LSTM and nn.LSTM with the same weights, and everything that a call of either computes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_models import LSTM

# Tolerance relative to the tensor's largest value. Both modules sum the same products in another order; the measured
# differences are 3e-16 in float64 and 3e-6 in float32. A wrong gate differs by at least 1e-3.
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5}

Results = dict[str, Tensor | None]


def pair(
    input_size: int = 2, hidden_size: int = 3, *, dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[LSTM, nn.LSTM]:
    """Return modules of both kinds with the same weights."""
    reference = nn.LSTM(input_size, hidden_size, **settings, dtype=dtype)
    ours = LSTM(input_size, hidden_size, **settings, dtype=dtype)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def draw_state(module: LSTM | nn.LSTM, *batch: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Draw an initial state for a batch of this size, or without a size for one sequence."""
    K, dtype = module.num_layers * (1 + module.bidirectional), dtype or module.weight_ih_l0.dtype
    hidden = torch.randn(K, *batch, module.proj_size or module.hidden_size, dtype=dtype)
    return hidden.requires_grad_(), torch.randn(K, *batch, module.hidden_size, dtype=dtype).requires_grad_()


def weighted_sum(results: Iterable[Tensor]) -> Tensor:
    """Return a loss that multiplies every element of the results by a different factor."""
    real = [torch.view_as_real(each) if each.is_complex() else each for each in results]
    terms = [(each.double() * torch.arange(1.0, each.numel() + 1).sin().view(each.shape)).sum() for each in real]
    return torch.stack(terms).sum()


def results(
    module: nn.Module,
    x: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    *arguments: Any,
    pack: Callable[[Tensor], Tensor | PackedSequence] = lambda x: x,
    autocast: torch.dtype | None = None,
) -> Results:
    """Return outputs, states, and the gradients of `weighted_sum` for the input, the state and the weights."""
    module.zero_grad()
    x, *initial = (part.detach().requires_grad_(part.requires_grad) for part in (x, *(state or ())))
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        out, (hidden, cell) = module(pack(x), tuple(initial) or None, *arguments)
    computed: Results = {}
    if isinstance(out, PackedSequence):
        computed |= out._asdict()
        out = out.data
    weighted_sum((out, hidden, cell)).backward()
    computed |= {"out": out.detach(), "hidden": hidden.detach(), "cell": cell.detach()}
    arguments = dict(zip(("x", "h_0", "c_0"), (x, *initial), strict=False))
    return computed | {f"d{name}": value.grad for name, value in [*arguments.items(), *module.named_parameters()]}


def assert_close(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    """Compare within CLOSE of each tensor's largest value, but at least one rounding of 1, for sums that cancel out."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        if value is None or not value.is_floating_point():  # batch sizes and the order of sequences
            assert_identical({name: found[name]}, {name: value})
            continue
        largest = value.abs().max().item() if value.numel() else 0
        atol = max(CLOSE[value.dtype] * largest, torch.finfo(value.dtype).eps)
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def assert_identical(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    """Compare bitwise, including the types."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        ours = found[name]
        if value is None or ours is None:
            assert ours is value, name
            continue
        assert ours.dtype == value.dtype, name
        assert torch.equal(ours, value), name
