"""`xec display`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from shards.base import ConfigError, OutputError

if TYPE_CHECKING:
    from xectrain.display.event_source import Event

app = typer.Typer(add_completion=False)

EPILOG = """
Examples:

  xec display toy.root --run 1 --event 14 --output event.pdf

  xec display shards/val --entry 0 --output first.png

  xec display run430000.root --event 7 --predictions pred.root --geometry survey.txt

Without --output the picture opens on the screen.
"""


@app.command(epilog=EPILOG)
def display(
    source: Annotated[list[Path], Argument(help="ROOT files, or the folder of a shard dataset.")],
    run: Annotated[int | None, Option("--run", "-r", help="Run number.")] = None,
    event: Annotated[int | None, Option("--event", "-e", help="Event number.")] = None,
    entry: Annotated[int | None, Option("--entry", min=0, help="Entry or row instead of the numbers.")] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="The .pdf, .png or .svg to write.")] = None,
    predictions: Annotated[
        Path | None, Option("--predictions", help="ROOT, Parquet or CSV predictions: mark the predicted point.")
    ] = None,
    dead: Annotated[Path | None, Option("--dead", help="Dead list: hatch its channels, too.")] = None,
    geometry: Annotated[Path | None, Option("--geometry", help="Surveyed sensor positions; default: nominal.")] = None,
    only: Annotated[str | None, Option("--only", help="Draw only npho, or only time.")] = None,
    side_by_side: Annotated[bool, Option("--side-by-side", help="Photons left, time right: for slides.")] = False,
    schema: Annotated[str, Option("--schema", help="How ROOT files are read: a preset or a YAML file.")] = "mc",
    tree: Annotated[str | None, Option("--tree", help="Name of the tree; default: the schema's.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace another picture of this name.")] = False,
) -> None:
    """Draw an event on the unrolled detector: photons above, time below."""
    from shards import geometry as geo
    from xectrain.display.event import picture_format
    from xectrain.display.event_source import read_event, read_prediction

    if output is not None:
        picture_format(output)  # before any work
    found = read_event(source, run=run, event=event, entry=entry, schema=schema, tree=tree)
    predicted = read_prediction(predictions, found.run, found.event) if predictions else {}
    options: dict[str, Any] = {
        "dead": _with_dead_list(found, dead),
        "truth": found.point(),
        "prediction": [predicted.get(f"pred_{axis}", float("nan")) for axis in "uvw"],
        "conventional": found.point(("uvwRecoFI_u", "uvwRecoFI_v", "uvwRecoFI_w")),
        "title": title_of(found, predicted),
        "panels": (only,) if only else None,
        "side_by_side": side_by_side,
        "geometry": geo.load(geometry) if geometry else None,
    }
    if output is None:
        _show(found, options)
    else:
        typer.echo(_save(found, options, output, overwrite))


def title_of(event: Event, predicted: dict[str, float]) -> str:
    """Two lines: which event, and what is known about it."""
    import numpy as np

    names = ((event.run, "run"), (event.event, "event"))
    which = ", ".join(f"{label} {number}" for number, label in names if number is not None)
    total = np.nansum(np.where(event.dead, np.nan, event.npho))
    facts = [f"{total:,.0f} photons".replace(",", " ")]
    for column, label, unit, factor in (
        ("energy", "E", "MeV", 1e3),
        ("theta", "θ", "°", 1.0),
        ("phi", "φ", "°", 1.0),
        ("timing", "t", "ns", 1.0),
    ):
        truth, guess = event.columns.get(column), predicted.get(f"pred_{column}")
        values = [
            f"{v * factor:.2f}{'' if unit == '°' else ' '}{unit}" for v in (truth, guess) if v is not None and v == v
        ]
        if values:
            facts.append(f"{label} = {' → '.join(values)}")
    return f"{which} ({event.place})\n{', '.join(facts)}" if which else f"{event.place}\n{', '.join(facts)}"


def _with_dead_list(event: Event, file: Path | None) -> Any:
    if file is None:
        return event.dead
    from shards.dead import read_dead

    return event.dead | read_dead(file).sensors(event.run)


def _save(event: Event, options: dict[str, Any], output: Path, overwrite: bool) -> str:
    """Draw into a file; an existing one is left alone when it is the same picture, and replaced only when asked."""
    from shards.base import published
    from xectrain.display.event import event_figure, picture_bytes

    content = picture_bytes(event_figure(event.npho, event.time, **options), output)
    if output.exists() and not overwrite:
        if output.read_bytes() == content:
            return f"{output}: exists with the same picture; nothing to do."
        raise OutputError("exists with another picture", file=output, remedy="give --overwrite or another name")
    with published(output) as part:
        part.write_bytes(content)
    return f"Drew {event.place} to {output}."


def _show(event: Event, options: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.backends import backend_registry

    from xectrain.display.event import event_figure

    canvas = plt.figure(layout=None)
    if plt.get_backend().lower() not in {name.lower() for name in _interactive(backend_registry)}:
        raise ConfigError(
            "there is no screen to draw on", found=f"backend {plt.get_backend()}", remedy="give --output FILE"
        )
    event_figure(event.npho, event.time, figure=canvas, **options)
    plt.show()


def _interactive(registry: Any) -> list[str]:
    from matplotlib.backends import BackendFilter

    return [str(name) for name in registry.list_builtin(BackendFilter.INTERACTIVE)]
