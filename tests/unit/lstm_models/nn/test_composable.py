"""Composability with PyTorch: transforms of torch.func, their compositions, forward mode, derivatives of any order.

The reference is the same module with the reference loop, which PyTorch differentiates automatically, and nn.LSTM where
it supports the transform: in float64 on the CPU, where it is no single operator.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)
from torch.utils.checkpoint import checkpoint

from lstm_models import LSTM
from lstm_models.nn import layers
from lstm_models.nn.kernels.dispatch import unroll
from lstm_models.nn.kernels.reference import reference_loop

# a warning of PyTorch's forward mode at its first use
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

# Tolerance relative to the tensor's largest value, but at least to 1. Each transform sums the same products in float64
# in another order: at most 1e-14 was observed. A wrong derivative differs by at least 1e-3.
CLOSE = 1e-12
T, B, D, H = 3, 2, 2, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True},
    "no bias": {"bias": False, "bidirectional": True},
}

Function = Callable[[Tensor], Tensor]
Transform = Callable[[Function], Function]
Weights = dict[str, Tensor]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def make(settings: dict[str, Any], seed: int = 0) -> tuple[LSTM, Weights, Tensor]:
    """Return a module, its detached weights, and an input."""
    torch.manual_seed(seed)
    module = LSTM(D, H, **settings).double()
    weights = {name: value.detach() for name, value in module.named_parameters()}
    return module, weights, drawn(*(B, T, D) if module.batch_first else (T, B, D))


def everything(module: nn.Module, weights: Weights, x: Tensor, *given: Any) -> Tensor:
    """Return outputs and both states as one vector."""
    out, (hidden, cell) = functional_call(module, weights, (x, *given))
    return torch.cat([out.flatten(), hidden.flatten(), cell.flatten()])


def loss(module: nn.Module, weights: Weights, x: Tensor, *given: Any) -> Tensor:
    return everything(module, weights, x, *given).square().sum()


@pytest.fixture
def with_reference_loop() -> Callable[[Callable[[], Any]], Any]:
    """Return a function that calls a function while the module runs the reference loop."""

    def call(function: Callable[[], Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, "unroll", partial(unroll, loop=reference_loop))
            return function()

    return call


def assert_close(found: Any, expected: Any) -> None:
    """Compare tensors, or dicts and sequences of them."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if not isinstance(expected, Tensor):
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs)
        return
    assert not torch.equal(expected, torch.zeros_like(expected)), (
        "the expected tensor is zero: the comparison would be meaningless"
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE * max(expected.abs().max().item(), 1.0))


# ---- single and nested transforms


def vmapped(function: Function) -> Function:
    return lambda x: vmap(function)(torch.stack([x, x.sin()])).sum(0)


def vmapped_over_dim_1(function: Function) -> Function:
    """Map over another dimension of both input and output."""
    return lambda x: vmap(function, 1, 1)(torch.stack([x, x.sin()], 1)).sum(1)


def pushed(function: Function) -> Function:
    return lambda x: jvp(function, (x,), (x.cos(),))[1]


def pulled(function: Function) -> Function:
    def pull(x: Tensor) -> Tensor:
        result, back = vjp(function, x)
        return back(result.cos())[0]

    return pull


def gradient(function: Function) -> Function:
    return grad(lambda x: function(x).square().sum())


def summed_jacobian(jacobian: Callable[..., Any]) -> Transform:
    """Return the Jacobian of a few sums, because the whole would be large, summed to the input's shape."""
    return lambda function: lambda x: jacobian(lambda x: function(x).sum((0, 1)))(x).sum(0)


def dual(function: Function) -> Function:
    """Apply forward mode without torch.func."""

    def push(x: Tensor) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, x.cos()))).tangent

    return push


TRANSFORMS: dict[str, Transform] = {
    "vmap": vmapped,
    "vmap(1)": vmapped_over_dim_1,
    "jvp": pushed,
    "vjp": pulled,
    "grad": gradient,
    "jacrev": summed_jacobian(jacrev),
    "jacfwd": summed_jacobian(jacfwd),
}


def function_of_the_input(module: nn.Module, weights: Weights) -> Function:
    """Return a function from the input to a tensor of its shape, so that transforms can be nested."""
    mix = torch.linspace(-1, 1, H * D * 2, dtype=torch.float64).reshape(-1, D).cos()

    def function(x: Tensor) -> Tensor:
        out, (hidden, cell) = functional_call(module, weights, (x,))
        return out @ mix[: out.size(-1)] + hidden.sum().sin() * cell.sum()

    return function


def assert_transforms_equal_reference_loop(
    settings: str, transforms: tuple[str, ...], with_reference_loop: Callable[..., Any]
) -> None:
    """Compare with gradients enabled and disabled."""
    module, weights, x = make(SETTINGS[settings])
    function = function_of_the_input(module, weights)
    for transform in reversed(transforms):
        function = (TRANSFORMS | {"dual": dual})[transform](function)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert_close(function(x), with_reference_loop(lambda: function(x)))


