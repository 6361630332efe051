"""One reader of documents: JSON and YAML become one model, or one line that names file, field and what is wrong.

    view = read_document(path, SavedView, what="view file")                 # machine-written: CorruptError
    values = read_yaml(path, what="schema")                                 # written by people: ConfigError
    options = checked(Options, values, file=path, error=ConfigError)

Refused in either language: text that is not UTF-8, a key given twice, numbers that are not finite, endless nesting.
YAML is that of version 1.2: `off` and `no` are words, `1e-4` and `010` are numbers (ten, not eight), dates are text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from shards.base.errors import ConfigError, CorruptError, InputError, XecError, nearest

T = TypeVar("T")


def read_text(file: Path | str, what: str, error: type[XecError] = CorruptError) -> str:
    """The text of a file that is called `what` in messages ("view file"); a byte-order mark is taken off.

    Raises:
        InputError: there is none, or it cannot be read.
        `error`: it is not UTF-8.
    """
    path = Path(file)
    try:
        _refuse_special(path, what)
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"there is no such {what}", file=file) from None
    except OSError as problem:
        raise InputError(f"{what} cannot be read: {problem.strerror or problem}", file=file) from None
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise error(f"is not a valid {what}: it is not UTF-8 text", file=file, item=f"line {line}") from None


def _refuse_special(path: Path, what: str) -> None:
    """What is not a regular file is refused: reading a pipe or a device may never end."""
    if path.exists() and not path.is_file():
        raise InputError(f"is not a valid {what}: it is a {'folder' if path.is_dir() else 'device or pipe'}", file=path)


def file_digest(path: Path) -> str:
    """sha256 of a whole file, hexadecimal.

    Raises:
        InputError: it is not a regular file, or cannot be read.
    """
    _refuse_special(path, "file")
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from error


def json_digest(value: Any, separators: tuple[str, str] | None = None) -> str:
    """sha256 of a value's JSON with sorted keys, hexadecimal: equal for equal values, whatever the order of keys.

    Args:
        separators: between items and after keys, as of `json.dumps`; recorded digests depend on them.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=separators).encode()).hexdigest()


def read_json(file: Path | str, what: str, error: type[XecError] = CorruptError) -> Any:
    """The value of a JSON file; raises as `read_text` and `parse_json` do."""
    return parse_json(read_text(file, what, error), what, file=file, error=error)


def read_yaml(file: Path | str, what: str, error: type[XecError] = ConfigError) -> dict[str, Any]:
    """The mapping of a YAML file, empty for an empty one; raises as `read_text` and `parse_yaml` do."""
    value = parse_yaml(read_text(file, what, error), file=file, error=error)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise error(f"does not hold a {what}", file=file, found=_kind(value), expected="key: value lines")
    return {str(key): item for key, item in value.items()}


def read_document(file: Path | str, model: type[T], what: str, error: type[XecError] = CorruptError) -> T:
    """A JSON file as a value of `model` (a pydantic model or a dataclass).

    Raises:
        InputError: there is none.
        `error`: it is damaged, or holds something else; names the field.
    """
    return checked(model, read_json(file, what, error), what, file=file, error=error)


def parse_json(text: str, what: str, *, file: Path | str | None = None, error: type[XecError] = CorruptError) -> Any:
    """Parse JSON as the standard has it: no NaN or infinity, no number beyond float64, no key twice."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite, parse_int=_whole
        )
    except RecursionError:
        raise error(f"is not a valid {what}: it is nested too deeply", file=file) from None
    except ValueError as problem:
        raise error(f"is not a valid {what}: {problem}", file=file) from None


def parse_yaml(
    text: str, *, file: Path | str | None = None, item: str | None = None, error: type[XecError] = ConfigError
) -> Any:
    """Parse YAML 1.2 scalars, lists and mappings; nothing else can be in it.

    Raises:
        `error`: names `file` and `item`, and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise error("is nested too deeply", file=file, item=item) from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark is not None and "\n" in text.strip() else None
        where = ": ".join(part for part in (item, place) if part) or None
        reason = getattr(problem, "problem", None) or " ".join(str(problem).split())
        raise error(f"is not YAML: {reason}", file=file, item=where) from None


