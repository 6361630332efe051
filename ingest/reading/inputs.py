"""From what the user names (files, folders, globs, list files) to one list of ROOT files, each once."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.base import InputError

LIST_SUFFIXES = (".txt", ".list", ".lst")


@dataclass(frozen=True)
class InputFile:
    """One file to read."""

    path: Path
    run: int | None = None
    """Run number given in a list file; takes the place of the `run` branch."""


def expand(names: Sequence[str | Path], missing: list[InputError] | None = None) -> list[InputFile]:
    """All ROOT files meant by `names`, in the order given; the contents of a folder or glob in natural order.

    A name is a ROOT file, a folder (its `*.root`), a glob, or a list file (`.txt`, `.list`, `.lst`, or `@FILE`): `path`
    or `run path` a line, `#` starts a comment, relative paths are relative to the list file.

    Args:
        missing: where given, complaints about files that are not there are collected here instead of raised.

    Raises:
        InputError: something named is not there, holds no file, or the same file comes twice.
    """
    if not names:
        raise InputError("no input files were given", remedy="name ROOT files, folders, globs or list files")
    files = [file for name in names for file in _expand_one(str(name), missing)]
    seen: dict[Path, Path] = {}
    for file in files:
        real = file.path.resolve()
        if real in seen:
            other = "" if seen[real] == file.path else f" (also as {seen[real]})"
            raise InputError(f"is among the inputs twice{other}", file=file.path, remedy="give every file once")
        seen[real] = file.path
    return files


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts `run9.root` before `run10.root`."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", str(path)) if p]


def _expand_one(name: str, missing: list[InputError] | None) -> list[InputFile]:
    if name.startswith("@"):
        return _read_list(Path(name[1:]), missing)
    path = Path(name)
    if path.is_dir():
        return _several(path, [p for p in path.iterdir() if p.suffix == ".root"], "folder holds no *.root file")
    if path.suffix in LIST_SUFFIXES:
        return _read_list(path, missing)
    if not path.exists() and glob.has_magic(name):
        found = glob.glob(name, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute patterns)
        return _several(path, [Path(p) for p in found], "matches no file")
    if not path.exists():
        error = InputError("does not exist", file=path)
        if missing is None:
            raise error
        missing.append(error)
        return []
    return [InputFile(path)]


def _several(where: Path, paths: Sequence[Path], problem: str) -> list[InputFile]:
    if not paths:
        raise InputError(problem, file=where)
    return [InputFile(p) for p in sorted(paths, key=natural_key)]


def _read_list(path: Path, missing: list[InputError] | None) -> list[InputFile]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"list file cannot be read: {error.strerror or error}", file=path) from error
    except UnicodeDecodeError:
        raise InputError("is no list file: it is not text", file=path) from None
    files: list[InputFile] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split(maxsplit=1)
        if not words:
            continue
        run, name = (
            (int(words[0]), words[1].strip()) if len(words) == 2 and words[0].isdigit() else (None, " ".join(words))
        )
        try:
            found = _expand_one(str(path.parent / name), missing)
        except InputError as error:
            raise InputError(error.problem, file=path, item=f"line {number}", found=name) from error
        files += [InputFile(file.path, run) for file in found] if run is not None else found
    if not files and not missing:
        raise InputError("list file names no file", file=path)
    return files
