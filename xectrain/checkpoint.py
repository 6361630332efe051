"""Checkpoints: tensors and plain values in one file, checked before anything is loaded, never able to carry code.

A checkpoint is a `torch.save` archive. Such an archive is a zip file whose members carry CRC-32 digests, which
`torch.load` does not look at; `read_checkpoint` has them verified by the standard library first, then loads with
`weights_only=True`.
"""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from shards.base import CorruptError, InputError, published, sync_directory

logger = logging.getLogger(__name__)

FORMAT = "xec-checkpoint-1"
LAST, PREVIOUS, BEST = "checkpoint_last.pt", "checkpoint_previous.pt", "checkpoint_best.pt"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Publish a checkpoint atomically.

    Args:
        path: final name.
        state: tensors, numbers, strings and containers of them, nothing else.
    """
    with published(path) as part:
        torch.save({"format": FORMAT, **state}, part)


def previous_names(keep: int) -> list[str]:
    """Names of the `keep` checkpoints before the last, newest first."""
    return [PREVIOUS, *(f"checkpoint_previous_{k}.pt" for k in range(2, keep + 1))]


def write_last(folder: Path, state: dict[str, Any], keep: int = 1) -> None:
    """Publish `checkpoint_last.pt` and keep the `keep` before it (`previous_names`).

    At every instant at least one of the names is a whole checkpoint.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if last.exists():
        names = previous_names(keep)
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if (folder / newer).exists():
                (folder / newer).replace(folder / older)
        link = folder / f".{PREVIOUS}.link"
        link.unlink(missing_ok=True)
        os.link(last, link)
        link.replace(previous)
        sync_directory(folder)
    write_checkpoint(last, state)


def read_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint after verifying every byte of it.

    Raises:
        InputError: missing, or not a checkpoint of this project.
        CorruptError: truncated, altered, or holding anything but tensors and plain values.
    """
    if not path.is_file():
        raise InputError("no such checkpoint", file=path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise CorruptError(f"is not a whole checkpoint: {error}", file=path) from None
    if damaged is not None:
        raise CorruptError("fails its checksum", file=path, item=damaged, remedy="use an earlier checkpoint")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CorruptError(f"holds more than tensors and plain values: {reason}", file=path) from None
    except (RuntimeError, ValueError, KeyError, EOFError) as error:
        raise CorruptError(f"cannot be read: {str(error).partition(chr(10))[0]}", file=path) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise InputError("is not a checkpoint of this project", file=path, found=found, expected=FORMAT)
    return state


def newest_valid(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run folder that can be read; a damaged one is passed over with a warning.

    Raises:
        CorruptError: checkpoints exist and none can be read.
    """
    problem: CorruptError | None = None
    older = sorted(folder.glob("checkpoint_previous_*.pt"), key=lambda p: int(p.stem.rpartition("_")[2]))
    for path in (folder / LAST, folder / PREVIOUS, *older):
        if path.exists():
            try:
                return path, read_checkpoint(path)
            except CorruptError as error:
                logger.warning("%s; trying the previous checkpoint", error)
                problem = error
    if problem is not None:
        raise problem
    return None


def find_checkpoint(model: Path) -> Path:
    """The checkpoint meant by a run folder (its best, else its last) or by a file.

    Raises:
        InputError: there is none.
    """
    if model.is_dir():
        for name in (BEST, LAST, PREVIOUS):
            if (model / name).exists():
                return model / name
        raise InputError("holds no checkpoint", file=model, expected=f"{BEST} or {LAST}")
    if not model.exists():
        raise InputError("no such run folder or checkpoint", file=model)
    return model


def bare_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's state dict without the prefixes that compilation and DDP put before names."""
    return {
        name.replace("_orig_mod.", "").removeprefix("module."): tensor for name, tensor in module.state_dict().items()
    }
