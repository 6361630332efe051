"""Says which events are unlike those that a model was trained on, and why, once for each input."""

from __future__ import annotations

import logging

from xectrain.inference.events import Events
from xectrain.inference.model import Model
from xectrain.inference.regressor import Predictor
from xectrain.inference.sources import Part, RootPart

logger = logging.getLogger(__name__)

PHOTONS = ("log10_grain", "log10_photons", "log10_brightest")
TIMES = ("mean_time_ns", "spread_time_ns")
"""Summaries that a wrong unit of the photons or the times moves."""


class Watch:
    """Looks at batches as they are predicted."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._looked = set[str]()

    def look(self, part: Part, events: Events, outside: int) -> None:
        """Warn if most of some events of a part are outside the training range; the first time for each part, since to
        say why they are predicted once more.

        Args:
            outside: how many of `events` are.
        """
        if not isinstance(self.model, Predictor) or part.name in self._looked or 2 * outside <= len(events):
            return
        self._looked.add(part.name)
        strays = self.model.strays(events)
        names = {stray.name for stray in strays}
        units = [f"{branch}'s in the schema's {key}" for branch, key in _units(part, names)]
        hint = f"; if the unit is not the one stated, correct {' and '.join(units)}" if units else ""
        found = ", ".join(str(stray) for stray in strays) or "some in one quantity, some in another"
        logger.warning("%s: most events are unlike those that the model was trained on: %s%s", part.name, found, hint)


def _units(part: Part, names: set[str]) -> list[tuple[str, str]]:
    """Branches that may have another unit than stated, and the keys that state it."""
    binding = part.source.binding if isinstance(part, RootPart) else None
    found = []
    if names & set(PHOTONS):
        found.append((binding.npho.branch if binding else "npho", "sensors.npho.unit"))
    if names & set(TIMES):
        found.append((binding.time.branch if binding and binding.time else "time", "sensors.time.unit"))
    return found
