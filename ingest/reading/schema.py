"""Schemas: which branches of an input tree mean what, in which unit, and what else to carry along.

A schema is a YAML file. Four ship with the package (`PRESETS`); a user's own may start from one with `extends:`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingest.reading.units import factor
from shards.base import ConfigError, nearest
from shards.columns import COLUMNS
from shards.order import SPLIT_BY

PRESETS = ("mc", "real", "cex", "sensors-only")
_FOLDER = Path(__file__).parent / "schemas"


@dataclass(frozen=True)
class SensorField:
    """A per-sensor quantity: 4760 values an event."""

    branches: tuple[str, ...]
    """Candidate branch names; the first that a tree has is taken."""
    unit: str = "-"
    """Unit in the file."""
    scale: float = 1.0
    """An extra factor on the file's values."""
    required: bool = True
    relative: tuple[str, ...] = ()
    """Those of `branches` that hold times relative to `time_min_used` (times only)."""


@dataclass(frozen=True)
class ColumnField:
    """One branch of one or a few values an event, becoming as many columns."""

    names: tuple[str, ...]
    """Column names, one per value; canonical names (`shards.columns.COLUMNS`) are converted to their canonical unit."""
    branches: tuple[str, ...]
    """Candidate branch names; the first that a tree has is taken. A carried one may hold `*` and `?`."""
    unit: str = ""
    """Unit in the file; empty: the canonical one, or none for carried columns."""
    scale: float = 1.0
    """An extra factor on the file's values."""
    required: bool = False
    invalid: tuple[float, ...] = ()
    """Values in the file that mean "unknown"; they become NaN."""
    meaning: str = ""
    """What exactly is meant where the name leaves it open: `incident` or `deposited` energy."""
    carried: bool = False

    def column_unit(self, name: str) -> str:
        """The unit that column `name` has in the shards."""
        return COLUMNS[name].unit if name in COLUMNS else self.unit


