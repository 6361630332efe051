"""Where a command may write: checked before any work, and the one place that decides what is replaced.

    target = output_file(out, "view file", ours=SavedView.read, inputs=[data / "manifest.json"])
    folder = output_folder(out, "dataset", ours=lambda path: (path / MANIFEST).exists(), inputs=[data])

A path is a local path whatever is in it; a URL is refused. What exists is replaced only where the command itself wrote
it; nothing is ever both input and output.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from shards.base.errors import InputError, OutputError, XecError

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/{1,2}")
"""`Path` makes one slash of two; messages show two."""


def local_path(name: Path | str, error: type[XecError] = OutputError) -> Path:
    """`name` as a path on this machine.

    Raises:
        `error`: it is a URL.
    """
    if _URL.match(str(name)):
        remote = "outputs are local files" if issubclass(error, OutputError) else "inputs are local files"
        remedy = "write it here, then copy it" if issubclass(error, OutputError) else "copy it here first (xrdcp, curl)"
        raise error(f"is a URL, {remote}", file=_URL.sub(r"\1://", str(name)), remedy=remedy)
    return Path(name)


def output_file(path: Path | str, what: str, ours: Callable[[Path], object], inputs: Iterable[Path | str] = ()) -> Path:
    """`path`, if a file can be written there and nothing is lost by it.

    Args:
        what: what the command writes, for messages ("view file").
        ours: called with a file that exists: false, or an `InputError`, where it is not one that the command writes.
        inputs: what the command reads; none of it may be the output, nor lie directly in a folder that is.

    Raises:
        OutputError: a URL, a folder, an input, a file of another kind, or a place that cannot be written.
    """
    target = local_path(path)
    with output_errors(target):
        _refuse_inputs(target, inputs)
        if target.is_dir():
            raise OutputError("is a folder", file=target, expected=f"a file name for the {what}")
        if target.exists():
            if not target.is_file():
                raise OutputError("is a device or pipe", file=target, expected=f"a file name for the {what}")
            _require_ours(target, what, ours)
        _require_writable(target.parent)
    return target


def output_folder(
    path: Path | str, what: str, ours: Callable[[Path], object], inputs: Iterable[Path | str] = ()
) -> Path:
    """`path`, if it is free (absent or empty) or holds what the command wrote; raises as `output_file` does."""
    target = local_path(path)
    with output_errors(target):
        _refuse_inputs(target, inputs)
        if target.exists() and not target.is_dir():
            raise OutputError("is a file", file=target, expected=f"a folder for the {what}")
        if target.is_dir() and any(not item.name.startswith(".") for item in target.iterdir()):
            _require_ours(target, what, ours)
        _require_writable(target)
    return target


class output_errors:  # noqa: N801  used as a function, in `with`
    """A block whose system errors about `path`, or about a folder that it is in, become one line about it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError) and is_about(error, self.path):
            raise cannot_be_written(self.path, error) from error


def is_about(error: OSError, path: Path) -> bool:
    """Whether a system error concerns `path`, a file beside it, or a folder above; one without a name does."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename))
    return named == path or named in path.parents or named.parent == path.parent or path in named.parents


def cannot_be_written(path: Path, error: OSError) -> OutputError:
    """What the system said about an output, as an error of ours."""
    shown = str(path) if len(str(path)) <= 300 else f"{str(path)[:299]}…"
    return OutputError(f"cannot be written: {error.strerror or error}", file=shown)


def _refuse_inputs(target: Path, inputs: Iterable[Path | str]) -> None:
    real = target.resolve()
    for name in inputs:
        other = Path(name).resolve()
        if other == real:
            raise OutputError("is an input of this command", file=target, remedy="choose another output")
        if real == other.parent:
            raise OutputError("holds an input of this command", file=target, found=name, remedy="choose another output")


def _require_ours(target: Path, what: str, ours: Callable[[Path], object]) -> None:
    try:
        mine = ours(target)
    except InputError:
        mine = False
    if mine is False:
        raise OutputError(
            f"exists, and is not a {what} that this command wrote",
            file=target,
            remedy="choose another output, or remove it",
        )


def _require_writable(folder: Path) -> None:
    """Make a file in `folder`, or where it would be made; OSError where that fails.

    Missing folders are tried under a name of this process's own, so that processes that ask at the same time
    (ranks, array jobs) do not get in each other's way.
    """
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    made: list[Path] = []
    try:
        if there != folder:
            made.append(Path(tempfile.mkdtemp(dir=there, prefix=".")))
            for name in folder.relative_to(there).parts:
                made.append(made[-1] / name)
                made[-1].mkdir()
        with tempfile.TemporaryFile(dir=made[-1] if made else folder):
            pass
    finally:
        for path in reversed(made):
            with suppress(FileNotFoundError):
                path.rmdir()
