"""Many copies of a network, each with weights of its own, trained at once. R copies, B batch, T time, D input_size."""

import copy
from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lstm_models.nn.lstm import LSTM
from lstm_models.nn.network import Network


class Replicas(nn.Module):
    """R networks of one make: (B, T, D) to (R, B).

    With a hand-built core they share their operations: each weight has a leading dimension of R, and the network is
    vmapped over it, so that small networks cost together little more than one. PyTorch's own cores can't be vmapped;
    they run one after another.

    No number of one copy meets a number of another. With the losses summed, and an optimizer that works number by
    number, as Adam does, each copy is trained as if it were alone.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.count = len(networks)
        self.networks = nn.ModuleList()
        self.weights = nn.ParameterDict()
        self._shape: list[Network] = []  # what the weights are called with; in a list, so that it is no module's part
        if isinstance(networks[0].recurrent, LSTM):
            stacked, _ = stack_module_state(list[nn.Module](networks))
            self._shape.append(copy.deepcopy(networks[0]).to("meta"))
            self.scaler = self._shape[0].scaler = networks[0].scaler  # which all have in common
            for name, value in stacked.items():
                self.weights[_key(name)] = nn.Parameter(value.detach())
        else:
            self.networks.extend(networks)

    def train(self, mode: bool = True) -> Self:
        for network in self._shape:
            network.train(mode)
        return super().train(mode)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Predict one number for each copy and sequence: (B, T, D) to (R, B). Each copy has draws of its own."""
        assert lengths_B is None, "copies are for sequences of one length"
        if self._shape:
            weights = {_name(key): value for key, value in self.weights.items()}
            (shape,) = self._shape
            run = vmap(lambda own: functional_call(shape, own, x_BTD), randomness="different")
            return cast(Tensor, run(weights))
        return torch.stack([network(x_BTD) for network in self.networks])

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """How wrong each copy is about each example, (R, B); as `Network.losses`."""
        return (self._shape or [cast(Network, self.networks[0])])[0].losses(predictions, targets)

    def member(self, index: int) -> Network:
        """A copy by itself, its weights those at this moment."""
        if not self._shape:
            return cast(Network, copy.deepcopy(self.networks[index]))
        alone = copy.deepcopy(self._shape[0]).to_empty(device=next(iter(self.weights.values())).device)
        scaler = {} if self.scaler is None else self.scaler.state_dict(prefix="scaler.")
        alone.load_state_dict({**{_name(key): value[index] for key, value in self.weights.items()}, **scaler})
        return alone

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> None:
        """Scale each copy's gradient so that its norm is at most max_norm, as torch.nn.utils.clip_grad_norm_ does."""
        for network in self.networks:
            nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        if gradients:
            norm_R = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
            scale_R = (max_norm / (norm_R + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient.mul_(scale_R.view(-1, *[1] * (gradient.dim() - 1)))


def _key(name: str) -> str:
    """A parameter's name without the dots, which a ParameterDict does not take."""
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
