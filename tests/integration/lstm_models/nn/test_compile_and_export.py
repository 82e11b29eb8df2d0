"""torch.compile, torch.export and torch.func.linearize of the LSTM, which start processes and write to a cache."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import jvp, linearize

from lstm_models import LSTM
from lstm_models.nn.cell_variants import CELLS
from lstm_models.nn.cells import LSTMState
from lstm_models.nn.kernels.reference import reference_loop

D, H = 2, 4


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Flat(nn.Module):
    """Module with the state as arguments, and the results as a flat tuple."""

    def __init__(self, module: LSTM) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        out, state = self.module(x, (hidden, cell))
        return out, *state


def make(**settings: Any) -> LSTM:
    """Return a module in float64 with different values in all parameters."""
    torch.manual_seed(0)
    module = LSTM(D, H, **settings, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.7)
    return module


def drawn(module: LSTM, T: int = 4, B: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch of sequences, and both parts of a state."""
    K, P = module.num_layers * (1 + module.bidirectional), module.proj_size or H
    shapes = ((T, B, D), (K, B, P), (K, B, H))
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def run_reference_loop(module: LSTM, x: Tensor, hidden: Tensor, cell: Tensor) -> list[Tensor]:
    out, state = module._forward(x, (hidden, cell), None, reference_loop)
    return [out, *state]


def assert_identical(found: Any, expected: Any) -> None:
    assert [tuple(value.shape) for value in found] == [tuple(value.shape) for value in expected]
    assert all(map(torch.equal, found, expected))


def operators(graph: torch.fx.Graph) -> list[Any]:
    """Return the higher-order operators of a graph, such as a scan or an autograd.Function."""
    return [node.target for node in graph.nodes if isinstance(node.target, torch._ops.HigherOrderOperator)]


# ---- export
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in CELLS), ("full_gate_recurrence", {"zoneout": 0.3, "bias": False, "proj_size": 3})],
    ids=str,
)
def test_exported_program_runs_any_number_of_steps_and_sequences(name: str, options: dict[str, Any]) -> None:
    others = dict(options)
    cell = CELLS[name](recurrent_dropout=0.3, zoneout=others.pop("zoneout", 0.0))
    module = make(cell=cell, **others).eval()
    steps, batch = torch.export.Dim("steps", min=2), torch.export.Dim("batch", min=2)
    dynamic = ({0: steps, 1: batch}, {1: batch}, {1: batch})
    exported = torch.export.export(Flat(module), drawn(module), dynamic_shapes=dynamic)
    assert operators(exported.graph) == [torch.ops.higher_order.scan]
    for sizes in ((2, 2), (9, 4), (40, 7)):
        given = drawn(module, *sizes)
        with torch.no_grad():
            # the same operations as the reference loop, hence bitwise
            assert_identical(exported.module()(*given), run_reference_loop(module, *given))


def test_exported_graph_does_not_grow_with_the_number_of_steps() -> None:
    module = make(num_layers=2, bidirectional=True)
    of_4, of_40 = (torch.export.export(Flat(module), drawn(module, T)).graph for T in (4, 40))
    assert operators(of_4) == [torch.ops.higher_order.scan] * 4
    assert [node.target for node in of_4.nodes] == [node.target for node in of_40.nodes]


@pytest.mark.parametrize("option", ["recurrent_dropout", "zoneout"])
def test_random_cells_cannot_be_exported_in_training_mode(option: str) -> None:
    module = make(cell=CELLS["lstm"](**{option: 0.3}))
    with pytest.raises(RuntimeError, match=r"call eval\(\)"):
        torch.export.export(Flat(module), drawn(module))


# ---- compile
@pytest.mark.parametrize("settings", [{}, {"proj_size": 2}], ids=str)
def test_compiler_traces_every_operation_of_the_reference_loop(settings: dict[str, Any]) -> None:
    """There is one graph; its results and gradients equal the reference loop's bitwise."""
    graphs: list[torch.fx.Graph] = []

    def keep(module: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(module.graph)
        return module.forward

    module = make(**settings)
    given = drawn(module)
    found = torch.compile(Flat(module), backend=keep, fullgraph=True)(*given)
    assert [operators(graph) for graph in graphs] == [[]]
    assert sum(node.target == "tanh" for node in graphs[0].nodes) == 2 * 4  # a candidate and a cell state per step

    expected = run_reference_loop(module, *given)
    assert_identical(found, expected)
    gradients = (
        torch.autograd.grad(sum(each.sin().sum() for each in results), list(module.parameters()))
        for results in (found, expected)
    )
    assert_identical(*gradients)


def test_compiled_module_has_one_graph_and_equal_results() -> None:
    module = make(num_layers=2, bidirectional=True, batch_first=True, proj_size=2, double_bias=False)
    x = torch.randn(2, 2, D, dtype=torch.float64)
    results = []
    for kind in (torch.compile(module, fullgraph=True, backend="aot_eager"), module):
        given = x.clone().requires_grad_()
        out, state = kind(given)
        assert type(state) is LSTMState
        total = torch.stack([part.sin().sum() for part in (out, *state)]).sum()
        results.append([out, *state, *torch.autograd.grad(total, [given, *module.parameters()])])
    for found, expected in zip(*results, strict=True):
        # the same products in float64, summed in another order
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- linearize
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # from PyTorch's linearize
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # from its forward mode
@pytest.mark.parametrize("frozen", [True, False])
def test_linearize_gives_jvp_as_a_function_of_the_direction(frozen: bool) -> None:
    module = make().requires_grad_(not frozen)
    x, *state = drawn(module)

    def function(x: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in Flat(module)(x, *state)])

    result, push = linearize(function, x)
    for _ in range(2):
        direction = torch.randn_like(x)
        expected = jvp(function, (x,), (direction,))
        for found, other in zip((result, push(direction)), expected, strict=True):
            # as above
            torch.testing.assert_close(found.detach(), other.detach(), rtol=1e-12, atol=1e-12)
