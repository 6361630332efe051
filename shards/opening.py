"""Open a dataset after checking that its files are those that were written."""

from __future__ import annotations

from pathlib import Path

from shards.base import ConfigError, nearest
from shards.dataset import Dataset
from shards.verify import verify

CHECKS = ("quick", "full", "none")


def open_dataset(path: Path | str, check: str = "quick") -> Dataset:
    """Open the dataset in folder `path`.

    Args:
        check: "quick" (sizes, counts, index digests, some tar headers), "full" (every byte), or "none".

    Raises:
        InputError: there is no complete dataset.
        CorruptError: the files are not those that were written.
    """
    if check not in CHECKS:
        raise ConfigError("unknown check", found=check, remedy=nearest(check, CHECKS))
    dataset = Dataset.at(path)
    if check != "none":
        verify(dataset.path, full=check == "full").require()
    return dataset
