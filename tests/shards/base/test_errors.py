import pickle

import pytest

from shards.base import InputError, XecError, nearest


def test_message_is_one_line_with_place_facts_and_remedy() -> None:
    error = InputError(
        "wrong sensor\ncount", file="a.root", item="npho", found=4700, expected=4760, remedy="check the branch"
    )
    assert str(error) == "a.root: npho: wrong sensor count (found 4700, expected 4760); check the branch"


def test_falsy_facts_are_still_facts() -> None:
    assert str(XecError("too few events", found=0)) == "too few events (found 0)"


def test_errors_cross_process_boundaries() -> None:
    error = InputError("is missing", file="a.root", remedy="look again")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is InputError
    assert str(copy) == str(error)
    assert copy.remedy == "look again"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("enrgy", "did you mean 'energy'?"), ("qqq", "valid: angle, energy")],
)
def test_nearest(name: str, expected: str) -> None:
    assert nearest(name, ["energy", "angle"]) == expected
