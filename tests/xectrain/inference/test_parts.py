from pathlib import Path

import pytest
from support.ingest_files import events, write_tree

from ingest.reading.rootio import Skipped
from shards.base import CorruptError
from xectrain.inference.sources import open_parts


def test_bad_files_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    good = write_tree(tmp_path / "good.root", events(5))
    (tmp_path / "bad.root").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(CorruptError, match=r"bad\.root: .*--skip-bad-files makes root2shards and infer go on"):
        open_parts([tmp_path])
    skipped: list[Skipped] = []
    assert [part.name for part in open_parts([tmp_path], skipped=skipped)] == ["good.root"]
    assert [item.path.name for item in skipped] == ["bad.root"]
