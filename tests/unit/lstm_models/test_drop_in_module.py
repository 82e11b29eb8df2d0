"""The hand-built LSTM against nn.LSTM as a module: parameters, state dicts, hooks, copies, conversion."""

import copy
import io
import pickle
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lstm_models import LSTM

# nn.LSTM says on the CPU that a faster library than its own does not know projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

CLOSE = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums in another order: FACTS measures 3e-16

ALL_OPTIONS = [
    {"num_layers": num_layers, "bias": bias, "bidirectional": bidirectional, "proj_size": proj_size}
    for num_layers, bias, bidirectional, proj_size in product((1, 3), (True, False), (False, True), (0, 2))
]
SOME = {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True, "dropout": 0.5}

X = torch.arange(30, dtype=torch.float64).sin().view(5, 3, 2)


def pair(**settings: Any) -> tuple[LSTM, nn.LSTM]:
    """Both kinds with the same weights in float64."""
    reference = nn.LSTM(2, 3, **settings, dtype=torch.float64)
    ours = LSTM(2, 3, **settings, dtype=torch.float64)
    ours.load_state_dict(reference.state_dict(), strict=True)
    return ours, reference


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Of a loss that weighs every output by a number of its own, and the output itself."""
    module.zero_grad()
    out, _ = module(X)
    (out * torch.arange(1.0, out.numel() + 1, dtype=out.dtype).sin().view(out.shape)).sum().backward()
    return {"out": out.detach()} | {name: parameter.grad for name, parameter in module.named_parameters()}


def assert_same(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert list(ours) == list(reference)
    for name, expected in reference.items():
        torch.testing.assert_close(ours[name], expected, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


def assert_identical(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert list(ours) == list(reference)
    for name, expected in reference.items():
        assert ours[name].dtype == expected.dtype
        assert torch.equal(ours[name], expected), name


# ---- parameters and state dicts
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", ALL_OPTIONS)
def test_the_same_seed_draws_the_same_parameters(options: dict[str, Any], dtype: torch.dtype | None) -> None:
    torch.manual_seed(123)
    ours = dict(LSTM(2, 3, **options, dtype=dtype).named_parameters())
    after_ours = torch.get_rng_state()
    torch.manual_seed(123)
    reference = dict(nn.LSTM(2, 3, **options, dtype=dtype).named_parameters())
    assert torch.equal(torch.get_rng_state(), after_ours)
    assert_identical(ours, reference)


@pytest.mark.parametrize("options", ALL_OPTIONS)
def test_state_dicts_load_both_ways(options: dict[str, Any]) -> None:
    ours, reference = LSTM(2, 3, **options), nn.LSTM(2, 3, **options)
    into_ours, into_reference = LSTM(2, 3, **options), nn.LSTM(2, 3, **options)
    into_ours.load_state_dict(reference.state_dict(), strict=True)
    into_reference.load_state_dict(ours.state_dict(), strict=True)
    assert_identical(into_ours.state_dict(), reference.state_dict())
    assert_identical(into_reference.state_dict(), ours.state_dict())


@pytest.mark.parametrize("options", ALL_OPTIONS)
def test_all_weights_have_nn_lstms_structure(options: dict[str, Any]) -> None:
    ours, reference = pair(**options)
    assert [len(weights) for weights in ours.all_weights] == [len(weights) for weights in reference.all_weights]
    flat = [weight for weights in ours.all_weights for weight in weights]
    assert all(isinstance(weights, list) for weights in ours.all_weights)
    assert all(weight is parameter for weight, parameter in zip(flat, ours.parameters(), strict=True))
    expected = [weight for weights in reference.all_weights for weight in weights]
    assert all(torch.equal(weight, other) for weight, other in zip(flat, expected, strict=True))


def test_its_settings_are_attributes_that_read_as_nn_lstms() -> None:
    ours, reference = LSTM(2, 3, **SOME, bias=False), nn.LSTM(2, 3, **SOME, bias=False)
    assert repr(ours) == repr(reference)
    assert repr(LSTM(2, 3)) == repr(nn.LSTM(2, 3))
    assert repr(LSTM(2, 3, 2, dropout=1)) == repr(nn.LSTM(2, 3, 2, dropout=1))  # 1.0
    for name in ("input_size", "hidden_size", "bias", *SOME):
        assert getattr(ours, name) == getattr(reference, name)
        assert type(getattr(ours, name)) is type(getattr(reference, name))


def test_flatten_parameters_changes_nothing() -> None:
    module, _ = pair(**SOME)
    before = copy.deepcopy(module.state_dict())
    assert module.flatten_parameters() is None
    assert_identical(module.state_dict(), before)


def test_a_parameter_that_is_replaced_is_the_one_that_runs() -> None:
    ours, reference = pair()
    for module in (ours, reference):
        module.weight_hh_l0 = nn.Parameter(torch.eye(12, 3, dtype=torch.float64))
    assert_same(gradients(ours), gradients(reference))


def test_on_the_meta_device_until_weights_are_assigned() -> None:
    expected, reference = pair(**SOME | {"dropout": 0.0})
    module = LSTM(2, 3, **SOME | {"dropout": 0.0}, device="meta")
    assert all(parameter.is_meta for parameter in module.parameters())
    out, (hidden, cell) = module(torch.empty(4, 5, 2, device="meta"))
    assert (out.is_meta, out.shape, hidden.shape, cell.shape) == (True, (4, 5, 4), (4, 4, 2), (4, 4, 3))
    module.load_state_dict(reference.state_dict(), strict=True, assign=True)
    assert_identical(gradients(module), gradients(expected))


def test_to_another_type_and_back() -> None:
    ours, reference = (module.to(torch.float32) for module in pair(**SOME))
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert_identical(ours.state_dict(), reference.state_dict())
    torch.manual_seed(0)
    found = gradients(ours.double())
    torch.manual_seed(0)
    assert_same(found, gradients(reference.double()))


def test_functional_call_runs_the_parameters_given_and_leaves_its_own() -> None:
    of_both = []
    for module in pair():
        others = {
            name: torch.arange(1.0, value.numel() + 1, dtype=torch.float64).cos().view(value.shape).requires_grad_()
            for name, value in module.named_parameters()
        }
        out, _ = torch.func.functional_call(module, others, (X,))
        (out * X[..., :1]).sum().backward()
        assert all(parameter.grad is None for parameter in module.parameters())
        of_both.append({"out": out} | {name: value.grad for name, value in others.items()})
    assert_same(*of_both)


# ---- copies
def through_torch_save(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), through_torch_save]
)
def test_a_copy_is_the_same_module_with_parameters_of_its_own(copied: Callable[[LSTM], LSTM]) -> None:
    module, _ = pair(**SOME)
    module.eval().weight_hh_l0.requires_grad_(False)
    other = copied(module)
    assert repr(other) == repr(module)
    assert not other.training
    assert not other.weight_hh_l0.requires_grad
    before = {name: value for name, value in gradients(module).items() if value is not None}
    assert_identical({name: value for name, value in gradients(other).items() if value is not None}, before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(module(X)[0], before["out"])
    assert not other(X)[0].any()


def test_a_state_dict_on_disk_loads_as_weights_only(tmp_path: Path) -> None:
    ours, _ = pair(**SOME)
    torch.save(ours.state_dict(), tmp_path / "weights.pt")
    reference = nn.LSTM(2, 3, **SOME, dtype=torch.float64)
    reference.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    assert_identical(reference.state_dict(), ours.state_dict())


# ---- hooks and parametrizations
def test_state_dict_hooks_are_called_as_nn_lstms() -> None:
    of_both = []
    for module in pair(**SOME):
        calls: list[Any] = []

        def rename(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
            calls.append(("after", type(module), prefix, list(state)))  # noqa: B023
            state["renamed"] = state.pop("weight_hh_l1")

        def back(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
            calls.append(("before loading", type(module), prefix, list(state), *rest[1:]))  # noqa: B023
            state["weight_hh_l1"] = state.pop("renamed")

        kind = type(module)
        module.register_state_dict_pre_hook(lambda *given: calls.append(("before", *given[1:])))  # noqa: B023
        module.register_state_dict_post_hook(rename)
        module.register_load_state_dict_pre_hook(back)
        module.register_load_state_dict_post_hook(lambda module, keys: calls.append(("loaded", keys)))  # noqa: B023
        before = module.weight_hh_l1.detach().clone()
        state = module.state_dict(prefix="")
        assert "weight_hh_l1" not in state
        module.weight_hh_l1.data.zero_()
        state["renamed"] = before
        assert str(module.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
        assert torch.equal(module.weight_hh_l1, before)
        of_both.append([[part if part is not kind else None for part in call] for call in calls])
    assert [call[0] for call in of_both[0]] == ["before", "after", "before loading", "loaded"]
    assert of_both[0] == of_both[1]


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize(
    "register",
    [
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        # in training it changes its estimate whenever the weight is read, which nn.LSTM does more often
        lambda module, name: parametrizations.spectral_norm(module.eval(), name),
        lambda module, name: parametrize.register_parametrization(module, name, Doubled()),
    ],
    ids=["weight_norm", "orthogonal", "spectral_norm", "doubled"],
)
def test_a_parametrized_weight(register: Callable[[nn.Module, str], nn.Module]) -> None:
    ours, reference = pair(num_layers=2, bidirectional=True)
    plain = ours(X)[0]
    for module in (ours, reference):
        register(module, "weight_hh_l0")
    ours.load_state_dict(reference.state_dict(), strict=True)
    found = gradients(ours)
    assert_same(found, gradients(reference))
    originals = [value for name, value in found.items() if name.startswith("parametrizations.weight_hh_l0.original")]
    assert len(originals) >= 1
    assert all(value.abs().max() > 1e-3 for value in originals)
    if register is not parametrizations.weight_norm:  # which changes no value
        assert not torch.allclose(found["out"], plain)

    parametrize.remove_parametrizations(ours, "weight_hh_l0")
    torch.testing.assert_close(gradients(ours)["out"], found["out"], **CLOSE)


# ---- one made of the other
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [*ALL_OPTIONS, SOME])
def test_one_made_of_the_other_and_back(options: dict[str, Any], dtype: torch.dtype, training: bool) -> None:
    builtin = nn.LSTM(2, 3, **options, dtype=dtype).train(training)
    builtin.weight_hh_l0.requires_grad_(False)
    before = torch.get_rng_state()
    ours = LSTM.from_builtin(builtin)
    back = ours.to_builtin()
    assert torch.equal(torch.get_rng_state(), before)

    assert (type(ours), type(back)) == (LSTM, nn.LSTM)
    for made in (ours, back):
        assert repr(made) == repr(builtin)
        assert made.training == training
        assert_identical(made.state_dict(), builtin.state_dict())
        of_both = zip(made.named_parameters(), builtin.named_parameters(), strict=True)
        for (name, parameter), (_, original) in of_both:
            assert parameter.requires_grad == (name != "weight_hh_l0") == original.requires_grad
            assert parameter.data_ptr() != original.data_ptr()  # a copy


def test_one_bias_is_nn_lstm_with_the_other_at_zero() -> None:
    ours = LSTM(2, 3, num_layers=2, bidirectional=True, biases="one", dtype=torch.float64).eval()
    before = torch.get_rng_state()
    builtin = ours.to_builtin()
    back = LSTM.from_builtin(builtin)
    assert torch.equal(torch.get_rng_state(), before)
    assert back.biases == "two"
    assert not builtin.training

    second = {name: value for name, value in builtin.state_dict().items() if name.startswith("bias_hh")}
    assert len(second) == 4
    assert not any(value.any() for value in second.values())
    assert_same(gradients(back), gradients(builtin))
    assert_same(gradients(ours), {name: value for name, value in gradients(builtin).items() if name not in second})


def test_one_frozen_bias_becomes_two() -> None:
    """What trains nothing goes on training nothing."""
    builtin = LSTM(2, 3, biases="one").requires_grad_(False).to_builtin()
    assert not any(parameter.requires_grad for parameter in builtin.parameters())


def test_a_parametrized_one_becomes_one_with_plain_weights() -> None:
    ours, builtin = (parametrizations.weight_norm(module, "weight_hh_l0") for module in pair())
    expected = ours(X)[0]
    for made in (ours.to_builtin(), LSTM.from_builtin(builtin)):
        assert "weight_hh_l0" in made.state_dict()
        torch.testing.assert_close(made(X)[0], expected, **CLOSE)
