"""What PyTorch can do with a function it can do with this LSTM: transforms of torch.func, their compositions, forward
mode, derivatives of any order. The reference is the same module with the plain loop in it, which PyTorch
differentiates by itself, and nn.LSTM where that can do it too: in float64 on the CPU, where it is no single operator.
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
from lstm_models.nn import lstm
from lstm_models.nn.kernels.dispatch import unroll
from lstm_models.nn.kernels.reference import reference_loop

# PyTorch says so of its own forward mode when that is first used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

# Of the tensor's largest value, or of 1 where that is smaller. The same products in float64, summed in another order by
# each transform: 1e-14 at most was seen. What is not the derivative is off by 1e-3 at least.
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
    """A module, its weights without a graph, and an input."""
    torch.manual_seed(seed)
    module = LSTM(D, H, **settings).double()
    weights = {name: value.detach() for name, value in module.named_parameters()}
    return module, weights, drawn(*(B, T, D) if module.batch_first else (T, B, D))


def everything(module: nn.Module, weights: Weights, x: Tensor, *given: Any) -> Tensor:
    """Outputs and both states, in one vector."""
    out, (hidden, cell) = functional_call(module, weights, (x, *given))
    return torch.cat([out.flatten(), hidden.flatten(), cell.flatten()])


def loss(module: nn.Module, weights: Weights, x: Tensor, *given: Any) -> Tensor:
    return everything(module, weights, x, *given).square().sum()


@pytest.fixture
def plainly() -> Callable[[Callable[[], Any]], Any]:
    """Calls a function while the module runs the plain loop."""

    def call(function: Callable[[], Any]) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lstm, "unroll", partial(unroll, loop=reference_loop))
            return function()

    return call


def assert_close(found: Any, expected: Any) -> None:
    """Of tensors, or of dicts and sequences of them."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if not isinstance(expected, Tensor):
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs)
        return
    assert not torch.equal(expected, torch.zeros_like(expected)), "zeros: nothing would be compared"
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE * max(expected.abs().max().item(), 1.0))


# ---- one transform, and one of another


def vmapped(function: Function) -> Function:
    return lambda x: vmap(function)(torch.stack([x, x.sin()])).sum(0)


def vmapped_elsewhere(function: Function) -> Function:
    """Along another dimension, both of what goes in and of what comes out."""
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
    """The Jacobian of a few sums, for the whole would be large: summed once more, to the input's shape."""
    return lambda function: lambda x: jacobian(lambda x: function(x).sum((0, 1)))(x).sum(0)


def dual(function: Function) -> Function:
    """Forward mode without torch.func."""

    def push(x: Tensor) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, x.cos()))).tangent

    return push


TRANSFORMS: dict[str, Transform] = {
    "vmap": vmapped,
    "vmap(1)": vmapped_elsewhere,
    "jvp": pushed,
    "vjp": pulled,
    "grad": gradient,
    "jacrev": summed_jacobian(jacrev),
    "jacfwd": summed_jacobian(jacfwd),
}


def of_the_input(module: nn.Module, weights: Weights) -> Function:
    """From the input to something of its shape, so that transforms can follow each other."""
    mix = torch.linspace(-1, 1, H * D * 2, dtype=torch.float64).reshape(-1, D).cos()

    def function(x: Tensor) -> Tensor:
        out, (hidden, cell) = functional_call(module, weights, (x,))
        return out @ mix[: out.size(-1)] + hidden.sum().sin() * cell.sum()

    return function


def assert_transforms_as_the_plain_loop(
    settings: str, transforms: tuple[str, ...], plainly: Callable[..., Any]
) -> None:
    """Whether gradients are enabled or not."""
    module, weights, x = make(SETTINGS[settings])
    function = of_the_input(module, weights)
    for transform in reversed(transforms):
        function = (TRANSFORMS | {"dual": dual})[transform](function)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert_close(function(x), plainly(lambda: function(x)))


@pytest.mark.parametrize("transform", [*TRANSFORMS, "dual"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_transform_gives_what_it_gives_for_the_plain_loop(
    settings: str, transform: str, plainly: Callable[..., Any]
) -> None:
    assert_transforms_as_the_plain_loop(settings, (transform,), plainly)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        *product(TRANSFORMS, TRANSFORMS),
        # PyTorch: "Nested forward mode AD is not supported" but in torch.func
        *product(["dual"], [name for name in TRANSFORMS if name not in ("jvp", "jacfwd")]),
    ],
)
def test_a_transform_of_a_transform_gives_what_it_gives_for_the_plain_loop(
    outer: str, inner: str, plainly: Callable[..., Any]
) -> None:
    assert_transforms_as_the_plain_loop("plain", (outer, inner), plainly)


@pytest.mark.parametrize("outer", [jacrev, jacfwd])
@pytest.mark.parametrize("inner", [jacrev, jacfwd])
def test_the_four_ways_to_a_hessian_agree_with_nn_lstms(inner: Callable[..., Any], outer: Callable[..., Any]) -> None:
    """Forward over forward above all: there a custom derivative of PyTorch's own kind is silently lost."""
    module, weights, x = make({})
    found, expected = (
        outer(inner(lambda x: loss(kind, weights, x)))(x)  # noqa: B023
        for kind in (module, module.to_builtin())
    )
    assert_close(found, expected)


