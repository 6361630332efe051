"""HTML pages of studies: sections of tables and pictures, each page one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shards.base import publish_text
from xectrain.evaluation.plots import data_uri

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    cells: tuple[str, ...]
    kind: str = ""
    """How it is coloured: `network`, `strong`, `mean` or not."""


@dataclass(frozen=True)
class Table:
    """A table of numbers as text."""

    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""
    words: int = 1
    """How many columns, from the left, hold words: they begin at the left, and long ones go over several lines."""


@dataclass(frozen=True)
class Section:
    """What belongs together on a page."""

    title: str
    tables: tuple[Table, ...] = ()
    images: tuple[Path, ...] = ()
    """PNG files."""
    note: str = ""


def write_page(
    path: Path, title: str, lead: str, sections: Sequence[Section], facts: Sequence[tuple[str, str]] = ()
) -> None:
    """Publish a page; everything that comes from files is escaped.

    Args:
        lead: the line below the title.
        facts: (name, value) of what it was made with.
    """
    shown = [
        {
            "title": section.title,
            "note": section.note,
            "tables": section.tables,
            "images": [data_uri(image) for image in section.images],
        }
        for section in sections
    ]
    publish_text(
        path, TEMPLATES.get_template("study.html.j2").render(title=title, lead=lead, sections=shown, facts=facts)
    )
