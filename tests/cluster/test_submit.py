"""Submitting, resubmitting and telling how things stand, against a SLURM that is only its answers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import kinds, slurm
from cluster.campaign import Folder, format_ranges, parse_ranges
from cluster.grid import points
from cluster.kinds import Work
from cluster.profile import load_profile
from cluster.script import Place, choose_place
from cluster.slurm import Seen, SlurmError
from cluster.status import Note, examine, judge
from cluster.submit import cancel, resubmit, scripts, submit
from shards.base import ConfigError, OutputError


class Answers:
    """Takes the place of SLURM's commands: job ids count up, everything submitted waits, what `queue` says is so."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.queue: dict[tuple[int, int | None], str] = {}
        self.refuse: str | None = None
        """A word of the script that sbatch refuses."""
        self.silent = False
        self.array_size = 1001
        self.last = 100

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        self.calls.append(words)
        code, out, err = 0, "", ""
        if self.silent and words[0] != "sbatch":
            code, err = 1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
        elif words[0] == "sbatch":
            if self.refuse and self.refuse in words[-1]:
                return subprocess.CompletedProcess(words, 1, "", "sbatch: error: Batch job submission failed: no\n")
            self.last += 1
            array = next(
                (w.removeprefix("--array=").partition("%")[0] for w in words if w.startswith("--array=")), None
            )
            for index in (None,) if array is None else parse_ranges(array):
                self.queue[self.last, index] = "PENDING"
            out = f"{self.last}\n"
        elif words[0] == "squeue":
            out = "".join(f"{j}|{'N/A' if i is None else i}|{s}|None\n" for (j, i), s in self.queue.items())
        elif words[:3] == ("scontrol", "show", "config"):
            out = f"MaxArraySize            = {self.array_size}\n"
        return subprocess.CompletedProcess(words, code, out, err)

    def sent(self, command: str) -> list[tuple[str, ...]]:
        return [words for words in self.calls if words[0] == command]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Answers]:
    found = Answers()
    monkeypatch.setattr(slurm, "run", found)
    monkeypatch.setattr(slurm, "require", lambda: None)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    monkeypatch.chdir(tmp_path)
    return found


def place(kind: str = "evaluate") -> Place:
    return choose_place(load_profile("local"), kind, {}, None, ())  # type: ignore[arg-type]


def work(out: str = "reports", count: int = 3) -> Work:
    """An array without checks."""
    found = kinds.evaluate(place(), Path(out), [Path(f"runs/{i}") for i in range(count)], ["data"], None)
    return replace(found, input_checks=())


def chain(tasks: int = 4) -> Work:
    """prepare → bucket → sort → finalize, without its check."""
    found = kinds.ingest(place("ingest"), Path("data"), ["a.root"], tasks, 2)
    return Work(found.kind, found.out, found.steps, found.request)


def note(folder: Folder, step: str, element: int, word: str, job: str) -> None:
    folder.state(step, element).write_text(f"{word} {job} node7 2026-01-01T00:00:00\n")


def test_jobs_are_held_until_all_are_accepted_and_recorded(answers: Answers) -> None:
    sent = submit(chain())
    assert [s.job for s in sent.campaign.jobs()] == [101, 102, 103, 104]
    prepare, bucket, sort, finalize = answers.sent("sbatch")
    assert "--hold" in prepare
    assert "--array=0-3%2" in bucket
    assert "--dependency=afterok:101" in bucket
    assert "--kill-on-invalid-dep=yes" in bucket
    assert "--dependency=afterok:102" in sort
    assert "--dependency=afterok:103" in finalize
    assert not [w for w in finalize if w.startswith("--array")]
    assert [words[-1] for words in answers.sent("scontrol") if "release" in words] == ["101", "102", "103", "104"]
    assert Folder.find(Path("data")).read() == sent.campaign
    assert sent.elements == 10


def test_what_is_refused_leaves_nothing_behind(answers: Answers) -> None:
    answers.refuse = "finalize"
    with pytest.raises(
        SlurmError, match=r"finalize\.sbatch: was refused by sbatch \(found Batch job submission failed: no\)"
    ):
        submit(chain())
    assert [words[-1] for words in answers.sent("scancel")] == ["101", "102", "103"]
    assert not Folder.of_output(Path("data")).record.exists()
    assert not [words for words in answers.sent("scontrol") if "release" in words]
    answers.refuse = None
    submit(chain())


def test_an_array_longer_than_the_site_allows_is_sent_in_pieces(answers: Answers) -> None:
    answers.array_size = 4
    sent = submit(work(count=10))
    (step,) = sent.campaign.steps
    assert [(s.first, s.indices) for s in step.sent] == [(0, "0-3"), (4, "0-3"), (8, "0-1")]
    assert "--export=ALL,XEC_FIRST=8" in answers.sent("sbatch")[2]
    assert sorted(e for s in step.sent for e, _ in s.elements()) == list(range(10))