# ---- of the weights


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradients_per_sequence_are_those_of_one_sequence_at_a_time(settings: str) -> None:
    module, weights, _ = make(SETTINGS[settings])
    sequences = drawn(5, T, D)
    found = vmap(grad(lambda weights, x: loss(module, weights, x)), (None, 0))(weights, sequences)
    for number, sequence in enumerate(sequences):
        alone = torch.autograd.grad(loss(module, dict(module.named_parameters()), sequence), list(module.parameters()))
        assert_close([value[number] for value in found.values()], alone)


def test_gradients_per_sequence_of_a_padded_batch() -> None:
    """The lengths are the same for all; each of the 4 mapped batches holds 2 sequences."""
    module, weights, _ = make({"bidirectional": True})
    batches, lengths = drawn(4, T, B, D), torch.tensor([T, 1])
    found = vmap(grad(lambda weights, x: loss(module, weights, x, None, lengths)), (None, 0))(weights, batches)
    for number, batch in enumerate(batches):
        alone = grad(lambda weights: loss(module, weights, batch, None, lengths))(weights)  # noqa: B023
        assert_close([value[number] for value in found.values()], list(alone.values()))


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_ensemble_runs_and_trains_as_each_of_its_members(settings: str) -> None:
    members = [make(SETTINGS[settings], seed)[0] for seed in range(3)]
    _, _, x = make(SETTINGS[settings], 3)
    stacked, _ = stack_module_state(members)

    results = vmap(lambda weights: everything(members[0], weights, x))(stacked)
    assert_close(list(results), [everything(member, dict(member.named_parameters()), x) for member in members])

    results.square().sum().backward()  # autograd's own, over the transform
    for number, member in enumerate(members):
        loss(member, dict(member.named_parameters()), x).backward()
        for name, value in member.named_parameters():
            assert_close(stacked[name].grad[number], value.grad)


# ---- forward mode


@pytest.mark.parametrize("settings", SETTINGS)
def test_forward_mode_is_the_transpose_of_reverse_mode(settings: str) -> None:
    """<jvp(t), u> = <t, vjp(u)> for drawn t and u, over the input, both states and the weights."""
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
def test_forward_mode_in_each_argument_alone_is_nn_lstms(settings: str) -> None:
    """The others then have no tangent at all, which differs from one of zeros."""
    module, weights, x = make(SETTINGS[settings])
    for kind in weights:
        direction = torch.randn_like(weights[kind])
        found, expected = (
            jvp(lambda value: everything(lstm, weights | {kind: value}, x), (weights[kind],), (direction,))[1]  # noqa: B023
            for lstm in (module, module.to_builtin())
        )
        assert_close(found, expected)


# ---- of higher order


@pytest.mark.parametrize("settings", ["plain", "no bias"])
def test_the_jacobians_of_both_modes_are_nn_lstms(settings: str) -> None:
    module, weights, x = make(SETTINGS[settings])
    builtin = module.to_builtin()
    expected = jacrev(lambda weights, x: everything(builtin, weights, x), (0, 1))(weights, x)
    for jacobian in (jacrev, jacfwd):
        assert_close(jacobian(lambda weights, x: everything(module, weights, x), (0, 1))(weights, x), expected)


@pytest.mark.parametrize("settings", ["plain", "no bias"])
def test_the_hessian_in_all_weights_is_nn_lstms(settings: str) -> None:
    module, weights, _ = make(SETTINGS[settings])
    sizes, x = [value.numel() for value in weights.values()], drawn(T, 1, D)

    def of_a_vector(lstm: nn.Module) -> Tensor:
        def function(vector: Tensor) -> Tensor:
            parts = zip(weights.items(), vector.split(sizes), strict=True)
            return loss(lstm, {name: part.view_as(value) for (name, value), part in parts}, x)

        return hessian(function)(torch.cat([value.flatten() for value in weights.values()]))

    assert_close(of_a_vector(module), of_a_vector(module.to_builtin()))


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_gradient_penalty_is_nn_lstms(settings: str) -> None:
    """Double backward: the squared gradient with respect to the input, differentiated with respect to the weights."""
    module, _, x = make(SETTINGS[settings])

    def penalty(lstm: nn.Module) -> list[Tensor]:
        given = x.clone().requires_grad_()
        (of_x,) = torch.autograd.grad(loss(lstm, dict(lstm.named_parameters()), given), given, create_graph=True)
        return [of_x.detach(), *torch.autograd.grad(of_x.square().sum(), [given, *lstm.parameters()])]

    assert_close(penalty(module), penalty(module.to_builtin()))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_changes_no_gradient(use_reentrant: bool) -> None:
    """Bitwise: what is computed again is the same computation."""
    module, _, x = make(SETTINGS["everything"])
    of = [x.requires_grad_(), *module.parameters()]
    expected = torch.autograd.grad(loss(module, {}, x), of)
    checkpoint(lambda x: loss(module, {}, x), x, use_reentrant=use_reentrant).backward()
    assert all(torch.equal(value.grad, plain) for value, plain in zip(of, expected, strict=True))


# ---- what nn.LSTM can't


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
    ("ability", "dtype", "error", "says"),
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
def test_nn_lstm_cannot_and_this_one_can(ability: str, dtype: torch.dtype, error: type[Exception], says: str) -> None:
    """As of PyTorch 2.13, on the CPU. Should a newer one fail here, the README promises too much."""
    module, _, x = make({})
    ours, theirs, x = module.to(dtype), module.to_builtin().to(dtype), x.to(dtype)
    weights = {name: value.detach() for name, value in ours.named_parameters()}
    with pytest.raises(error, match=says):
        ABILITIES[ability](theirs, weights, x)
    assert ABILITIES[ability](ours, weights, x).isfinite().all()  # that it is right is held above
