"""How fast the network computes: events/s forward and forward + backward, against a plain implementation, in one run.

    python benchmarks/model.py --preset reference --batch 64 --threads 2
    python benchmarks/model.py --compiled --batch 32

The plain implementation is the same network (its outputs are compared first) as one would write it down: float32,
eager, channels first with permutes around every linear layer, faces one by one, neighbours added up by scatter,
response normalization applied to the hidden tensor. Every row has a process of its own, and they take turns; only the
ratios mean something.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from shards.base import keep_freed_memory
from shards.normalization import Normalization, preset, valid
from xectrain.compute import compile_in_place
from xectrain.config.networks import PRESETS
from xectrain.models.backbone import ConvNeXtBlock
from xectrain.models.encoder import Encoder
from xectrain.models.hexagonal import HexNeXtBlock


class PlainEncoder(nn.Module):
    """The encoder with default options, written plainly around the parameters of a fast one."""

    def __init__(self, fast: Encoder, normalization: Normalization) -> None:
        super().__init__()
        self.fast, self.normalization = fast, normalization
        grids = {name: geo.face_grid(name) for name in ("inner", "upstream", "downstream")}
        nodes = {name: geo.hexagon(name).nodes for name in ("top", "bottom")}
        self.channels = {name: torch.from_numpy(c.astype(np.int64)) for name, c in (grids | nodes).items()}
        fine = torch.from_numpy(geo.outer_fine_grid().astype(np.int64))
        self.fine = fine
        self.cells = torch.from_numpy(geo.outer_fine_cells().astype(np.int64))[fine].float()
        edges = torch.from_numpy(geo.hexagon("top").edges.astype(np.int64))
        neighbours = geo.hexagon("top").neighbours
        self.source, self.target = edges[:, 1], edges[:, 0]
        self.direction = torch.from_numpy(np.nonzero(neighbours >= 0)[1].astype(np.int64))
        layers = []
        for layer in fast.fusion.layers:
            width = fast.config.width
            theirs = nn.TransformerEncoderLayer(
                width, layer.heads, 4 * width, layer.dropout, "gelu", layer_norm_eps=1e-6, batch_first=True
            )
            theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = layer.qkv.weight, layer.qkv.bias
            theirs.self_attn.out_proj = layer.out
            theirs.linear1, theirs.linear2 = layer.expand, layer.contract
            theirs.norm1, theirs.norm2 = layer.attention_norm, layer.feed_norm
            layers.append(theirs)
        self.layers = nn.ModuleList(layers)

    def forward(self, x_BN2: Tensor, mask_BN: Tensor) -> Tensor:
        npho_BN, time_BN = x_BN2.unbind(dim=-1)
        tokens = [self.rectangular(*self.face("inner", npho_BN, time_BN, mask_BN))]
        tokens.append(self.rectangular(*self.outer(npho_BN, time_BN, valid(x_BN2, self.normalization)[1], mask_BN)))
        for name in ("upstream", "downstream"):
            tokens.append(self.rectangular(*self.face(name, npho_BN, time_BN, mask_BN)))
        for name in ("top", "bottom"):
            tokens.append(self.hexagonal(name, npho_BN, time_BN, mask_BN))
        x_BTD = torch.stack(tokens, dim=1) + self.fast.position()
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        return x_BTD

    def on(self, device: str) -> PlainEncoder:
        """The same on a device, tables included."""
        self.channels = {name: table.to(device) for name, table in self.channels.items()}
        for name in ("fine", "cells", "source", "target", "direction"):
            setattr(self, name, getattr(self, name).to(device))
        return self.to(device)

    def face(self, name: str, npho_BN: Tensor, time_BN: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.channels[name]
        keep_B1HW = (~mask_BN[:, grid]).float()[:, None]
        return torch.stack((npho_BN[:, grid], time_BN[:, grid]), dim=1) * keep_B1HW, keep_B1HW

    def outer(self, npho_BN: Tensor, time_BN: Tensor, timed_BN: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
        keep = (~mask_BN[:, self.fine]).float()
        timed = timed_BN[:, self.fine].float() * keep
        photons = self.normalization.inverse_npho(npho_BN[:, self.fine]) / self.cells * keep
        photons, count = F.avg_pool2d(photons, 3) * 9, F.avg_pool2d(timed, 3) * 9
        time_sum = F.avg_pool2d(time_BN[:, self.fine] * timed, 3) * 9
        no_time = torch.full_like(count, self.normalization.sentinel_time)
        times = torch.where(count > 0.5, time_sum / count.clamp(min=1), no_time)
        keep = F.max_pool2d(keep, 3)
        npho = self.normalization.forward_npho(photons.clamp(min=self.normalization.domain_minimum))
        return torch.stack((npho * keep, times * keep), dim=1), keep[:, None]

    def rectangular(self, x_B2HW: Tensor, keep_B1HW: Tensor) -> Tensor:
        net = self.fast.backbone
        h = net.stem_norm(net.stem(x_B2HW).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        keep = keep_B1HW[:, :, :-1, :-1]
        h = h * keep
        for block in net.first:
            h = self.block(block, h, keep)
        h = net.down(net.down_norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * keep)
        keep = F.max_pool2d(keep, 2)
        h = h * keep
        for block in net.second:
            h = self.block(block, h, keep)
        pooled = F.adaptive_avg_pool2d(h, 4) / F.adaptive_avg_pool2d(keep, 4).clamp(min=1e-6)
        return pooled.permute(0, 2, 3, 1).flatten(1)

    def block(self, block: ConvNeXtBlock, x_BCHW: Tensor, keep_B1HW: Tensor) -> Tensor:
        branch = block.branch
        h = block.depthwise(x_BCHW * keep_B1HW) * keep_B1HW
        h = F.gelu(branch.expand(branch.norm(h.permute(0, 2, 3, 1))))
        norm = (h * keep_B1HW.permute(0, 2, 3, 1)).norm(dim=(1, 2), keepdim=True)
        h = branch.gamma * (h * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))) + branch.beta + h
        return x_BCHW + branch.contract(h).permute(0, 3, 1, 2) * keep_B1HW

    def hexagonal(self, name: str, npho_BN: Tensor, time_BN: Tensor, mask_BN: Tensor) -> Tensor:
        net = self.fast.hexagonal
        nodes = self.channels[name]
        keep = (~mask_BN[:, nodes]).float()[..., None]
        h = torch.stack((npho_BN[:, nodes], time_BN[:, nodes]), dim=-1) * keep
        h = F.gelu(net.stem_norm(net.stem(h))) * keep
        for block in net.blocks:
            h = self.hexagonal_block(block, h, keep)
        mean = h.sum(dim=1) / keep.sum(dim=1).clamp(min=1)
        token: Tensor = net.project(net.norm(mean))
        return token

    def hexagonal_block(self, block: HexNeXtBlock, x_BPC: Tensor, keep_BP1: Tensor) -> Tensor:
        branch, weight = block.branch, block.mixer.weight
        messages = x_BPC[:, self.source] * weight[1 + self.direction]
        mixed = (x_BPC * weight[0]).index_add(1, self.target, messages) + block.mixer.bias
        h = F.gelu(branch.expand(branch.norm(mixed * keep_BP1)))
        norm = (h * keep_BP1).norm(dim=1, keepdim=True)
        h = branch.gamma * (h * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))) + branch.beta + h
        return x_BPC + branch.contract(h) * keep_BP1


def events(count: int) -> tuple[Tensor, Tensor]:
    """Random light with 2 % dead sensors and half of the times invalid."""
    draw = torch.Generator().manual_seed(0)
    norm = preset("standard")
    npho = norm.forward_npho(torch.rand(count, geo.N_SENSORS, generator=draw) ** 4 * 5000)
    time_BN = torch.where(torch.rand(npho.shape, generator=draw) < 0.5, 0.5, norm.sentinel_time)
    return torch.stack((npho, time_BN), dim=-1), torch.rand(npho.shape, generator=draw) < 0.02


def forward(model: nn.Module, x: Tensor, mask: Tensor, bf16: bool) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out: Tensor = model(x, mask)
        return out

    return run


def both(model: nn.Module, x: Tensor, mask: Tensor, bf16: bool) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(x, mask)
        out.float().square().mean().backward()

    return run


CALLS = 3
"""In a turn, after one that does not count."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    plain: bool = False
    bf16: bool = False
    compiled: bool = False
    keep: bool = True
    """Keep freed memory, as every `xec` command that computes on a CPU does."""


