"""Schemas: which branches of an input tree mean what, in which unit, and what else to carry along.

A schema is a YAML file. Five ship with the package (`PRESETS`); a user's own may start from one with `extends:`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictStr

from ingest.reading.units import factor
from shards.base import ConfigError, InputError, nearest
from shards.base.documents import checked, json_digest, read_yaml
from shards.columns import COLUMNS

PRESETS = ("mc", "real", "cex", "sensors-only", "filled")
_FOLDER = Path(__file__).parent / "schemas"

Name = Annotated[StrictStr, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SensorField(_Group):
    """A per-sensor quantity: 4760 values per event."""

    branches: Names
    """Candidate branch names; the first that a tree has is taken."""
    unit: StrictStr = "-"
    """Unit in the file."""
    scale: FiniteFloat = 1.0
    """An extra factor for the file's values."""
    required: StrictBool = True
    relative: tuple[Name, ...] = ()
    """Those of `branches` that hold times relative to `time_min_used` (times only)."""


class ColumnField(_Group):
    """One branch with one or a few values per event, each of which becomes a column."""

    names: tuple[Name, ...]
    """Column names, one per value; canonical names (`shards.columns.COLUMNS`) are converted to their canonical unit."""
    branches: Names
    """Candidate branch names; the first that a tree has is taken. A carried one may hold `*` and `?`."""
    unit: StrictStr = ""
    """Unit in the file; empty: the canonical one, or none for carried columns."""
    scale: FiniteFloat = 1.0
    """An extra factor for the file's values."""
    required: StrictBool = False
    invalid: tuple[FiniteFloat, ...] = ()
    """Values in the file that mean "unknown"; they become NaN."""
    meaning: StrictStr = ""
    """What exactly is meant, where the name leaves it open: `incident` or `deposited` energy."""
    carried: bool = False

    def column_unit(self, name: str) -> str:
        """The unit that column `name` has in the shards."""
        return COLUMNS[name].unit if name in COLUMNS else self.unit


class Schema(_Group):
    """What an input tree holds."""

    name: str
    npho: SensorField
    time: SensorField
    dead: SensorField | None
    columns: tuple[ColumnField, ...]
    tree: str = "tree"
    """Name of the tree, with its folder inside the file where it has one."""
    description: str = ""
    split_by: Literal["event", "run", "source"] = "event"
    """What stays together when the data are split, unless the user says otherwise."""

    @property
    def digest(self) -> str:
        """sha256 of everything that affects what is read."""
        return json_digest(self.model_dump(exclude={"name", "description", "split_by"}))


class _Column(_Group):
    """A column as it is written in a file; a carried one may leave out its names."""

    names: tuple[Name, ...] | None = None
    branches: Names
    unit: StrictStr = ""
    scale: FiniteFloat = 1.0
    required: StrictBool = False
    invalid: tuple[FiniteFloat, ...] = ()
    meaning: StrictStr = ""


class _Sensors(_Group):
    npho: SensorField
    time: SensorField
    dead: SensorField | None = None


class _File(_Group):
    """A schema file, with what it extends already in it."""

    name: StrictStr | None = None
    description: StrictStr = ""
    tree: Name = "tree"
    split_by: Literal["event", "run", "source"] = "event"
    sensors: _Sensors
    columns: tuple[_Column, ...] = ()
    carry: tuple[Name | _Column, ...] = ()


def load_schema(name_or_path: str | Path) -> Schema:
    """A preset by name, or the user's YAML file.

    Raises:
        ConfigError: no such preset or file, YAML that does not parse, an unknown key, or a value that makes no sense.
    """
    file = str(name_or_path)
    return _schema(checked(_File, _merged(file, seen=()), file=file, error=ConfigError), file)


def _merged(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    """The YAML of `name` laid over that of the schema it extends."""
    values = _read(name)
    base_name = values.pop("extends", None)
    if base_name is None:
        return values
    if not isinstance(base_name, str) or base_name in seen or base_name == name:
        raise ConfigError(
            "extends itself, or something that is not a schema", file=name, item="extends", found=base_name
        )
    base = _merged(base_name, (*seen, name))
    merged = {**{key: value for key, value in base.items() if key not in ("name", "description")}, **values}
    for key, kind in (("sensors", dict), ("columns", list), ("carry", list)):
        below, above = base.get(key) or kind(), values.get(key) or kind()
        if isinstance(below, dict) and isinstance(above, dict):
            merged[key] = {**below, **above}
        elif isinstance(below, list) and isinstance(above, list):
            merged[key] = [*below, *above]
    return merged


def _read(name: str) -> dict[str, Any]:
    path = _FOLDER / f"{name}.yaml" if name in PRESETS else Path(name)
    if name not in PRESETS and not path.is_file() and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"there is no schema {name!r}", remedy=f"{nearest(name, PRESETS)}; or give a YAML file")
    try:
        return read_yaml(path, "schema")
    except InputError as error:
        raise ConfigError(error.problem, file=path, found=error.found, remedy=error.remedy) from None


def _schema(given: _File, file: str) -> Schema:
    sensors = given.sensors
    columns = [_column(entry, file, f"columns[{i}]", False) for i, entry in enumerate(given.columns)]
    carried = [_column(entry, file, f"carry[{i}]", True) for i, entry in enumerate(given.carry)]
    return Schema(
        name=given.name or Path(file).stem,
        description=given.description,
        tree=given.tree,
        split_by=given.split_by,
        npho=_sensor(sensors.npho, file, "sensors.npho", "photons"),
        time=_sensor(sensors.time, file, "sensors.time", "s"),
        dead=_sensor(sensors.dead, file, "sensors.dead", "-") if sensors.dead else None,
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


def _sensor(field: SensorField, file: str, item: str, unit: str) -> SensorField:
    for name in field.relative:
        if name not in field.branches:
            raise ConfigError(f"{name!r} is not among the branches", file=file, item=f"{item}.relative")
    if "unit" not in field.model_fields_set:
        field = field.model_copy(update={"unit": unit})
    factor(field.unit, unit, file=file, item=f"{item}.unit")
    return field


def _column(entry: _Column | str, file: str, item: str, carried: bool) -> ColumnField:
    if isinstance(entry, str):
        return ColumnField(names=() if _is_pattern(entry) else (entry,), branches=(entry,), carried=True)
    names = entry.names
    if names is None and not carried:
        raise ConfigError("is missing", file=file, item=f"{item}.names")
    if names is None:
        names = () if _is_pattern(entry.branches[0]) else (entry.branches[0],)
    values: Mapping[str, Any] = entry.model_dump(exclude={"names"})
    field = ColumnField(names=names, carried=carried, **values)
    for name in names:
        if not carried and name not in COLUMNS:
            raise ConfigError(
                f"{name!r} is not a canonical column",
                file=file,
                item=item,
                remedy=nearest(name, COLUMNS) + " (or `carry` it)",
            )
        factor(field.unit or field.column_unit(name), field.column_unit(name), file=file, item=f"{item}.unit")
    return field


def _is_pattern(branch: str) -> bool:
    return any(c in branch for c in "*?[")
