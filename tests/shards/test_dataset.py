"""Writing and reading datasets: exact contents, reproducible bytes, and a stock reader that understands them."""

from __future__ import annotations

import gc
import getpass
import hashlib
import importlib
import inspect
import json
import pkgutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.synthetic import make_dataset, make_events

import pipelines
import shards as package_of_shards
from shards.base import ConfigError, CorruptError, InputError
from shards.columns import COLUMNS, ROLES, Column, canonical_order
from shards.dataset import Dataset
from shards.manifest import MANIFEST, Manifest, Settings, SourceInfo, json_text
from shards.normalization import SensorCounts, denormalize, normalize, preset, valid
from shards.opening import open_dataset
from shards.plan import View
from shards.sidecar import SUMMARY_COLUMNS
from shards.writer import DatasetWriter, ShardRows, finalize, shard_info, write_shard


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "d", events=70, events_per_shard=32)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def raw_events(dataset: Dataset) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """What the dataset was made from, by (source, entry)."""
    out = {}
    for i, source in enumerate(dataset.manifest.sources):
        number = int(source.id[10:14])
        npho, time, truth = make_events(source.entries, number, dataset.columns, first_event=1000 * number)
        sensors = normalize(npho, time, dataset.normalization, dtype=dataset.dtype).sensors
        out |= {(i, e): (sensors[e], truth[e]) for e in range(source.entries)}
    return out


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_events_come_back_as_they_were_written(tmp_path: Path, dtype: str) -> None:
    dataset = make_dataset(tmp_path / "d", events=40, events_per_shard=16, dtype=dtype)
    place = dataset.table(["source", "entry"])
    rows = np.array([3, 39, 0, 17, 16, 3])
    sensors, truth = dataset.read(rows)
    assert sensors.dtype == np.float32
    raw = raw_events(dataset)
    for i, row in enumerate(rows):
        expected_sensors, expected_truth = raw[place.row(int(row))]
        np.testing.assert_array_equal(sensors[i], expected_sensors.astype(np.float32))
        np.testing.assert_array_equal(truth[i], expected_truth)


def test_the_table_holds_truth_place_and_summaries_in_dataset_order(dataset: Dataset) -> None:
    table = dataset.table()
    sensors, truth = dataset.read(dataset.rows())
    for i, name in enumerate(dataset.columns):
        np.testing.assert_array_equal(dataset.column(name), truth[:, i])
    npho, _ = denormalize(sensors, dataset.normalization)
    npho_valid, time_valid = valid(sensors, dataset.normalization)
    np.testing.assert_allclose(table["npho_sum"], np.nansum(npho, axis=1), rtol=1e-6)
    np.testing.assert_allclose(table["npho_max"], np.nanmax(npho, axis=1), rtol=1e-6)
    np.testing.assert_array_equal(table["n_dead"], (~npho_valid).sum(axis=1))
    np.testing.assert_array_equal(table["n_good"], time_valid.sum(axis=1))
    np.testing.assert_array_equal(table["n_good"] + table["n_dead"] + table["n_time_invalid"], 4760)
    brightest = np.nanargmax(npho, axis=1)
    np.testing.assert_array_equal(table["brightest"], brightest)
    assert set(table.filter(pl.col("brightest") < 4092)["brightest_face"]) == {0}
    assert table["npho_sum"].dtype == table["npho_max"].dtype == table["u"].dtype == pl.Float64
    assert table["run"].dtype == table["brightest_face"].dtype == pl.Int64
    assert table["u"].is_nan().any(), "missing truth is NaN"
    assert table.columns == dataset.table_columns


def test_the_bytes_of_a_tar_and_its_index_are_pinned(tmp_path: Path) -> None:
    sensors = (np.arange(19 * 4760 * 2) % 4099 / 4096 - 0.5).astype(np.float32).reshape(19, 4760, 2)
    truth, entry = np.arange(19 * 2).reshape(19, 2) / 4, np.arange(19)[::-1].copy()
    settings = Settings(columns=(COLUMNS["energy"], COLUMNS["u"]))
    info = write_shard(tmp_path, 0, [ShardRows(sensors, truth, entry % 2, entry)], settings, ["a", "b"])
    assert (info.tar.sha256[:16], info.idx.sha256[:16]) == ("9b72031726cee6cb", "238ee75f73f03c70")