def test_only_what_noted_its_success_is_done(answers: Answers) -> None:
    folder = submit(work()).folder
    answers.queue = {(101, 0): "COMPLETED", (101, 1): "COMPLETED"}
    note(folder, "evaluate", 0, "done", "101_0")
    (step,) = examine(folder, folder.read()).steps
    assert [e.standing for e in step.elements] == ["done", "failed", "cancelled"]
    assert step.elements[1].why == "SLURM says COMPLETED, but the script did not reach its end"
    assert step.elements[2].why == "SLURM removed it from its array before it began"
    note(folder, "evaluate", 2, "began", "101_2")
    (step,) = examine(folder, folder.read()).steps
    assert step.elements[2].standing == "lost"
    assert "does not know job 101_2" in step.elements[2].why


@pytest.mark.parametrize(
    ("noted", "seen", "answered", "standing"),
    [
        (None, Seen("PENDING", "Resources"), True, "waiting"),
        ("began", Seen("RUNNING"), True, "running"),
        ("failed:3", Seen("PENDING"), True, "waiting"),
        ("failed:3", Seen("FAILED", "NonZeroExitCode"), True, "failed"),
        ("failed:3", None, True, "failed"),
        ("failed:3", None, False, "failed"),
        ("began", None, True, "lost"),
        ("requeued", None, True, "lost"),
        ("began", None, False, "unknown"),
        (None, None, True, "lost"),
        (None, Seen("CANCELLED"), True, "cancelled"),
        (None, Seen("PENDING", "DependencyNeverSatisfied"), True, "cancelled"),
        ("began", Seen("TIMEOUT"), True, "failed"),
        ("began", Seen("NODE_FAIL"), True, "failed"),
        ("began", Seen("COMPLETED"), True, "failed"),
        ("done", Seen("FAILED"), True, "done"),
        ("done", None, False, "done"),
    ],
)
def test_how_an_element_stands(noted: str | None, seen: Seen | None, answered: bool, standing: str) -> None:
    found = None if noted is None else Note(noted, "7_1", "node")
    assert judge(found, "7_1", seen, answered)[0] == standing


def test_a_failure_of_an_earlier_job_is_not_this_jobs() -> None:
    assert judge(Note("failed:1", "7_1", "n"), "9_1", None, True)[0] == "lost"
    assert judge(Note("done", "7_1", "n"), "9_1", Seen("PENDING"), True)[0] == "done"


def test_only_what_failed_is_sent_again_and_what_waited_for_it(answers: Answers) -> None:
    folder = submit(chain()).folder
    note(folder, "prepare", 0, "done", "101")
    for element in (0, 2):
        note(folder, "bucket", element, "done", f"102_{element}")
    note(folder, "bucket", 1, "failed:9", "102_1")
    answers.queue = {(102, 3): "RUNNING", (102, 1): "FAILED", (103, 0): "CANCELLED", (104, None): "PENDING"}
    answers.calls.clear()
    sent = resubmit(folder)
    bucket, sort, finalize = answers.sent("sbatch")
    assert "--array=1%2" in bucket
    assert "--export=ALL,XEC_ENDED_JOBS=102_1" in bucket
    assert "--dependency=afterok:102_3:105" in sort
    assert "--array=0-3%2" in sort
    assert "--dependency=afterok:106" in finalize
    assert answers.sent("scancel") == [("scancel", "104")]
    assert sent.elements == 1 + 4 + 1
    answers.calls.clear()
    assert resubmit(folder).existed
    assert not answers.sent("sbatch")


def test_what_looks_at_all_points_is_sent_again_with_any_of_them(answers: Answers) -> None:
    found = kinds.scan(place("scan"), Path("scan"), [], points(["optim.lr=1,2"], [], None), None)
    folder = submit(Work(found.kind, found.out, found.steps, found.request)).folder
    note(folder, "scan", 0, "done", "101_0")
    note(folder, "scan", 1, "failed:1", "101_1")
    note(folder, "collect", 0, "done", "102")
    answers.queue = {}
    answers.calls.clear()
    assert resubmit(folder).elements == 2
    scan, collect = answers.sent("sbatch")
    assert "--array=1" in scan
    assert "--dependency=afterany:103" in collect
    assert not folder.state("collect", 0).exists()
    assert folder.state("scan", 0).exists()


