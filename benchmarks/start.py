"""How long commands take to begin: `xec --help`, ten events of `xec infer`, and the first lines of `xec evaluate`.

    python benchmarks/start.py --model runs/first --data data/toy/val

Best and mean wall time of whole commands in processes of their own. Without `--model` and `--data` an untrained
network of the preset `small` and toy events are made.
`python -X importtime -m xec infer … 2> log` says where the time goes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inference import make_run

GOALS = {"xec --help": 0.25, "xec infer, ten events": 3.0, "xec evaluate --check": 3.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="run folder, checkpoint or ONNX file")
    parser.add_argument("--data", type=Path, help="dataset or ROOT file")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.root"
        model, data = options.model, options.data
        if model is None or data is None:
            make_run(Path(folder), "small")
            model, data = Path(folder) / "run", Path(folder) / "shards"
        commands = {
            "xec --help": ["--help"],
            "xec infer, ten events": ["infer", str(model), str(data), "--output", str(out), "--select", "event < 10"],
            "xec evaluate --check": ["evaluate", str(model), str(data), "--out", f"{folder}/out", "--check"],
        }
        print("| command | best [s] | mean [s] | asked for [s] |\n|---|---|---|---|")
        for name, arguments in commands.items():
            taken = []
            for _ in range(options.turns):
                out.unlink(missing_ok=True)
                began = time.perf_counter()
                subprocess.run([sys.executable, "-m", "xec", *arguments], check=True, capture_output=True)
                taken.append(time.perf_counter() - began)
            print(f"| `{name}` | {min(taken):.2f} | {statistics.mean(taken):.2f} | {GOALS[name]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