def test_the_table_of_some_rows_is_that_part_of_the_whole(dataset: Dataset) -> None:
    rows = np.array([69, 3, 3, 40, 0])
    assert dataset.table(["w", "run"], rows).equals(dataset.table()[rows].select(["w", "run"]))
    assert dataset.table(["w"], []).height == 0


def test_an_event_of_dead_sensors_has_no_brightest_one(tmp_path: Path) -> None:
    settings = Settings(columns=(COLUMNS["run"],))
    sensors = normalize(np.full((1, 4760), np.nan), np.zeros((1, 4760)), preset("standard")).sensors
    rows = ShardRows(sensors, np.array([[np.nan]]), np.array([0]), np.array([0]))
    info = write_shard(tmp_path, 0, [rows], settings, ["s"])
    finalize(tmp_path, settings, [info], [SourceInfo("s", "s.root", "tree", "", 0, 1, 1)], SensorCounts.zero())
    row = open_dataset(tmp_path).table([*SUMMARY_COLUMNS, "run"]).row(0, named=True)
    assert row["brightest"] is row["brightest_face"] is row["run"] is None
    assert np.isnan(row["npho_max"])
    assert (row["npho_sum"], row["n_dead"]) == (0.0, 4760)


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_dataset(tmp_path / name, events=50, events_per_shard=16, seed=4)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 4 * 3 + 1


def test_neither_manifest_nor_shards_hold_time_host_user_or_path(tmp_path: Path) -> None:
    make_dataset(tmp_path / "some-unlikely-folder", events=20)
    strangers = [
        socket.gethostname(),
        "some-unlikely-folder",
        str(tmp_path),
        f"/{getpass.getuser()}/",
        time.strftime("%Y-%m-"),
        "T0",
    ]
    for path in (tmp_path / "some-unlikely-folder").rglob("*.*"):
        data = path.read_bytes() if path.suffix != ".tar" else path.read_bytes()[:1024]
        for text in strangers:
            if path.suffix in (".json", ".idx") or len(text) > 4:
                assert text.encode() not in data, f"{text} in {path.name}"