@pytest.mark.parametrize("transform", [*TRANSFORMS, "dual"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_transform_equals_reference_loop(
    settings: str, transform: str, with_reference_loop: Callable[..., Any]
) -> None:
    assert_transforms_equal_reference_loop(settings, (transform,), with_reference_loop)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        *product(TRANSFORMS, TRANSFORMS),
        # PyTorch supports nested forward mode in torch.func only
        *product(["dual"], [name for name in TRANSFORMS if name not in ("jvp", "jacfwd")]),
    ],
)
def test_nested_transforms_equal_reference_loop(
    outer: str, inner: str, with_reference_loop: Callable[..., Any]
) -> None:
    assert_transforms_equal_reference_loop("plain", (outer, inner), with_reference_loop)


@pytest.mark.parametrize("outer", [jacrev, jacfwd])
@pytest.mark.parametrize("inner", [jacrev, jacfwd])
def test_hessians_of_all_mode_combinations_equal_nn_lstm(inner: Callable[..., Any], outer: Callable[..., Any]) -> None:
    """This is critical for forward over forward, where PyTorch silently drops the jvp of a custom autograd.Function."""
    module, weights, x = make({})
    found, expected = (
        outer(inner(lambda x: loss(kind, weights, x)))(x)  # noqa: B023
        for kind in (module, module.to_builtin())
    )
    assert_close(found, expected)


# ---- derivatives in the weights


@pytest.mark.parametrize("settings", SETTINGS)
def test_per_sample_gradients_equal_separate_gradients(settings: str) -> None:
    module, weights, _ = make(SETTINGS[settings])
    sequences = drawn(5, T, D)
    found = vmap(grad(lambda weights, x: loss(module, weights, x)), (None, 0))(weights, sequences)
    for number, sequence in enumerate(sequences):
        alone = torch.autograd.grad(loss(module, dict(module.named_parameters()), sequence), list(module.parameters()))
        assert_close([value[number] for value in found.values()], alone)


def test_per_sample_gradients_of_padded_batches() -> None:
    """Each of the 4 mapped batches has 2 sequences; all batches have the same lengths."""
    module, weights, _ = make({"bidirectional": True})
    batches, lengths = drawn(4, T, B, D), torch.tensor([T, 1])
    found = vmap(grad(lambda weights, x: loss(module, weights, x, None, lengths)), (None, 0))(weights, batches)
    for number, batch in enumerate(batches):
        alone = grad(lambda weights: loss(module, weights, batch, None, lengths))(weights)  # noqa: B023
        assert_close([value[number] for value in found.values()], list(alone.values()))


@pytest.mark.parametrize("settings", SETTINGS)
def test_ensemble_outputs_and_gradients_equal_its_members(settings: str) -> None:
    members = [make(SETTINGS[settings], seed)[0] for seed in range(3)]
    _, _, x = make(SETTINGS[settings], 3)
    stacked, _ = stack_module_state(members)

    results = vmap(lambda weights: everything(members[0], weights, x))(stacked)
    assert_close(list(results), [everything(member, dict(member.named_parameters()), x) for member in members])

    results.square().sum().backward()  # autograd through the transform
    for number, member in enumerate(members):
        loss(member, dict(member.named_parameters()), x).backward()
        for name, value in member.named_parameters():
            assert_close(stacked[name].grad[number], value.grad)


# ---- forward mode


@pytest.mark.parametrize("settings", SETTINGS)
def test_forward_mode_is_the_transpose_of_reverse_mode(settings: str) -> None:
    """<jvp(t), u> = <t, vjp(u)> for random t and u, over the input, both states and the weights."""
    module, weights, x = make(SETTINGS[settings])
    K = module.num_layers * (1 + module.bidirectional)
    primals = (x, (drawn(K, B, module.proj_size or H), drawn(K, B, H)), weights)

    def function(x: Tensor, state: tuple[Tensor, Tensor], weights: Weights) -> Tensor:
        return everything(module, weights, x, state)

    t = torch.utils._pytree.tree_map(torch.randn_like, primals)
    result, pushed_t = jvp(function, primals, t)
    u = torch.randn_like(result)
    pulled_u = vjp(function, *primals)[1](u)
    products = [
        (left * right).sum()
        for left, right in zip(
            torch.utils._pytree.tree_leaves(t), torch.utils._pytree.tree_leaves(pulled_u), strict=True
        )
    ]
    assert_close((pushed_t * u).sum(), torch.stack(products).sum())


@pytest.mark.parametrize("settings", SETTINGS)
def test_forward_mode_in_each_weight_equals_nn_lstm(settings: str) -> None:
    """The other weights have no tangent, which differs from a tangent of zeros."""
    module, weights, x = make(SETTINGS[settings])
    for kind in weights:
        direction = torch.randn_like(weights[kind])
        found, expected = (
            jvp(lambda value: everything(lstm, weights | {kind: value}, x), (weights[kind],), (direction,))[1]  # noqa: B023
            for lstm in (module, module.to_builtin())
        )
        assert_close(found, expected)


