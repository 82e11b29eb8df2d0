"""Parity with nn.LSTM as a module: parameters, state dicts, copies, conversion."""

import copy
import io
import pickle
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from helpers.lstm_parity import Results, assert_close, assert_identical, pair, results
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lstm_models import LSTM

# on the CPU, nn.LSTM warns that oneDNN does not support projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

ALL_OPTIONS: list[dict[str, Any]] = [
    {"num_layers": num_layers, "bias": bias, "bidirectional": bidirectional, "proj_size": proj_size}
    for num_layers, bias, bidirectional, proj_size in product((1, 3), (True, False), (False, True), (0, 2))
]
SOME: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True, "dropout": 0.5}

X = torch.arange(30, dtype=torch.float64).sin().view(5, 3, 2)


def seeded(module: nn.Module) -> Results:
    """Return everything that a call computes, with the same draws each time."""
    torch.manual_seed(0)
    return results(module, X)


# ---- parameters and state dicts
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_same_seed_draws_the_same_parameters(options: dict[str, Any], dtype: torch.dtype | None) -> None:
    drawn, after = [], []
    for kind in (LSTM, nn.LSTM):
        torch.manual_seed(123)
        drawn.append(kind(2, 3, **options, dtype=dtype))
        after.append(torch.get_rng_state())
    ours, reference = drawn
    assert torch.equal(*after)
    assert_identical(dict(ours.named_parameters()), dict(reference.named_parameters()))
    assert [[id(each) for each in weights] for weights in ours.all_weights] == [
        [id(ours.get_parameter(name)) for name in names] for names in reference._all_weights
    ]


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=str)
def test_state_dicts_load_both_ways(options: dict[str, Any]) -> None:
    for source, target in product((LSTM, nn.LSTM), repeat=2):
        state, module = source(2, 3, **options).state_dict(), target(2, 3, **options)
        module.load_state_dict(state, strict=True)
        assert_identical(module.state_dict(), state)


def test_settings_and_repr_equal_nn_lstm() -> None:
    ours, reference = LSTM(2, 3, **SOME, bias=False), nn.LSTM(2, 3, **SOME, bias=False)
    assert repr(ours) == repr(reference)
    assert repr(LSTM(2, 3)) == repr(nn.LSTM(2, 3))
    assert repr(LSTM(2, 3, 2, dropout=1)) == repr(nn.LSTM(2, 3, 2, dropout=1))  # 1.0
    for name in ("input_size", "hidden_size", "bias", *SOME):
        assert getattr(ours, name) == getattr(reference, name)
        assert type(getattr(ours, name)) is type(getattr(reference, name))


def test_flatten_parameters_changes_nothing() -> None:
    module, reference = pair(**SOME)
    assert module.flatten_parameters() is None
    assert_identical(module.state_dict(), reference.state_dict())


def test_replaced_parameter_is_used() -> None:
    ours, reference = pair()
    for module in (ours, reference):
        module.weight_hh_l0 = nn.Parameter(torch.eye(12, 3, dtype=torch.float64))
    assert_close(results(ours, X), results(reference, X))


