"""Runs conversions with injected faults and judges what they leave; run by test_ingest_faults under the preloaded shim.

    fault_driver.py SHIM SOURCE_FOLDER WORK_FOLDER fail|kill STRIDE

Prints one line per fault that leaves something wrong, and at the end `calls=N tried=M`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from ingest.conversion import bucket, plan
from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from shards.base import InputError, OutputError, XecError
from shards.opening import open_dataset
from support.ingest_files import digests

SPLITS = ("train", "val")


class Faults:
    """The shim of this process."""

    COUNT, FAIL, KILL = range(3)

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.fault_calls.restype = ctypes.c_long

    def arm(self, folder: Path, number: int, mode: int) -> None:
        self._library.fault_arm(str(folder).encode(), ctypes.c_long(number), mode, errno.ENOSPC)

    def was_read(self) -> bool:
        return bool(self._library.fault_was_read())

    def disarm(self) -> int:
        calls = self._library.fault_calls()
        self._library.fault_disarm()
        return int(calls)


def conversion(files: Path, out: Path) -> None:
    split = "train=0.6,val=0.4"
    options = ConversionOptions(schema=load_schema("mc"), events_per_shard=8, split=split, dead_if_invalid_fraction=0.9)
    convert(open_sources([files]), out, options)


def problem(out: Path, reference: dict[str, str]) -> str | None:
    """What is wrong with a folder where a conversion ended badly: each dataset must be whole, or not look like one."""
    for split in SPLITS:
        folder = out / split
        try:
            open_dataset(folder, check="full")
        except InputError as error:
            if (folder / "manifest.json").exists():
                return f"{split} has a manifest, but: {error}"
            continue
        part = {name: digest for name, digest in digests(out).items() if name.startswith(f"{split}/")}
        if part != {name: digest for name, digest in reference.items() if name.startswith(f"{split}/")}:
            return f"{split} opens, but is not what it should be"
    return None


def failing(faults: Faults, files: Path, out: Path, number: int) -> str | None:
    """Let call `number` fail in this process; the complaint must be one of ours.

    What cannot be opened to be read may be called an input, or be made anew.
    """
    faults.arm(out, number, Faults.FAIL)
    try:
        conversion(files, out)
    except OutputError:
        return None
    except (XecError, OSError) as error:
        if faults.was_read():
            return None
        return f"raised {type(error).__name__}: {error}"
    finally:
        faults.disarm()
    return None if faults.was_read() else "a failure went unnoticed"


def killed(faults: Faults, files: Path, out: Path, number: int) -> str | None:
    """Kill a child at call `number`."""
    child = os.fork()
    if child == 0:
        faults.arm(out, number, Faults.KILL)
        conversion(files, out)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return None if os.WIFSIGNALED(status) else f"was not killed, but ended with status {status}"


def main(shim: str, files: Path, work: Path, mode: str, stride: int) -> None:
    plan.MIN_UNIT, bucket.SPILL, bucket.READ = 12, 8, 4
    open_sources.__globals__["_thinned"].__defaults__ = (4,)
    faults = Faults(shim)
    conversion(files, work / "reference")
    reference = digests(work / "reference")
    faults.arm(work / "counted", 0, Faults.COUNT)
    conversion(files, work / "counted")
    calls = faults.disarm()
    tried = 0
    for number in range(1, calls + 1, stride):
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        wrong = {"fail": failing, "kill": killed}[mode](faults, files, out, number) or problem(out, reference)
        if wrong is None:
            conversion(files, out)
            left = digests(out)
            if left != reference:
                odd = sorted(set(left) ^ set(reference)) or [name for name in left if left[name] != reference[name]]
                wrong = f"running again gives other files: {odd}"
        if wrong is not None:
            print(f"call {number}: {wrong}", flush=True)
        tried += 1
    print(f"calls={calls} tried={tried}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
