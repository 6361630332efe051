"""`Geometry`: where every sensor is and where it looks, nominal or from a survey."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.base import InputError
from shards.geometry import constants as c
from shards.geometry.arrays import frozen
from shards.geometry.positions import nominal_faces, nominal_normals, nominal_positions

MAX_SURVEY_SHIFT = 5.0
"""A surveyed sensor farther than this [cm] from its nominal place means another unit, numbering or detector."""
MAX_NORMAL_TURN = 0.25
"""Largest angle [rad] between a surveyed normal and the nominal one."""
TABLE_COLUMNS = ("sensor_id", "dir_x", "dir_y", "dir_z", "pos_x", "pos_y", "pos_z", "face")


@dataclass(frozen=True, eq=False)
class Geometry:
    """Positions and normals of the 4760 sensors. Two geometries are equal when their digests are."""

    positions: NDArray[np.float64]
    """float64 (4760, 3), cm, read-only: the centre of the sensitive surface."""
    normals: NDArray[np.float64]
    """float64 (4760, 3), read-only: unit vectors into the xenon."""
    face: NDArray[np.int8]
    """int8 (4760,), read-only: index into `FACE_NAMES`."""
    name: str
    """"nominal", or the name of the survey file."""
    digest: str = field(init=False)
    """SHA-256 (hex) of positions and normals rounded to 1e-6 and the faces; independent of name and file layout."""

    def __post_init__(self) -> None:
        for attribute, dtype, shape in (
            ("positions", np.float64, (c.N_SENSORS, 3)),
            ("normals", np.float64, (c.N_SENSORS, 3)),
            ("face", np.int8, (c.N_SENSORS,)),
        ):
            given = np.array(getattr(self, attribute), dtype=dtype)
            if given.shape != shape:
                raise ValueError(f"{attribute}: shape {given.shape}, expected {shape}")
            object.__setattr__(self, attribute, frozen(given))
        object.__setattr__(self, "digest", _digest(self.positions, self.normals, self.face))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def tangents(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two unit vectors in each sensor's plane, each float64 (4760, 3).

        The first is as near to +z as the plane allows, the second completes a right-handed triple
        (first, second, normal). The chips of a SiPM are parallel to them.
        """
        normals = self.normals
        first = np.array([0.0, 0.0, 1.0]) - normals[:, 2:3] * normals
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        return first, np.cross(normals, first)


@lru_cache
def nominal() -> Geometry:
    """The geometry of the specification, positions computed from the channel numbers."""
    return Geometry(nominal_positions(), nominal_normals(), nominal_faces(), "nominal")


@dataclass(frozen=True)
class Survey:
    """A geometry as datasets, checkpoints and calibrations keep it: plain numbers, rounded as its digest is.

    Raises:
        ValueError: not three numbers per channel.
    """

    positions: tuple[float, ...]
    """cm, channel by channel."""
    normals: tuple[float, ...]

    def __post_init__(self) -> None:
        if {len(self.positions), len(self.normals)} != {3 * c.N_SENSORS}:
            raise ValueError(f"expected {3 * c.N_SENSORS} positions and normals, three numbers per channel")

    @classmethod
    def of(cls, where: Geometry) -> Survey | None:
        """What has to be kept of a geometry: nothing if it is the nominal one."""
        if where == nominal():
            return None
        return cls(*(tuple(np.round(table, 6).ravel().tolist()) for table in (where.positions, where.normals)))

    def geometry(self, name: str) -> Geometry:
        """The geometry again."""
        positions, normals = (np.reshape(table, (c.N_SENSORS, 3)) for table in (self.positions, self.normals))
        return Geometry(positions, normals, nominal_faces(), name)


def survey_document(where: Geometry) -> dict[str, Any] | None:
    """What a file keeps of a geometry whose name stands nowhere else in it; None if it is the nominal one."""
    survey = Survey.of(where)
    return None if survey is None else {"name": where.name, **asdict(survey)}


def geometry_of(document: Mapping[str, Any] | None) -> Geometry:
    """The inverse of `survey_document`."""
    if document is None:
        return nominal()
    tables = (tuple(np.ravel(document[name]).tolist()) for name in ("positions", "normals"))
    return Survey(*tables).geometry(document["name"])


