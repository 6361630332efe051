from __future__ import annotations

import pytest

from ingest.reading.units import factor
from shards.base import ConfigError


@pytest.mark.parametrize(
    ("unit", "target", "expected"),
    [
        ("ns", "s", 1e-9),
        ("s", "ns", 1e9),
        ("MeV", "GeV", 1e-3),
        ("mm", "cm", 0.1),
        ("cm", "cm", 1.0),
        ("rad", "degree", 57.29577951308232),
        ("degree", "rad", 0.017453292519943295),
    ],
)
def test_factors_are_correctly_rounded(unit: str, target: str, expected: float) -> None:
    assert factor(unit, target, file="f", item="i") == expected


def test_units_of_other_kinds_and_unknown_ones_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"my\.yaml: energy: is a unit of another kind \(found ns, expected one like 'GeV'\)"
    ):
        factor("ns", "GeV", file="my.yaml", item="energy")
    with pytest.raises(ConfigError, match=r"unknown unit 'Mev'; did you mean 'MeV'"):
        factor("Mev", "GeV", file="my.yaml", item="energy")
