"""Comparison of networks."""

import torch

from lstm_models.nn.network import Network


def assert_equal_networks(found: Network, expected: Network) -> None:
    """Compare modules and weights bitwise, and require evaluation mode."""
    assert str(found) == str(expected)
    assert not any(module.training for module in found.modules())
    weights, others = found.state_dict(), expected.state_dict()
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