def test_tars_are_plain_ustar_with_fixed_metadata(dataset: Dataset) -> None:
    with tarfile.open(dataset.file(0, "tar"), "r:") as tar:
        members = tar.getmembers()
        assert not tar.pax_headers
    assert len(members) == 64
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }
    listed = subprocess.run(["tar", "tf", dataset.file(0, "tar")], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [m.name for m in members]


def test_keys_have_no_dot_or_folder_and_are_unique(dataset: Dataset) -> None:
    keys = [key for shard in range(3) for key in dataset.index(shard).keys]
    assert len(set(keys)) == 70
    assert not any("." in key or "/" in key for key in keys)


def test_index_offsets_point_at_the_payloads(dataset: Dataset) -> None:
    index = dataset.index(1)
    with tarfile.open(dataset.file(1, "tar"), "r:") as tar:
        members = tar.getmembers()
    assert [m.offset_data for m in members[::2]] == index.sensors_offset.tolist()
    assert [m.offset_data for m in members[1::2]] == index.truth_offset.tolist()
    assert {m.size for m in members[::2]} == set(index.sensors_size.tolist())
    assert {m.size for m in members[1::2]} == set(index.truth_size.tolist())
    lines = dataset.file(1, "idx").read_text().splitlines()
    assert lines[0] == "v1.2 32"
    m, t = members[6], members[7]
    assert lines[4] == f"sensors.npy {m.offset_data} {m.size} {m.name} truth.npy {t.offset_data} {t.size} {t.name}"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_decodes_the_shards(dataset: Dataset) -> None:
    import webdataset

    urls = [str(dataset.file(shard, "tar")) for shard in range(3)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    gc.collect()  # webdataset leaves its files to the garbage collector
    sensors, truth = dataset.read(dataset.rows())
    np.testing.assert_array_equal([s["sensors.npy"] for s in samples], sensors)
    np.testing.assert_array_equal([s["truth.npy"] for s in samples], truth)
    assert [s["__key__"] for s in samples] == [key for shard in range(3) for key in dataset.index(shard).keys]


def test_the_manifest_says_what_the_dataset_is(dataset: Dataset) -> None:
    value = json.loads((dataset.path / MANIFEST).read_text())
    assert (value["events"], value["sensors"], value["byte_order"], value["dtype"]) == (70, 4760, "little", "float32")
    assert [shard["events"] for shard in value["shards"]] == [32, 32, 6]
    for shard in value["shards"]:
        for kind in ("tar", "idx", "parquet"):
            data = (dataset.path / "shards" / f"{shard['name']}.{kind}").read_bytes()
            assert shard[kind] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert [column["name"] for column in value["columns"]] == dataset.columns
    assert value["columns"][2]["unit"] == "degree"
    counts = value["counts"]
    assert counts["dead"]["total"] == sum(counts["dead"]["per_sensor"]) == dataset.column("n_dead").sum()
    assert counts["time_invalid"]["total"] == dataset.column("n_time_invalid").sum()
    assert sum(source["counts"]["dead"] for source in value["sources"]) == counts["dead"]["total"]


def test_manifests_round_trip_and_are_compact(dataset: Dataset) -> None:
    text = (dataset.path / MANIFEST).read_text()
    manifest = Manifest.from_json(json.loads(text))
    assert json_text(manifest.to_json()) + "\n" == text
    assert len(text.splitlines()) < 300, "per-sensor counts take a line each, not 4760"


def test_the_fingerprint_follows_content_and_schema_only(tmp_path: Path) -> None:
    prints = [
        make_dataset(tmp_path / "a", events=20).fingerprint,
        make_dataset(tmp_path / "b", events=20).fingerprint,
        make_dataset(tmp_path / "c", events=20, seed=1).fingerprint,
        make_dataset(tmp_path / "d", events=20, dtype="float16").fingerprint,
        make_dataset(tmp_path / "e", events=20, columns=("run", "event", "energy")).fingerprint,
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


def test_a_folder_without_manifest_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a complete dataset.*running the same command again"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="absent: there is no such dataset"):
        open_dataset(tmp_path / "absent")


def test_what_is_no_dataset_is_called_by_its_name(toy_root: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path / "all" / "train", events=4)
    for name, content in {"run/state.json": "{}", "raw/a.root": "", "text": "x"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for path, message in {
        toy_root: "is a ROOT file, not a dataset; convert it first: xec ingest root2shards .*toy.root --out DIR",
        tmp_path / "all": "is not a dataset, but holds some .found train.; give .*all/train$",
        tmp_path / "run": "is a run folder, not data; give the data to read",
        tmp_path / "raw": "holds ROOT files, but is not a dataset; convert it first",
        tmp_path / "text": "is a file, not a dataset folder$",
        Path("https://host/data"): "is a URL, inputs are local files; copy it here first",
    }.items():
        with pytest.raises(InputError, match=message):
            open_dataset(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"format": "xec-shards/9"}, "has another format .found xec-shards/9, expected xec-shards/1"),
        (lambda v: v | {"events": 3}, "contradicts its own fingerprint"),
        (lambda v: v | {"seed": "x"}, "seed: has a wrong value .found 'x'"),
        (lambda v: v | {"shards": v["shards"][:-1]}, "contradicts its own fingerprint"),
        (lambda v: {k: x for k, x in v.items() if k != "dtype"}, "dtype: is missing"),
        (lambda v: v | {"columns": [{"nam": "run"}]}, r"columns\[0\]\.name: is missing"),
        (lambda v: [v], "is not a valid manifest"),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, change: object, message: str) -> None:
    path = make_dataset(tmp_path / "d", events=40, events_per_shard=16).path / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        open_dataset(path.parent)


def test_half_a_manifest_is_refused(tmp_path: Path) -> None:
    path = make_dataset(tmp_path / "d", events=10).path / MANIFEST
    path.write_text(path.read_text()[:500])
    with pytest.raises(CorruptError, match=r"manifest\.json: is not a valid manifest"):
        open_dataset(path.parent)


def test_rows_that_do_not_exist_are_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"has no such row .found 70, expected 0 to 69"):
        dataset.read([0, 70])
    with pytest.raises(InputError, match="has no such row"):
        dataset.shard_of([-1])


def test_masks_and_fractions_are_no_rows(dataset: Dataset) -> None:
    mask = np.zeros(len(dataset), bool)
    for rows in (mask, mask.tolist(), [1.5, 2.0], np.array([0.0]), ["1"], np.array([2**63], np.uint64)):
        for take in (
            dataset.read,
            dataset.read_stored,
            dataset.shard_of,
            dataset.has_unseen,
            lambda r: dataset.table(rows=r),
        ):
            with pytest.raises(InputError, match=r"rows are (a boolean mask|not whole numbers)"):
                take(rows)
        with pytest.raises(InputError, match=r"rows are"):
            list(dataset.read_raw(rows))
        with pytest.raises(InputError, match=r"rows are"):
            View(dataset, rows)  # type: ignore[arg-type]
    assert len(dataset.read([])[0]) == 0


def test_unknown_columns_are_refused_with_the_nearest(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="has no column 'enrgy'; did you mean 'energy'"):
        dataset.table(["enrgy"])
    with pytest.raises(ConfigError, match="unknown check"):
        open_dataset(dataset.path, check="fast")


def test_shards_can_be_described_again_from_their_files(dataset: Dataset) -> None:
    for number, info in enumerate(dataset.manifest.shards):
        assert shard_info(dataset.path, number, info.events) == info


def rows_of(n: int, columns: int = 1) -> ShardRows:
    return ShardRows(np.zeros((n, 4760, 2), np.float32), np.zeros((n, columns)), np.zeros(n, int), np.arange(n))


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    settings = Settings(columns=(COLUMNS["energy"],))
    good = rows_of(3)
    half = ShardRows(good.sensors.astype(np.float16), good.truth, good.source, good.entry)
    alien = ShardRows(good.sensors, good.truth, good.source + 1, good.entry)
    for rows, ids, message in (
        (half, ["s"], "sensors: has the wrong shape or type .*float16.*expected .*float32"),
        (rows_of(3, 2), ["s"], "truth: has the wrong shape or type"),
        (rows_of(0), ["s"], "a shard needs at least one event"),
        (alien, ["s"], "rows name a source that is not in the list"),
        (good, ["s", "a"], "source ids must be sorted"),
    ):
        with pytest.raises(InputError, match=message):
            write_shard(tmp_path, 0, [rows], settings, ids)
    with pytest.raises(InputError, match=r"reserved name .found .'entry'"):
        write_shard(tmp_path, 0, [good], Settings(columns=(Column("entry", "", "carried"),)), ["s"])
    fraction = ShardRows(good.sensors, good.truth + 0.5, good.source, good.entry)
    with pytest.raises(InputError, match=r"run: is not a whole number .found 0\.5"):
        write_shard(tmp_path, 0, [fraction], Settings(columns=(COLUMNS["run"],)), ["s"])
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_dataset_is_not_finished_with_shards_missing_or_miscounted(tmp_path: Path) -> None:
    settings = Settings(columns=(COLUMNS["energy"],), events_per_shard=4)
    infos = [write_shard(tmp_path, i, [rows_of(n)], settings, ["s"]) for i, n in enumerate((4, 4, 2))]

    def source(used: int, name: str = "s") -> SourceInfo:
        return SourceInfo(name, "s.root", "tree", "", 0, 10, used)

    counts = SensorCounts.zero()
    for shards, sources, message in (
        (infos[1:], [source(6)], "shards are missing or duplicated"),
        (infos[:1] * 2, [source(8)], "shards are missing or duplicated"),
        (infos, [source(9)], "do not add up to the shards' events .found 9, expected 10"),
        (infos, [source(5), source(5)], "two sources have the same id"),
    ):
        with pytest.raises(InputError, match=message):
            finalize(tmp_path, settings, shards, sources, counts)
    uneven = [write_shard(tmp_path, i, [rows_of(n)], settings, ["s"]) for i, n in enumerate((3, 4))]
    with pytest.raises(InputError, match="all shards but the last must be full"):
        finalize(tmp_path, settings, uneven, [source(7)], counts)
    assert not (tmp_path / MANIFEST).exists()


def test_finishing_removes_shards_of_an_earlier_attempt(tmp_path: Path) -> None:
    settings = Settings(columns=(COLUMNS["energy"],), events_per_shard=4)
    for number in (0, 1, 7):
        write_shard(tmp_path, number, [rows_of(4)], settings, ["s"])
    writer = DatasetWriter(tmp_path, settings, ["s"])
    writer.append(rows_of(4))
    writer.close([SourceInfo("s", "s.root", "tree", "", 0, 4, 4)], SensorCounts.zero())
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == ["000000.idx", "000000.parquet", "000000.tar"]


@pytest.mark.parametrize("step", [1, 5, 16, 40])
def test_the_writer_cuts_shards_whatever_the_portions(tmp_path: Path, step: int) -> None:
    settings = Settings(columns=(COLUMNS["energy"],), events_per_shard=16)
    rows = rows_of(40)
    rows.truth[:, 0] = np.arange(40)
    writer = DatasetWriter(tmp_path, settings, ["s"])
    for start in range(0, 40, step):
        writer.append(rows[start : start + step])
    writer.close([SourceInfo("s", "s.root", "tree", "", 0, 40, 40)], SensorCounts.zero())
    data = open_dataset(tmp_path, check="full")
    assert [s.events for s in data.manifest.shards] == [16, 16, 8]
    assert data.column("energy").tolist() == list(range(40))


def test_the_canonical_table_is_consistent() -> None:
    assert all(name == column.name and column.role in ROLES for name, column in COLUMNS.items())
    mixed = [Column("zeta", "", "carried"), COLUMNS["w"], Column("alpha", "", "carried"), COLUMNS["run"]]
    assert [c.name for c in canonical_order(mixed)] == ["run", "w", "alpha", "zeta"]


def test_wrong_settings_are_refused() -> None:
    for values, message in (
        ({"dtype": "float64"}, "unknown storage type .found float64"),
        ({"time_reference": "utc"}, "unknown time reference"),
        ({"events_per_shard": 0}, "at least one event"),
    ):
        with pytest.raises(InputError, match=message):
            Settings(columns=(), **values)  # type: ignore[arg-type]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.just([]), st.just({}), st.just([5])
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_manifest_with_any_value_changed_is_the_same_or_one_line(dataset: Dataset, data: st.DataObject) -> None:
    value = json.loads((dataset.path / MANIFEST).read_text())
    place, path = value, []
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        path.append(key)
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    try:
        Manifest.from_json(value, "manifest.json")
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_whatever_takes_rows_is_known_to_refuse_masks() -> None:
    """A new function with a parameter `rows` belongs into the test above this line, and then into this list."""
    found = set()
    for package in (package_of_shards, pipelines):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, thing in vars(importlib.import_module(module.name)).items():
                members = vars(thing).items() if inspect.isclass(thing) else [(name, thing)]
                for member, function in members:
                    mine = inspect.isfunction(function) and function.__module__ == module.name
                    if mine and not member.startswith("_") and "rows" in inspect.signature(function).parameters:
                        found.add(f"{module.name.rpartition('.')[2]}.{member}")
    dataset = {"has_unseen", "read", "read_raw", "read_stored", "require_sums", "row_numbers", "shard_of", "table"}
    assert found == {f"dataset.{name}" for name in dataset} | {"identity.known_hashes", "writer.append"}
