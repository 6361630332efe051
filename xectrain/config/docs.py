"""The reference page of the training configuration, made from the docstrings: `python -m xectrain.config.docs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from shards.base import publish_text
from xectrain.config.tree import Config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "config.md"
HEAD = """# Training configuration

Made by `make docs` from the docstrings in `xectrain/config`.
Set any of these in a YAML file (`xec train --config FILE`) or on the command line (`--set key.path=value`);
`xec train --print-config` prints the effective values. Unknown keys are refused.
"""


def page() -> str:
    """The whole page as Markdown."""
    return HEAD + "".join(_section(Config, ""))


def _section(model: type[BaseModel], prefix: str) -> list[str]:
    """A table of the model's own fields, then a section for each group below it."""
    rows, groups = [], list[str]()
    for name, field in model.model_fields.items():
        path, text = f"{prefix}{name}", " ".join((field.description or "").split())
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            groups += [f"\n## {path}\n\n{text}\n", *_section(kind, f"{path}.")]
        else:
            rows.append(f"| `{path}` | `{_default(field.default)}` | {text.replace('|', chr(92) + '|')} |\n")
    table = ["\n| key | default | meaning |\n|---|---|---|\n", *rows] if rows else []
    return table + groups


def _default(value: Any) -> str:
    return json.dumps(value, default=str)


if __name__ == "__main__":
    publish_text(PAGE, page())
