"""Back-propagation through time with a hand-derived gradient, in PyTorch's operations: for any device and dtype."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from lstm_models.nn.cells import LSTMState
from lstm_models.nn.kernels.reference import STANDARD_WEIGHTS, gradient, named_weights, reference_loop

# y' * grad for y = sigmoid(z) and y = tanh(z), computed from y and written into grad_input
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


def under_transform(*gradients: Tensor | None) -> bool:
    """Return whether a torch.func transform or forward-mode AD is active, or a gradient is batched by vmap."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or any(each is not None and torch._C._functorch.is_legacy_batchedtensor(each) for each in gradients)
    )


class LSTMFunction(torch.autograd.Function):
    """The loop over time with a hand-derived gradient by back-propagation through time.

    Forward, with the letters of cells.py, the pre-activations z_t = (zi, zf, zg, zo) of the gates, q_t = tanh(c_t) and
    m_t = o_t * q_t:

        z_t = W_ih x_t + b + W_hh h_{t-1}
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = m_t, or W_hr m_t with a projection

    Backward: dv is the derivative of the loss with respect to v along all paths; grad_h_t and grad_c_t are the incoming
    gradients of the two results. h_t enters the result and z_{t+1}; c_t enters the result, m_t (through q_t) and
    c_{t+1}. From the last step to the first:

        dh_t = grad_h_t + W_hh^T dz_{t+1}
        dm_t = dh_t, or W_hr^T dh_t
        dc_t = grad_c_t + f_{t+1} * dc_{t+1} + dm_t * o_t (1 - q_t^2)
        dzi_t = dc_t * g_t     i_t (1 - i_t)
        dzf_t = dc_t * c_{t-1} f_t (1 - f_t)
        dzg_t = dc_t * i_t     (1 - g_t^2)
        dzo_t = dm_t * q_t     o_t (1 - o_t)

    The factors to the right of dc_t and dm_t do not depend on the recursion: they are computed for all steps at once,
    before the loop. The remaining gradients follow from dz after the loop, each by one product over all steps:

        dx_t = W_ih^T dz_t          dh_0 = W_hh^T dz_1      dc_0 = f_1 * dc_1
        dW_ih = sum_t dz_t x_t^T    dW_hh = sum_t dz_t h_{t-1}^T    db = sum_t dz_t    dW_hr = sum_t dh_t m_t^T

    Internally the gates are in the order o, i, f, g: the three sigmoids are adjacent, and so are the three gates that
    dc_t multiplies; each group needs one operation.

    Saved for backward: the arguments, h and c of all steps, and the activated gates, (T, B, 4H). Higher derivatives
    (create_graph=True) and batched gradients are those of `reference_loop`.

    Source: Werbos 1990 for the method; Greff et al. 2016, section II B, for the cell's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TBD: Tensor,
        hidden_BP: Tensor,
        cell_BH: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_4H: Tensor | None,
        weight_hr: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return h and c of all steps."""
        arguments = (x_TBD, hidden_BP, cell_BH, weight_ih, weight_hh, bias_4H, weight_hr)
        T, B, _ = x_TBD.shape
        H, P = cell_BH.size(-1), hidden_BP.size(-1)
        weight_hh_P4H = _o_first(weight_hh).t().contiguous()
        gates_TB4H = F.linear(x_TBD, _o_first(weight_ih), None if bias_4H is None else _o_first(bias_4H))
        hidden_TBP, cell_TBH = x_TBD.new_empty(T, B, P), x_TBD.new_empty(T, B, H)
        q, m = torch.empty_like(cell_BH), torch.empty_like(cell_BH)
        per_step = (gates_TB4H, gates_TB4H[..., : 3 * H], *gates_TB4H.chunk(4, dim=-1), cell_TBH, hidden_TBP)
        for z_t, oif_t, o_t, i_t, f_t, g_t, c_t, h_t in zip(*(each.unbind(0) for each in per_step), strict=True):
            z_t.addmm_(hidden_BP, weight_hh_P4H)
            oif_t.sigmoid_()
            g_t.tanh_()
            torch.mul(f_t, cell_BH, out=c_t).addcmul_(i_t, g_t)
            torch.tanh(c_t, out=q)
            if weight_hr is None:
                torch.mul(o_t, q, out=h_t)
            else:
                torch.mm(torch.mul(o_t, q, out=m), weight_hr.t(), out=h_t)
            hidden_BP, cell_BH = h_t, c_t
        ctx.save_for_backward(*arguments, hidden_TBP, cell_TBH, gates_TB4H)
        ctx.set_materialize_grads(False)
        return hidden_TBP, cell_TBH

    @staticmethod
    def backward(ctx: Any, grad_h_TBP: Tensor | None, grad_c_TBH: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return dx, dh_0, dc_0, dW_ih, dW_hh, db and dW_hr."""
        *arguments, hidden_TBP, cell_TBH, gates_TB4H = ctx.saved_tensors
        # higher derivatives, or batched gradients
        if torch.is_grad_enabled() or under_transform(grad_h_TBP, grad_c_TBH):
            return gradient(_reference_forward, arguments, (grad_h_TBP, grad_c_TBH))
        _, _, cell_BH, _, weight_hh, _, weight_hr = arguments
        weight_hh_4HP = _o_first(weight_hh)
        # until the recursion has run, dz_TB4H holds the factors of dm_t and dc_t
        dz_TB4H, into_c_TBH, m_TBH = _step_factors(gates_TB4H, cell_TBH, cell_BH, weight_hr is not None)
        dh_TBP = (
            torch.zeros_like(hidden_TBP)
            if grad_h_TBP is None
            else grad_h_TBP.clone(memory_format=torch.contiguous_format)
        )
        dc_BH = torch.zeros_like(cell_BH)
        f_TBH = gates_TB4H.chunk(4, dim=-1)[2]
        _run_backward_steps(dz_TB4H, into_c_TBH, f_TBH, dh_TBP, dc_BH, grad_c_TBH, weight_hh_4HP, weight_hr)
        return _input_gradients(
            arguments, hidden_TBP, dz_TB4H, dh_TBP, dc_BH, m_TBH, weight_hh_4HP, ctx.needs_input_grad[0]
        )


def _step_factors(
    gates_TB4H: Tensor, cell_TBH: Tensor, cell_BH: Tensor, is_projected: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what does not depend on the recursion.

    Returns:
        The factors of dm_t and dc_t in dz_t, (T, B, 4H); o_t (1 - q_t^2), (T, B, H); and, with a projection, m_t,
        (T, B, H).
    """
    o, i, f, g = gates_TB4H.chunk(4, dim=-1)
    factors_TB4H = torch.empty_like(gates_TB4H)
    dzo, dzi, dzf, dzg = factors_TB4H.chunk(4, dim=-1)
    q_TBH = cell_TBH.tanh()
    m_TBH = o * q_TBH if is_projected else None
    sigmoid_backward(q_TBH, o, grad_input=dzo)
    sigmoid_backward(g, i, grad_input=dzi)
    sigmoid_backward(cell_BH, f[0], grad_input=dzf[0])
    sigmoid_backward(cell_TBH[:-1], f[1:], grad_input=dzf[1:])
    tanh_backward(i, g, grad_input=dzg)
    return factors_TB4H, tanh_backward(o, q_TBH, grad_input=q_TBH), m_TBH


def _run_backward_steps(
    dz_TB4H: Tensor,
    into_c_TBH: Tensor,
    f_TBH: Tensor,
    dh_TBP: Tensor,
    dc_BH: Tensor,
    grad_c_TBH: Tensor | None,
    weight_hh_4HP: Tensor,
    weight_hr: Tensor | None,
) -> None:
    """Turn the step factors into dz, grad_h into dh, and dc_BH into dc_0, in place, from the last step to the first."""
    T, B, H = f_TBH.shape
    dc_B1H = dc_BH.unsqueeze(1)
    grad_c = [None] * T if grad_c_TBH is None else grad_c_TBH.unbind(0)
    per_step = (dh_TBP, into_c_TBH, dz_TB4H, dz_TB4H[..., H:].view(T, B, 3, H), dz_TB4H[..., :H], f_TBH)
    dz_after = None
    for dh_t, into_c_t, dz_t, dz_ifg_t, dzo_t, f_t, grad_c_t in zip(
        *(reversed(each.unbind(0)) for each in per_step), reversed(grad_c), strict=True
    ):
        if dz_after is not None:
            dh_t.addmm_(dz_after, weight_hh_4HP)
        dm_t = dh_t if weight_hr is None else dh_t @ weight_hr
        if grad_c_t is not None:
            dc_BH.add_(grad_c_t)
        dc_BH.addcmul_(dm_t, into_c_t)
        dz_ifg_t.mul_(dc_B1H)
        dzo_t.mul_(dm_t)
        dc_BH.mul_(f_t)
        dz_after = dz_t


def _input_gradients(
    arguments: Sequence[Tensor | None],
    hidden_TBP: Tensor,
    dz_TB4H: Tensor,
    dh_TBP: Tensor,
    dc_BH: Tensor,
    m_TBH: Tensor | None,
    weight_hh_4HP: Tensor,
    needs_dx: bool,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the arguments of LSTMFunction, from dz, dh and dc_0."""
    x_TBD, hidden_BP, _, weight_ih, *_ = cast(Sequence[Tensor], arguments)
    dz_N4H = dz_TB4H.flatten(0, 1)
    dx = (dz_N4H @ _o_first(weight_ih)).view(x_TBD.shape) if needs_dx else None
    d_weight_ih = dz_N4H.t() @ x_TBD.flatten(0, 1)
    d_weight_hh = dz_TB4H[0].t() @ hidden_BP
    d_weight_hh.addmm_(dz_TB4H[1:].flatten(0, 1).t(), hidden_TBP[:-1].flatten(0, 1))
    d_bias = None if arguments[5] is None else _o_last(dz_N4H.sum(0))
    d_weight_hr = None if m_TBH is None else dh_TBP.flatten(0, 1).t() @ m_TBH.flatten(0, 1)
    dh_0 = dz_TB4H[0] @ weight_hh_4HP
    return dx, dh_0, dc_BH, _o_last(d_weight_ih), _o_last(d_weight_hh), d_bias, d_weight_hr


def _reference_forward(x: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor | None) -> LSTMState:
    return reference_loop(x, LSTMState(hidden, cell), named_weights(STANDARD_WEIGHTS, weights))


def _o_first(gates: Tensor) -> Tensor:
    """Reorder rows from i, f, g, o to o, i, f, g."""
    return gates.roll(gates.size(0) // 4, 0)


def _o_last(gates: Tensor) -> Tensor:
    """Reorder rows from o, i, f, g to i, f, g, o."""
    return gates.roll(-(gates.size(0) // 4), 0)
