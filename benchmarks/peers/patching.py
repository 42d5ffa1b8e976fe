"""Our patching sweeps against TransformerLens and nnsight, in one run.

usage: patching.py [--rounds N] [--skip nnsight]

Run by `make bench-peers` with the Python that has the peers. All read the demo
model's weights in float32; ours are the command's own times (seconds.sweep of
`mlxterp patch --json`), the median of rounds before and after each peer. Exits
with 1 where a grid differs from TransformerLens' by more than 1e-3 of the
largest value.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from against_mlx_lm import ROOT, folder_of_demo

from torch_sweep import ANSWERS, CLEAN, IOI, OTHER

SWEEPS = {
    "ioi": (IOI, ["--site", "resid_pre", "--by", "layer,pos"]),
    "other": (OTHER, ["--site", "resid_pre", "--by", "layer,pos"]),
    "heads": (IOI, ["--site", "z", "--by", "layer,head"]),
}
WHAT = {
    "ioi": "resid_pre, IOI pair",
    "other": "resid_pre, other from token 0",
    "heads": "z by head, IOI pair",
}
# At least, and the goal: times as fast.
WANTED = {
    ("transformerlens", "ioi"): (60, 200),
    ("transformerlens", "other"): (16, 40),
    ("transformerlens", "heads"): (20, 55),
    ("nnsight", "ioi"): (45, 58),
}
# Of SmolLM2's products, one position in one layer.
FLOPS_OF_A_ROW = 2 * 576 * (2 * 576 + 2 * 192 + 3 * 1536)
# At most, and the goal: of one plain pass a cell.
PASSES = {"ioi": (0.025, 0.016), "other": (0.085, 0.05)}


def rate_of_products():
    """GFLOP/s of this Python's own BLAS, on a product of the model's size."""
    x, w = (np.ones(shape, np.float32) for shape in ((2048, 576), (576, 1536)))
    best = 0
    for _ in range(20):
        begin = time.perf_counter()
        x @ w
        best = max(best, 2 * x.size * 1536 / (time.perf_counter() - begin))
    return best / 1e9


def ours(name):
    corrupt, options = SWEEPS[name]
    answer = subprocess.run(
        [ROOT / "build/bin/mlxterp", "patch", "demo", "--clean", CLEAN,
         "--corrupt", corrupt, "--metric",
         f"logit_diff({','.join(ANSWERS)})", "--raw", "--json",
         "--compare-cost", *options],
        check=True, capture_output=True, text=True).stdout
    answer = json.loads(answer)
    grid = np.array(answer["effect"], np.float32).reshape(answer["shape"])
    seconds = answer["seconds"]
    seconds["flops"] = answer["rows"] * FLOPS_OF_A_ROW
    return seconds, grid


def theirs(peer, folder):
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "grids.npz"
        lines = subprocess.run(
            [sys.executable, ROOT / "benchmarks/peers/torch_sweep.py", peer,
             folder, out],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True).stdout.split("\n")
        seconds = {
            words[0]: float(words[1]) for words in map(str.split, lines)
            if len(words) == 2 and words[0] in {*SWEEPS, "forward"}}
        with np.load(out) as grids:
            return seconds, {name: grids[name] for name in grids.files}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip", action="append", default=[])
    options = parser.parse_args()
    folder = folder_of_demo(sys.executable)
    os.environ["HF_HUB_OFFLINE"] = "1"

    times = {name: [] for name in SWEEPS}
    grids = {}

    def measure():
        for name in SWEEPS:
            for _ in range(options.rounds):
                seconds, grids[name] = ours(name)
                times[name].append(seconds)

    measure()
    peers = {}
    for peer in ("transformerlens", "nnsight"):
        if peer not in options.skip:
            peers[peer] = theirs(peer, folder)
            measure()

    failed = False
    print(f"{'':<32}{'mlxterp':>9}{'peer':>9}  times as fast")
    for peer, (seconds, theirs_grids) in peers.items():
        for name, their in theirs_grids.items():
            mine = statistics.median(t["sweep"] for t in times[name])
            least, goal = WANTED[peer, name]
            ratio = seconds[name] / mine
            scale = np.abs(their).max()
            error = np.abs(grids[name] - their).max() / scale
            wrong = not error <= 1e-3
            failed = failed or wrong
            print(f"{WHAT[name]:<32}{mine:>8.3f}s{seconds[name]:>8.1f}s"
                  f"{ratio:>7.1f} x {'' if ratio >= least else 'UNDER '}"
                  f"{least} (goal {goal})\n  {peer}, {their.size} cells, "
                  f"largest difference {error:.1e} of {scale:.3g}"
                  f"{', TOO MUCH' if wrong else ''}")
        print(f"  {peer}'s own forward pass {seconds['forward'] * 1e3:.0f} ms")
    for name, (most, goal) in PASSES.items():
        share = statistics.median(
            t["sweep"] / t["forward"] / grids[name].size for t in times[name])
        print(f"{WHAT[name]:<32}{share:.4f} of a plain pass a cell: "
              f"{'' if share <= most else 'OVER '}{most} (goal {goal})")
    rate = rate_of_products()
    for name, what in WHAT.items():
        own = statistics.median(t["flops"] / t["sweep"] for t in times[name])
        print(f"{what:<32}{own / 1e9:4.0f} GFLOP/s in its layers' products alone, "
              f"{own / 1e9 / rate:.0%} of a BLAS's {rate:.0f}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
