"""`xec display`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from shards.base import ConfigError, OutputError
from xectrain.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

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
    context: typer.Context,
    source: Annotated[list[Path], Argument(help="ROOT files or a shard dataset.")],
    run: Annotated[int | None, Option("--run", "-r", help="Run number.")] = None,
    event: Annotated[int | None, Option("--event", "-e", help="Event number.")] = None,
    entry: Annotated[
        int | None, Option("--entry", min=0, help="Entry or row, instead of run and event number.")
    ] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="The .pdf, .png or .svg file to write.")] = None,
    predictions: Annotated[
        Path | None,
        Option(
            "--predictions",
            help="Predictions: marks the predicted point; of sensors (ROOT): truth, masked, filled, difference.",
        ),
    ] = None,
    dead: Annotated[Path | None, Option("--dead", help="Dead list, whose channels are hatched, too.")] = None,
    geometry: Annotated[Path | None, Option("--geometry", help="Surveyed sensor positions (default: nominal).")] = None,
    only: Annotated[str | None, Option("--only", help="Draw only npho or only time.")] = None,
    side_by_side: Annotated[bool, Option("--side-by-side", help="Photons left, time right, e.g. for slides.")] = False,
    schema: Annotated[str, Option("--schema", help="How ROOT files are read: a preset or a YAML file.")] = "mc",
    tree: Annotated[str | None, Option("--tree", help="Name of the tree (default: the schema's).")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an existing picture.")] = False,
) -> None:
    """Draw an event on the unrolled detector: photons above, time below."""
    from shards import geometry as geo
    from xectrain.display.event import event_figure, inpainting_figure, picture_format
    from xectrain.display.event_source import read_event, read_prediction, read_sensor_prediction

    if output is not None:
        picture_format(output)  # before any work
    found = read_event(source, run=run, event=event, entry=entry, schema=schema, tree=tree)
    where = geo.load(geometry) if geometry else None
    lost = _with_dead_list(found, dead)
    sensors = read_sensor_prediction(predictions, found.run, found.event) if predictions else None
    if sensors is not None:
        o.refuse(context, ("only", "side_by_side"), "to predictions of sensors, which are drawn in four rows")
        draw = partial(
            inpainting_figure,
            *(found.npho, found.time, sensors.hidden, sensors.npho, sensors.time),
            dead=lost & ~sensors.hidden,
            truth=found.point(),
            title=title_of(found, {}),
            geometry=where,
        )
        _drawn(draw, found, output, overwrite)
        return
    predicted = read_prediction(predictions, found.run, found.event) if predictions else {}
    options: dict[str, Any] = {
        "dead": lost,
        "truth": found.point(),
        "prediction": [predicted.get(f"pred_{axis}", float("nan")) for axis in "uvw"],
        "conventional": found.point(("uvwRecoFI_u", "uvwRecoFI_v", "uvwRecoFI_w")),
        "title": title_of(found, predicted),
        "panels": (only,) if only else None,
        "side_by_side": side_by_side,
        "geometry": where,
    }
    _drawn(partial(event_figure, found.npho, found.time, **options), found, output, overwrite)


def _drawn(draw: Callable[..., Figure], event: Event, output: Path | None, overwrite: bool) -> None:
    """On the screen, or into a file."""
    if output is None:
        _show(draw)
    else:
        typer.echo(_save(draw, event, output, overwrite))


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


def _save(draw: Callable[..., Figure], event: Event, output: Path, overwrite: bool) -> str:
    """Draw into a file; an existing one is left alone when it is the same picture, and replaced only when asked."""
    from shards.base import published
    from xectrain.display.event import picture_bytes

    content = picture_bytes(draw(), output)
    if output.exists() and not overwrite:
        if output.read_bytes() == content:
            return f"{output} exists with the same picture; nothing to do."
        raise OutputError("exists with a different picture", file=output, remedy="give --overwrite, or another name")
    with published(output) as part:
        part.write_bytes(content)
    return f"Drew {event.place} to {output}."


def _show(draw: Callable[..., Figure]) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.backends import backend_registry

    canvas = plt.figure(layout=None)
    if plt.get_backend().lower() not in {name.lower() for name in interactive_backends(backend_registry)}:
        raise ConfigError(
            "there is no screen to draw on", found=f"backend {plt.get_backend()}", remedy="give --output FILE"
        )
    draw(figure=canvas)
    plt.show()


def interactive_backends(registry: Any) -> list[str]:
    """Backends of matplotlib that open a window."""
    from matplotlib.backends import BackendFilter

    return [str(name) for name in registry.list_builtin(BackendFilter.INTERACTIVE)]