# ---- higher derivatives


@pytest.mark.parametrize("settings", ["plain", "no bias"])
def test_jacobians_of_both_modes_equal_nn_lstm(settings: str) -> None:
    module, weights, x = make(SETTINGS[settings])
    builtin = module.to_builtin()
    expected = jacrev(lambda weights, x: everything(builtin, weights, x), (0, 1))(weights, x)
    for jacobian in (jacrev, jacfwd):
        assert_close(jacobian(lambda weights, x: everything(module, weights, x), (0, 1))(weights, x), expected)


@pytest.mark.parametrize("settings", ["plain", "no bias"])
def test_hessian_in_all_weights_equals_nn_lstm(settings: str) -> None:
    module, weights, _ = make(SETTINGS[settings])
    sizes, x = [value.numel() for value in weights.values()], drawn(T, 1, D)

    def of_a_vector(lstm: nn.Module) -> Tensor:
        def function(vector: Tensor) -> Tensor:
            parts = zip(weights.items(), vector.split(sizes), strict=True)
            return loss(lstm, {name: part.view_as(value) for (name, value), part in parts}, x)

        return hessian(function)(torch.cat([value.flatten() for value in weights.values()]))

    assert_close(of_a_vector(module), of_a_vector(module.to_builtin()))


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradient_penalty_equals_nn_lstm(settings: str) -> None:
    """Double backward: the squared gradient with respect to the input, differentiated with respect to the weights."""
    module, _, x = make(SETTINGS[settings])

    def penalty(lstm: nn.Module) -> list[Tensor]:
        given = x.clone().requires_grad_()
        (of_x,) = torch.autograd.grad(loss(lstm, dict(lstm.named_parameters()), given), given, create_graph=True)
        return [of_x.detach(), *torch.autograd.grad(of_x.square().sum(), [given, *lstm.parameters()])]

    assert_close(penalty(module), penalty(module.to_builtin()))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_changes_no_gradient(use_reentrant: bool) -> None:
    """The gradients are equal bitwise, because the recomputation is the same computation."""
    module, _, x = make(SETTINGS["everything"])
    of = [x.requires_grad_(), *module.parameters()]
    expected = torch.autograd.grad(loss(module, {}, x), of)
    checkpoint(lambda x: loss(module, {}, x), x, use_reentrant=use_reentrant).backward()
    assert all(torch.equal(value.grad, plain) for value, plain in zip(of, expected, strict=True))


# ---- unsupported by nn.LSTM

Ability = Callable[[nn.Module, Weights, Tensor], Tensor]


def output(module: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    return functional_call(module, weights, (x,))[0]


def run_an_ensemble(module: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    stacked = {name: torch.stack([value, value]) for name, value in weights.items()}
    return vmap(lambda weights: output(module, weights, x))(stacked)


ABILITIES: dict[str, Ability] = {
    "vmap": lambda module, weights, x: vmap(lambda x: output(module, weights, x))(torch.stack([x, x])),
    "ensemble": run_an_ensemble,
    "gradients per sequence": lambda module, weights, x: vmap(grad(lambda x: loss(module, weights, x)))(
        torch.stack([x, x])
    ),
    "forward mode": lambda module, weights, x: pushed(lambda x: output(module, weights, x))(x),
    "hessian": lambda module, weights, x: hessian(lambda x: loss(module, weights, x))(x),
}
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="without oneDNN, nn.LSTM runs in float32 as it does in float64"
)


@pytest.mark.parametrize(
    ("ability", "dtype", "error", "message"),
    [
        *(
            (ability, dtype, RuntimeError, "Batching rule not implemented for aten::lstm")
            for ability, dtype in product(("vmap", "ensemble"), (torch.float32, torch.float64))
        ),
        ("gradients per sequence", torch.float64, RuntimeError, "doesn't match the broadcast shape"),
        pytest.param("forward mode", torch.float32, NotImplementedError, "forward AD", marks=needs_onednn),
        pytest.param("hessian", torch.float32, NotImplementedError, "forward AD", marks=needs_onednn),
    ],
)
def test_transforms_that_nn_lstm_lacks(ability: str, dtype: torch.dtype, error: type[Exception], message: str) -> None:
    """As of PyTorch 2.13, on the CPU. If this fails with a newer version, correct the README."""
    module, _, x = make({})
    ours, theirs, x = module.to(dtype), module.to_builtin().to(dtype), x.to(dtype)
    weights = {name: value.detach() for name, value in ours.named_parameters()}
    with pytest.raises(error, match=message):
        ABILITIES[ability](theirs, weights, x)
    assert ABILITIES[ability](ours, weights, x).isfinite().all()  # its values are tested above
