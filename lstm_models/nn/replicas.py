"""Replicas of a network with separate weights, trained together. R replicas, B batch, T time, D input_size."""

import copy
from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from lstm_models.nn.lstm import LSTM
from lstm_models.nn.network import Network


class Replicas(nn.Module):
    """R networks of the same configuration: (B, T, D) to (R, B).

    Networks with a hand-built core are vectorized: each weight has a leading dimension of R, and the network is vmapped
    over it, so that many small networks take little longer than one. PyTorch's own cores do not support vmap; they run
    one after another.

    The replicas are independent of each other. With the sum of their losses and an elementwise optimizer such as Adam,
    each replica is trained as if it were alone.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.count = len(networks)
        self.networks = nn.ModuleList()
        self.weights = nn.ParameterDict()
        self._template: list[Network] = []  # the network that is vmapped; in a list, so that it is no submodule
        if isinstance(networks[0].recurrent, LSTM):
            stacked, _ = stack_module_state(list[nn.Module](networks))
            self._template.append(copy.deepcopy(networks[0]).to("meta"))
            self.scaler = self._template[0].scaler = networks[0].scaler  # shared by all replicas
            for name, value in stacked.items():
                self.weights[_key(name)] = nn.Parameter(value.detach())
        else:
            self.networks.extend(networks)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all replicas."""
        for network in self._template:
            network.train(mode)
        return super().train(mode)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Predict one number per replica and sequence: (B, T, D) to (R, B). Random draws differ between replicas."""
        assert lengths_B is None, "replicas support sequences of equal length only"
        if self._template:
            weights = {_name(key): value for key, value in self.weights.items()}
            (template,) = self._template
            run = vmap(lambda replica: functional_call(template, replica, x_BTD), randomness="different")
            return cast(Tensor, run(weights))
        return torch.stack([network(x_BTD) for network in self.networks])

    def losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each replica and example, (R, B), as `Network.losses`."""
        return (self._template or [cast(Network, self.networks[0])])[0].losses(predictions, targets)

    def member(self, index: int) -> Network:
        """Return a replica as a separate network with a copy of its current weights."""
        if not self._template:
            return cast(Network, copy.deepcopy(self.networks[index]))
        network = copy.deepcopy(self._template[0]).to_empty(device=next(iter(self.weights.values())).device)
        scaler = {} if self.scaler is None else self.scaler.state_dict(prefix="scaler.")
        network.load_state_dict({**{_name(key): value[index] for key, value in self.weights.items()}, **scaler})
        return network

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> None:
        """Scale each replica's gradient to a norm of at most max_norm, as torch.nn.utils.clip_grad_norm_ does."""
        for network in self.networks:
            nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        gradients = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        if gradients:
            norm_R = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
            scale_R = (max_norm / (norm_R + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient.mul_(scale_R.view(-1, *[1] * (gradient.dim() - 1)))


def _key(name: str) -> str:
    """Return a parameter's name without dots, which a ParameterDict does not allow."""
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
