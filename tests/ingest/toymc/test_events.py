"""Events: reproducible in every way, with the branches, defects and extras that were asked for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.toymc import ToyOptions, generate, iterate
from ingest.toymc.events import BLOCK, generate_block, plan
from ingest.toymc.response import EFFICIENCY
from shards import geometry as geo
from shards.base import ConfigError, InputError

SURVEY = Path(__file__).parents[4] / "shared" / "data" / "sensor_directions.txt"


def digest(seed: int = 5) -> str:
    events = generate(140, ToyOptions(seed=seed, runs=2, pileup=0.5, nan_fraction=0.01, saturation=True))
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in events.branches().values())).hexdigest()


def test_same_seed_same_arrays_other_seed_other_arrays() -> None:
    assert digest() == digest()
    assert digest() != digest(6)


def test_arrays_do_not_depend_on_the_number_of_threads() -> None:
    code = "from test_events import digest; print(digest())"
    found = set()
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout.strip())
    assert len(found) == 1


def test_blocks_make_up_the_events() -> None:
    options = ToyOptions(runs=2, seed=2)
    whole = generate(BLOCK + 30, options)
    parts = list(iterate(BLOCK + 30, options))
    np.testing.assert_array_equal(np.concatenate([p.npho for p in parts]), whole.npho)
    one = generate_block(plan(BLOCK + 30, options)[1], options)
    start = (BLOCK + 30 + 1) // 2
    np.testing.assert_array_equal(one.time, whole.time[start : start + len(one)])


def test_runs_do_not_depend_on_each_other() -> None:
    both, second = generate(40, ToyOptions(runs=2, first_run=7)), generate(20, ToyOptions(first_run=8))
    np.testing.assert_array_equal(both.npho[20:], second.npho)
    assert set(both.columns["run"]) == {7, 8}


@given(st.integers(0, 2000), st.integers(1, 9), st.integers(0, 5))
def test_plan_numbers_every_event_once(n: int, runs: int, first_run: int) -> None:
    blocks = plan(n, ToyOptions(runs=runs, first_run=first_run))
    events = [(b.run, e) for b in blocks for e in range(b.first_event, b.first_event + b.count)]
    assert len(events) == len(set(events)) == n
    sizes = {run: sum(b.count for b in blocks if b.run == run) for run in range(first_run, first_run + runs)}
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert all(b.run_events == sizes[b.run] and 1 <= b.count <= BLOCK for b in blocks)


def test_relative_time_is_time_minus_the_earliest_usable_one() -> None:
    events = generate(30, ToyOptions(dead_fraction=0.05))
    charge = events.npho * EFFICIENCY
    valid = events.time < 1e9
    earliest = events.columns["time_min_used"]
    restored = events.relative_time + earliest[:, None]
    assert np.abs((restored - events.time)[valid]).max() < 1e-13
    assert ((events.relative_time < 1e9) == valid).all()
    bright = valid & (charge > 100) & ~events.dead
    assert (events.time[bright] >= np.repeat(earliest, bright.sum(axis=1)) - 1e-15).all()
    assert (events.relative_time[valid] < 0).any()  # faint sensors may be earlier than the earliest usable one
    assert (events.npho[~events.dead] < 0).any()  # pedestals fluctuate to both sides


def test_times_follow_the_gamma() -> None:
    events = generate(200, ToyOptions(seed=4))
    flight = np.linalg.norm(events.columns["xyzTruth"] - events.columns["xyzVTX"], axis=1) / 29.979
    late = 1e9 * events.columns["time_min_used"] - events.columns["timeTruth"] - flight
    assert 0 < np.median(late) < 3
    assert late.std() < 1.5


def test_dead_channels_and_bad_values() -> None:
    base = ToyOptions(seed=3)
    clean = generate(20, base)
    for mark, value in (("missing", 1e10), ("nan", np.nan)):
        events = generate(20, replace(base, dead_channels=(3, 4700), dead_mark=mark, dead_branch=True))
        assert np.array_equal(np.flatnonzero(events.dead[0]), [3, 4700])
        for name in ("npho", "time", "relative_time"):
            np.testing.assert_array_equal(events.branches()[name][:, [3, 4700]], np.float32(value))
        np.testing.assert_array_equal(events.columns["dead"], events.dead.astype(np.uint8))
        alive = ~events.dead
        np.testing.assert_array_equal(events.npho[alive], clean.npho[alive])
    spoiled = generate(20, replace(base, nan_fraction=0.02, missing_fraction=0.03))
    assert np.isnan(spoiled.npho).mean() == pytest.approx(0.02, rel=0.1)
    assert (spoiled.npho == np.float32(1e10)).mean() == pytest.approx(0.03, rel=0.1)
    assert np.isnan(spoiled.time).mean() == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(np.isnan(spoiled.time), np.isnan(spoiled.relative_time))


def test_expectation_is_what_counts_fluctuate_about() -> None:
    events = generate(60, ToyOptions(expected=True, seed=8))
    assert events.expected is not None
    full = events.columns["energyDep"] > 0.045
    ratio = events.npho[full].sum(axis=1, dtype=float) / events.expected[full].sum(axis=1, dtype=float)
    assert ratio.mean() == pytest.approx(1, abs=0.002)
    assert ratio.std() == pytest.approx(0.0036, rel=0.4)
    assert "npho_expected" in events.branches()


def test_energy_smear_and_pileup() -> None:
    base = ToyOptions(seed=9, expected=True)
    sharp, smeared = generate(150, base), generate(150, replace(base, energy_smear=0.05))
    assert sharp.expected is not None
    assert smeared.expected is not None
    ratio = smeared.expected.sum(axis=1) / sharp.expected.sum(axis=1)
    assert ratio.std() == pytest.approx(0.05, rel=0.2)
    piled = generate(150, replace(base, pileup=0.8))
    assert piled.expected is not None
    extra = piled.columns["nGamma"] - 1
    assert extra.mean() == pytest.approx(0.8, abs=0.3)
    more = piled.expected.sum(axis=1) / sharp.expected.sum(axis=1) - 1
    np.testing.assert_allclose(more[extra == 0], 0, atol=1e-5)
    assert (more[extra > 0] > 0).all()
    assert more[extra > 0].mean() == pytest.approx(0.5 * extra[extra > 0].mean(), rel=0.5)


def test_orders_of_magnitude() -> None:
    events = generate(500, ToyOptions(seed=10))
    uvw = events.columns["uvwTruth"]
    inside = (np.abs(uvw[:, 0]) < 23.9) & (np.abs(uvw[:, 1]) < 67.9)
    npho = events.npho[inside].astype(float)
    charge, face = npho * EFFICIENCY, geo.nominal().face
    assert np.median(charge.sum(axis=1)) == pytest.approx(1.0e5, rel=0.05)
    assert np.median(npho.sum(axis=1)) == pytest.approx(7.6e5, rel=0.05)
    shares = [charge[:, np.isin(face, k)].sum() / charge.sum() for k in ((0,), (1,), (2, 3), (4, 5))]
    np.testing.assert_allclose(shares, [0.5, 0.17, 0.2, 0.11], atol=0.03)
    assert np.median(npho.max(axis=1)) == pytest.approx(1.2e4, rel=0.25)
    assert np.median(uvw[inside, 2]) == pytest.approx(3.7, abs=0.6)


@pytest.mark.skipif(not SURVEY.exists(), reason="the table of surveyed positions is not part of the repository")
def test_surveyed_geometry_changes_the_light_a_little() -> None:
    nominal, surveyed = (generate(10, ToyOptions(geometry=g, expected=True)) for g in (None, str(SURVEY)))
    assert nominal.expected is not None
    assert surveyed.expected is not None
    ratio = surveyed.expected.sum(axis=1) / nominal.expected.sum(axis=1)
    np.testing.assert_allclose(ratio, 1, atol=0.03)
    assert np.abs(surveyed.expected / nominal.expected - 1).max() > 0.02


def test_nothing_asked_for_nothing_made() -> None:
    none, some = generate(0), generate(2)
    assert len(none) == 0
    assert {k: v.shape[1:] for k, v in none.branches().items()} == {k: v.shape[1:] for k, v in some.branches().items()}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"energy": "signl"},
            r"energy: is neither a spectrum nor a number in MeV \(found 'signl'\); did you mean 'signal'",
        ),
        ({"energy": "5"}, r"energy: is outside what the shower library covers \(found 5.0, expected 10…100 MeV\)"),
        ({"energy_range": (50.0, 20.0)}, "energy_range: is empty"),
        ({"energy_range": (1.0, 20.0)}, "energy_range: is outside"),
        ({"energy": "52.8", "energy_range": (15.0, 65.0)}, "energy_range: is of the flat spectrum only"),
        ({"source": "unifrom"}, "source: is not known .*did you mean 'uniform'"),
        ({"source": "uniform", "energy": "cex"}, "cannot be combined with source 'uniform'"),
        ({"dead_mark": "zero"}, "dead_mark: is not known"),
        ({"dead_fraction": 1.2}, "dead_fraction: is out of range"),
        ({"pileup": -1.0}, "pileup: is out of range"),
        ({"response_spread": 0.9}, "response_spread: is out of range"),
        ({"runs": 0}, "runs: is too small"),
        ({"seed": -1}, "seed: is too small"),
        ({"dead_channels": (4760,)}, r"dead_channels: names a channel that does not exist \(found 4760"),
    ],
)
def test_wrong_options_are_named(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ToyOptions(**arguments)  # type: ignore[arg-type]


def test_options_survive_json() -> None:
    import json

    options = ToyOptions(energy="flat", energy_range=(15, 65), dead_channels=(1, 2), geometry="a.txt", pileup=0.1)
    assert ToyOptions.from_dict(json.loads(options.to_json())) == options
    with pytest.raises(ConfigError, match="sead: is not an option; did you mean 'seed'"):
        ToyOptions.from_dict({"sead": 1})


def test_missing_geometry_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.txt: cannot be read as a geometry table"):
        generate(1, ToyOptions(geometry=str(tmp_path / "no.txt")))
