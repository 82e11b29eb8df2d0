"""Compare the features of the hand-built LSTM with those of nn.LSTM by trying each feature on both.

    python benchmarks/abilities.py

Standard output is a Markdown table: "yes" where a feature works, else the type of the exception. The script takes half
a minute. The tests in tests/unit/lstm_models/nn/ check that the results are correct.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap
from torch.nn.utils.rnn import pack_sequence

from lstm_models import LSTM

D, H, B, T = 3, 4, 2, 5
Kind = type[LSTM] | type[nn.LSTM]


def loss(lstm: nn.Module, x_TBD: Tensor) -> Tensor:
    total: Tensor = lstm(x_TBD)[0].square().sum()
    return total


def load_foreign_state_dict(kind: Kind) -> None:
    other = nn.LSTM if kind is LSTM else LSTM
    kind(D, H, 2, bidirectional=True).load_state_dict(other(D, H, 2, bidirectional=True).state_dict(), strict=True)


def packed_sequences(kind: Kind) -> None:
    kind(D, H)(pack_sequence([torch.randn(2, D), torch.randn(T, D)], enforce_sorted=False))


def padded_batch_with_lengths(kind: Kind) -> None:
    kind(D, H)(torch.randn(T, B, D), lengths=torch.tensor([T, 2]))


def single_bias(kind: Kind) -> None:
    kind(D, H, double_bias=False)


def gradient_penalty(kind: Kind) -> None:
    lstm, x_TBD = kind(D, H), torch.randn(T, B, D, requires_grad=True)
    (d_x,) = torch.autograd.grad(loss(lstm, x_TBD), x_TBD, create_graph=True)
    d_x.square().sum().backward()


def torch_func_grad(kind: Kind) -> None:
    lstm = kind(D, H)
    grad(lambda x_TBD: loss(lstm, x_TBD))(torch.randn(T, B, D))


def per_sample_gradients(kind: Kind) -> None:
    lstm = kind(D, H)
    weights = dict(lstm.named_parameters())
    vmap(grad(lambda weights, x: functional_call(lstm, weights, x)[0].sum()), (None, 0))(weights, torch.randn(B, T, D))


def ensemble(kind: Kind) -> None:
    members = [kind(D, H) for _ in range(3)]
    weights, _ = stack_module_state(members)
    vmap(lambda weights, x: functional_call(members[0], weights, x)[0], (0, None))(weights, torch.randn(T, B, D))


def forward_mode(kind: Kind) -> None:
    lstm, x_TBD = kind(D, H), torch.randn(T, B, D)
    jvp(lambda x_TBD: loss(lstm, x_TBD), (x_TBD,), (torch.ones_like(x_TBD),))


def hessians(kind: Kind) -> None:
    lstm = kind(D, H)
    hessian(lambda x_TBD: loss(lstm, x_TBD))(torch.randn(T, B, D))


def compile_full_graph(kind: Kind) -> None:
    torch._dynamo.reset()
    loss(torch.compile(kind(D, H), backend="aot_eager", fullgraph=True), torch.randn(T, B, D)).backward()


def export_any_number_of_steps(kind: Kind) -> None:
    steps, sequences = torch.export.Dim("steps", min=2), torch.export.Dim("sequences", min=2)
    exported = torch.export.export(kind(D, H), (torch.randn(T, B, D),), dynamic_shapes=[{0: steps, 1: sequences}])
    exported.module()(torch.randn(100, 7, D))


def torch_script(kind: Kind) -> None:
    torch.jit.script(kind(D, H))


ABILITIES: dict[str, Callable[[Kind], None]] = {
    "loads the state dict of the other, strictly": load_foreign_state_dict,
    "PackedSequence": packed_sequences,
    "a padded batch with `lengths`": padded_batch_with_lengths,
    "one bias per gate, as in the equations": single_bias,
    "`torch.func.grad`": torch_func_grad,
    "double backward (gradient penalty)": gradient_penalty,
    "`vmap(grad)`: per-sample gradients": per_sample_gradients,
    "`vmap` over weights: an ensemble in one call": ensemble,
    "`jvp`: forward mode": forward_mode,
    "`hessian`": hessians,
    "`torch.compile(fullgraph=True)`": compile_full_graph,
    "`torch.export` for any number of steps": export_any_number_of_steps,
    "TorchScript (deprecated)": torch_script,
}


def verdict(ability: Callable[[Kind], None], kind: Kind) -> str:
    """Return "yes", or "no" with the type of the exception; any exception may occur."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ability(kind)
    except Exception as error:  # noqa: BLE001, as the docstring says
        return f"no: {type(error).__name__}"
    return "yes"


def main() -> None:
    print("| | `LSTM`, hand-built | `nn.LSTM` |\n| --- | --- | --- |")
    for name, ability in ABILITIES.items():
        print(f"| {name} | {verdict(ability, LSTM)} | {verdict(ability, nn.LSTM)} |", flush=True)


if __name__ == "__main__":
    main()
