"""What a network consists of: parameters, arithmetic and tokens, counted on the network itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from shards import geometry as geo
from shards.normalization import preset
from xectrain.config.tree import Config
from xectrain.models.encoder import Encoder
from xectrain.modes.table import find_mode

DEPTH = 2
"""Levels of parts that are listed: the network's own parts, and theirs."""


@dataclass(frozen=True)
class NetworkPart:
    """One line of the description."""

    name: str
    depth: int
    parameters: int
    flops: int
    """Floating-point operations of a forward pass of one event, a multiplication and an addition counted as two
    (matrix products, convolutions and attention; elementwise work is not counted)."""


@dataclass(frozen=True)
class Description:
    """A network in numbers."""

    parts: tuple[NetworkPart, ...]
    """The whole network first."""
    tokens: tuple[str, ...]
    width: int


def describe_network(config: Config) -> Description:
    """Count the parts of the network that `config` describes, on one event with every twentieth sensor masked."""
    norm = preset(config.data.normalization or "standard")
    network = find_mode(config.mode).load().network(config, norm).eval()
    x_BN2 = torch.zeros(1, geo.N_SENSORS, 2)
    mask_BN = torch.zeros(1, geo.N_SENSORS, dtype=torch.bool)
    mask_BN[:, ::20] = True
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x_BN2, mask_BN)
    by_name = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(network).__name__
    parts = [
        NetworkPart(
            name or root, name.count(".") + 1 if name else 0, _size(module), _flops(by_name, root, name, module)
        )
        for name, module in network.named_modules()
        if name.count(".") < DEPTH and (not name or _size(module))
    ]
    encoder = getattr(network, "encoder", None)
    tokens = tuple(token.name for token in encoder.tokens) if isinstance(encoder, Encoder) else ()
    return Description(tuple(parts), tokens, config.model.encoder.width)


def _flops(by_name: dict[str, int], root: str, name: str, module: nn.Module) -> int:
    """A module's count; a container that is never called itself has that of its members."""
    key = f"{root}.{name}" if name else "Global"
    return (
        by_name[key]
        if key in by_name
        else sum(by_name.get(f"{key}.{child}", 0) for child, _ in module.named_children())
    )


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
