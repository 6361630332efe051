"""From what the user names (files, folders, globs, list files) to one list of ROOT files, each once."""

from __future__ import annotations

import glob
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.base import InputError, local_path
from shards.base.documents import read_text
from shards.dead import LAST_RUN
from shards.manifest import folder_of_others

logger = logging.getLogger(__name__)

LIST_SUFFIXES = (".txt", ".list", ".lst")
LIKE_ROOT = re.compile(r"\.root(\.\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class InputFile:
    """One file to read."""

    path: Path
    run: int | None = None
    """Run number given in a list file; takes the place of the `run` branch."""
    found: bool = False
    """Whether it was found in a folder or by a glob, not named itself."""


@dataclass(frozen=True)
class _Expansion:
    """How names are expanded."""

    missing: list[InputError] | None
    lists: tuple[Path, ...] = ()
    """List files that are being read, to notice one that names itself."""


def expand(names: Sequence[str | Path], missing: list[InputError] | None = None) -> list[InputFile]:
    """All ROOT files meant by `names`, in the order given; the contents of a folder or glob in natural order.

    A name is a ROOT file, a folder (its `*.root`), a glob, or a list file (`.txt`, `.list`, `.lst`, or `@FILE`): `path`
    or `run path` per line; `#` starts a comment, relative paths are relative to the list file.

    Args:
        missing: if given, errors about files that are missing, or given twice, are collected here instead of
            raised; of a file given twice the first is kept.

    Raises:
        InputError: something named is missing, holds no file, or the same file is given twice.
    """
    if not names:
        raise InputError("no input files were given", remedy="name ROOT files, folders, globs or list files")
    files = [file for name in names for file in _expand_one(str(name), _Expansion(missing))]
    seen: dict[Path, Path] = {}
    unique = []
    for file in files:
        real = file.path.resolve()
        if real in seen:
            other = "" if seen[real] == file.path else f" (also as {seen[real]})"
            error = InputError(f"is given twice{other}", file=file.path, remedy="give every file once")
            if missing is None:
                raise error
            missing.append(error)
            continue
        seen[real] = file.path
        unique.append(file)
    return unique


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts `run9.root` before `run10.root`."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", str(path)) if p]


def _expand_one(name: str, how: _Expansion) -> list[InputFile]:
    if name.startswith("@"):
        return _read_list(Path(name[1:]), how)
    path = local_path(name, InputError)
    if path.is_dir():
        return _folder(path)
    if path.suffix in LIST_SUFFIXES:
        return _read_list(path, how)
    if not path.exists() and glob.has_magic(name):
        found = glob.glob(name, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute patterns)
        return _several(path, [Path(p) for p in found], "matches no file")
    if not path.exists():
        error = InputError("does not exist", file=path)
        if how.missing is None:
            raise error
        how.missing.append(error)
        return []
    return [InputFile(path)]


def _folder(path: Path) -> list[InputFile]:
    """The `*.root` of a folder; whatever else looks like data is reported, since it is passed over."""
    inside = sorted(path.iterdir(), key=natural_key)
    files = [p for p in inside if p.suffix == ".root" and not p.is_dir()]
    over = [p.name for p in inside if p not in files and not p.is_dir() and LIKE_ROOT.search(p.name)]
    over += [f"{p.name}/" for p in inside if p.is_dir() and not p.name.startswith(".") and any(p.glob("*.root"))]
    shown = ", ".join(over[:5]) + (f" and {len(over) - 5} more" if len(over) > 5 else "")
    if not files:
        raise folder_of_others(path) or InputError(
            "the folder holds no *.root files",
            file=path,
            found=shown or None,
            remedy="name them, or use a quoted glob" if over else None,
        )
    if over:
        logger.warning("%s: passed over %s; name them, or use a quoted glob", path, shown)
    return _several(path, files, "")


def _several(where: Path, paths: Sequence[Path], problem: str) -> list[InputFile]:
    if not paths:
        raise InputError(problem, file=where)
    return [InputFile(p, found=True) for p in sorted(paths, key=natural_key)]


def _read_list(path: Path, how: _Expansion) -> list[InputFile]:
    real = path.resolve()
    if real in how.lists:
        raise InputError("the list file names itself", file=path)
    lines = read_text(path, "list file", InputError).splitlines()
    inside = _Expansion(how.missing, (*how.lists, real))
    files: list[InputFile] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split(maxsplit=1)
        if not words:
            continue
        run, name = None, " ".join(words).strip()
        try:
            if len(words) == 2 and (re.fullmatch(r"[-+]?\d+", words[0]) or not (path.parent / name).exists()):
                run, name = _run(words[0]), words[1].strip()
            found = _expand_one(name if "://" in name else str(path.parent / name), inside)
        except InputError as error:
            raise InputError(
                error.problem,
                file=path,
                item=f"line {number}",
                found=error.found or name,
                expected=error.expected,
                remedy=error.remedy,
            ) from error
        files += [InputFile(file.path, run, file.found) for file in found] if run is not None else found
    if not files and not how.missing:
        raise InputError("the list file names no files", file=path)
    return files


def _run(text: str) -> int:
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or int(text) > LAST_RUN:
        raise InputError("does not name a run", found=repr(text[:40]), expected="`path` or `run path`")
    return int(text)
