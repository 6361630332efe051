"""`xec toymc`: simulated events as ROOT files, and what can be known from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shards.base import ConfigError, InputError, counted

EXAMPLES = """Examples:

  xec toymc --events 20000 --out toy.root

  xec toymc --events 20000 --energy flat --energy-range 15 65 --runs 10 --files 5 --processes 2 --out flat.root

  xec toymc --events 24000 --energy cex --runs 6 --out cex.root

  xec toymc --events 5000 --source uniform --energy 52.83 --dead 0.01 --out angle.root

  xec toymc limit --depth 2 --depth 10 --case known
"""

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback(invoke_without_command=True, epilog=EXAMPLES)
def toymc(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="ROOT file to write; with --files, the pattern of their names.")
    ] = None,
    events: Annotated[
        int, typer.Option("--events", "-n", min=1, help="Number of events, in all files together.")
    ] = 1000,
    energy: Annotated[
        str, typer.Option(help="signal (52.83 MeV), flat, cex (the two charge-exchange lines), or a number in MeV.")
    ] = "signal",
    energy_range: Annotated[tuple[float, float], typer.Option(help="Limits of the flat spectrum, MeV.")] = (15.0, 60.0),
    source: Annotated[
        str, typer.Option(help="signal (from the target), or uniform (over the inner face, within 60 degrees).")
    ] = "signal",
    runs: Annotated[
        int | None,
        typer.Option(min=1, help="Spread the events over this many runs, each with its own response (one per file)."),
    ] = None,
    first_run: Annotated[int, typer.Option(min=0, help="Number of the first run.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed: the same seed and options give the same events.")] = 1,
    files: Annotated[int, typer.Option(min=1, help="Write several files of whole runs: NAME_000.root, …")] = 1,
    processes: Annotated[int, typer.Option("--processes", "-j", min=1, help="Number of processes.")] = 1,
    compression: Annotated[str, typer.Option(help="zstd, zlib, lz4 or none.")] = "zstd",
    dead: Annotated[float, typer.Option(help="Fraction of channels that are dead, drawn anew for each run.")] = 0.0,
    dead_file: Annotated[
        Path | None, typer.Option(help="Text file of channels that are always dead: one id per line, # comments.")
    ] = None,
    dead_mark: Annotated[str, typer.Option(help="How dead channels are written: missing (1e10) or nan.")] = "missing",
    nan_fraction: Annotated[float, typer.Option(help="Fraction of single values that are NaN.")] = 0.0,
    missing_fraction: Annotated[float, typer.Option(help="Fraction of single values that are 1e10.")] = 0.0,
    pileup: Annotated[float, typer.Option(help="Mean number of additional gammas per event.")] = 0.0,
    saturation: Annotated[bool, typer.Option("--saturation", help="Let SiPM pixels saturate.")] = False,
    energy_smear: Annotated[
        float, typer.Option(help="Relative fluctuation of the light yield, common to an event's channels.")
    ] = 0.0,
    response_spread: Annotated[float, typer.Option(help="Relative spread of the efficiency between channels.")] = 0.12,
    calibration_spread: Annotated[float, typer.Option(help="Relative accuracy of a channel's calibration.")] = 0.03,
    geometry: Annotated[
        Path | None, typer.Option(help="Table of surveyed sensor positions (default: nominal).")
    ] = None,
    dead_branch: Annotated[
        bool, typer.Option("--dead-branch", help="Also write the branch dead[4760] (0/1), as some real files have.")
    ] = False,
    expected: Annotated[
        bool, typer.Option("--expected", help="Also write npho_expected, the expected photons.")
    ] = False,
) -> None:
    """Simulate photons in the liquid-xenon detector, and write them to ROOT files with the full truth."""
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise ConfigError("is missing", item="--out", remedy="name the ROOT file to write")
    from ingest.toymc.options import ToyOptions
    from ingest.toymc.rootfile import write

    options = ToyOptions(
        energy=energy,
        energy_range=energy_range,
        source=source,
        seed=seed,
        runs=files if runs is None else runs,
        first_run=first_run,
        response_spread=response_spread,
        calibration_spread=calibration_spread,
        energy_smear=energy_smear,
        pileup=pileup,
        saturation=saturation,
        dead_fraction=dead,
        dead_channels=() if dead_file is None else read_channels(dead_file),
        dead_mark=dead_mark,
        nan_fraction=nan_fraction,
        missing_fraction=missing_fraction,
        geometry=None if geometry is None else str(geometry),
        dead_branch=dead_branch,
        expected=expected,
    )
    results = write(out, events, options, files=files, compression=compression, processes=processes)
    fresh = sum(not r.existed for r in results)
    what = f"{counted(sum(r.events for r in results), 'event')} of runs {results[0].runs[0]}…{results[-1].runs[1]}"
    where = str(results[0].path) if len(results) == 1 else f"{results[0].path} … {results[-1].path.name}"
    if not fresh:
        typer.echo(f"{where} already holds the same {what}; nothing to do.")
    elif fresh == len(results):
        typer.echo(f"Wrote {what} to {where}.")
    else:
        typer.echo(f"Wrote {fresh} of {counted(len(results), 'file')} ({what}) to {where}; the others existed already.")


@app.command()
def limit(
    depth: Annotated[
        list[float] | None, typer.Option(help="Depth w in cm; repeatable (default: 0.5 1 2 4 8 15 25).")
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="What is known of the shower: point, known or unknown; repeatable (default: all)."),
    ] = None,
    energy: Annotated[float, typer.Option(help="MeV.")] = 52.83,
    u: Annotated[float, typer.Option(help="cm.")] = 0.0,
    v: Annotated[float, typer.Option(help="cm.")] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Also write the table as JSON.")] = None,
    distance: Annotated[
        bool,
        typer.Option("--distance", help="Instead: 68 % distance of the case unknown, signal at all depths (a minute)."),
    ] = False,
) -> None:
    """Print the Cramér–Rao bounds for u, v, w, energy and time at given depths.

    The cases point (all light at one point) and known (a known shower) include photon statistics only. The case unknown
    also includes the fluctuations of the shower: it is what the best linear estimator attains.
    """
    from dataclasses import asdict

    from ingest.toymc.study.limit import CASES, limits, signal_distance
    from shards.base import publish_json

    if distance:
        typer.echo(f"68 % distance of the best linear estimator: {10 * signal_distance():.2f} mm")
        return
    rows = [
        row
        for one in case or CASES
        for row in limits(depth or [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 25.0], case=one, energy=energy, u=u, v=v)
    ]
    typer.echo(f"{'shower':8}{'w/cm':>6}{'u/mm':>8}{'v/mm':>8}{'w/mm':>8}{'E/%':>8}{'t/ps':>8}")
    for r in rows:
        place = "".join(f"{10 * x:8.2f}" for x in (r.u, r.v, r.w))
        typer.echo(f"{r.case:8}{r.depth:6g}{place}{100 * r.energy:8.2f}{1e3 * r.time:8.1f}")
    if out is not None:
        publish_json(out, [asdict(r) for r in rows])
        typer.echo(f"Wrote {len(rows)} bounds to {out}.")


@app.command()
def library(
    out: Annotated[Path | None, typer.Option(help="Folder to write to (default: the package's own).")] = None,
    showers: Annotated[int, typer.Option(min=100, help="Number of showers.")] = 16000,
    sources: Annotated[int, typer.Option(min=500, help="Number of light sources to trace.")] = 10000,
    seed: Annotated[int, typer.Option(min=0)] = 1,
) -> None:
    """Remake the shower library and the table of scattered light, which come with the code (about five minutes)."""
    from ingest.toymc import library as showers_module
    from ingest.toymc import scattering

    folder = showers_module.FOLDER if out is None else out
    shower_file, table_file = folder / showers_module.SHOWERS.name, folder / "scattering.npz"
    showers_module.write_showers(shower_file, showers_module.make_showers(seed, showers))
    scattering.write_table(table_file, scattering.make_table(seed, sources))
    sizes = ", ".join(f"{f.name} ({f.stat().st_size / 1e3:.0f} kB)" for f in (shower_file, table_file))
    typer.echo(f"Wrote {sizes} to {folder}.")


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder for the pictures; the page is written beside it.")] = Path(
        "docs/toymc"
    ),
    events: Annotated[int, typer.Option(min=500, help="Number of events behind the numbers.")] = 6000,
) -> None:
    """Check every ingredient against an independent computation, and write the page of results and its pictures."""
    from ingest.toymc.study.report import write_report

    page, failed = write_report(out, events)
    typer.echo(f"Wrote {page} and its pictures to {out}.")
    if failed:
        typer.echo(f"Not as expected: {', '.join(failed)}.", err=True)
        raise typer.Exit(1)


def read_channels(path: Path) -> tuple[int, ...]:
    """Channel numbers of a text file, sorted, each once.

    Raises:
        InputError: unreadable, or a line that is not one number.
    """
    from shards.base.documents import read_text

    lines = read_text(path, "list of channels", InputError).splitlines()
    channels = set()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            try:
                channels.add(int(text))
            except ValueError:
                raise InputError(
                    "is not a channel number", file=path, item=f"line {number}", found=repr(text[:40])
                ) from None
    return tuple(sorted(channels))
