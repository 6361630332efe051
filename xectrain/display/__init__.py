"""An event as a picture: `event` draws it, `event_source` finds it in a file. No screen is needed, and no pyplot.

May import `shards` and ingest's ROOT reader. Whoever draws anything with matplotlib imports this room first, because a
notebook's terminal may name a backend (MPLBACKEND) that this environment does not have, and matplotlib then refuses to
be imported, though pictures for files need none.
"""

import importlib.util
import os

_backend = os.environ.get("MPLBACKEND", "")
if _backend.startswith("module://") and not importlib.util.find_spec(_backend.removeprefix("module://").split(".")[0]):
    del os.environ["MPLBACKEND"]
