"""Selections: Python's own arithmetic as the reference, missing values, refusals by name, view files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synthetic import make_dataset

from shards import geometry as geo
from shards.base import ConfigError, CorruptError, InputError
from shards.dataset import Dataset
from shards.expressions import NAMED_CUTS, columns_of, evaluate, inlined
from shards.selection import SavedView

VALUES = [-30.0, -23.9, -1.0, 0.0, 0.5, 3.0, 23.9, np.nan, 40.0]
TABLE = pl.DataFrame(
    {
        "u": VALUES,
        "v": VALUES[::-1],
        "w": [1.0, -1.0] * 4 + [np.nan],
        "run": [1, 2, 3, None, 5, 6, 7, 8, 9],
        "energy": np.linspace(0.04, 0.06, 9),
    }
)


def chosen(expression: str) -> list[int]:
    return np.flatnonzero(evaluate(expression, TABLE)).tolist()


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("abs(u) < 23.9 and w >= 0", [2, 4]),
        ("abs(u) < 23.9 & (w >= 0)", [2, 4]),
        ("u > 0", [4, 5, 6, 8]),
        ("-1 <= u < 3", [2, 3, 4]),
        ("u < 0 or u == 40", [0, 1, 2, 8]),
        ("not u > 0", [0, 1, 2, 3, 7]),
        ("~(u > 0)", [0, 1, 2, 3, 7]),
        ("u != 3", [0, 1, 2, 3, 4, 6, 8]),
        ("isnan(u) or isnan(w)", [7, 8]),
        ("isnan(run)", [3]),
        ("run in [1, 2, 3]", [0, 1, 2]),
        ("run not in (1, 2, 3)", [4, 5, 6, 7, 8]),
        ("run % 2 == 0", [1, 5, 7]),
        ("u**2 + v**2 < 1000 and w > 0", [2, 4, 6]),
        ("sqrt(abs(u)) > 5 and +u < -29", [0]),
        ("1000 * energy >= 59.9", [8]),
        ("floor(u / 10) == 2", [6]),
        ("1 < 2", list(range(9))),
        ("1 > 2 and u > 0", []),
    ],
)
def test_expressions(expression: str, rows: list[int]) -> None:
    if "& (" in expression:  # & binds tighter than <, as in Python: an error rather than a surprise
        with pytest.raises(ConfigError, match="may not contain"):
            chosen(expression)
        return
    assert chosen(expression) == rows


numbers = st.one_of(st.integers(-5, 5).map(float), st.just(float("nan")))
comparisons = st.builds(
    lambda a, op, b: f"({a} {op} {b})",
    st.sampled_from(["x", "y", "x + y", "x - 2 * y", "abs(x)", "-y", "1.5"]),
    st.sampled_from(["<", "<=", ">", ">=", "=="]),
    st.sampled_from(["x", "y", "0", "x * y", "2 - x"]),
)
expressions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=6,
)


@given(expressions, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_expressions_mean_what_python_means(expression: str, rows: list[tuple[float, float]]) -> None:
    table = pl.DataFrame(rows, schema=["x", "y"], orient="row")
    expected = [bool(eval(expression, {"abs": abs}, {"x": x, "y": y})) for x, y in rows]
    assert evaluate(expression, table).tolist() == expected


@given(expressions, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_not_is_the_exact_complement(expression: str, rows: list[tuple[float, float]]) -> None:
    table = pl.DataFrame(rows, schema=["x", "y"], orient="row")
    assert (evaluate(expression, table) ^ evaluate(f"not {expression}", table)).all()


def test_the_fiducial_cut_is_that_of_the_geometry() -> None:
    rng = np.random.default_rng(0)
    uvw = rng.uniform([-30, -75, -1], [30, 75, 40], (500, 3))
    table = pl.DataFrame(uvw, schema=["u", "v", "w"], orient="row")
    np.testing.assert_array_equal(evaluate("fiducial", table), geo.in_fiducial(uvw))
    assert 50 < evaluate("fiducial", table).sum() < 450
    both = evaluate("fiducial and w < 5", table)
    np.testing.assert_array_equal(both, evaluate("fiducial", table) & (uvw[:, 2] < 5))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("ubar > 3", r"selection 'ubar > 3': unknown column 'ubar'"),
        ("enrgy > 3", r"unknown column 'enrgy'; did you mean 'energy'"),
        ("fidcial", r"unknown column 'fidcial'; did you mean 'fiducial'"),
        ("u >", "is not an expression"),
        ("", "is not an expression"),
        ("u = 3", "is not an expression"),
        ("u + 1", r"'u \+ 1' is a number, not a condition; compare it with something"),
        ("u", "'u' is a number, not a condition"),
        ("u > 0 and w", "'w' is a number, not a condition"),
        ("ab(u) > 1", "unknown function 'ab'; did you mean 'abs'"),
        ("u.real > 1", "unknown column 'u.real'"),
        ("__import__('os').system('true') > 1", "may not contain"),
        ("(lambda: 1)() > 0", "may not contain"),
        ("[x for x in u] > 1", "may not contain"),
        ("u > 'a'", "may not contain \"'a'\""),
        ("True", "may not contain 'True'"),
        ("run in []", "may not contain"),
        ("run in run", "may not contain"),
        ("u is 3", "may not contain"),
        ("abs(u, 2) > 1", "may not contain"),
        ("u // 2 > 1", "may not contain"),
        ("(" * 300 + "u > 1" + ")" * 300, "is (not an expression|nested too deeply)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is.* with .*int.* literal:SyntaxWarning")
def test_what_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(expression, TABLE)


def test_only_the_needed_columns_are_read() -> None:
    assert columns_of("fiducial and energy > 0.05", TABLE.columns) == ["u", "v", "w", "energy"]
    assert columns_of("1 < 2", TABLE.columns) == []


def test_an_empty_table_has_an_empty_mask() -> None:
    assert evaluate("u > 0", TABLE.head(0)).shape == (0,)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "d", events=60, events_per_shard=16)


def test_rows_of_a_dataset(dataset: Dataset) -> None:
    u, w = dataset.column("u"), dataset.column("w")
    np.testing.assert_array_equal(dataset.rows("abs(u) < 20 and w >= 3"), np.flatnonzero((np.abs(u) < 20) & (w >= 3)))
    np.testing.assert_array_equal(dataset.rows(), np.arange(60))
    assert dataset.rows("1 < 2").tolist() == list(range(60))
    assert 0 < len(dataset.rows("n_dead < 55 and brightest_face == 0")) < 60, "summaries can be asked for"
    assert dataset.rows("w > 1000").tolist() == []
    both = dataset.rows(["w > 5", None, "abs(u) < 20"])
    np.testing.assert_array_equal(both, dataset.rows("w > 5 and abs(u) < 20"))
    for expression in NAMED_CUTS:
        assert 0 < len(dataset.rows(expression)) < 60


def test_view_files_hold_the_expression_the_fingerprint_and_the_count(dataset: Dataset, tmp_path: Path) -> None:
    view = dataset.view("fiducial and w < 20")
    view.write(tmp_path / "view.json")
    value = json.loads((tmp_path / "view.json").read_text())
    assert value["expression"] == "fiducial and w < 20"
    assert value["fingerprint"] == dataset.fingerprint
    assert value["count"] == len(dataset.rows("fiducial and w < 20"))
    assert SavedView.read(tmp_path / "view.json") == view
    np.testing.assert_array_equal(dataset.rows(str(tmp_path / "view.json")), dataset.rows("fiducial and w < 20"))
    narrower = dataset.rows([str(tmp_path / "view.json"), "w > 5"])
    np.testing.assert_array_equal(narrower, dataset.rows("fiducial and 5 < w < 20"))


def test_views_of_other_datasets_and_damaged_ones_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "view.json"
    with pytest.raises(InputError, match="there is no such view file"):
        dataset.rows(str(file))
    dataset.view("w < 20").write(file)
    other = make_dataset(tmp_path / "other", events=20)
    with pytest.raises(InputError, match=r"the view was made of another dataset.*xec shards select .* 'w < 20'"):
        other.rows(str(file))
    value = json.loads(file.read_text())
    file.write_text(json.dumps(value | {"count": 1}))
    with pytest.raises(CorruptError, match="the view selects another number of events than it records"):
        dataset.rows(str(file))
    for text in ("{", "[]", '{"format": "x"}'):
        file.write_text(text)
        with pytest.raises(CorruptError, match="is not a valid view file"):
            dataset.rows(str(file))


def test_lists_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("\ufeff# good runs\n1, 3\n5  # the last\n", encoding="utf-8")
    table = pl.DataFrame({"run": [1, 2, 3, None]})
    expression = f"run in @{tmp_path}/good.txt"
    assert inlined(f"not ({expression})") == "not (run in [1, 3, 5])"
    assert evaluate(expression, table).tolist() == [True, False, True, False]
    assert evaluate(f"run not in @'{tmp_path}/good.txt'", table).tolist() == [False, True, False, False]
    (tmp_path / "bad.txt").write_text("1\nruns\n")
    with pytest.raises(ConfigError, match=r"bad\.txt: line 2: is not a whole number \(found 'runs'\)"):
        evaluate(f"run in @{tmp_path}/bad.txt", table)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError, match=r"empty\.txt: lists no numbers"):
        evaluate(f"run in @{tmp_path}/empty.txt", table)
    with pytest.raises(InputError, match="there is no such list of numbers"):
        evaluate(f"run in @{tmp_path}/none.txt", table)


def test_long_lists_and_chains_select_what_numpy_selects() -> None:
    runs = np.arange(200)
    table = pl.DataFrame({"run": runs})
    wanted = list(range(1, 20_001, 2))
    assert (evaluate(f"run in {wanted}", table) == np.isin(runs, wanted)).all()
    chain = " or ".join(f"run == {run}" for run in range(0, 3000, 3))
    assert (evaluate(chain, table) == (runs % 3 == 0)).all()
    with pytest.raises(ConfigError, match="is nested too deeply"):
        evaluate("not " * 3000 + "(run > 0)", table)


def test_whole_numbers_are_compared_exactly() -> None:
    table = pl.DataFrame({"stamp": [2**62, 2**62 + 1, 2**62 + 2]})
    assert evaluate(f"stamp == {2**62 + 1}", table).tolist() == [False, True, False]
    assert evaluate(f"stamp in [{2**62}, {2**62 + 2}]", table).tolist() == [True, False, True]
    assert evaluate(f"stamp < {2**63}", table).all()


def test_columns_with_dots_are_named_as_they_are() -> None:
    table = pl.DataFrame({"reco.e": [1.0, 2.0], "e": [5.0, 5.0]})
    assert evaluate("reco.e > 1.5", table).tolist() == [False, True]
    assert columns_of("reco.e > 1.5", table.columns) == ["reco.e"]


SOME = (
    "u w run energi fiducial 1 2.5 1e999 - + * ** / < >= == and or not in [1,2] [ ] ( ) abs( isnan( , .x @no.txt 'a' :="
)
WORDS = st.sampled_from([*SOME.split(), "lambda:", "if", "else", "\n"])


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30))
def test_any_text_selects_or_is_refused_in_one_line(text: str) -> None:
    table = pl.DataFrame({"u": [1.0, float("nan")], "v": [0.0, 0.0], "w": [1.0, 2.0], "run": [1, 2]})
    try:
        mask = evaluate(text, table)
    except (ConfigError, InputError) as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert (mask.dtype, mask.shape) == (np.bool_, (2,))
