"""The plan: every event once, the same batches on any number of ranks, exact continuation, real indexes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.synthetic import make_dataset

from shards.base import ConfigError, CorruptError
from shards.columns import COLUMNS
from shards.dataset import Dataset
from shards.manifest import FileInfo, Manifest, Settings, ShardInfo
from shards.normalization import SensorCounts
from shards.plan import RUN, WINDOW, EpochOrder, View, epoch_order, rank_plan, write_indexes
from shards.sampling import curriculum, resampled


def on_paper(shards: list[int], name: str = "a") -> Dataset:
    """A dataset whose manifest says it has shards of these sizes; the plan needs no more."""
    settings = Settings(columns=(COLUMNS["energy"],))
    infos = tuple(ShardInfo(f"{i:06d}", n, *(FileInfo(1, name) for _ in range(3))) for i, n in enumerate(shards))
    return Dataset(Path(name), Manifest(settings, infos, (), SensorCounts.zero()))


def whole(*sizes: list[int]) -> list[View]:
    datasets = [on_paper(shards, name=f"dataset{i}") for i, shards in enumerate(sizes)]
    return [View(d, d.rows()) for d in datasets]


def events_of(order: EpochOrder) -> list[tuple[int, int]]:
    return list(zip(order.view.tolist(), order.row.tolist(), strict=True))


shard_sizes = st.lists(st.integers(1, 200), min_size=1, max_size=6)
shapes = st.tuples(st.integers(1, 80), st.integers(1, 8), st.integers(1, 3))  # batch, world, accum


@given(st.lists(shard_sizes, min_size=1, max_size=3), st.integers(0, 2**40), st.integers(0, 100))
def test_every_event_comes_exactly_once(sizes: list[list[int]], seed: int, epoch: int) -> None:
    views = whole(*sizes)
    order = epoch_order(views, seed, epoch)
    assert sorted(events_of(order)) == [(i, r) for i, v in enumerate(views) for r in range(len(v.rows))]


@given(shard_sizes, shapes)
def test_the_ranks_share_every_global_batch_without_overlap(sizes: list[int], shape: tuple[int, int, int]) -> None:
    batch, world, accum = shape
    order = epoch_order(whole(sizes), seed=1, epoch=2)
    plans = [rank_plan(order, batch, rank, world, accum) for rank in range(world)]
    steps = -(-len(order) // batch)
    for plan in plans:
        assert (plan.steps, plan.micro_batch) == (steps, -(-batch // (world * accum)))
        assert len(plan.row) == steps * accum * plan.micro_batch
    for k in range(steps):
        expected = sorted(order.row[k * batch : (k + 1) * batch].tolist())
        seen: list[int] = []
        for plan in plans:
            per_step = accum * plan.micro_batch
            part = slice(k * per_step, (k + 1) * per_step)
            seen += plan.global_row[part][plan.weight[part] > 0].tolist()
            assert set(plan.global_row[part].tolist()) <= set(expected), "padding repeats events of the same batch"
            assert plan.batch_events[k] == len(expected)
        assert sorted(seen) == expected


@given(shard_sizes, shapes, st.data())
def test_a_plan_started_later_is_the_tail_of_the_whole_one(
    sizes: list[int], shape: tuple[int, int, int], data: st.DataObject
) -> None:
    batch, world, accum = shape
    order = epoch_order(whole(sizes), seed=1, epoch=2)
    rank = data.draw(st.integers(0, world - 1))
    start = data.draw(st.integers(0, -(-len(order) // batch)))
    full, tail = rank_plan(order, batch, rank, world, accum), rank_plan(order, batch, rank, world, accum, start)
    skipped = start * accum * full.micro_batch
    assert tail.steps == full.steps - start
    for name in ("dataset", "shard", "row", "global_row", "weight"):
        np.testing.assert_array_equal(getattr(tail, name), getattr(full, name)[skipped:])
    np.testing.assert_array_equal(tail.batch_events, full.batch_events[start:])


@given(shard_sizes, st.integers(0, 10), st.integers(0, 10))
def test_the_order_is_a_function_of_its_arguments(sizes: list[int], seed: int, epoch: int) -> None:
    one, two = epoch_order(whole(sizes), seed, epoch), epoch_order(whole(sizes), seed, epoch)
    np.testing.assert_array_equal(one.row, two.row)


def test_epochs_seeds_and_datasets_give_different_orders() -> None:
    views = whole([300, 300])
    orders = [
        epoch_order(views, 1, 0).row,
        epoch_order(views, 1, 1).row,
        epoch_order(views, 2, 0).row,
        epoch_order([View(on_paper([300, 300], "other"), views[0].rows)], 1, 0).row,
    ]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < 0.02


def test_without_shuffling_the_order_is_that_of_the_rows() -> None:
    views = whole([5, 5], [3])
    rows = np.array([7, 2, 9])
    order = epoch_order([View(views[0].dataset, rows), views[1]], seed=5, epoch=3, shuffle=False)
    assert events_of(order) == [(0, 7), (0, 2), (0, 9), (1, 0), (1, 1), (1, 2)]
    assert len(epoch_order(views, 5, 3, shuffle=False, epoch_events=4)) == 4


def test_the_order_is_pinned_for_ever() -> None:
    """Resuming a run needs the same order from every later version; a change here breaks running trainings."""
    order = epoch_order(whole([70, 70, 10]), seed=7, epoch=3)
    assert order.row[:6].tolist() == [35, 21, 7, 14, 43, 64]


@pytest.mark.parametrize(("shards", "world", "batch"), [([25], 3, 4), ([25], 8, 4), ([1], 8, 256), ([100], 8, 64)])
def test_fewer_events_or_shards_than_ranks_do_not_matter(shards: list[int], world: int, batch: int) -> None:
    order = epoch_order(whole(shards), seed=0, epoch=0)
    plans = [rank_plan(order, batch, rank, world) for rank in range(world)]
    assert {plan.steps for plan in plans} == {-(-sum(shards) // batch)}
    seen = np.concatenate([plan.global_row[plan.weight > 0] for plan in plans])
    assert sorted(seen.tolist()) == list(range(sum(shards)))
    assert all(len(plan.row) == plan.steps * plan.micro_batch for plan in plans)


def test_runs_of_different_shards_are_interleaved_within_a_window() -> None:
    order = epoch_order(whole([1024] * 64), seed=3, epoch=0)
    shard = order.row // 1024
    runs = shard.reshape(-1, RUN)
    assert (runs == runs[:, :1]).all(), "runs stay together"
    assert (np.diff(runs[:, 0]) != 0).mean() > 0.85, "and their neighbours are of other shards"
    ends = [np.flatnonzero(runs[:, 0] == s)[[0, -1]] for s in range(64)]
    active = [sum(a <= t <= b for a, b in ends) for t in range(len(runs))]
    assert max(active) <= WINDOW + 1, "few shards are open at a time"
    assert np.median(active) > WINDOW / 2


def test_several_views_are_mixed_in_proportion_all_along_the_epoch() -> None:
    order = epoch_order(whole([2000] * 6, [1000] * 4), seed=3, epoch=0)
    for part in np.array_split(order.view, 10):
        assert (part == 1).mean() == pytest.approx(0.25, abs=0.06)


def test_weights_scale_and_short_epochs_take_turns() -> None:
    a, b = (view.dataset for view in whole([100], [100]))
    order = epoch_order([View(a, a.rows(), 2.0), View(b, b.rows(), 0.5)], seed=1, epoch=0)
    assert np.bincount(order.view).tolist() == [200, 50]
    assert set(np.bincount(order.row[order.view == 0]).tolist()) == {2}
    turns = [epoch_order([View(b, b.rows())], seed=1, epoch=e, epoch_events=40).row for e in range(5)]
    assert [len(t) for t in turns] == [40] * 5
    assert set(np.bincount(np.concatenate(turns)).tolist()) == {2}, "five short epochs of 40 are two whole rounds"
    both = epoch_order([View(a, a.rows()), View(b, b.rows())], seed=1, epoch=0, epoch_events=31)
    assert len(both) == 31


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "plan needs batch_size"),
        ({"batch_size": 4, "rank": 2, "world": 2}, "rank < world"),
        ({"batch_size": 4, "start_step": 9}, "start_step is outside the epoch .found 9, expected 0 … 3"),
    ],
)
def test_senseless_plans_are_refused(kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rank_plan(epoch_order(whole([10]), 0, 0), **kwargs)


def test_senseless_views_are_refused() -> None:
    view = whole([10])[0]
    with pytest.raises(ConfigError, match="weight must be positive"):
        epoch_order([View(view.dataset, view.rows, 0.0)], 0, 0)
    with pytest.raises(ConfigError, match="at least one view"):
        epoch_order([], 0, 0)


def test_an_empty_selection_gives_an_empty_plan(tmp_path: Path) -> None:
    view = View(on_paper([10]), np.zeros(0, np.int64))
    plan = rank_plan(epoch_order([view], 0, 0), 4)
    assert (plan.steps, len(plan.row)) == (0, 0)
    assert write_indexes(plan, [view], tmp_path) == ([], [])


def test_indexes_list_exactly_the_plan(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "one", events=90, events_per_shard=32)
    two = make_dataset(tmp_path / "two", events=20, events_per_shard=32, first_source=5)
    views = [View(one, one.rows("w > 5")), View(two, two.rows())]
    plan = rank_plan(epoch_order(views, 3, 1), batch_size=16, rank=1, world=2)
    tars, indexes = write_indexes(plan, views, tmp_path / "indexes")
    assert len(tars) == len(indexes) < len(plan.row) / 2, "consecutive events of a shard share an index"
    got = []
    for tar, index in zip(tars, indexes, strict=True):
        head, *lines = index.read_text().splitlines()
        assert head == f"v1.2 {len(lines)}"
        for line in lines:
            ext, offset, size, name, ext2, offset2, size2, name2 = line.split()
            assert (ext, ext2) == ("sensors.npy", "truth.npy")
            assert name.split(".")[0] == name2.split(".")[0]
            with open(tar, "rb") as file:
                file.seek(int(offset2))
                got.append(np.frombuffer(file.read(int(size2))[128:], "<f8"))
                file.seek(int(offset))
                assert len(file.read(int(size))) == int(size)
    expected = [views[d].dataset.read(r)[1][0] for d, r in zip(plan.dataset, plan.global_row, strict=True)]
    np.testing.assert_array_equal(got, expected)


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", events=10)
    view = View(dataset, dataset.rows())
    file = dataset.file(0, "idx")
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CorruptError, match=r"000000\.idx: is not the index that the manifest describes"):
        write_indexes(rank_plan(epoch_order([view], 0, 0), 4), [view], tmp_path / "i")


def test_dali_reads_exactly_the_plan(tmp_path: Path) -> None:
    dali = pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn

    dataset = make_dataset(tmp_path / "d", events=70, events_per_shard=32)
    view = View(dataset, dataset.rows("w > 3"))
    plan = rank_plan(epoch_order([view], 3, 1), batch_size=8)
    tars, indexes = write_indexes(plan, [view], tmp_path / "i")
    pipe = dali.Pipeline(batch_size=plan.micro_batch, num_threads=1, device_id=None)
    with pipe:
        raw = fn.readers.webdataset(
            paths=[str(t) for t in tars],
            index_paths=[str(i) for i in indexes],
            ext=["sensors.npy", "truth.npy"],
            missing_component_behavior="error",
        )
        pipe.set_outputs(*(fn.decoders.numpy(r) for r in raw))
    pipe.build()
    batches = [[np.stack([np.asarray(o.at(i)) for i in range(8)]) for o in pipe.run()] for _ in range(plan.steps)]
    sensors, truth = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    expected_sensors, expected_truth = dataset.read(plan.global_row)
    np.testing.assert_array_equal(sensors, expected_sensors)
    np.testing.assert_array_equal(truth, expected_truth)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60).filter(lambda w: sum(w) > 0), st.integers(0, 5))
@example([5e-324, 5e-324], 0)
def test_resampling_gives_each_row_its_expected_multiplicity(weights: list[float], epoch: int) -> None:
    dataset = on_paper([len(weights)])
    got = resampled(View(dataset, dataset.rows()), np.array(weights), seed=1, epoch=epoch, events=100)
    counts = np.bincount(got.rows, minlength=len(weights))
    assert counts.sum() == 100
    expected = 100 * np.array(weights) / sum(weights)
    assert (np.abs(counts - expected) < 1 + 1e-9).all()


def test_resampling_refuses_senseless_weights() -> None:
    view = whole([3])[0]
    for weights in ([1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [np.nan, 1.0, 1.0]):
        with pytest.raises(ConfigError, match="resampling needs one weight per row"):
            resampled(view, np.array(weights), 0, 0)


def test_a_curriculum_goes_from_small_to_large_and_shuffles_within_a_stage() -> None:
    views = whole([300, 200], [100])
    rng = np.random.default_rng(0)
    values = [rng.uniform(size=500), rng.uniform(size=100)]
    order = curriculum(views, values, seed=1, epoch=0, stages=4)
    assert sorted(events_of(order)) == sorted(events_of(epoch_order(views, 1, 0)))
    seen = np.array([values[v][r] for v, r in events_of(order)])
    stages = np.split(seen, 4)
    assert all(a.max() < b.min() for a, b in itertools.pairwise(stages))
    assert (np.diff(stages[0]) < 0).any()
    with pytest.raises(ConfigError, match="one value per row"):
        curriculum(views, values[:1], 1, 0)
