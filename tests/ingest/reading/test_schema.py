from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.reading.schema import PRESETS, load_schema
from shards.base import ConfigError

SENSORS = "sensors: {npho: {branches: [npho]}, time: {branches: [time]}}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load(name: str) -> None:
    schema = load_schema(name)
    assert schema.name == name
    assert schema.npho.branches[0] == "npho"
    assert schema.time.relative == ("relative_time",)


def test_real_data_need_run_and_event_and_are_split_by_run() -> None:
    schema = load_schema("real")
    assert {f.names for f in schema.columns if f.required} == {("run",), ("event",)}
    assert schema.split_by == "run"
    assert load_schema("cex").split_by == "run"
    assert load_schema("mc").split_by == "event"


def test_extending_replaces_columns_of_the_same_names_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "extends: mc\ntree: sim/rec\ncolumns:\n- {names: [timing], branches: [t0], unit: s, invalid: [1e10, -999]}\n"
        "carry: [seed, 'qa_*']\n",
    )
    schema, base = load_schema(str(path)), load_schema("mc")
    assert (schema.name, schema.tree) == ("my", "sim/rec")
    timing = next(f for f in schema.columns if f.names == ("timing",))
    assert (timing.branches, timing.unit, timing.invalid) == (("t0",), "s", (1e10, -999.0))
    assert len(schema.columns) == len(base.columns) + 2
    assert schema.npho == base.npho


def test_the_digest_ignores_what_does_not_bear_on_the_data(tmp_path: Path) -> None:
    one = load_schema(write(tmp_path, "name: a\ndescription: x\n" + SENSORS))
    two = load_schema(write(tmp_path, "name: b\nsplit_by: run\n" + SENSORS))
    other = load_schema(write(tmp_path, "name: b\ntree: t\n" + SENSORS))
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", r"my\.yaml: does not hold a schema \(found a list"),
        ("a: [", r"my\.yaml: is not YAML"),
        (SENSORS + "colums: []", r"colums: no such key; did you mean 'columns'"),
        ("sensors: {npho: {branches: [npho]}}", r"my\.yaml: sensors\.time: is missing"),
        (
            SENSORS + "columns: [{names: [energi], branches: [e]}]",
            r"'energi' is not a canonical column; did you mean 'energy'",
        ),
        (
            SENSORS + "columns: [{names: [energy], branches: [e], unit: cm}]",
            r"columns\[0\]\.unit: is a unit of another kind",
        ),
        (SENSORS + "columns: [{names: [energy], branches: []}]", r"columns\[0\]\.branches: has a wrong value"),
        (
            SENSORS + "columns: [{names: [energy], branches: [e], scale: big}]",
            r"columns\[0\]\.scale: has a wrong value",
        ),
        (
            SENSORS + "columns: [{names: [energy], branches: [e], required: 1}]",
            r"required: has a wrong value .found 1",
        ),
        (
            SENSORS + "columns: [{names: [u, v], branches: [a]}, {names: [u], branches: [b]}]",
            r"defines column 'u' twice",
        ),
        (SENSORS.replace("[time]", "[time], relative: [t]"), r"sensors\.time\.relative: 't' is not among the branches"),
        ("extends: nowhere\n" + SENSORS, r"no schema 'nowhere'"),
        (SENSORS + "split_by: day", r"split_by: has a wrong value .found 'day', expected 'event', 'run' or 'source'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_schema(str(write(tmp_path, text)))


def test_a_schema_cannot_extend_itself(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_text(f"extends: {path}\n" + SENSORS)
    with pytest.raises(ConfigError, match="extends itself"):
        load_schema(str(path))


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no schema 'reel'; did you mean 'real'"):
        load_schema("reel")


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("tree"), st.just("u")
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["names", "branches", "unit", "npho", "time", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["extends", "name", "tree", "split_by", "sensors", "columns", "carry", "colums"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, ANYTHING, max_size=4), st.booleans())
def test_any_document_is_a_schema_or_one_line(tmp_path: Path, document: dict[str, object], whole: bool) -> None:
    base = {"sensors": {"npho": {"branches": ["npho"]}, "time": {"branches": ["time"]}}} if whole else {}
    path = tmp_path / "fuzz.yaml"
    path.write_text(yaml.safe_dump({**base, **document}), encoding="utf-8")
    try:
        load_schema(path)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