@dataclass(frozen=True)
class Schema:
    """What an input tree holds."""

    name: str
    npho: SensorField
    time: SensorField
    dead: SensorField | None
    columns: tuple[ColumnField, ...]
    tree: str = "tree"
    """Name of the tree, with its folder inside the file where it has one."""
    description: str = ""
    split_by: str = "event"
    """What stays together when the data are split, unless the user says otherwise."""

    @property
    def digest(self) -> str:
        """sha256 of everything that bears on what is read."""
        values = dataclasses.asdict(self)
        del values["name"], values["description"], values["split_by"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_schema(name_or_path: str | Path) -> Schema:
    """A preset by name, or the user's YAML file.

    Raises:
        ConfigError: no such preset or file, YAML that does not parse, an unknown key, or a value that makes no sense.
    """
    return _schema(_merged(str(name_or_path), seen=()), str(name_or_path))


def _merged(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """The YAML of `name` laid over that of the schema it extends."""
    values = _read(name)
    base_name = values.pop("extends", None)
    if base_name is None:
        return values
    if not isinstance(base_name, str) or base_name in seen or base_name == name:
        raise ConfigError("extends itself or no schema", file=name, item="extends", found=base_name)
    base = _merged(base_name, (*seen, name))
    merged = {**{key: value for key, value in base.items() if key not in ("name", "description")}, **values}
    merged["sensors"] = {**_mapping(base, "sensors", base_name), **_mapping(values, "sensors", name)}
    for key in ("columns", "carry"):
        merged[key] = [*_list(base, key, base_name), *_list(values, key, name)]
    return merged


def _read(name: str) -> dict[str, Any]:
    import yaml

    path = _FOLDER / f"{name}.yaml" if name in PRESETS else Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"no schema {name!r}", remedy=f"{nearest(name, PRESETS)}; or give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}", file=name) from None
    if not isinstance(values, dict):
        raise ConfigError("holds no schema", file=name, found=type(values).__name__, expected="a mapping")
    return values


def _schema(values: Mapping[str, Any], file: str) -> Schema:
    _known(values, ("name", "description", "tree", "split_by", "sensors", "columns", "carry"), file, "")
    sensors = _mapping(values, "sensors", file)
    _known(sensors, ("npho", "time", "dead"), file, "sensors")
    if "npho" not in sensors or "time" not in sensors:
        raise ConfigError("must name the branches of npho and of time", file=file, item="sensors")
    columns = [_column(entry, file, f"columns[{i}]", False) for i, entry in enumerate(_list(values, "columns", file))]
    carried = [_column(entry, file, f"carry[{i}]", True) for i, entry in enumerate(_list(values, "carry", file))]
    return Schema(
        name=str(values.get("name", Path(file).stem)),
        description=str(values.get("description", "")),
        tree=str(values.get("tree", "tree")),
        split_by=_choice(values.get("split_by", "event"), SPLIT_BY, file, "split_by"),
        npho=_sensor(sensors["npho"], file, "sensors.npho", "photons"),
        time=_sensor(sensors["time"], file, "sensors.time", "s"),
        dead=_sensor(sensors["dead"], file, "sensors.dead", "-") if sensors.get("dead") else None,
        columns=_unique([*columns, *carried], file),
    )


def _unique(fields: Sequence[ColumnField], file: str) -> tuple[ColumnField, ...]:
    """Later definitions of a column replace earlier ones, so that a schema can correct the one it extends."""
    kept: dict[tuple[str, ...], ColumnField] = {}
    for field in fields:
        kept[field.names or field.branches] = field
    owners: dict[str, str] = {}
    for field in kept.values():
        for name in field.names:
            if name in owners:
                raise ConfigError(
                    f"defines column {name!r} twice", file=file, found=f"from {owners[name]} and {field.branches}"
                )
            owners[name] = str(field.branches)
    return tuple(kept.values())


def _sensor(entry: object, file: str, item: str, unit: str) -> SensorField:
    values = _entry(entry, ("branches", "unit", "scale", "required", "relative"), file, item)
    branches = _strings(values.get("branches"), file, f"{item}.branches")
    relative = _strings(values.get("relative", []), file, f"{item}.relative")
    for name in relative:
        if name not in branches:
            raise ConfigError(f"{name!r} is not among the branches", file=file, item=f"{item}.relative")
    field = SensorField(
        branches=branches,
        unit=str(values.get("unit", unit)),
        scale=_number(values.get("scale", 1.0), file, f"{item}.scale"),
        required=_flag(values.get("required", True), file, f"{item}.required"),
        relative=relative,
    )
    factor(field.unit, unit, file=file, item=f"{item}.unit")
    return field


def _column(entry: object, file: str, item: str, carried: bool) -> ColumnField:
    if carried and isinstance(entry, str):
        return ColumnField(names=() if _is_pattern(entry) else (entry,), branches=(entry,), carried=True)
    keys = ("names", "branches", "unit", "scale", "required", "invalid", "meaning")
    values = _entry(entry, keys, file, item)
    branches = _strings(values.get("branches"), file, f"{item}.branches")
    default = [] if _is_pattern(branches[0]) else [branches[0]]
    names = _strings(values.get("names", default if carried else None), file, f"{item}.names")
    field = ColumnField(
        names=names,
        branches=branches,
        unit=str(values.get("unit", "")),
        scale=_number(values.get("scale", 1.0), file, f"{item}.scale"),
        required=_flag(values.get("required", False), file, f"{item}.required"),
        invalid=tuple(_number(v, file, f"{item}.invalid") for v in values.get("invalid", [])),
        meaning=str(values.get("meaning", "")),
        carried=carried,
    )
    for name in names:
        if not carried and name not in COLUMNS:
            raise ConfigError(
                f"{name!r} is no canonical column",
                file=file,
                item=item,
                remedy=nearest(name, COLUMNS) + " (or `carry` it)",
            )
        factor(field.unit or field.column_unit(name), field.column_unit(name), file=file, item=f"{item}.unit")
    return field


def _is_pattern(branch: str) -> bool:
    return any(c in branch for c in "*?[")


def _entry(entry: object, keys: Sequence[str], file: str, item: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise ConfigError(
            "must be a mapping", file=file, item=item, found=repr(entry), expected=f"keys {', '.join(keys)}"
        )
    _known(entry, keys, file, item)
    return entry


def _known(values: Mapping[str, Any], keys: Sequence[str], file: str, item: str) -> None:
    for key in values:
        if key not in keys:
            raise ConfigError(f"unknown key {key!r}", file=file, item=item or None, remedy=nearest(str(key), keys))


def _mapping(values: Mapping[str, Any], key: str, file: str) -> Mapping[str, Any]:
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError("must be a mapping", file=file, item=key, found=type(value).__name__)
    return value


def _list(values: Mapping[str, Any], key: str, file: str) -> list[Any]:
    value = values.get(key) or []
    if not isinstance(value, list):
        raise ConfigError("must be a list", file=file, item=key, found=type(value).__name__)
    return value


def _strings(value: object, file: str, item: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise ConfigError("must be a list of names", file=file, item=item, found=repr(value))
    if not value and item.endswith("branches"):
        raise ConfigError("names no branch", file=file, item=item)
    return tuple(value)


def _number(value: object, file: str, item: str) -> float:
    """A number; text too, since YAML 1.1 reads 1e10 (without a point) as text."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ConfigError("must be a number", file=file, item=item, found=repr(value))


def _choice(value: object, choices: Sequence[str], file: str, item: str) -> str:
    if value not in choices:
        raise ConfigError(
            "must be one of a few", file=file, item=item, found=repr(value), expected=" or ".join(choices)
        )
    return str(value)


def _flag(value: object, file: str, item: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("must be true or false", file=file, item=item, found=repr(value))
    return value
