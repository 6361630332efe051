import itertools
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shards.normalization import PRESETS as NORMALIZATION
from xectrain.config.tree import Config, OptimConfig, ScheduleConfig
from xectrain.modes import MODES, find_mode
from xectrain.training.optimization import (
    MovingAverage,
    Plateau,
    build_optimizer,
    clip_gradients,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "other parts": {
        "encoder": {
            **{"mixer": "attention", "pool": "attention", "position": "geometric", "multiscale": True},
            "inner_resolution": 1,
        },
        "inpainter": {"head": "cross_attention"},
    },
}
"""Options of networks that no preset has."""
KINDS = ("cosine", "onecycle", "restarts", "plateau", "constant")


@given(
    kind=st.sampled_from(KINDS),
    total=st.integers(1, 500),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 5),
    peak=st.floats(1e-6, 1.0),
)
def test_every_schedule_stays_between_its_bounds(
    kind: str, total: int, per_epoch: int, warmup: float, peak: float
) -> None:
    config = ScheduleConfig(kind=kind, warmup_epochs=warmup)  # type: ignore[arg-type]
    rates = [learning_rate(config, peak, s, total, per_epoch) for s in range(total)]
    assert all(0 < r <= peak * (1 + 1e-12) for r in rates)
    risen = min(round(warmup * per_epoch), total - 1)
    if kind == "onecycle":
        assert rates.index(max(rates)) in {max(0, round(0.3 * total) - 1), round(0.3 * total)}
        assert max(rates) == pytest.approx(peak, rel=0.2 if total > 9 else 1)
    else:
        assert rates[risen] == pytest.approx(peak if total - risen > 1 or kind != "cosine" or risen == 0 else rates[-1])
        assert rates[:risen] == pytest.approx([peak * (s + 1) / risen for s in range(risen)])
    if kind in ("constant", "plateau"):
        assert rates[risen:] == pytest.approx([peak] * (total - risen))
    if kind == "cosine":
        assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(rates[risen:]))
    if kind == "restarts":
        period = max(1, round(config.restart_epochs * per_epoch))
        assert rates[risen::period] == pytest.approx([peak] * len(rates[risen::period]))


def test_cosine_rises_linearly_then_falls_to_the_minimum() -> None:
    config = ScheduleConfig(kind="cosine", warmup_epochs=2, lr_min=1e-5)
    rates = [learning_rate(config, 1e-3, s, 100, 10) for s in range(100)]
    assert rates[:20] == pytest.approx([1e-3 * (s + 1) / 20 for s in range(20)])
    assert rates[20] == pytest.approx(1e-3)
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))
    assert rates[-1] == pytest.approx(1e-5)


def test_onecycle_peaks_where_it_says_and_ends_at_the_minimum() -> None:
    config = ScheduleConfig(kind="onecycle", onecycle_rise=0.25)
    rates = [learning_rate(config, 1.0, s, 100, 10) for s in range(100)]
    assert rates.index(max(rates)) in (24, 25)
    assert rates[-1] == pytest.approx(1e-6)


def test_restarts_return_to_the_peak() -> None:
    config = ScheduleConfig(kind="restarts", warmup_epochs=0, restart_epochs=2)
    rates = [learning_rate(config, 1.0, s, 60, 10) for s in range(60)]
    assert rates[0] == rates[20] == rates[40] == pytest.approx(1.0)
    assert rates[19] < 0.01


def test_plateau_halves_after_patience() -> None:
    config = ScheduleConfig(kind="plateau", warmup_epochs=0, plateau_patience=2)
    plateau = Plateau()
    for improved in (True, False, False):
        plateau.update(improved, config)
    assert learning_rate(config, 1.0, 5, 10, 1, plateau.scale) == pytest.approx(0.5)