def test_meta_device_until_weights_are_assigned() -> None:
    expected, reference = pair(**SOME)
    module = LSTM(2, 3, **SOME, device="meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    out, (hidden, cell) = module(torch.empty(4, 5, 2, device="meta"))
    assert (out.is_meta, out.shape, hidden.shape, cell.shape) == (True, (4, 5, 4), (4, 4, 2), (4, 4, 3))
    module.load_state_dict(reference.state_dict(), strict=True, assign=True)
    assert_identical(seeded(module), seeded(expected))


def test_conversion_to_another_type_and_back() -> None:
    ours, reference = (module.to(torch.float32) for module in pair(**SOME))
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert_identical(ours.state_dict(), reference.state_dict())
    assert_close(seeded(ours.double()), seeded(reference.double()))


# ---- copies
def through_torch_save(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), through_torch_save]
)
def test_copied_module_has_separate_parameters(copied: Callable[[LSTM], LSTM]) -> None:
    module, _ = pair(**SOME)
    module.eval().weight_hh_l0.requires_grad_(False)
    other = copied(module)
    assert (repr(other), other.training, other.weight_hh_l0.requires_grad) == (repr(module), False, False)
    before = results(module, X)
    assert_identical(results(other, X), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(module(X)[0], before["out"])
    assert not other(X)[0].any()


# ---- parametrizations
class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize(
    "register",
    [
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        # in training mode every read of the weight updates the estimate, and nn.LSTM reads it more often
        lambda module, name: parametrizations.spectral_norm(module.eval(), name),
        lambda module, name: parametrize.register_parametrization(module, name, Doubled()),
    ],
    ids=["weight_norm", "orthogonal", "spectral_norm", "doubled"],
)
def test_parametrized_weight(register: Callable[[nn.Module, str], nn.Module]) -> None:
    ours, reference = pair(num_layers=2, bidirectional=True)
    plain = ours(X)[0]
    for module in (ours, reference):
        register(module, "weight_hh_l0")
    ours.load_state_dict(reference.state_dict(), strict=True)
    found = results(ours, X)
    assert_close(found, results(reference, X))
    originals = [value for name, value in found.items() if name.startswith("dparametrizations.weight_hh_l0.original")]
    assert len(originals) >= 1
    assert all(value.abs().max() > 1e-3 for value in originals)
    if register is not parametrizations.weight_norm:  # it keeps the values
        assert not torch.allclose(found["out"], plain)

    parametrize.remove_parametrizations(ours, "weight_hh_l0")
    assert_close({"out": ours(X)[0].detach()}, {"out": found["out"]})


# ---- conversion
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [*ALL_OPTIONS, SOME], ids=str)
def test_from_builtin_and_to_builtin_are_inverse(options: dict[str, Any], dtype: torch.dtype) -> None:
    builtin = nn.LSTM(2, 3, **options, dtype=dtype).train(dtype is torch.float32)
    builtin.weight_hh_l0.requires_grad_(False)
    before = torch.get_rng_state()
    ours = LSTM.from_builtin(builtin)
    back = ours.to_builtin()
    assert torch.equal(torch.get_rng_state(), before)

    assert (type(ours), type(back)) == (LSTM, nn.LSTM)
    for converted in (ours, back):
        assert (repr(converted), converted.training) == (repr(builtin), builtin.training)
        assert_identical(converted.state_dict(), builtin.state_dict())
        assert [name for name, each in converted.named_parameters() if not each.requires_grad] == ["weight_hh_l0"]
        assert all(
            converted.get_parameter(name).data_ptr() != each.data_ptr() for name, each in builtin.named_parameters()
        )


def test_single_bias_converts_to_a_second_bias_of_zero() -> None:
    ours = LSTM(2, 3, num_layers=2, bidirectional=True, double_bias=False, dtype=torch.float64).eval()
    before = torch.get_rng_state()
    builtin = ours.to_builtin()
    back = LSTM.from_builtin(builtin)
    assert torch.equal(torch.get_rng_state(), before)
    assert (back.double_bias, builtin.training) == (True, False)

    second = [name for name, _ in builtin.named_parameters() if name.startswith("bias_hh")]
    assert len(second) == 4
    assert not any(builtin.get_parameter(name).any() for name in second)
    expected = results(builtin, X)
    assert_close(results(back, X), expected)
    assert_close(results(ours, X), {name: value for name, value in expected.items() if name[1:] not in second})


def test_frozen_single_bias_converts_to_two_frozen_biases() -> None:
    """Frozen parameters stay frozen."""
    builtin = LSTM(2, 3, double_bias=False).requires_grad_(False).to_builtin()
    assert not any(parameter.requires_grad for parameter in builtin.parameters())


def test_parametrized_module_converts_to_plain_weights() -> None:
    ours, builtin = (parametrizations.weight_norm(module, "weight_hh_l0") for module in pair())
    expected = {"out": ours(X)[0].detach()}
    for converted in (ours.to_builtin(), LSTM.from_builtin(builtin)):
        assert "weight_hh_l0" in converted.state_dict()
        assert_close({"out": converted(X)[0].detach()}, expected)