def checked(
    model: type[T],
    value: object,
    what: str = "",
    *,
    file: Path | str | None = None,
    error: type[XecError] = CorruptError,
) -> T:
    """`value` (of JSON or YAML) as a value of `model`, a pydantic model or a dataclass, whose own checks may raise.

    Raises:
        `error`: names the first field that does not fit, and for an unknown one the nearest that there is.
    """
    if what and not isinstance(value, dict):
        raise error(f"is not a valid {what}", file=file, found=_kind(value), expected="an object")
    try:
        return cast(T, _adapter(cast(Any, model)).validate_python(value))
    except ValidationError as problem:
        raise explained(problem, model, file=file, error=error) from None
    except XecError as problem:  # of the model's own checks, which know no file
        if problem.file is None:
            raise error(
                problem.problem,
                file=file,
                item=problem.item,
                found=problem.found,
                expected=problem.expected,
                remedy=problem.remedy,
            ) from None
        raise


@lru_cache(maxsize=64)
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def explained(
    problem: ValidationError, model: Any, *, file: Path | str | None = None, error: type[XecError] = ConfigError
) -> XecError:
    """pydantic's first complaint as an error of ours: `shards[3].events: has a wrong value: …`."""
    first = problem.errors()[0]
    location = [part for part in first["loc"] if not (isinstance(part, str) and "[" in part)]  # tags of unions
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or None
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return error(
            "no such key", file=file, item=path, remedy=nearest(str(location[-1]), keys_beside(model, location))
        )
    if first["type"] == "missing":
        return error("is missing", file=file, item=path)
    found = " ".join(repr(first.get("input")).split())
    found = found if len(found) <= 60 else found[:59] + "…"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "value_error":
        return error(reason, file=file, item=path, found=found)
    return error("has a wrong value", file=file, item=path, found=found, expected=reason)


def keys_beside(model: Any, location: Iterable[str | int]) -> list[str]:
    """The keys that a model knows at the place of the last key of `location`."""
    kind: Any = model
    for part in list(location)[:-1]:
        kind = _inside(kind, part)
        if kind is None:
            return []
    return list(_fields(kind))


def _inside(kind: Any, part: str | int) -> Any:
    """What model is behind a field, or in the items of a list or mapping."""
    annotation = kind if isinstance(part, int) else _fields(kind).get(part, kind)  # else the key of a mapping
    waiting = [annotation]
    while waiting:
        candidate = waiting.pop(0)
        if _fields(candidate):
            return candidate
        waiting += get_args(candidate)
    return None


def _fields(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return get_type_hints(kind)
    return {}


def _kind(value: object) -> str:
    """What a value of JSON or YAML is called."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _whole(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"{text[:20]}… is too large a number")
    return int(text)


# -- YAML -----------------------------------------------------------------------------------------------------------

_REPLACED = ("bool", "float", "int", "timestamp", "value")
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2, keys once, finite numbers, and no value that contains itself."""

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _refuse_cycles(node, set(), set())
        return self.construct_document(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise _refusal("a key must be text or a number", key_node)
            if key in keys:
                raise _refusal(f"the key {key!r} is given twice", key_node)
            keys.add(key)
        return super().construct_mapping(node, deep)


def _refuse_cycles(node: Any, above: set[int], done: set[int]) -> None:
    if id(node) in above:
        raise _refusal("a value contains itself", node)
    if id(node) in done or isinstance(node, yaml.ScalarNode):
        return
    above.add(id(node))
    inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    for part in inside:
        _refuse_cycles(part, above, done)
    above.remove(id(node))
    done.add(id(node))


def _refusal(problem: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _number(kind: Any) -> Any:
    def construct(loader: _Loader, node: Any) -> Any:
        text = loader.construct_scalar(node)
        try:
            return kind(text)
        except ValueError as problem:
            raise _refusal(str(problem), node) from None

    return construct


def _integer(text: str) -> int:
    return int(text, 0) if text[:2].lower() in ("0x", "0o") else _whole(text)


def _day(text: str) -> str:
    """Text that looks like a date stays text, but must be one."""
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        raise ValueError(f"{text} is not a date (put text in quotes)") from None
    return text


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
    ("timestamp", r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "0123456789"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list(_first))
_Loader.add_constructor(_TAG + "int", _number(_integer))
_Loader.add_constructor(_TAG + "float", _number(lambda text: _finite(re.sub(r"^([-+]?)\.(?=[a-zA-Z])", r"\1", text))))
_Loader.add_constructor(_TAG + "timestamp", _number(_day))


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def yaml_text(value: Any) -> str:
    """`value` (mappings, lists, text, numbers) as YAML that `parse_yaml` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