def test_moving_average_warms_up_and_follows() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = MovingAverage(module, 0.999)
    nn.init.constant_(module.weight, 1.0)
    expected = 0.0
    for n in range(20):
        decay = min(0.999, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * 1.0
        average.update(module)
    assert float(average.module.weight) == pytest.approx(expected)


def averaged(values: Iterable[float], average: MovingAverage[nn.Linear] | None = None) -> MovingAverage[nn.Linear]:
    """The average of a weight that takes these values, from the beginning or further on."""
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(module.weight, 0.0)
    average = average or MovingAverage(module, 0.98)
    for value in values:
        nn.init.constant_(module.weight, value)
        average.update(module)
    return average


def test_moving_average_of_every_fourth_step_spans_the_same_time() -> None:
    """A weight that rises by one a step is averaged to where it was decay/(1 − decay) steps ago, give or take two."""
    for steps in range(2000, 2005):
        lag = steps - 1 - float(averaged(range(steps)).module.weight)
        assert abs(lag - 0.98 / 0.02) < 2


def test_moving_average_goes_on_exactly_from_any_step() -> None:
    values = torch.rand(130, generator=torch.Generator().manual_seed(0)).tolist()
    whole = averaged(values)
    for stop in range(98, 110):
        half = averaged(values[:stop])
        again = MovingAverage(half.module, half.decay)
        again.updates = half.updates
        assert float(averaged(values[stop:], again).module.weight) == float(whole.module.weight)


class Network(nn.Module):
    """A network where modes have theirs."""

    def __init__(self, mode: str, model: dict[str, Any]) -> None:
        super().__init__()
        config = Config.model_validate({"mode": mode, "model": model})
        self.model = find_mode(mode).load().network(config, NORMALIZATION["standard"])


def networks(preset: str) -> dict[str, Network]:
    """That of every mode, as a preset has it, and with the parts that no preset has."""
    return {
        f"{mode}, {variant}": Network(mode, {"preset": preset, **parts})
        for mode in MODES
        for variant, parts in VARIANTS.items()
    }


KERNELS = {"Linear.weight", "Conv2d.weight", "ConvTranspose2d.weight", "HexMixer.weight", "AttentionHexMixer.weight"}


@pytest.mark.parametrize("preset", ["tiny", "small", "reference"])
def test_weight_decay_takes_matrices_and_kernels_and_nothing_else(preset: str) -> None:
    """By type of owner: no name in a network decides, and a parameter of a new type is a decision to be made here."""
    others: set[str] = set()
    with torch.device("meta"):  # parameters without values: names, types and shapes are what it is about
        found = networks(preset)
    for name, mode in found.items():
        owners = dict(mode.named_modules())
        optimizer = build_optimizer(mode, OptimConfig(weight_decay=0.5, encoder_lr_scale=0.1))
        group = {id(p): g for g in optimizer.param_groups for p in g["params"]}
        for path, parameter in mode.named_parameters():
            owner, _, leaf = path.rpartition(".")
            kind = f"{type(owners[owner]).__name__}.{leaf}"
            assert (group[id(parameter)]["weight_decay"] > 0) == (kind in KERNELS), f"{name}: {path} is {kind}"
            assert (group[id(parameter)]["lr_scale"] == 0.1) == path.startswith("model.encoder."), path
            others |= {kind} - KERNELS
    assert {kind for kind in others if not kind.endswith(".bias")} == {
        *("LayerNorm.weight", "PointwiseBranch.gamma", "PointwiseBranch.beta", "PositionCode.code_TD"),
        *("HexDecoder.node_embedding", "AttentionHexMixer.direction", "CrossAttentionHead.face_embedding"),
        *("AttentionPool.query_GQC", "AttentionPool.position_GQP"),
    }


def test_an_optimizer_state_without_names_is_understood() -> None:
    """Checkpoints held `Optimizer.state_dict()`, whose order followed groups that went by names."""
    mode = Network("mae", {"preset": "tiny"})
    names = {id(p): name for name, p in mode.named_parameters()}
    exempt = ("embedding", "position", "query", "balance", "norm")
    old: list[list[nn.Parameter]] = [[], [], [], []]
    for name, p in mode.named_parameters():
        decays = p.ndim > 1 and p.numel() > max(p.shape) and not any(word in name for word in exempt)
        if p.requires_grad:
            old[2 * name.startswith("model.encoder.") + decays].append(p)
    before = torch.optim.AdamW([{"params": group, "lr_scale": 1.0} for group in old if group], fused=True)
    for k, p in enumerate(mode.parameters()):
        p.grad = torch.full_like(p, float(k + 1))
    before.step()
    optimizer = build_optimizer(mode, OptimConfig(weight_decay=0.25))
    load_optimizer_state(optimizer, mode, before.state_dict(), frozen_encoder=False)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 0.25}
    for p in (p for group in old for p in group):
        assert torch.equal(optimizer.state[p]["exp_avg"], before.state[p]["exp_avg"]), names[id(p)]
    again = build_optimizer(mode, OptimConfig())
    load_optimizer_state(again, mode, optimizer_state(optimizer, mode), frozen_encoder=False)
    assert all(torch.equal(again.state[p][key], before.state[p][key]) for p in again.state for key in before.state[p])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.encoder = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.model.head = nn.Linear(4, 2)


def test_frozen_encoder_is_not_optimized() -> None:
    net = Net()
    optimizer = build_optimizer(net, OptimConfig(freeze_encoder=True))
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert not any(id(p) in held for p in net.model.encoder.parameters())
    assert all(not p.requires_grad for p in net.model.encoder.parameters())


@pytest.mark.parametrize(("limit", "after"), [(1.0, 1.0), (0.0, 5.0), (10.0, 5.0)])
def test_clipping(limit: float, after: float) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([parameter], limit) == pytest.approx(5.0)
    assert math.isclose(float(parameter.grad.norm()), after, rel_tol=1e-5)
