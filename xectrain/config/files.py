"""Configuration from files and the command line: layers, `--set`, errors that name the nearest valid key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from shards.base import ConfigError, InputError, nearest
from xectrain.config.merge import merge
from xectrain.config.tree import Config

_REPLACED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: `off` and `no` are words, `1e-4` is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2 scalars, lists and mappings; nothing else can be in it."""
    return yaml.load(text, Loader=_Loader)


def load_config(
    files: Sequence[Path] = (), assignments: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Config:
    """Build the configuration: each file over the previous, then the command's own options, then each assignment.

    Args:
        files: YAML files; a later one overrides single keys of an earlier one.
        assignments: `--set` values, parsed as YAML (`optim.lr=1e-4`, `tasks.energy.enabled=true`).
        options: what the command's own options set, as a nested mapping.

    Raises:
        ConfigError: unknown key (with the nearest valid one), wrong type or value, with its path.
        InputError: a file is missing or no YAML mapping.
    """
    tree: dict[str, Any] = {}
    for file in files:
        merge(tree, read_yaml(file))
    merge(tree, options or {})
    for assignment in assignments:
        merge(tree, parse_assignment(assignment))
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> Config:
    """Check a nested mapping against the typed tree.

    Raises:
        ConfigError: naming the first key or value that does not fit, by its path.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error) from None


def parse_assignment(text: str) -> dict[str, Any]:
    """`a.b=1e-3` as `{"a": {"b": 0.001}}`; the value is read as YAML, numbers such as 1e-3 as numbers."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"--set {text!r} is no assignment", expected="key.path=value")
    node: Any = parse_yaml(value)
    for key in reversed(path.strip().split(".")):
        node = {key: node}
    return dict(node)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping from a file.

    Raises:
        InputError: unreadable, not YAML, or no mapping.
    """
    try:
        value = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None
    except yaml.YAMLError as error:
        raise InputError(f"is not YAML: {' '.join(str(error).split())}", file=file) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError("holds no mapping", file=file, found=type(value).__name__, expected="key: value lines")
    return {str(k): v for k, v in value.items()}


def to_yaml(config: Config) -> str:
    """The whole effective tree as YAML."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    path = ".".join(location)
    if first["type"] == "extra_forbidden":
        valid = _keys_beside(location)
        return ConfigError("no such key", item=path, remedy=nearest(location[-1], valid))
    found = json.dumps(first.get("input"), default=str)
    return ConfigError(f"has a wrong value: {first['msg']}", item=path, found=found)


def _keys_beside(location: Iterable[str]) -> list[str]:
    """The valid keys at the place where an unknown one was found."""
    kind: Any = Config
    for part in list(location)[:-1]:
        if part.isdigit():
            continue
        annotation: Any = kind.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        kind = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(kind.model_fields)
