"""Two sets of events: equal ones agree, and what was changed is what tells them apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ingest.toymc import ToyOptions, generate, write
from shards.base import InputError
from xectrain.baselines import RawEvents
from xectrain.cli.compare_data import app
from xectrain.evaluation.compare_data import features, two_sample_tests


@pytest.fixture(scope="module")
def sets() -> list[RawEvents]:
    """Two samples of the toy, with other seeds."""
    made = [generate(250, ToyOptions(energy="signal", seed=seed)) for seed in (1, 2)]
    return [RawEvents(toy.npho, toy.relative_time, {}) for toy in made]


def test_equal_sets_agree(sets):
    found = two_sample_tests(features(sets[0]), features(sets[1]))
    assert not any(test.differs for test in found)
    assert len(found) == 23


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (lambda e: (e.npho * np.where(np.arange(4760) >= 4092, 1.3, 1), e.time), "log10_light_outer"),
        (lambda e: (e.npho, e.time + 5e-9), "time_ns_inner"),
        (lambda e: (np.where(np.arange(4760) % 50 == 0, np.nan, e.npho), e.time), "dead_sensors"),
    ],
)
def test_what_was_changed_is_found(sets, change, feature):
    other = RawEvents(*change(sets[1]), {})
    found = {test.name: test for test in two_sample_tests(features(sets[0]), features(other))}
    assert found[feature].differs
    assert not found["hit_sensors_inner"].differs or feature == "dead_sensors"
    assert [t.distance for t in found.values()] == sorted((t.distance for t in found.values()), reverse=True)


def test_the_command(tmp_path: Path):
    write(tmp_path / "a.root", 60, ToyOptions(energy="signal", seed=3))
    write(tmp_path / "b.root", 60, ToyOptions(energy="signal", seed=4, dead_channels=(7, 4300)))
    arguments = [str(tmp_path / "a.root"), "--against", str(tmp_path / "b.root"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "dead_sensors               distance 1.000" in done.output
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["data"] == {"a.root": 60, "b.root": 60}
    assert list(found["dead_candidates"]["b.root"].values()) == [[7, 4300]]
    assert found["features"]["dead_sensors"]["medians"] == [0, 2]
    assert (tmp_path / "out" / "comparison.pdf").read_bytes().startswith(b"%PDF")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Dead-channel candidates by run" in page
    assert "light, inner [log₁₀ of photons]" in page
    assert "median time, inner [ns]" in page
    with pytest.raises(InputError, match="no events are left to compare"):
        CliRunner().invoke(
            app, [*arguments[:-1], str(tmp_path / "no"), "--select", "energy > 1"], catch_exceptions=False
        )
