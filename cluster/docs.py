"""`docs/cluster-scripts.md`: every kind's script, made by what `xec cluster render` runs (`make docs`)."""

from __future__ import annotations

from pathlib import Path

from cluster import kinds
from cluster.grid import points
from cluster.kinds import Work
from cluster.profile import Kind, load_profile
from cluster.script import Place, choose_place
from cluster.submit import scripts

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cluster-scripts.md"
DIRECTORY = Path("/data/user/meg")
"""Where the examples are submitted."""
HEAD = """\
# The scripts of `xec cluster`

Made by `make docs` from what `xec cluster render` prints, for the profile `merlin7`, in `{directory}`. Every script is
an ordinary one: it can be kept, edited, and sent by hand with `sbatch`. [Running on a cluster](cluster.md)
explains them.
"""


def examples() -> list[tuple[str, Work]]:
    """(command line, campaign) of one example of each kind."""
    recipe = ("--config", "recipes/base.yaml", "--config", "recipes/regress.yaml", "--config", "recipes/all.yaml")
    data = ("--data", "data/mc/train", "--val", "data/mc/val")
    split = ("--split", "train=0.9,val=0.1", "--split-by", "run")
    grid = ["optim.lr=1e-4,3e-4"]
    nodes: dict[str, object] = {"nodes": 2, "gpus": 4}
    return [
        (
            "ingest 'mc/*.root' --out data/mc --tasks 50 --throttle 20 " + " ".join(split),
            kinds.ingest(_place("ingest"), Path("data/mc"), ["mc/*.root", *split], 50, 20),
        ),
        (
            f"train {' '.join(recipe)} {' '.join(data)} --out runs/all --nodes 2 --gpus 4",
            kinds.train(_place("train", nodes), Path("runs/all"), [*recipe, *data]),
        ),
        (
            f"scan {' '.join(recipe)} {' '.join(data)} --grid {grid[0]} --seeds 2 --out runs/scan",
            kinds.scan(_place("scan"), Path("runs/scan"), [*recipe, *data], points(grid, [], 2), None),
        ),
        (
            "infer runs/all data/real --out pred/real --tasks 20 --merge --partition gh-hourly",
            kinds.infer(
                _place("infer", {"partition": "gh-hourly"}),
                Path("pred/real"),
                ["runs/all", "data/real"],
                20,
                None,
                True,
            ),
        ),
        (
            "evaluate --run runs/all --run runs/energy data/mc/val --out reports",
            kinds.evaluate(
                _place("evaluate"), Path("reports"), [Path("runs/all"), Path("runs/energy")], ["data/mc/val"], None
            ),
        ),
        ("notebook --time 2:00:00", kinds.notebook(_place("notebook", {"time": "2:00:00"}), Path("notebook"), [])),
    ]


def page() -> str:
    """The page."""
    parts = [HEAD.format(directory=DIRECTORY)]
    for line, work in examples():
        parts.append(f"\n## {work.kind}\n\n```sh\nxec cluster submit {line} --site merlin7\n```\n")
        for name, text in scripts(work, DIRECTORY).items():
            parts.append(f"\n`{work.out}.jobs/{name}.sbatch`:\n\n```bash\n{text.rstrip()}\n```\n")
    return "".join(parts)


def _place(kind: Kind, asked: dict[str, object] | None = None) -> Place:
    return choose_place(load_profile("merlin7"), kind, asked or {}, None, ())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
