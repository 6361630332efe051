"""Tables of the channels' responses: read, applied by run, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.base import InputError
from shards.gains import GainFile, read_gains

HEAD = "run_first,run_last,sensor,response,error,state\n"


def table(path: Path, *rows: str) -> GainFile:
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return GainFile.of(path)


def test_photons_are_divided_by_the_response_of_their_run(tmp_path):
    gains = read_gains(table(tmp_path / "g.csv", "1,4,17,1.25,0.01,", "5,5,17,0.5,0.01,drifting", "1,4,18,0.0,0,dead"))
    npho = np.full((3, 4760), 100.0, dtype=np.float32)
    npho[0, 17:20] = (1e10, np.nan, np.inf)
    found = gains.applied(npho, np.array([2.0, 4.0, 5.0]))
    assert found[1, 17] == 80
    assert found[2, 17] == 200
    assert np.delete(found, 17, axis=1)[1:].min() == 100, "channels without a gain, and dead ones, stay as they are"
    np.testing.assert_array_equal(found[0, 17:20], npho[0, 17:20])
    with pytest.raises(
        InputError, match=r"g.csv: has no gains for a run in the data \(found run 6, expected 1 to 4, 5"
    ):
        gains.applied(npho, np.array([2.0, 4.0, 6.0]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("1,1,4760,1.0,0,",), r"row 1: does not name a channel \(found 4760, expected 0 to 4759\)"),
        (("1,1,x,1.0,0,",), "does not name a channel"),
        (
            ("1,1,3,30,0,hot",),
            r"row 1, channel 3: has a response that cannot be a gain \(found 30, expected 0.05 to 20",
        ),
        (("1,3,3,1,0,", "3,4,3,1,0,"), r"has overlapping run ranges \(found 1 to 3 and 3 to 4\)"),
        ((",3,3,1,0,",), "row 1: has no run range"),
        (("1,3", "1,2,3,4,5,6,7,8,9"), "is not a valid table of gains"),
    ],
)
def test_what_is_no_table_of_gains(rows, message, tmp_path):
    with pytest.raises(InputError, match=message):
        table(tmp_path / "g.csv", *rows)


def test_a_table_of_something_else_and_one_that_has_changed(tmp_path):
    (tmp_path / "dead.csv").write_text("run_first,run_last,sensor\n1,2,3\n")
    with pytest.raises(
        InputError, match=r"is not a valid table of gains \(found run_first, run_last, sensor, expected columns"
    ):
        GainFile.of(tmp_path / "dead.csv")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        GainFile.of(tmp_path / "nothing.csv")
    file = table(tmp_path / "g.csv", "1,1,3,1.1,0,")
    (tmp_path / "g.csv").write_text(HEAD + "1,1,3,1.2,0,\n")
    with pytest.raises(InputError, match="has changed since the conversion began; start again in another folder"):
        read_gains(GainFile(file.path, file.sha256[::-1]))
