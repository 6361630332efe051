"""The toy's limit beside events: the kept table, and what is made of it."""

from __future__ import annotations

import numpy as np
import pytest

from ingest.toymc.study.limit import kept_limits, limits
from xectrain.evaluation.plots import resolution_pages
from xectrain.evaluation.tables import task_table
from xectrain.evaluation.toy_limit import limit_columns


def test_the_kept_points_come_out_as_they_are():
    kept = kept_limits()
    truth = {"w": np.array([k.depth for k in kept]), "energy": np.array([1e-3 * k.gamma for k in kept])}
    found = limit_columns(truth)
    np.testing.assert_allclose(found["limit_u"], [k.u for k in kept])
    np.testing.assert_allclose(found["limit_timing"], [k.time for k in kept])
    np.testing.assert_allclose(found["limit_energy"], [1e-3 * k.gamma * k.energy for k in kept])


def test_between_and_beyond_the_points():
    truth = {"w": np.array([3.0, 4.0, 8.0, -1.0, 30.0, np.nan]), "energy": np.full(6, 0.05283)}
    u = limit_columns(truth)["limit_u"]
    assert u[0] < u[1] < u[2]
    assert u[3] == pytest.approx(kept_u(1.0))
    assert u[4] == pytest.approx(kept_u(20.0))
    assert np.isnan(u[5])
    assert limit_columns({"w": truth["w"]}) == {}


def kept_u(depth: float) -> float:
    return next(k.u for k in kept_limits() if k.depth == depth and k.gamma == 52.83)


def test_limits_stand_in_tables_and_plots():
    rng = np.random.default_rng(0)
    truth = {"w": rng.uniform(1, 15, 400), "energy": rng.uniform(0.02, 0.05, 400), **{c: np.zeros(400) for c in "uv"}}
    columns = {f"true_{n}": v for n, v in truth.items()}
    columns |= {f"pred_{n}": v + 0.01 * rng.normal(size=400) for n, v in truth.items()}
    table = task_table("energy", {**columns, **limit_columns(truth)})
    found = table.limits()
    assert found["energy_core_sigma"] == pytest.approx(
        1e3 * np.sqrt(np.mean(limit_columns(truth)["limit_energy"] ** 2))
    )
    assert found["energy_relative_effective_sigma"] == pytest.approx(2.6, abs=0.5)
    assert "energy_bias" not in found
    page = resolution_pages(table)[0]
    assert any("best linear (toy)" in [line.get_label() for line in axes.get_lines()] for axes in page.axes)
    assert task_table("energy", columns).limits() == {}


@pytest.mark.slow
def test_the_kept_numbers_are_those_of_the_study():
    (found,) = limits([3.0], case="unknown", energy=20.0)
    kept = next(k for k in kept_limits() if k.depth == 3.0 and k.gamma == 20.0)
    for name in ("u", "v", "w", "energy", "time"):
        assert getattr(found, name) == pytest.approx(getattr(kept, name), rel=0.02), name
