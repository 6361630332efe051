"""Run by the tests where the wheel `ROOT` is: `write FOLDER` makes files in ROOT's ways, `read FILE TREE BRANCH` prints
the values of a branch as ROOT reads them, one a line, `friends FILE PREDICTIONS BRANCH` the event numbers of both and a
prediction."""

import sys
from array import array
from pathlib import Path

import numpy as np
import ROOT

ROOT.gROOT.SetBatch(True)
EVENTS, SENSORS = 23, 4760
COMPRESSION = {"zlib": 101, "lzma": 207, "lz4": 404, "zstd": 505, "none": 0}


def truth():
    rng = np.random.default_rng(5)
    return {
        "npho": rng.exponential(300.0, (EVENTS, SENSORS)).astype("f4"),
        "relative_time": rng.uniform(0, 1e-7, (EVENTS, SENSORS)).astype("f4"),
        "time_min_used": rng.uniform(-7e-7, -6e-7, EVENTS),
        "energyTruth": rng.uniform(0.045, 0.055, EVENTS),
        "uvwTruth": rng.uniform(-20, 20, (EVENTS, 3)),
        "run": np.full(EVENTS, 430001, "i4"),
        "event": np.arange(EVENTS, dtype="i8") + 2**33,
    }


def fill(values, leaves, flush=0, vectors=(), autosave=False, events=EVENTS):
    """A tree with a branch of each of `values`, of the ROOT type in `leaves`; those in `vectors` are std::vectors."""
    tree = ROOT.TTree("tree", "written by ROOT")
    if flush:
        tree.SetAutoFlush(flush)
    buffers = {}
    for name, kind in leaves.items():
        if name in vectors:
            buffers[name] = ROOT.std.vector({"F": "float", "D": "double"}[kind])()
            tree.Branch(name, buffers[name])
        else:
            size = values[name][0].size
            buffers[name] = array({"F": "f", "D": "d", "I": "i", "L": "q", "d": "d"}[kind], [0] * size)
            tree.Branch(name, buffers[name], f"{name}[{size}]/{kind}" if size > 1 else f"{name}/{kind}")
    for i in range(events):
        for name in leaves:
            row = np.atleast_1d(values[name][i])
            if name in vectors:
                buffers[name].assign(row.tolist())
            else:
                buffers[name][:] = array(buffers[name].typecode, row.tolist())
        tree.Fill()
        if autosave and i % 7 == 3:
            tree.AutoSave()
    tree.Write()


LEAVES = {
    **dict.fromkeys(("npho", "relative_time"), "F"),
    **dict.fromkeys(("time_min_used", "energyTruth", "uvwTruth"), "D"),
    "run": "I",
    "event": "L",
}


def write(folder):
    values = truth()
    np.savez(folder / "truth.npz", **values)
    for name, setting in COMPRESSION.items():
        file = ROOT.TFile(str(folder / f"{name}.root"), "RECREATE", "", setting)
        fill(values, LEAVES)
        file.Close()
    for name, options in {
        "clusters": {"flush": 2},
        "vectors": {"vectors": ("npho", "relative_time", "uvwTruth")},
        "autosave": {"autosave": True},
    }.items():
        file = ROOT.TFile(str(folder / f"{name}.root"), "RECREATE")
        fill(values, LEAVES, **options)
        file.Close()
    file = ROOT.TFile(str(folder / "packed.root"), "RECREATE")
    fill(values, {**LEAVES, "energyTruth": "d"})
    file.Close()
    frame = ROOT.RDataFrame("tree", str(folder / "zlib.root"))
    frame.Snapshot("tree", str(folder / "snapshot.root"))
    options = ROOT.RDF.RSnapshotOptions()
    options.fOutputFormat = ROOT.RDF.ESnapshotOutputFormat.kRNTuple
    ROOT.RDataFrame("tree", str(folder / "vectors.root")).Snapshot("tree", str(folder / "rntuple.root"), "", options)


def read(file, tree, branch):
    for value in ROOT.RDataFrame(tree, file).AsNumpy([branch])[branch]:
        print(repr(float(value)))


def friends(file, predictions, branch):
    opened = ROOT.TFile.Open(file)
    tree = opened.Get("tree")
    tree.AddFriend("predictions", predictions)
    names = ["event", "predictions.event", f"predictions.{branch}"]
    found = ROOT.RDataFrame(tree).AsNumpy(names)
    for row in zip(*(found[name] for name in names), strict=True):
        print(*(repr(float(value)) for value in row))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    elif sys.argv[1] == "friends":
        friends(*sys.argv[2:])
    else:
        read(*sys.argv[2:])
