"""The bytes of tars: what `tarfile` itself would have written."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.tarfmt import SampleLayout, npy_header, tar_header, tar_headers

names = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/"), min_size=1, max_size=100)


@given(st.lists(names, min_size=1, max_size=5), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(texts: list[str], size: int) -> None:
    made = tar_headers(texts, size)
    for text, header in zip(texts, made, strict=True):
        assert header.tobytes() == tar_header(text, size)
        info = tarfile.TarInfo.frombuf(header.tobytes(), "ascii", "strict")
        assert (info.name, info.size, info.mtime, info.uid, info.mode) == (text, size, 0, 0, 0o644)


@pytest.mark.parametrize("name", ["x" * 101, "größe"])
def test_names_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at most 100 ASCII characters"):
        tar_headers([name], 1)


def test_no_names_give_no_headers() -> None:
    assert tar_headers([], 1).shape == (0, 512)


def test_npy_headers_are_those_of_numpy() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4760, 2), "<f4"))
    assert buffer.getvalue().startswith(npy_header((4760, 2), "<f4"))


@given(st.integers(1, 6), st.integers(0, 70), st.integers(1, 9), st.sampled_from(["float32", "float16"]))
def test_a_packed_shard_is_a_tar_of_npy_files(events: int, columns: int, sensors: int, dtype: str) -> None:
    rng = np.random.default_rng(events)
    layout = SampleLayout(sensors, columns, dtype)
    x, truth = rng.normal(size=(events, sensors, 2)).astype(dtype), rng.normal(size=(events, columns))
    keys = [f"k{i}" for i in range(events)]
    packed = layout.pack(keys, x, truth)
    for a, b in zip(layout.views(packed), (x, truth), strict=True):
        np.testing.assert_array_equal(a, b)
    data = packed.tobytes() + bytes(layout.tar_size(events) - packed.nbytes)
    mine = io.BytesIO()
    with tarfile.open(fileobj=mine, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, s, t in zip(keys, x, truth, strict=True):
            for ext, array in (("sensors.npy", s), ("truth.npy", t)):
                member = io.BytesIO()
                np.save(member, array)
                info = tarfile.TarInfo(f"{key}.{ext}")
                info.size, info.mode = len(member.getvalue()), 0o644
                member.seek(0)
                tar.addfile(info, member)
    assert data == mine.getvalue()