def test_nothing_is_sent_or_cancelled_while_the_controller_is_silent(answers: Answers) -> None:
    folder = submit(work()).folder
    answers.silent = True
    status = examine(folder, folder.read())
    assert {e.standing for e in status.steps[0].elements} == {"unknown"}
    assert "Unable to contact slurm controller" in status.silent
    with pytest.raises(SlurmError, match="it is not known what is still running"):
        resubmit(folder)
    with pytest.raises(SlurmError, match="nothing was cancelled"):
        cancel(folder)
    with pytest.raises(OutputError, match=r"reports\.jobs: is a campaign that may still be running"):
        submit(work())


def test_cancelling_takes_only_what_is_not_done(answers: Answers) -> None:
    folder = submit(work()).folder
    note(folder, "evaluate", 1, "done", "101_1")
    answers.calls.clear()
    assert cancel(folder) == 2
    assert answers.sent("scancel") == [("scancel", "101_[0,2]")]


def test_the_output_of_another_campaign_is_refused(answers: Answers) -> None:
    folder = submit(work()).folder
    answers.queue = {}
    with pytest.raises(OutputError, match=r"is another campaign with this output: runs differs \(found runs/0 runs/1"):
        submit(work(count=2))
    with pytest.raises(OutputError, match="was submitted already and is not finished; `xec cluster resubmit`"):
        submit(work())
    for element in range(3):
        note(folder, "evaluate", element, "done", f"101_{element}")
    assert submit(work()).existed
    assert not submit(work(count=2), again=True).existed
    assert len(folder.read().steps[0].sent) == 1


def test_a_path_that_slurm_misreads_is_refused(answers: Answers) -> None:
    with pytest.raises(ConfigError, match="SLURM would misread this path"):
        scripts(work("my reports"))
    with pytest.raises(ConfigError, match="SLURM would misread this path"):
        scripts(work("100%"))


def test_too_many_tasks_and_doubtful_runs_are_refused() -> None:
    found = kinds.ingest(place("ingest"), Path("data"), ["a.root"], 9, None)
    with pytest.raises(
        ConfigError, match=r"--tasks: exceeds the number of units of work \(found 9, expected at most 4"
    ):
        found.judge("planned in data: 2 files, 99 events, 4 units of work, at most 3 shards")
    predictions = kinds.infer(place("infer"), Path("p"), ["run", "data"], 9, None, True)
    with pytest.raises(ConfigError, match=r"--tasks: exceeds the number of shards and files \(found 9"):
        predictions.judge("30 events in 5 pieces (shards and files)")
    with pytest.raises(ConfigError, match="runs with the same name"):
        kinds.evaluate(place(), Path("r"), [Path("a/x"), Path("b/x")], [], None)


def test_without_slurm_it_says_where_to_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no sbatch on this machine; submit from a login node"):
        submit(work())
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_sends_nothing(answers: Answers) -> None:
    wrong = kinds.train(place("train"), Path("run"), ["--set", "optim.lrr=1"])
    with pytest.raises(ConfigError, match=r"`xec train` would refuse this: optim\.lrr: no such key; did you mean 'lr'"):
        submit(wrong)
    assert not answers.sent("sbatch")
    assert not Path("run.jobs").exists()


def test_inputs_that_are_not_there_send_nothing_unless_they_are_still_being_made(answers: Answers) -> None:
    training = kinds.train(place("train"), Path("run"), ["--preset", "tiny", "--data", "nowhere"])
    with pytest.raises(ConfigError, match=r"`xec train` would refuse this: .*nowhere: there is no such dataset"):
        submit(training)
    assert not answers.sent("sbatch")
    submit(training, look=False)
    assert len(answers.sent("sbatch")) == 1


def test_predictions_and_reports_look_at_their_inputs_first() -> None:
    predictions = kinds.infer(place("infer"), Path("p"), ["run", "data"], 3, None, True)
    assert predictions.input_checks == (("infer", "run", "data", "--output", "p", "--task-count", "3", "--check"),)
    reports = kinds.evaluate(place(), Path("r"), [Path("a"), Path("b")], ["data"], None)
    assert reports.input_checks == tuple(("evaluate", r, "data", "--out", f"r/{r}", "--check") for r in "ab")


def test_a_scan_checks_every_point_and_the_data_of_every_configuration() -> None:
    grid = points(["optim.lr=1,2"], [Path("a.yaml"), Path("b.yaml")], None)
    found = kinds.scan(place("scan"), Path("scan"), ["--data", "d"], grid, None)
    assert len(found.checks) == 4
    assert [check[check.index("--config") + 1] for check in found.input_checks] == ["b.yaml", "a.yaml"]
    assert all(check[-2:] == ("--check", "cpu") for check in found.input_checks)


@pytest.mark.parametrize("numbers", [[0], [0, 1, 2, 7], [3, 5, 6, 7, 9]])
def test_ranges_there_and_back(numbers: list[int]) -> None:
    assert list(parse_ranges(format_ranges(numbers))) == numbers
    assert format_ranges([0, 1, 2, 7]) == "0-2,7"
