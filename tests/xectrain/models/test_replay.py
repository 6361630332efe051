"""Recording what is called again: the same values, results that stay, few recordings, copies of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from shards.normalization import preset
from xectrain.config.networks import PRESETS
from xectrain.models.encoder import Encoder
from xectrain.models.replay import MOST, WORTH, Replayed


@dataclass(frozen=True)
class Inner:
    double: Tensor


@dataclass(frozen=True)
class Outer:
    total: Tensor
    inner: Inner
    nothing: Tensor | None = None


def both(x: Tensor) -> Outer:
    return Outer(x.sum(), Inner(2 * x))


class Recorder:
    """Counts recordings; what it makes writes into the same memory again and again, as a CUDA graph does."""

    def __init__(self) -> None:
        self.shapes: list[torch.Size] = []

    def __call__(self, function: Callable[..., Outer], inputs: tuple[Tensor, ...]) -> Callable[..., Outer]:
        self.shapes.append(inputs[0].shape)
        return function


def test_shapes_that_come_again_are_recorded_once() -> None:
    record = Recorder()
    replayed = Replayed(both, record)
    for call in range(1, WORTH + 3):
        for size in (4, 5):
            x = torch.rand(size)
            assert torch.equal(replayed(x).inner.double, 2 * x)
        assert len(record.shapes) == (2 if call >= WORTH else 0)
    for size in range(10, 10 + MOST):
        for _ in range(WORTH):
            replayed(torch.rand(size))
    assert len(replayed._recordings) == MOST
    replayed.forget()
    assert not replayed._recordings


def test_the_compiler_leaves_it_alone() -> None:
    seen: list[bool] = []

    def looked(x: Tensor) -> Outer:
        seen.append(torch.compiler.is_compiling())
        return both(x)

    replayed = Replayed(looked, Recorder())
    compiled = torch.compile(lambda x: replayed(3 * x).inner.double + 1, backend="eager")
    x = torch.rand(4)
    assert torch.equal(compiled(x), 6 * x + 1)
    assert seen == [False]


def test_what_needs_gradients_is_never_recorded() -> None:
    record = Recorder()
    replayed = Replayed(both, record)
    x = torch.rand(4, requires_grad=True)
    for _ in range(WORTH + 1):
        replayed(x).total.backward()
    assert not record.shapes
    assert x.grad is not None


def test_a_copied_encoder_looks_with_its_own_tables() -> None:
    encoder = Encoder(PRESETS["small"].encoder, preset("standard"))
    twin = copy.deepcopy(encoder)
    assert twin._replayed_look._function.__self__ is twin


@pytest.mark.gpu
@pytest.mark.parametrize("inference", [False, True])
def test_a_replayed_look_is_what_was_looked_at(inference: bool) -> None:
    encoder = Encoder(PRESETS["small"].encoder, preset("standard")).cuda()
    kept = []
    for turn in range(2 * WORTH):
        x = torch.rand(8, 4760, 2, generator=torch.Generator().manual_seed(turn)).cuda()
        mask = torch.zeros(8, 4760, dtype=torch.bool, device="cuda")
        with torch.inference_mode(inference if turn < WORTH + 1 else not inference):
            scene = encoder.look(x, mask)
        expected = encoder._look(x, mask)
        assert scene is not None
        kept.append((scene, expected))
    assert len(encoder._replayed_look._recordings) == 1
    for scene, expected in kept:
        assert torch.equal(scene.point_B3, expected.point_B3)
        assert torch.equal(scene.spot.channels_BS, expected.spot.channels_BS)
    encoder = encoder.cpu().cuda()
    assert torch.equal(encoder.look(x, mask).point_B3, kept[-1][1].point_B3)  # type: ignore[union-attr]


@pytest.mark.gpu
def test_gradients_with_a_replayed_look_are_those_without() -> None:
    encoder = Encoder(PRESETS["small"].encoder, preset("standard")).cuda()
    reader = nn.Linear(PRESETS["small"].encoder.width, 1).cuda()
    x, mask = torch.rand(8, 4760, 2).cuda(), torch.zeros(8, 4760, dtype=torch.bool, device="cuda")
    found = []
    for _ in range(WORTH + 2):
        encoder.zero_grad()
        reader(encoder(x, mask)).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[-1], found[0], rtol=1e-3, atol=1e-6)
