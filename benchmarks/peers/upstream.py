"""The logit lens and a tuned lens' training against upstream's, mlxterp 0.1.

usage: upstream.py [--rounds N] [--device cpu|gpu]

MLXTERP_UPSTREAM names the folder that holds upstream's package `mlxterp`, which is
on no index; this runs with a Python that has mlx-lm. Both sides read the demo
model as a float32 folder, stay in one process each, and are asked in turns, as
against_mlx_lm.py does; a ratio is the median over the rounds. On Linux upstream's
side gets the BLAS that ours is linked with. Exits with 1 where the two disagree.
"""

import argparse
import ctypes
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from against_mlx_lm import ROOT, Side, folder_of_demo, row  # noqa: E402

PROMPT = "When Mary and John went to the store, John gave a drink to"
LENGTH = 64  # tokens of a training step
LAYERS = 30
# Times as fast, at least.
WANTED = {"lens": 20, "tune": 1}


def worker(folder, device):
    """Upstream's side: answers as mlxterp_worker.cpp does."""
    if sys.platform != "darwin":  # before MLX, whose wheel brings a slow one
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, os.environ["MLXTERP_UPSTREAM"])
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm_worker import blas
    from mlxterp import InterpretableModel
    from mlxterp.tuned_lens import train_tuned_lens

    mx.set_default_device(mx.gpu if device == "gpu" else mx.cpu)
    network, tokenizer = load(folder)
    model = InterpretableModel(network, tokenizer=tokenizer)

    def lens(text):
        begin = time.perf_counter()
        layers = model.logit_lens(text, top_k=1)
        seconds = time.perf_counter() - begin
        return seconds, *(cell[0][0] for i in sorted(layers) for cell in layers[i])

    def tune(rest):
        length, text = rest.split(" ", 1)
        ends, losses = [], []

        def on_step(_, loss):
            ends.append(time.perf_counter())
            losses.append(loss)

        train_tuned_lens(model, [text], num_steps=3, max_seq_len=int(length),
                         verbose=False, callback=on_step)
        return min(ends[1] - ends[0], ends[2] - ends[1]), losses[0]

    print("ready", blas(), flush=True)
    for line in sys.stdin:
        word, rest = line.rstrip("\n").split(" ", 1)
        print(*{"lens": lens, "tune": tune}[word](rest), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    options = parser.parse_args()
    if not os.environ.get("MLXTERP_UPSTREAM"):
        sys.exit("upstream: MLXTERP_UPSTREAM names no folder with upstream's "
                 "package mlxterp")
    folder = str(folder_of_demo(sys.executable))
    env = dict(os.environ, HF_HUB_OFFLINE="1")
    sides = (
        Side([str(ROOT / "build/bin/mlxterp_worker"), folder, options.device],
             env),
        Side([sys.executable, __file__, "worker", folder, options.device], env))
    text = (ROOT / "CONTRIBUTING.md").read_text().encode("ascii", "ignore")
    questions = {
        "lens": f"lens {PROMPT}",
        "tune": f"tune {LENGTH} {' '.join(text.decode().split())}",
    }
    what = {
        "lens": "logit lens, {} x {}",
        "tune": f"tuned lens, {LENGTH} tokens",
    }

    print(f"{'':<24}{'mlxterp':>9}{'upstream':>10}      times as fast")
    print(f"on a {options.device.upper()}; BLAS: {sides[0].blas}; "
          f"{sides[1].blas}")
    failed = False
    for name, question in questions.items():
        # Once unmeasured; what both say of it is compared.
        mine, theirs = (side.ask(question)[1:] for side in sides)
        if name == "lens":
            same = sum(a == b for a, b in zip(mine, theirs, strict=True))
            note = f"the same winner in {same} of {len(mine)} cells"
            failed = failed or same < 0.99 * len(mine)
            columns = len(mine) // LAYERS
            what[name] = what[name].format(LAYERS, columns)
        else:
            # Upstream's mean has the last layer in it, whose loss is 0.
            own = mine[0] * (LAYERS - 1) / LAYERS
            note = f"losses of the first step {own:.4f}, {theirs[0]:.4f}"
            failed = failed or not abs(own / theirs[0] - 1) < 1e-3
        rounds = []
        for i in range(options.rounds):
            cost = [0, 0]
            for at in ((0, 1), (1, 0))[i % 2]:
                time.sleep(0.05)  # lets the other side's threads go to sleep
                cost[at] = sides[at].ask(question)[0]
            rounds.append(cost)
        row(what[name],
            statistics.median(a for a, _ in rounds) * 1e3,
            statistics.median(b for _, b in rounds) * 1e3, "ms",
            statistics.median(b / a for a, b in rounds), WANTED[name])
        print(f"  {note}")
    memory = [side.end() / 1e6 for side in sides]
    row("peak memory", *memory, "MB", memory[1] / memory[0], 1)
    sys.exit(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(*sys.argv[2:])
    else:
        main()
