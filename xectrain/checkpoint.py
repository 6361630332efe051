"""Checkpoints: tensors and plain values in one file, checked before anything is loaded, never able to carry code.

A checkpoint is a `torch.save` archive, a zip file whose comment holds the SHA-256 of everything before it.
`torch.load` checks no digest, so `read_checkpoint` reads the file once, verifies those bytes and loads the same
bytes, with `weights_only=True`. Checkpoints from before the digest are verified by the CRC-32 of the zip members.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from shards.base import CorruptError, InputError, local_path, published
from shards.base.documents import checked
from shards.manifest import MANIFEST

logger = logging.getLogger(__name__)

FORMAT, WITHOUT_DIGEST = "xec-checkpoint-2", "xec-checkpoint-1"
LAST, PREVIOUS, BEST = "checkpoint_last.pt", "checkpoint_previous.pt", "checkpoint_best.pt"
MODEL_FIRST = "give the model first, then the data"
DIGEST = "sha256"
"""Key that `read_checkpoint` adds: the hexadecimal SHA-256 of the file that was read."""
_MARK = b"xec-sha256:"
_COMMENT = len(_MARK) + 64


class _Content(BaseModel):
    """What every checkpoint holds, with the kinds of the values."""

    mode: str
    config: dict[str, Any]
    model: dict[str, Any]
    ema: dict[str, Any] | None
    ema_updates: int
    optimizer: dict[str, Any]
    position: dict[str, Any]
    metrics_offset: int
    tracking_run_id: str | None
    normalization: dict[str, Any]
    npho_threshold: float
    fingerprint: str
    datasets: list[str]
    columns: list[str]
    geometry: str
    relative_time: bool
    parameters: int
    code_version: str


def checkpoint_bytes(state: Mapping[str, Any]) -> bytes:
    """A checkpoint as the bytes of its file.

    Args:
        state: tensors, numbers, strings and containers of them, nothing else.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **{key: value for key, value in state.items() if key != DIGEST}}, buffer)
    body = buffer.getvalue()[:-2] + _COMMENT.to_bytes(2, "little")  # the end of a zip file is the comment's length
    return body + _MARK + hashlib.sha256(body).hexdigest().encode()


def write_checkpoint(path: Path, state: Mapping[str, Any] | bytes) -> None:
    """Publish a checkpoint atomically.

    Args:
        path: final name.
        state: what it holds, or its bytes.
    """
    content = state if isinstance(state, bytes) else checkpoint_bytes(state)
    with published(path) as part:
        part.write_bytes(content)


def previous_names(keep: int) -> list[str]:
    """Names of the `keep` checkpoints before the last, newest first."""
    return [PREVIOUS, *(f"checkpoint_previous_{k}.pt" for k in range(2, keep + 1))]


def write_last(folder: Path, state: Mapping[str, Any] | bytes, keep: int = 1) -> None:
    """Publish `checkpoint_last.pt` and keep the `keep` before it (`previous_names`).

    At every instant at least one of the names is a whole checkpoint.
    """
    content = state if isinstance(state, bytes) else checkpoint_bytes(state)
    with published(folder / LAST) as part:
        with open(part, "wb") as file:
            file.write(content)
            os.fsync(file.fileno())
        names = [LAST, *previous_names(keep)]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if (folder / newer).exists():
                (folder / newer).replace(folder / older)


def read_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint after verifying every byte of it; the bytes that are verified are the ones that are loaded.

    Returns:
        What was written, and the digest of the file under `DIGEST`.

    Raises:
        InputError: missing, or not a checkpoint of this project.
        CorruptError: truncated, altered, incomplete, or holding anything but tensors and plain values.
    """
    if path.is_dir():
        raise InputError("is a folder, not a checkpoint", file=path, remedy=f"give a file in it, such as {LAST}")
    if not path.is_file():
        raise InputError("there is no such checkpoint", file=path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    if content.startswith(b"root"):
        raise InputError("is a ROOT file, not a checkpoint", file=path, remedy=MODEL_FIRST)
    signed, digest = _verify(content, path)
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CorruptError(f"holds more than tensors and plain values: {reason}", file=path) from None
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError) as error:
        raise CorruptError(f"cannot be read: {str(error).partition(chr(10))[0]}", file=path) from None
    if not isinstance(state, dict) or state.get("format") not in (FORMAT, WITHOUT_DIGEST):
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise InputError("is not a checkpoint of this project", file=path, found=found, expected=FORMAT)
    if state["format"] == FORMAT and not signed:
        raise CorruptError("has lost its digest", file=path, remedy="use an earlier checkpoint")
    checked(_Content, state, file=path)
    return {**state, DIGEST: digest}


def _verify(content: bytes, path: Path) -> tuple[bool, str]:
    """Check a checkpoint's bytes; returns whether they carry a digest, and the digest of the whole file."""
    comment = content[-_COMMENT:]
    of_body = hashlib.sha256(memoryview(content)[: -len(comment)])
    of_file = of_body.copy()
    of_file.update(comment)
    if comment.startswith(_MARK):
        if comment[len(_MARK) :] != of_body.hexdigest().encode():
            raise CorruptError("fails its checksum", file=path, remedy="use an earlier checkpoint")
        return True, of_file.hexdigest()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise CorruptError(f"is not a complete checkpoint: {error}", file=path) from None
    if damaged is not None:
        raise CorruptError("fails its checksum", file=path, item=damaged, remedy="use an earlier checkpoint")
    return False, of_file.hexdigest()


def newest_valid(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run folder that can be read; a damaged one is passed over with a warning.

    Raises:
        CorruptError: checkpoints exist and none can be read.
    """
    problem: CorruptError | None = None
    older = sorted(
        (path for path in folder.glob("checkpoint_previous_*.pt") if path.stem.rpartition("_")[2].isdigit()),
        key=lambda path: int(path.stem.rpartition("_")[2]),
    )
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
        InputError: there is none, or it is a URL.
    """
    local_path(model, InputError)
    if model.is_dir():
        for name in (BEST, LAST, PREVIOUS):
            if (model / name).exists():
                return model / name
        if (model / MANIFEST).exists():
            raise InputError("is a dataset, not a run", file=model, remedy=MODEL_FIRST)
        raise InputError("holds no checkpoint", file=model, expected=f"{BEST} or {LAST}")
    if not model.exists():
        raise InputError("there is no such run folder or checkpoint", file=model)
    return model


def bare_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's state dict without the prefixes that compilation and DDP put before names."""
    return {
        name.replace("_orig_mod.", "").removeprefix("module."): tensor for name, tensor in module.state_dict().items()
    }
