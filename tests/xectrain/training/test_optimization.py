import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from xectrain.config.tree import OptimConfig, ScheduleConfig
from xectrain.training.optimization import MovingAverage, Plateau, build_optimizer, clip_gradients, learning_rate

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
    assert max(rates) == pytest.approx(peak) or kind in ("onecycle", "cosine", "restarts")


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


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.encoder = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
        self.model.head = nn.Linear(4, 2)
        self.model.position_embedding = nn.Parameter(torch.zeros(2, 4))


def test_weight_decay_spares_biases_norms_and_embeddings() -> None:
    net = Net()
    optimizer = build_optimizer(net, OptimConfig(weight_decay=0.5, encoder_lr_scale=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    decayed = {name for name, p in net.named_parameters() if decay[id(p)] > 0}
    assert decayed == {"model.encoder.0.weight", "model.head.weight"}
    assert all((scale[id(p)] == 0.1) == ("encoder" in name) for name, p in net.named_parameters())


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
