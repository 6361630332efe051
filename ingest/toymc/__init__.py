"""Toy Monte Carlo: a fast, seeded, physically honest generator of events whose likelihood is known.

    from ingest.toymc import ToyOptions, generate
    events = generate(1000, ToyOptions(energy="flat", seed=7))      # arrays in memory

`generate` returns arrays; `xec toymc` writes ROOT files; `expectation` gives the expected photoelectrons of known
parameters. Names are imported on use, so that the command line stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingest.toymc.events import ToyEvents, generate, iterate
    from ingest.toymc.likelihood import expectation
    from ingest.toymc.options import ToyOptions
    from ingest.toymc.rootfile import write

__all__ = ["ToyEvents", "ToyOptions", "expectation", "generate", "iterate", "write"]

_HOME = {
    "ToyOptions": "options",
    "ToyEvents": "events",
    "expectation": "likelihood",
    "generate": "events",
    "iterate": "events",
    "write": "rootfile",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ingest.toymc.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
