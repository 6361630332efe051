"""Site profiles: those that ship, those that people write, and what is refused before anything is sent."""

from pathlib import Path

import pytest

from cluster.profile import load_profile, seconds, shipped
from cluster.script import choose_place
from shards.base import ConfigError, InputError


@pytest.mark.parametrize("name", shipped())
def test_what_ships_is_valid(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    for kind in ("ingest", "train", "scan", "infer", "evaluate", "notebook"):
        choose_place(profile, kind, {}, None, ())


def test_merlin7_knows_both_architectures() -> None:
    profile = load_profile("merlin7")
    assert choose_place(profile, "train", {"partition": "a100-daily"}, None, ()).partition.arch == "x86_64"
    place = choose_place(profile, "train", {"partition": "gh-daily"}, None, ())
    assert place.partition.arch == "aarch64"
    assert place.environment != profile.environments["x86_64"]
    assert place.partition.cluster == "gmerlin7"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"partition": "a100-dayly"}, r"--partition: merlin7 has no partition 'a100-dayly'; did you mean 'a100-daily'"),
        ({"gpus": 8}, r"--gpus: partition a100-daily has fewer GPUs per node \(found 8, expected at most 4\)"),
        ({"nodes": 9}, r"--nodes: partition a100-daily allows fewer nodes per job \(found 9, expected at most 2\)"),
        (
            {"time": "25:00:00"},
            r"--time: partition a100-daily allows less time \(found 25:00:00, expected at most 1-00",
        ),
        ({"time": "a day"}, r"--time: 'a day' is not a time limit \(like 30, 12:00:00 or 2-00:00:00\)"),
        ({"partition": "daily"}, "--gpus: partition daily has fewer GPUs"),
    ],
)
def test_more_than_the_site_has_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_place(load_profile("merlin7"), "train", asked, None, ())


def test_accounts_are_those_that_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("name: s\naccounts: [meg, xenon]\npartitions: {p: {}}\n")
    with pytest.raises(ConfigError, match=r"--account: s has no account 'mge'; did you mean 'meg'\?"):
        choose_place(load_profile(str(file)), "train", {}, "mge", ())
    assert choose_place(load_profile("local"), "train", {}, "anything", ()).account == "anything"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("name: s\n", ConfigError, "partitions: is missing"),
        ("name: s\npartitions: {p: {gpus_per_nod: 4}}\n", ConfigError, r"no such key; did you mean 'gpus_per_node'"),
        ("name: s\npartitions: {p: {max_time: soon}}\n", ConfigError, "'soon' is not a time limit"),
        ("name: s\npartitions: {p: {}}\nkinds: {train: {partition: q}}\n", ConfigError, r"'q' is not among partitions"),
        ("name: s\npartitions: {p: {}}\nkinds: {trian: {}}\n", ConfigError, r"kinds"),
        ("name: [", ConfigError, "is not YAML"),
    ],
)
def test_a_wrong_profile_is_one_line_with_its_place(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(error, match=message) as caught:
        load_profile(str(file))
    assert "site.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"--site: there is no profile 'merlin'; did you mean 'merlin7'\? or give your own YAML file"
    ):
        load_profile("merlin")
    with pytest.raises(ConfigError, match=r"no profile '\.\./local'"):
        load_profile("../local")
    with pytest.raises(InputError, match="there is no such site profile"):
        load_profile("nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", 1800), ("2:30", 150), ("12:00:00", 43200), ("1-00", 86400), ("1-12:30", 131400), ("2-00:00:05", 172805)],
)
def test_times_are_slurms(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_a_time_without_quotes_stays_text(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text("name: s\npartitions: {p: {max_time: 12:00:00}}\nkinds: {train: {time: 1:00:00}}\n")
    assert load_profile(str(file)).partitions["p"].max_time == "12:00:00"
