"""Plausible values of the detector's quantities: values outside are nearly always in another unit than stated.

One table for sensors and columns, in the units that shards have. A few wild values are normal; a column is remarked on
when more than `SOME` of its usable values are outside. The remark is the same wherever values are looked at: it names
the branch, a value, what is plausible, and the key of the schema that corrects it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SOME = 0.01


@dataclass(frozen=True)
class Range:
    """Plausible values of one quantity."""

    low: float
    high: float
    unit: str
    tiny: float = 0.0
    """Values other than 0 that are all nearer to 0 than this are implausible, too: seconds taken for nanoseconds."""

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} {self.unit}".strip()


_UVW = {"u": Range(-40, 40, "cm"), "v": Range(-80, 80, "cm"), "w": Range(-5, 45, "cm")}
_XYZ = {"x": Range(-120, 120, "cm"), "y": Range(-120, 120, "cm"), "z": Range(-60, 60, "cm")}
PLAUSIBLE: dict[str, Range] = {
    "theta": Range(10, 170, "degree"),
    "phi": Range(-180, 180, "degree"),
    "energy": Range(0, 1, "GeV", tiny=1e-4),
    "energy_dep": Range(0, 1, "GeV", tiny=1e-4),
    "timing": Range(-1e5, 1e5, "ns", tiny=1e-5),
    "time_min_used": Range(-1e-3, 1e-3, "s", tiny=1e-14),
    **_UVW,
    **_XYZ,
    **{f"emi_{axis}": Range(-1.001, 1.001, "") for axis in "xyz"},
    **{f"vtx_{axis}": Range(-100, 100, "cm") for axis in "xyz"},
    "n_gamma": Range(0, 100, ""),
    "npho": Range(-1e5, 1e7, "photons"),
    "relative times": Range(-1e-6, 1e-6, "s", tiny=1e-13),
    "absolute times": Range(-1e-3, 1e-3, "s", tiny=1e-13),
}
"""By column; `npho` and the times of sensors by what they are."""


@dataclass(frozen=True)
class Outside:
    """How many of the usable values of a quantity are implausible."""

    outside: int = 0
    usable: int = 0
    example: float = 0.0
    """One of them."""

    def __add__(self, other: Outside) -> Outside:
        example = self.example if self.outside else other.example
        return Outside(self.outside + other.outside, self.usable + other.usable, example)

    def remark(self, name: str, branch: str) -> str | None:
        """What to say about it, whose values come from `branch`; None where all is well."""
        if self.outside <= SOME * self.usable:
            return None
        share = f"{100 * self.outside / self.usable:.3g} %"
        return (
            f"{branch}: {share} of the values are implausible, such as {self.example:.4g} "
            f"(expected {PLAUSIBLE[name]}); if they are in another unit, say so in the schema's {_key(name)}"
        )


def _key(name: str) -> str:
    """The key of a schema that states the unit of a quantity."""
    if name == "npho" or name.endswith(" times"):
        return f"sensors.{'npho' if name == 'npho' else 'time'}.unit"
    return f"columns, names [{name}], unit"


def outside(name: str, values: npt.NDArray[np.floating], huge: float = 9e9) -> Outside:
    """Count the implausible among `values` (any shape) of a quantity of `PLAUSIBLE`; codes and NaN are not usable."""
    expected = PLAUSIBLE[name]
    usable = values[np.abs(values) <= huge]
    wrong = (usable < expected.low) | (usable > expected.high)
    if expected.tiny:
        wrong |= (np.abs(usable) < expected.tiny) & (usable != 0)
    return Outside(int(wrong.sum()), int(usable.size), float(usable[wrong.argmax()]) if wrong.any() else 0.0)
