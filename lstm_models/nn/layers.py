"""Forward pass through all layers and directions of an LSTM. K is layers times directions, P the size of h_t."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from lstm_models.nn import validation
from lstm_models.nn.cells import Cell, LSTMState, Weights
from lstm_models.nn.kernels.dispatch import unroll
from lstm_models.nn.kernels.reference import Loop


def initial_states(
    hx: tuple[Tensor, Tensor] | None, x: Tensor, B: int, form: validation.Form, sizes: tuple[int, int, int]
) -> list[LSTMState]:
    """Return the K initial states, hidden (B, P) and cell (B, H).

    Args:
        hx: The state passed to the module, for one sequence without B; None for zeros.
        x: A tensor of the required type and device.
        B: The batch size, 1 for one sequence.
        form: The form of the input.
        sizes: K, P and H.
    """
    K, P, H = sizes
    if hx is None:
        hidden = x.new_zeros(B, P)
        return [LSTMState(hidden, hidden if P == H else x.new_zeros(B, H))] * K
    validation.check_state(hx, x, form, ((K, B, P), (K, B, H)))
    parts = (part.unsqueeze(1) if form == "one sequence" else part for part in hx)
    return [LSTMState(*each) for each in zip(*(part.unbind(0) for part in parts), strict=True)]


def run_layers(
    x: Tensor,
    initial: list[LSTMState],
    weights: Sequence[Weights],
    cell: Cell,
    *,
    dropout: float,
    bidirectional: bool,
    training: bool,
    lengths_B: Tensor | None,
    batch_sizes: Tensor | None,
    loop: Loop | None,
) -> tuple[Tensor, LSTMState]:
    """Run all layers and directions, each from its own initial state.

    Args:
        x: The input, (T, B, D); with batch_sizes the rows of a PackedSequence.
        initial: The K initial states, hidden (B, P) and cell (B, H).
        weights: The K sets of weights.
        cell: The equations of one time step.
        dropout: Probability of dropout between the layers.
        bidirectional: Whether each layer has a backward direction.
        training: Whether dropout and zoneout draw at random.
        lengths_B: Sequence lengths of a padded batch.
        batch_sizes: Batch sizes of a PackedSequence.
        loop: The loop over time to run instead of the one that `unroll` selects.

    Returns:
        The outputs of the last layer, in the form of x; and the state of each layer and direction after its last step,
        hidden (K, B, P) and cell (K, B, H).
    """
    device = x.device.type
    dtype = _autocast_dtype(device)
    if dtype is not None:  # cast once for the whole loop, as nn.LSTM's kernels do, instead of in each product
        x, initial = _cast(x, dtype), [LSTMState(*(_cast(part, dtype) for part in state)) for state in initial]
        weights = [{kind: _cast(value, dtype) for kind, value in each.items()} for each in weights]

    directions = 2 if bidirectional else 1
    last: list[LSTMState] = []
    with nullcontext() if dtype is None else torch.autocast(device, enabled=False):
        for layer in range(len(weights) // directions):
            if layer > 0 and dropout > 0 and training:
                x = F.dropout(x.contiguous(), dropout)  # the draws follow the memory layout of x
            results = []
            for direction in range(directions):
                k = layer * directions + direction
                result, after = unroll(
                    x, initial[k], weights[k], cell, training=training, backwards=direction == 1,
                    batch_sizes=batch_sizes, lengths_B=lengths_B, loop=loop,
                )  # fmt: skip
                results.append(result)
                last.append(after)
            x = torch.cat(results, -1) if bidirectional else results[0]
    return x, last[0] if len(last) == 1 else LSTMState(*(torch.cat(parts) for parts in zip(*last, strict=True)))


def _autocast_dtype(device: str) -> torch.dtype | None:
    """Return the type to which autocast casts on this kind of device; None if it is disabled."""
    enabled = (
        torch._C._is_any_autocast_enabled()
        and torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
    )
    return torch.get_autocast_dtype(device) if enabled else None


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast as autocast does, which leaves float64 unchanged."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)