ROWS = (
    Row("plain float32", plain=True, keep=False),
    Row("plain float32, memory kept", plain=True),
    Row("plain bf16, compiled", plain=True, bf16=True, compiled=True, keep=False),
    Row("float32"),
    Row("bf16", bf16=True),
    Row("float32, compiled", compiled=True),
    Row("bf16, compiled", bf16=True, compiled=True),
)


def encoders(name: str) -> tuple[Encoder, PlainEncoder]:
    torch.manual_seed(0)
    norm = preset("standard")
    fast = Encoder(PRESETS["reference"].encoder if name == "reference" else _plain_options(name), norm)
    return fast, PlainEncoder(fast, norm)


def work(row: Row, options: argparse.Namespace, pipe: Connection) -> None:
    """What a row's process does: for every `training` that comes it computes, and its seconds go back."""
    if row.keep:
        keep_freed_memory()
    torch.set_num_threads(options.threads)
    fast, plain = encoders(options.preset)
    model: nn.Module = plain if row.plain else fast
    if row.compiled:
        compile_in_place(model)
    x, mask = events(options.batch)
    steps = {training: (both if training else forward)(model, x, mask, row.bf16) for training in (False, True)}
    while (training := pipe.recv()) is not None:
        model.train(training)
        steps[training]()  # finds its memory and its cache again
        seconds = []
        for _ in range(CALLS):
            began = time.perf_counter()
            steps[training]()
            seconds.append(time.perf_counter() - began)
        pipe.send(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="reference", choices=PRESETS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="compiled rows, too, which takes ten minutes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x, mask = events(options.batch)
    with torch.no_grad():
        outputs = [model.eval()(x, mask) for model in encoders(options.preset)]
    deviation = float((outputs[0] - outputs[1]).abs().max())
    print(
        f"{options.preset}, batch {options.batch}, {options.threads} threads; plain and fast differ by {deviation:.1e}"
    )
    context = multiprocessing.get_context("spawn")
    pipes: dict[Row, Connection] = {}
    for row in ROWS:
        if options.compiled or not row.compiled:
            pipes[row], theirs = context.Pipe()
            context.Process(target=work, args=(row, options, theirs), daemon=True).start()
    rates = {row: [options.batch / seconds for seconds in taken] for row, taken in measure(pipes, options.repeats)}
    base = next(iter(rates.values()))
    print(f"{'':28}{'forward ev/s':>14}{'ratio':>8}{'fwd+bwd ev/s':>14}{'ratio':>8}")
    for row, (one, two) in rates.items():
        print(f"{row.name:28}{one:14.1f}{one / base[0]:8.2f}{two:14.1f}{two / base[1]:8.2f}")


def measure(pipes: dict[Row, Connection], repeats: int) -> Iterator[tuple[Row, list[float]]]:
    """Median seconds of forward and of forward + backward of every row, after one turn that does not count; the rows
    take turns, so that what the machine does beside hits all alike."""
    taken: dict[Row, list[list[float]]] = {row: [] for row in pipes}
    for training in (False, True):
        for column in taken.values():
            column.append([])
        for turn in range(1 + repeats):
            for row, pipe in pipes.items():
                pipe.send(training)
                seconds = pipe.recv()
                if turn:
                    taken[row][-1] += seconds
    for pipe in pipes.values():
        pipe.send(None)
    for row, columns in taken.items():
        yield row, [statistics.median(column) for column in columns]


def _plain_options(name: str) -> object:
    """A preset's encoder with the options that the plain implementation does not have set back."""
    whole = {"focus": 0, "inner_resolution": 1, "inner_tokens": 1, "fusion_norm": "post"}
    return PRESETS[name].encoder.model_copy(update=whole)


if __name__ == "__main__":
    main()
