"""`xec ingest`: convert ROOT files to shards, inspect ROOT files, compare dead lists."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shards.base import ConfigError, counted, duration_text, local_path, size_text

if TYPE_CHECKING:
    from ingest.conversion.convert import Conversion
    from ingest.conversion.options import ConversionOptions
    from ingest.reading.rootio import Skipped, Source
    from shards.dead import DeadList
    from shards.normalization import Normalization

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Convert ROOT files to shards; inspect ROOT files.",
)

Files = Annotated[
    list[str],
    typer.Argument(
        help="ROOT files, folders, globs, or list files (.txt, .list, @FILE: one `path` or `run path` per line)."
    ),
]


class Step(StrEnum):
    """Parts of a conversion that run on their own on a cluster."""

    all = "all"
    plan = "plan"
    prepare = "prepare"
    bucket = "bucket"
    sort = "sort"


class FolderStep(StrEnum):
    """Steps that need nothing but the folder."""

    prepare = "prepare"
    bucket = "bucket"
    sort = "sort"


class SplitBy(StrEnum):
    """What a split keeps together."""

    event = "event"
    run = "run"
    source = "source"


class Dtype(StrEnum):
    """Storage types."""

    float32 = "float32"
    float16 = "float16"


class Preset(StrEnum):
    """Normalizations."""

    standard = "standard"
    sqrt = "sqrt"
    legacy = "legacy"


@app.command(
    epilog="Examples:  xec ingest root2shards mc/*.root --out data/mc --split train=0.9,val=0.1 --workers 4   |   "
    "xec ingest root2shards runs.txt --schema real --dead dead.csv --no-shuffle --out data/real"
)
def root2shards(
    files: Files,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Dataset folder; with --split, the folder of one dataset per part.")
    ],
    schema: Annotated[str, typer.Option(help="mc, real, cex, sensors-only, or your own YAML file.")] = "mc",
    tree: Annotated[str | None, typer.Option(help="Name of the tree (default: the schema's).")] = None,
    normalization: Annotated[Preset, typer.Option(help="How photons and seconds are stored.")] = Preset.standard,
    norm_param: Annotated[
        list[str] | None, typer.Option("--norm-param", metavar="KEY=VALUE", help="Override one of its parameters.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Storage type of the sensors.")] = Dtype.float32,
    events_per_shard: Annotated[int, typer.Option(min=1)] = 8192,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 0,
    shuffle: Annotated[
        bool, typer.Option("--shuffle/--no-shuffle", help="Shuffle globally, or keep the order given.")
    ] = True,
    split: Annotated[str | None, typer.Option(metavar="NAME=FRACTION,…", help="Parts, e.g. train=0.9,val=0.1.")] = None,
    split_by: Annotated[
        SplitBy | None, typer.Option(help="What to keep together (default: run for real and cex, else event).")
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Seed of the division.")] = 0,
    select: Annotated[
        str | None, typer.Option(help="Keep only these events, e.g. 'fiducial and energy > 0.04'.")
    ] = None,
    max_events: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many, as a fair sample of all.")
    ] = None,
    time_floor: Annotated[
        float | None, typer.Option(help="Photons below which times are stored as invalid (default: none).")
    ] = None,
    dead: Annotated[
        list[Path] | None, typer.Option(help="Dead channels: text, or CSV/Parquet with run ranges; repeatable.")
    ] = None,
    dead_if_invalid_fraction: Annotated[
        float | None,
        typer.Option(
            help="Also treat as dead what is unusable in this fraction of a run's events (takes another pass)."
        ),
    ] = None,
    channel_gain: Annotated[
        Path | None, typer.Option(help="Divide photons by these responses (channels.csv of `xec channels`).")
    ] = None,
    geometry: Annotated[Path | None, typer.Option(help="Surveyed sensor positions (default: nominal).")] = None,
    skip_bad_files: Annotated[
        bool, typer.Option("--skip-bad-files", help="Leave bad files out, and list them in the manifest.")
    ] = False,
    checksums: Annotated[
        Path | None, typer.Option(help="First check the files against this list, as written by sha256sum.")
    ] = None,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Accept events that share run and event number.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Processes (default: one per free core).")
    ] = None,
    step: Annotated[Step, typer.Option(help="Do one step only, as on a cluster.")] = Step.all,
    task_index: Annotated[int, typer.Option(min=0, help="Which share of the step to do, counting from 0.")] = 0,
    task_count: Annotated[int, typer.Option(min=1, help="Number of shares that the step is divided into.")] = 1,
) -> None:
    """Convert ROOT files into a dataset of shards.

    If interrupted, the same command continues where it stopped; the bytes of the result are the same however it
    ran. A dataset that exists already, from the same files with the same options, is left as it is.
    """
    from ingest.conversion.options import ConversionOptions
    from ingest.reading.checksums import check_digest, read_checksums
    from ingest.reading.rootio import open_sources
    from ingest.reading.schema import load_schema
    from shards.base.documents import checked
    from shards.expressions import inlined
    from shards.gains import GainFile

    wanted = load_schema(schema)
    values = {
        "schema": wanted,
        "tree": tree,
        "normalization": _normalization(normalization.value, norm_param or []),
        "dtype": dtype.value,
        "events_per_shard": events_per_shard,
        "seed": seed,
        "shuffle": shuffle,
        "split": split,
        "split_by": split_by.value if split_by else wanted.split_by,
        "split_seed": split_seed,
        "select": inlined(select) if select is not None else None,
        "max_events": max_events,
        "time_floor": time_floor,
        "dead": _dead_list(dead or []),
        "dead_if_invalid_fraction": dead_if_invalid_fraction,
        "channel_gain": GainFile.of(channel_gain) if channel_gain else None,
        "geometry": str(geometry.resolve()) if geometry else None,
        "skip_bad_files": skip_bad_files,
        "allow_duplicates": allow_duplicates,
    }
    options = checked(ConversionOptions, values, error=ConfigError)
    local_path(out)
    skipped: list[Skipped] = []
    check = partial(check_digest, expected=read_checksums(checksums)) if checksums else None
    sources = open_sources(files, tree, wanted, skipped if skip_bad_files else None, check)
    result = _run(sources, out, options, skipped, workers, step.value, task_index, task_count)
    if result is None and step is not Step.plan:
        typer.echo(f"{step.value} step, task {task_index} of {task_count}, done for {out}")
    elif result is not None:
        _report(result)


def _run(
    sources: list[Source],
    out: Path,
    options: ConversionOptions,
    skipped: list[Skipped],
    workers: int | None,
    step: str,
    task: int,
    tasks: int,
) -> Conversion | None:
    from ingest.conversion.convert import Extent, convert, note_plan, run_step
    from ingest.conversion.plan import make_plan

    if step == "all":
        if (task, tasks) != (0, 1):
            raise ConfigError("--task-index and --task-count divide one --step, not the whole conversion")
        return convert(sources, out, options, workers=workers, skipped=skipped)
    if step == "plan":
        noted = note_plan(make_plan(sources, skipped, options), out)
        if isinstance(noted, Extent):
            typer.echo(
                f"planned in {out}: {counted(noted.files, 'file')}, {counted(noted.events, 'event')}, "
                f"{counted(noted.units, 'unit')} of work, "
                f"at most {counted(noted.shards, 'shard')}"
            )
            return None
        return noted
    return run_step(step, make_plan(sources, skipped, options), out, task=task, tasks=tasks, workers=workers)


def _normalization(name: str, parameters: list[str]) -> Normalization:
    from shards.normalization import preset

    values: dict[str, object] = {}
    for parameter in parameters:
        key, separator, text = parameter.partition("=")
        if not separator:
            raise ConfigError("is not KEY=VALUE", item="--norm-param", found=parameter)
        try:
            values[key] = (
                {"true": True, "false": False}.get(text.lower(), text) if key == "nonpositive_is_dead" else text
            )
            if isinstance(values[key], str) and key != "scheme":
                values[key] = float(text)
        except ValueError:
            raise ConfigError("is not a number", item=f"--norm-param {key}", found=text) from None
    return preset(name, **values)


def _dead_list(files: list[Path]) -> DeadList:
    from shards.dead import DeadList, read_dead

    total = DeadList()
    for file in files:
        total = total | read_dead(file)
    return total


def _report(result: Conversion) -> None:
    """One sentence per dataset: what was written where."""
    for manifest, folder in zip(result.manifests, result.folders, strict=True):
        verb = "is already complete" if result.was_complete else "written"
        size = sum(shard.tar.bytes for shard in manifest.shards) / 1e9
        typer.echo(
            f"{folder} {verb}: {counted(manifest.n_events, 'event')} of {counted(len(manifest.sources), 'file')} in "
            f"{counted(len(manifest.shards), 'shard')}, {size:.2f} GB, fingerprint {manifest.fingerprint[:12]}"
        )
        skipped = manifest.settings.conversion.get("skipped", [])
        if skipped:
            typer.echo(f"skipped {counted(len(skipped), 'file')}: " + ", ".join(entry["name"] for entry in skipped))


@app.command(epilog="Example:  xec ingest inspect run012345.root --schema real")
def inspect(
    files: Files,
    schema: Annotated[str, typer.Option(help="mc, real, cex, sensors-only, or your own YAML file.")] = "mc",
    tree: Annotated[str | None, typer.Option(help="Name of the tree (default: the schema's).")] = None,
    events: Annotated[int, typer.Option("--events", "-n", min=1, help="Number of events to sample.")] = 1000,
    normalization: Annotated[
        Preset, typer.Option(help="Normalization whose domain the values are checked against.")
    ] = Preset.standard,
    dead: Annotated[list[Path] | None, typer.Option(help="Dead channels, as for root2shards.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Storage type, for the expected size.")] = Dtype.float32,
) -> None:
    """Show what is in ROOT files, and what converting them would give: trees, branches, mapping, value ranges, bad
    values per face, dead-channel candidates, duplicates, size and time."""
    from ingest.inspection import inspect as look
    from ingest.inspection import report
    from ingest.reading.inputs import expand
    from ingest.reading.rootio import open_sources
    from ingest.reading.schema import load_schema
    from shards.normalization import preset

    paths = [file.path for file in expand(files)]
    for line in report.tree_lines(paths[0], look.list_trees(paths[0])):
        typer.echo(line)
    wanted = load_schema(schema)
    sources = open_sources(files, tree, wanted)
    if len(sources) > 1:
        typer.echo(f"… and {counted(len(sources) - 1, 'file')} more; {sum(s.entries for s in sources)} entries in all")
    for line in report.mapping_lines(sources[0], wanted.name):
        typer.echo(line)
    for note in report.difference_lines(sources):
        typer.echo(note)
    sample = look.sample(sources, events, preset(normalization.value), _dead_list(dead or []))
    for line in report.sample_lines(sample):
        typer.echo(line)
    typer.echo(report.duplicate_line(look.find_duplicates(sources)))
    total = sum(source.entries for source in sources)
    seconds = 1.6 * sample.seconds / sample.events * total
    typer.echo(
        f"converting all of it ({counted(total, 'event')}) gives "
        f"{size_text(look.expected_bytes(sources, dtype.value))} of shards, as much again while it runs, in about "
        f"{duration_text(seconds)} on one core"
    )


@app.command(
    epilog="Example:  xec ingest root2shards mc/*.root --out data/mc --step plan   and then   "
    "xec ingest step bucket --out data/mc --task-index 3 --task-count 50"
)
def step(
    name: Annotated[FolderStep, typer.Argument(help="The step to do.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Dataset folder in which a conversion was planned.")],
    task_index: Annotated[int, typer.Option(min=0, help="Which share of the step to do, counting from 0.")] = 0,
    task_count: Annotated[int, typer.Option(min=1, help="Number of shares that the step is divided into.")] = 1,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Processes (default: one per free core).")
    ] = None,
) -> None:
    """Do a share of one step of a planned conversion, as the elements of a job array do.

    Only the folder is needed: the inputs and options are those of `root2shards … --step plan`.
    """
    from ingest.conversion.convert import run_folder_step

    result = run_folder_step(name.value, out, task=task_index, tasks=task_count, workers=workers)
    if result is None:
        typer.echo(f"{name.value} step, task {task_index} of {task_count}, done for {out}")
    else:
        _report(result)


@app.command()
def finalize(
    out: Annotated[Path, typer.Option("--out", "-o", help="Dataset folder of the bucket and sort steps.")],
) -> None:
    """Publish the manifest when all bucket and sort tasks are done, and remove the temporary rows."""
    from ingest.conversion.convert import finalize_folder

    _report(finalize_folder(out))


@app.command("dead-diff")
def dead_diff(
    first: Annotated[Path, typer.Argument(help="A dead list: text, CSV or Parquet.")],
    second: Annotated[Path, typer.Argument(help="Another dead list.")],
) -> None:
    """Compare two dead lists: what is only in the first, only in the second, and in both."""
    from shards.dead import LAST_RUN, difference, read_dead

    found = difference(read_dead(first), read_dead(second))
    for label, entries in ((f"only in {first}", found.only_first), (f"only in {second}", found.only_second)):
        typer.echo(f"{label}: {len(entries)}")
        for entry in entries.entries:
            runs = "all runs" if (entry.run_first, entry.run_last) == (0, LAST_RUN) else f"runs {entry.run_first}–"
            runs += str(entry.run_last) if entry.run_last != LAST_RUN else ""
            typer.echo(f"  {entry.sensor:4d}  {runs}  {entry.kind}  {entry.reason}".rstrip())
    typer.echo(f"in both: {found.common}")
