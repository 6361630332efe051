"""View files: a selection kept by name, as an expression with what it was made of; no copy of anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.base import CorruptError, publish_json
from shards.base.documents import checked, read_json

VIEW_FORMAT = "xec-view/1"


@dataclass(frozen=True)
class SavedView:
    """A selection made of a certain dataset (`Dataset.view`), as kept in a view file."""

    expression: str
    fingerprint: str
    """Of the dataset that it was made of."""
    count: int
    """Events that passed."""

    def write(self, path: Path | str) -> None:
        """Publish the view file."""
        values = {"expression": self.expression, "fingerprint": self.fingerprint, "count": self.count}
        publish_json(path, {"format": VIEW_FORMAT, **values})

    @classmethod
    def read(cls, path: Path | str) -> SavedView:
        """Read a view file.

        Raises:
            InputError: there is none.
            CorruptError: it is not a view file.
        """
        value = read_json(path, "view file")
        if not isinstance(value, dict) or value.get("format") != VIEW_FORMAT:
            found = value.get("format") if isinstance(value, dict) else None
            raise CorruptError("is not a valid view file", file=path, found=found, expected=VIEW_FORMAT)
        return checked(cls, {key: item for key, item in value.items() if key != "format"}, file=path)
