"""Points of a scan: products, lists of configurations, paired seeds."""

from pathlib import Path

import pytest

from cluster.grid import parse_axis, points
from shards.base import ConfigError


def test_a_grid_is_the_product_with_the_same_seeds_at_every_point() -> None:
    found = points(["optim.lr=1e-4,3e-4", "data.batch_size=64"], [], 2)
    assert [p.name for p in found] == [
        *("lr=1e-4,batch_size=64,seed=0", "lr=1e-4,batch_size=64,seed=1"),
        *("lr=3e-4,batch_size=64,seed=0", "lr=3e-4,batch_size=64,seed=1"),
    ]
    assert found[1].words == (
        *("--set", "optim.lr=1e-4", "--set", "data.batch_size=64", "--set", "train.seed=1"),
    )  # fmt: skip


def test_configurations_are_points_and_come_before_the_values() -> None:
    (one, two) = points([], [Path("a/deep.yaml"), Path("wide.yaml")], None)
    assert (one.name, one.words) == ("deep", ("--config", "a/deep.yaml"))
    assert two.name == "wide"
    assert points(["optim.lr=1"], [Path("a/deep.yaml")], None)[0].words == (
        *("--config", "a/deep.yaml", "--set", "optim.lr=1"),
    )  # fmt: skip


def test_commas_in_brackets_do_not_divide_and_names_are_fit_for_folders() -> None:
    assert parse_axis("optim.betas=[0.9,0.99],[0.9,0.999]") == ("optim.betas", ["[0.9,0.99]", "[0.9,0.999]"])
    assert points(["data.select=abs(u) < 20 and w/2 > 1"], [], None)[0].name == "select=abs_u_20_and_w_2_1"


def test_keys_that_end_alike_are_told_apart() -> None:
    assert points(["tasks.energy.weight=1", "tasks.angle.weight=2"], [], None)[0].name == (
        "tasks.energy.weight=1,tasks.angle.weight=2"
    )


@pytest.mark.parametrize(
    ("grid", "configs", "message"),
    [
        (["optim.lr"], [], r"--grid: is not an axis \(found optim\.lr, expected key\.path=value,value,…\)"),
        (["optim.lr="], [], "is not an axis"),
        (["optim.lr=1,1"], [], r"--grid: has the same value twice"),
        (["optim.lr=1", "optim.lr=2"], [], r"--grid optim\.lr: is scanned twice"),
        ([], [], "there is nothing to scan; give --grid KEY=V1,V2"),
        ([], [Path("a/x.yaml"), Path("b/x.yaml")], r"two points would share a run folder \(found x\)"),
        ([f"a.k{i}=" + ",".join(map(str, range(100))) for i in range(9)], [], "scan: has too many points"),
        (["a.b=<,>"], [], "share a run folder"),
    ],
)
def test_what_is_no_scan_is_said(grid: list[str], configs: list[Path], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        points(grid, configs, None)