def save(path: Path | str, where: Geometry) -> None:
    """Write a table that `load` reads as the same geometry."""
    table = np.column_stack([np.arange(c.N_SENSORS), where.normals, where.positions, where.face])
    np.savetxt(path, table, fmt=["%d"] + ["%.17g"] * 6 + ["%d"], header=" ".join(TABLE_COLUMNS))


def load(path: Path | str) -> Geometry:
    """Read a surveyed geometry.

    The file is text: a line per sensor with id, normal (3), position (3, cm) and face code; `#` starts a comment; the
    order of the lines does not matter. Normals are scaled to unit length.

    Raises:
        InputError: unreadable, wrong columns, ids not exactly 0…4759, values not finite, or a sensor on another face,
            farther than 5 cm from its nominal place or turned by more than 0.25 rad.
    """
    file = Path(path)
    table = _read_table(file)
    ids = table[:, 0]
    if not np.array_equal(np.sort(ids), np.arange(c.N_SENSORS)):
        missing = np.setdiff1d(np.arange(c.N_SENSORS), ids)
        raise InputError(
            "sensor ids do not name every channel exactly once",
            file=file,
            found=f"{len(ids)} lines, {len(missing)} channels missing"
            + (f", first {missing[0]}" if len(missing) else ""),
            expected=f"ids 0…{c.N_SENSORS - 1}",
        )
    table = table[np.argsort(ids)]
    normals, positions, face = table[:, 1:4], table[:, 4:7], table[:, 7]
    _check_survey(file, normals, positions, face)
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return Geometry(positions, normals, face.astype(np.int8), file.name)


def _read_table(file: Path) -> NDArray[np.float64]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as a geometry table: {error}", file=file) from error
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != len(TABLE_COLUMNS) or not np.all(np.isfinite(row)):
            raise InputError(
                "is not a line of a geometry table",
                file=file,
                item=f"line {number}",
                found=repr(line.strip()[:80]),
                expected=f"{len(TABLE_COLUMNS)} finite numbers: {' '.join(TABLE_COLUMNS)}",
            )
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, len(TABLE_COLUMNS))


def _check_survey(
    file: Path, normals: NDArray[np.float64], positions: NDArray[np.float64], face: NDArray[np.float64]
) -> None:
    """Refuse tables that describe something else; each check names the worst sensor."""
    wrong_face = np.flatnonzero(face != nominal_faces())
    if len(wrong_face):
        first = int(wrong_face[0])
        raise InputError(
            "has sensors on another face",
            file=file,
            item=f"sensor {first}",
            found=f"face {face[first]:g} ({len(wrong_face)} sensors differ)",
            expected=f"{nominal_faces()[first]} ({c.FACE_NAMES[nominal_faces()[first]]})",
        )
    shift = np.linalg.norm(positions - nominal_positions(), axis=1)
    worst = int(shift.argmax())
    if shift[worst] > MAX_SURVEY_SHIFT:
        raise InputError(
            "is far from its nominal position",
            file=file,
            item=f"sensor {worst}",
            found=f"{shift[worst]:.3g} cm away",
            expected=f"at most {MAX_SURVEY_SHIFT:g} cm",
            remedy="check that lengths are in cm and channels are numbered as here",
        )
    length = np.linalg.norm(normals, axis=1)
    cosine = np.einsum("ij,ij->i", normals, nominal_normals()) / np.where(length > 0, length, 1.0)
    worst = int(cosine.argmin())
    if cosine[worst] < np.cos(MAX_NORMAL_TURN):
        raise InputError(
            "has a normal that does not point into the xenon",
            file=file,
            item=f"sensor {worst}",
            found=np.array2string(normals[worst], precision=3),
            expected=f"within {MAX_NORMAL_TURN:g} rad of {np.array2string(nominal_normals()[worst], precision=3)}",
        )


def _digest(positions: NDArray[np.float64], normals: NDArray[np.float64], face: NDArray[np.int8]) -> str:
    """Rounding to 1e-6 keeps the digest the same on machines whose sine differs in the last bit."""
    digest = hashlib.sha256(b"xec geometry 1\n")
    for array in (positions, normals):
        digest.update(np.rint(array * 1e6).astype("<i8").tobytes())
    digest.update(face.astype("<i8").tobytes())
    return digest.hexdigest()
