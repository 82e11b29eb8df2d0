"""Parity with nn.LSTM on the inputs of PyTorch's module tests: results and errors."""

from types import ModuleType
from typing import Any

import hypothesis
import pytest
import torch
from helpers.lstm_parity import CLOSE, assert_close, pair, results
from torch import nn

from lstm_models import LSTM

# on the CPU, nn.LSTM warns that oneDNN does not support projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")


@pytest.fixture(scope="module")
def common_modules() -> ModuleType:
    """Import PyTorch's module tests, and undo the import's changes to hypothesis and torch.backends."""
    profile = hypothesis.settings.get_current_profile_name()
    with pytest.MonkeyPatch.context() as patch:
        # restore afterwards whether flags may be set
        patch.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", not torch.backends.flags_frozen())
        from torch.testing._internal import common_modules

    hypothesis.settings.load_profile(profile)
    return common_modules


def inputs_of(common_modules: ModuleType, errors: bool, **wanted: Any) -> list[Any]:
    (info,) = (info for info in common_modules.module_db if info.module_cls is nn.LSTM)
    make = info.module_error_inputs_func if errors else info.module_inputs_func
    return list(make(info, device="cpu", **wanted))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", CLOSE)
def test_inputs_of_pytorchs_module_tests(
    common_modules: ModuleType, dtype: torch.dtype, training: bool, requires_grad: bool
) -> None:
    torch.manual_seed(0)
    samples = inputs_of(common_modules, errors=False, dtype=dtype, requires_grad=requires_grad, training=training)
    assert len(samples) == 32  # bias, batch_first, bidirectional, proj_size, with and without a state
    for sample in samples:
        constructor, forward = sample.constructor_input, sample.forward_input
        ours, reference = (
            module.train(training) for module in pair(*constructor.args, **constructor.kwargs, dtype=dtype)
        )
        assert forward.args[0].requires_grad == requires_grad
        assert_close(results(ours, *forward.args), results(reference, *forward.args))
        # the database's check: one sequence equals a batch of one
        out, (hidden, cell) = ours(*forward.args)
        batched, (hidden_1, cell_1) = sample.reference_fn(ours, *forward.args)
        for value, other in ((out, batched), (hidden, hidden_1), (cell, cell_1)):
            torch.testing.assert_close(value, other, rtol=0, atol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE)
def test_error_inputs_of_pytorchs_module_tests(common_modules: ModuleType, dtype: torch.dtype) -> None:
    samples = inputs_of(common_modules, errors=True, dtype=dtype, requires_grad=False, training=True)
    assert len(samples) == 14
    for sample in samples:
        constructor, forward = sample.module_error_input.constructor_input, sample.module_error_input.forward_input
        with pytest.raises(sample.error_type) as caught:  # noqa: PT012
            module = LSTM(*constructor.args, **constructor.kwargs)
            assert sample.error_on is common_modules.ModuleErrorEnum.FORWARD_ERROR
            module(*forward.args, **forward.kwargs)
        assert caught.type is sample.error_type
