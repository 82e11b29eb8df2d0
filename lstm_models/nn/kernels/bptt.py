"""Back-propagation through time, derived by hand, in PyTorch's operations: on any device, in any type."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from lstm_models.nn.cells import LSTMState
from lstm_models.nn.kernels.reference import STANDARD_WEIGHTS, gradient, named_weights, reference_loop

# y' * grad for y = sigmoid(z) and y = tanh(z), given y; written into grad_input
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


def under_transform(*gradients: Tensor | None) -> bool:
    """Whether one of torch.func's transforms or forward mode is at work, or one of these holds a batch of gradients."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or any(each is not None and torch._C._functorch.is_legacy_batchedtensor(each) for each in gradients)
    )


class LSTMFunction(torch.autograd.Function):
    """The loop with its gradient by back-propagation through time, derived by hand.

    Forward, with the letters of cells.py, the gates' sums before their activation called z_t = (zi, zf, zg, zo), and
    q_t = tanh(c_t), m_t = o_t * q_t:

        z_t = W_ih x_t + b + W_hh h_{t-1}
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = m_t, or W_hr m_t where there is a projection

    Backward: write dv for the derivative of the loss with respect to v along all paths, and out_t, state_t for what
    comes from outside, that is, for the gradients of the two results. h_t goes into the result, and into z_{t+1}; c_t
    goes into the result, into m_t through q_t, and into c_{t+1}. From the last step back to the first:

        dh_t = out_t + W_hh^T dz_{t+1}
        dm_t = dh_t, or W_hr^T dh_t
        dc_t = state_t + f_{t+1} * dc_{t+1} + dm_t * o_t (1 - q_t^2)
        dzi_t = dc_t * g_t     i_t (1 - i_t)
        dzf_t = dc_t * c_{t-1} f_t (1 - f_t)
        dzg_t = dc_t * i_t     (1 - g_t^2)
        dzo_t = dm_t * q_t     o_t (1 - o_t)

    What stands to the right of dc_t and dm_t does not depend on the recursion: it is computed for all steps at once,
    before the loop. What dz leads to does not feed back: it follows after the loop, in one product over all steps each:

        dx_t = W_ih^T dz_t          dh_0 = W_hh^T dz_1      dc_0 = f_1 * dc_1
        dW_ih = sum_t dz_t x_t^T    dW_hh = sum_t dz_t h_{t-1}^T    db = sum_t dz_t    dW_hr = sum_t dh_t m_t^T

    Inside, the gates stand in the order o, i, f, g: so the three sigmoids lie side by side, and so do the three gates
    that dc_t reaches; each is one operation.

    Saved between the two: the arguments, h and c of all steps, and the activated gates, (T, B, 4H). The derivative of
    this gradient (create_graph=True), and many gradients at once, are those of `plain_loop`.

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
        """h and c of all steps."""
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
    def backward(ctx: Any, out_TBP: Tensor | None, state_TBH: Tensor | None) -> tuple[Tensor | None, ...]:
        """dx, dh_0, dc_0, dW_ih, dW_hh, db and dW_hr."""
        *arguments, hidden_TBP, cell_TBH, gates_TB4H = ctx.saved_tensors
        if torch.is_grad_enabled() or under_transform(out_TBP, state_TBH):  # somebody wants its derivative, or many
            return gradient(_reference_forward, arguments, (out_TBP, state_TBH))
        x_TBD, hidden_BP, cell_BH, weight_ih, weight_hh, bias_4H, weight_hr = arguments
        T, B, H = cell_TBH.shape
        weight_hh_4HP = _o_first(weight_hh)

        # what does not depend on the recursion, in the place where dz will be
        o, i, f, g = gates_TB4H.chunk(4, dim=-1)
        dz_TB4H = torch.empty_like(gates_TB4H)
        dzo, dzi, dzf, dzg = dz_TB4H.chunk(4, dim=-1)
        q_TBH = cell_TBH.tanh()
        m_TBH = None if weight_hr is None else o * q_TBH
        sigmoid_backward(q_TBH, o, grad_input=dzo)
        sigmoid_backward(g, i, grad_input=dzi)
        sigmoid_backward(cell_BH, f[0], grad_input=dzf[0])
        sigmoid_backward(cell_TBH[:-1], f[1:], grad_input=dzf[1:])
        tanh_backward(i, g, grad_input=dzg)
        into_c = tanh_backward(o, q_TBH, grad_input=q_TBH)

        # the recursion, from the last step back to the first
        dh_TBP = (
            torch.zeros_like(hidden_TBP) if out_TBP is None else out_TBP.clone(memory_format=torch.contiguous_format)
        )
        dc_BH = torch.zeros_like(cell_BH)
        dc_B1H = dc_BH.unsqueeze(1)
        state = [None] * T if state_TBH is None else state_TBH.unbind(0)
        per_step = (dh_TBP, into_c, dz_TB4H, dz_TB4H[..., H:].view(T, B, 3, H), dzo, f)
        dz_after = None
        for dh_t, into_c_t, dz_t, dz_ifg_t, dzo_t, f_t, state_t in zip(
            *(reversed(each.unbind(0)) for each in per_step), reversed(state), strict=True
        ):
            if dz_after is not None:
                dh_t.addmm_(dz_after, weight_hh_4HP)
            dm_t = dh_t if weight_hr is None else dh_t @ weight_hr
            if state_t is not None:
                dc_BH.add_(state_t)
            dc_BH.addcmul_(dm_t, into_c_t)
            dz_ifg_t.mul_(dc_B1H)
            dzo_t.mul_(dm_t)
            dc_BH.mul_(f_t)
            dz_after = dz_t

        # what follows from dz
        dz_N4H = dz_TB4H.flatten(0, 1)
        dx = (dz_N4H @ _o_first(weight_ih)).view(x_TBD.shape) if ctx.needs_input_grad[0] else None
        d_weight_ih = dz_N4H.t() @ x_TBD.flatten(0, 1)
        d_weight_hh = dz_TB4H[0].t() @ hidden_BP
        d_weight_hh.addmm_(dz_TB4H[1:].flatten(0, 1).t(), hidden_TBP[:-1].flatten(0, 1))
        d_bias = None if bias_4H is None else _o_last(dz_N4H.sum(0))
        d_weight_hr = None if m_TBH is None else dh_TBP.flatten(0, 1).t() @ m_TBH.flatten(0, 1)
        dh_0 = dz_TB4H[0] @ weight_hh_4HP
        return dx, dh_0, dc_BH, _o_last(d_weight_ih), _o_last(d_weight_hh), d_bias, d_weight_hr


def _reference_forward(x: Tensor, hidden: Tensor, cell: Tensor, *weights: Tensor | None) -> LSTMState:
    return reference_loop(x, LSTMState(hidden, cell), named_weights(STANDARD_WEIGHTS, weights))


def _o_first(gates: Tensor) -> Tensor:
    """Rows in the order i, f, g, o to o, i, f, g."""
    return gates.roll(gates.size(0) // 4, 0)


def _o_last(gates: Tensor) -> Tensor:
    """And back."""
    return gates.roll(-(gates.size(0) // 4), 0)
