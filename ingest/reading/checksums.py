"""Lists of SHA-256 digests, as `sha256sum` writes them, to check inputs against before they are read.

ROOT's zlib, LZMA and LZ4 baskets carry checksums of their own; zstd and uncompressed ones do not, and a changed byte in
them usually reads as another number. Whoever copies such files can bring a list of digests along.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shards.base import CorruptError, InputError
from shards.base.documents import file_digest, read_text


def read_checksums(path: Path) -> dict[str, str]:
    """Digests by file name (without folders) of a list in the format of `sha256sum`.

    Raises:
        InputError: unreadable, a line of another form, or a name with two digests.
    """
    lines = read_text(path, "list of checksums", InputError).splitlines()
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        digest, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        key = Path(name.lstrip(" *")).name
        if len(digest) != 64 or not key:
            raise InputError(
                "is not a valid list of SHA-256 digests",
                file=path,
                item=f"line {number}",
                found=line[:40],
                expected="the output of sha256sum FILES",
            )
        if found.setdefault(key, digest.lower()) != digest.lower():
            raise InputError("gives two digests for one name", file=path, item=f"line {number}", found=key)
    return found


def check_digest(path: Path, expected: Mapping[str, str]) -> None:
    """Compare a file with the digest listed for its name.

    Raises:
        InputError: none is listed.
        CorruptError: it differs.
    """
    if path.name not in expected:
        raise InputError("has no digest in the list of checksums", file=path)
    digest = file_digest(path)
    if digest != expected[path.name]:
        raise CorruptError(
            "does not have the listed checksum",
            file=path,
            found=digest[:16],
            expected=expected[path.name][:16],
            remedy="copy it again",
        )
