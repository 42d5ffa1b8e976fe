"""mlxterp against mlx-lm on one float32 folder, both in one run on one BLAS.

usage: against_mlx_lm.py [--rounds N] [--worker build/bin/mlxterp_worker]
                         [--device cpu|gpu]

MLXTERP_PEERS names the Python that has mlx-lm, gguf, safetensors and
transformers. The folder is made of the demo model once, in build/.

Each side is a process that loads the folder, says "ready" and its BLAS, and
answers each line "forward BATCH LENGTH" on stdin with the seconds until every
logit was there, and the largest one; ours answers "stream" with the bytes a
second that this machine reads. The two are asked in turns, so that what else
the machine does meets both; a ratio is the median over the rounds.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "SmolLM2-135M-Instruct"
SHAPES = [(b, t) for b in (1, 8) for t in (1, 16, 128, 512)]
# (batch, length) to how many times as fast; the others: not slower.
WANTED = {
    "cpu": {(b, t): 1.3 for b in (1, 8) for t in (128, 512)},
    "gpu": {},
}


class Side:
    """One of the two processes. `peak` is known once it has ended."""

    def __init__(self, command, env):
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        word, _, self.blas = self.line().partition(" ")
        self.load = time.perf_counter() - self.begin
        if word != "ready":
            sys.exit(f"against_mlx_lm: {command} said {word!r}")

    def line(self):
        if not (line := self.process.stdout.readline()):
            sys.exit(f"against_mlx_lm: {self.process.args} ended early")
        return line.strip()

    def ask(self, question):
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return [float(word) for word in self.line().split()]

    def end(self):
        """Ends the process; its peak memory in bytes."""
        self.process.stdin.close()
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = status
        return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def demo_file():
    cache = os.environ.get("MLXTERP_CACHE") or str(Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxterp")
    return Path(cache) / f"{MODEL}.Q4_1.gguf"


def folder_of_demo(peers):
    folder = ROOT / "build" / "peers" / MODEL
    if not (folder / "config.json").exists():
        print(f"writing {folder.relative_to(ROOT)}", flush=True)
        subprocess.run(
            [peers, ROOT / "benchmarks" / "to_hf_folder.py",
             demo_file(), folder],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def row(what, ours, theirs, unit, ratio, wanted):
    verdict = "at least" if ratio >= wanted else "UNDER"
    print(f"{what:<24}{ours:>9.1f}{theirs:>10.1f} {unit:<4}{ratio:>6.2f} x"
          f"   {verdict} {wanted:g}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", default=ROOT / "build/bin/mlxterp_worker")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    options = parser.parse_args()
    peers = os.environ.get("MLXTERP_PEERS")
    if not peers:
        sys.exit("against_mlx_lm: MLXTERP_PEERS names no Python with mlx-lm")
    folder = folder_of_demo(peers)

    env = dict(os.environ, HF_HUB_OFFLINE="1")
    peers_env = dict(env)
    if platform.system() == "Linux":  # the BLAS that our side is linked with
        peers_env["LD_PRELOAD"] = "libopenblas.so.0"

    def ours():
        return Side([str(options.worker), str(folder), options.device], env)

    def theirs():
        return Side([peers, str(ROOT / "benchmarks/mlx_lm_worker.py"),
                     str(folder), options.device], peers_env)

    def paired(measure):
        """Median of ours, of theirs, and of their ratio round by round."""
        rounds = [measure(i) for i in range(options.rounds)]
        return (statistics.median(a for a, _ in rounds),
                statistics.median(b for _, b in rounds),
                statistics.median(b / a for a, b in rounds))

    # Once unmeasured, for the page cache and Python's compiled files.
    sides = ours(), theirs()
    print(f"{'':<24}{'mlxterp':>9}{'mlx-lm':>10}      times as fast")
    print(f"on a {options.device.upper()}; BLAS: {sides[0].blas}; "
          f"{sides[1].blas}")
    memory = {}

    def measure_load(i):
        pair = [(ours, theirs), (theirs, ours)][i % 2]
        cost = {}
        for start in pair:
            side = start()
            cost[start] = side.load
            memory.setdefault(start, []).append(side.end())
        return cost[ours], cost[theirs]

    a, b, ratio = paired(measure_load)
    row("start to weights", a * 1e3, b * 1e3, "ms", ratio, 1)
    a, b = (statistics.median(memory[side]) for side in (ours, theirs))
    row("peak memory, loaded", a / 1e6, b / 1e6, "MB", b / a, 1)

    weights = os.path.getsize(folder / "model.safetensors")
    (rate,) = sides[0].ask("stream")
    share = {}
    for batch, length in SHAPES:
        question = f"forward {batch} {length}"
        logits = [side.ask(question)[1] for side in sides]
        # On an NVIDIA GPU float32 products are TF32's, on both sides.
        near = 1e-3 if options.device == "cpu" else 1e-2
        if not abs(logits[0] - logits[1]) <= near * abs(logits[1]):
            sys.exit(f"against_mlx_lm: not the same logits: {logits}")

        def measure(i):
            cost = [0, 0]
            for at in ((0, 1), (1, 0))[i % 2]:
                # Short ones several times, as one is soon over; the wait lets
                # the other side's BLAS threads go to sleep.
                time.sleep(0.05)
                tries = 5 if batch * length <= 128 else 1
                cost[at] = min(
                    sides[at].ask(question)[0] for _ in range(tries))
            return cost

        a, b, ratio = paired(measure)
        share[batch, length] = weights / a / rate
        row(f"forward, {batch} x {length}", a * 1e3, b * 1e3, "ms", ratio,
            WANTED[options.device].get((batch, length), 1))
    a, b = (side.end() for side in sides)
    row("peak memory, all that", a / 1e6, b / 1e6, "MB", b / a, 1)
    print(f"memory is read at {rate / 1e9:.1f} GB/s; the weights' way through "
          "it fills of the forward")
    for shape in ((1, 1), (1, 16)):
        print(f"  {shape[0]} x {shape[1]}: {share[shape]:.0%}")


if __name__ == "__main__":
    main()
