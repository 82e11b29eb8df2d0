"""The hand-built LSTM and nn.LSTM with the same weights, and all that a call of either computes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lstm_models import LSTM

# Of the tensor's largest value. Both sum the same products in another order; 3e-16 was measured in float64,
# 3e-6 in float32. A wrong gate is off by 1e-3 at least.
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5}

Results = dict[str, Tensor | None]


def pair(
    input_size: int = 2, hidden_size: int = 3, *, dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[LSTM, nn.LSTM]:
    """Both kinds with the same weights."""
    reference = nn.LSTM(input_size, hidden_size, **settings, dtype=dtype)
    ours = LSTM(input_size, hidden_size, **settings, dtype=dtype)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def draw_state(module: LSTM | nn.LSTM, *batch: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Draw a state for a batch of this size, or without a size for one sequence."""
    K, dtype = module.num_layers * (1 + module.bidirectional), dtype or module.weight_ih_l0.dtype
    hidden = torch.randn(K, *batch, module.proj_size or module.hidden_size, dtype=dtype)
    return hidden.requires_grad_(), torch.randn(K, *batch, module.hidden_size, dtype=dtype).requires_grad_()


def weighed(results: Iterable[Tensor]) -> Tensor:
    """A loss that weighs every number of the results by a factor of its own."""
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
    """Outputs, states, and the gradients of `weighed` for whatever of the input, the state and the weights has one."""
    module.zero_grad()
    x, *given_state = (part.detach().requires_grad_(part.requires_grad) for part in (x, *(state or ())))
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        out, (hidden, cell) = module(pack(x), tuple(given_state) or None, *arguments)
    found: Results = {}
    if isinstance(out, PackedSequence):
        found |= out._asdict()
        out = out.data
    weighed((out, hidden, cell)).backward()
    found |= {"out": out.detach(), "hidden": hidden.detach(), "cell": cell.detach()}
    given = dict(zip(("x", "h_0", "c_0"), (x, *given_state), strict=False))
    return found | {f"d{name}": value.grad for name, value in [*given.items(), *module.named_parameters()]}


def assert_close(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    """Within CLOSE of each tensor's largest value, or one rounding of 1, where summands of that size cancel out."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        if value is None or not value.is_floating_point():  # batch sizes and the order of sequences
            assert_identical({name: found[name]}, {name: value})
            continue
        largest = value.abs().max().item() if value.numel() else 0
        atol = max(CLOSE[value.dtype] * largest, torch.finfo(value.dtype).eps)
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def assert_identical(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    """To the bit, the types too."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        own = found[name]
        if value is None or own is None:
            assert own is value, name
            continue
        assert own.dtype == value.dtype, name
        assert torch.equal(own, value), name
