"""Configuration from files and the command line: layers, `--set`, errors that name the nearest valid key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shards.base import ConfigError
from shards.base.documents import explained, parse_yaml, read_yaml, yaml_text
from xectrain.config.merge import merge
from xectrain.config.tree import Config


def layered(
    files: Sequence[Path] = (), assignments: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What is set, as one nested mapping: each file over the previous, then `options`, then each assignment.

    Args:
        files: YAML files; a later one overrides single keys of an earlier one.
        assignments: `--set` values, parsed as YAML (`optim.lr=1e-4`, `tasks.energy.enabled=true`).
        options: what the command's own options set, as a nested mapping.

    Raises:
        ConfigError: a malformed assignment, or a file that is not a YAML mapping.
        InputError: a file is missing.
    """
    tree: dict[str, Any] = {}
    for file in files:
        merge(tree, read_yaml(file, "configuration"))
    merge(tree, options or {})
    for assignment in assignments:
        merge(tree, parse_assignment(assignment))
    return tree


def validate(tree: Mapping[str, Any]) -> Config:
    """Check a nested mapping against the typed tree.

    Raises:
        ConfigError: names the first key or value that does not fit, by its path.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explained(error, Config) from None


def parse_assignment(text: str) -> dict[str, Any]:
    """`a.b=1e-3` as `{"a": {"b": 0.001}}`; the value is read as YAML, numbers such as 1e-3 as numbers."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text!r} is not an assignment", expected="key.path=value")
    node: Any = parse_yaml(value, item=f"--set {path.strip()}")
    for key in reversed(path.strip().split(".")):
        node = {key: node}
    return dict(node)


def to_yaml(config: Config) -> str:
    """The whole effective tree as YAML."""
    return yaml_text(json.loads(config.model_dump_json()))
