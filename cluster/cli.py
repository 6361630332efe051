"""`xec cluster`: render, submit and watch campaigns on a SLURM cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cluster.cli_kinds import kinds_app
from cluster.options import Asked
from shards.base import ConfigError, XecError, counted

if TYPE_CHECKING:
    from cluster.kinds import Work
    from cluster.status import Status, StepStatus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run conversions, trainings, scans and predictions on SLURM, as ordinary sbatch scripts.",
)

Given = Annotated[Path, Argument(help="The campaign's output, or its folder NAME.jobs.")]
POLL_S = (1.0, 10.0)
"""Seconds between polls with `--wait`: at first, and at most."""
SHOWN = 5
"""Elements of a step that are shown with their log."""


def _submit(work: Work, asked: Asked) -> None:
    from cluster.submit import submit

    if asked.no_check and not work.input_checks:
        raise ConfigError(f"does not apply to {work.kind}", item="--no-check")
    sent = submit(work, again=asked.again, look=not asked.no_check)
    if sent.existed:
        typer.echo(f"Nothing to do: {work.out} is done.")
        return
    jobs = ", ".join(f"{step.name} {'+'.join(str(s.job) for s in step.sent)}" for step in sent.campaign.steps)
    typer.echo(f"Submitted {jobs}; scripts, logs and record are in {sent.folder.path}.")
    typer.echo(f"Watch it with:  xec cluster status {work.out}")


def _render(work: Work, asked: Asked) -> None:
    from cluster.submit import scripts

    for name, text in scripts(work).items():
        typer.echo(f"# ---- {name}.sbatch ----\n{text}")


app.add_typer(kinds_app("submit", "Check a campaign, write its scripts, and submit its jobs.", _submit), name="submit")
app.add_typer(kinds_app("render", "Print the scripts without submitting anything (dry run).", _render), name="render")


@app.command(epilog="Example:  xec cluster status data/mc --wait")
def status(
    campaign: Given,
    wait: Annotated[bool, Option("--wait", help="Wait until none of its jobs is waiting or running.")] = False,
) -> None:
    """Show how a campaign stands: done, running, waiting, failed, with the last lines of the logs of what failed.

    Exits with 1 if anything failed, was cancelled or lost, or is unknown.
    """
    from cluster.campaign import Folder
    from cluster.status import examine

    folder = Folder.find(campaign)
    record = folder.read()
    found, pause = examine(folder, record), POLL_S[0]
    while wait and found.active:
        time.sleep(pause)
        pause = min(1.2 * pause, POLL_S[1])
        found = examine(folder, record)
    _show(found)
    if found.bad:
        step, element = found.bad[0]
        raise XecError(
            f"{counted(len(found.bad), 'element')} to look at: {step} {element.element} is {element.standing}",
            file=folder.path,
            remedy="`xec cluster resubmit` submits them again",
        )
    typer.echo(f"{folder.path.name}: {'everything is done' if found.done else 'nothing has failed so far'}")


def _show(found: Status) -> None:
    if found.silent:
        typer.echo(f"SLURM could not be queried: {found.silent}", err=True)
    for step in found.steps:
        counts = ", ".join(f"{number} {what}" for what, number in sorted(step.counts().items()))
        typer.echo(f"{step.name:<10} {counts}")
        _show_bad(step)


def _show_bad(step: StepStatus) -> None:
    from cluster.status import BAD, tail

    bad = step.of(*BAD)
    told = [element for element in bad if element.log is not None or element.standing != "cancelled"]
    for element in told[:SHOWN]:
        typer.echo(f"  {step.name} {element.element} {element.standing}, job {element.job or '-'}: {element.why}")
        if element.log is not None:
            typer.echo(f"    {element.log}")
            for line in tail(element.log):
                typer.echo(f"    | {line}")
    if len(told) > SHOWN:
        rest = ", ".join(str(element.element) for element in told[SHOWN : SHOWN + 20])
        typer.echo(f"  … and {len(told) - SHOWN} more: {rest}" + (" …" if len(told) > SHOWN + 20 else ""))


@app.command(epilog="Example:  xec cluster resubmit runs/scan")
def resubmit(campaign: Given) -> None:
    """Submit again what failed, was cancelled or lost, and what was waiting for it."""
    from cluster.campaign import Folder
    from cluster.submit import resubmit as send

    folder = Folder.find(campaign)
    sent = send(folder)
    if sent.existed:
        typer.echo(f"Nothing to do: everything in {folder.path.name} is done, running or waiting.")
    else:
        typer.echo(f"Resubmitted {counted(sent.elements, 'element')} of {folder.path.name}.")


@app.command(epilog="Example:  xec cluster cancel runs/scan")
def cancel(campaign: Given) -> None:
    """Cancel what is waiting or running; what is done stays."""
    from cluster.campaign import Folder
    from cluster.submit import cancel as stop

    folder = Folder.find(campaign)
    typer.echo(f"Cancelled {counted(stop(folder), 'element')} of {folder.path.name}.")


@app.command(epilog="Example:  xec cluster sites merlin7")
def sites(
    site: Annotated[
        str | None, Argument(help="Profile, or a YAML file (default: list those that come with xec).")
    ] = None,
) -> None:
    """List the site profiles, or show what one offers."""
    from cluster.profile import load_profile, shipped

    for name in shipped() if site is None else [site]:
        profile = load_profile(name)
        typer.echo(f"{profile.name}: {profile.description}")
        for partition, has in () if site is None else profile.partitions.items():
            gpus = f", {has.gpus_per_node} GPUs per node" if has.gpus_per_node else ""
            typer.echo(f"  {partition:<18} {has.arch}{gpus}, at most {has.max_time or 'any time'}")
