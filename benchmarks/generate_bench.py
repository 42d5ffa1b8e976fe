"""How fast text is generated: against mlx-lm, and what edits and reading cost.

usage: generate_bench.py [--rounds N] [--device cpu|gpu] [--tokens N] [--torch]

Processes and folder are those of against_mlx_lm.py; with --torch transformers
generates, too (MLXTERP_PEERS has it). Every ratio is the median over rounds in
which the two were asked in turns.
"""

import argparse
import os
import platform
import statistics
import sys

from against_mlx_lm import ROOT, Side, folder_of_demo


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--worker", default=ROOT / "build/bin/mlxterp_worker")
    parser.add_argument("--folder", help="a folder of another model")
    parser.add_argument("--torch", action="store_true")
    options = parser.parse_args()
    peers = os.environ.get("MLXTERP_PEERS")
    if not peers:
        sys.exit("generate_bench: MLXTERP_PEERS names no Python with mlx-lm")
    folder = options.folder or folder_of_demo(peers)
    env = dict(os.environ, HF_HUB_OFFLINE="1")
    peers_env = dict(env)
    if platform.system() == "Linux":
        peers_env["LD_PRELOAD"] = "libopenblas.so.0"

    here = ROOT / "benchmarks"
    ours = Side([str(options.worker), str(folder), options.device], env)
    sides = {"mlx-lm": Side([peers, str(here / "mlx_lm_worker.py"), str(folder),
                             options.device], peers_env)}
    if options.torch:
        sides["transformers"] = Side(
            [peers, str(here / "transformers_worker.py"), str(folder),
             options.device], env)
    n = options.tokens

    def paired(ask_a, ask_b):
        """Medians of a, of b, and of b / a round by round."""
        rounds = []
        for i in range(options.rounds):
            a, b = (None, None)
            for which in ((0, 1), (1, 0))[i % 2]:
                if which == 0:
                    a = ask_a()
                else:
                    b = ask_b()
            rounds.append((a, b))
        return (statistics.median(a for a, _ in rounds),
                statistics.median(b for _, b in rounds),
                statistics.median(b / a for a, b in rounds))

    def decode(side, batch, length, kind="plain"):
        prefill, seconds, *ids = side.ask(f"decode {batch} {length} {n} {kind}")
        return prefill, seconds / (n - 1) / batch, ids

    print(f"on a {options.device.upper()}, ms a token; BLAS: {ours.blas}")
    for name, side in sides.items():
        equal = decode(ours, 1, 16)[2], decode(side, 1, 16)[2]
        same = next((i for i, (a, b) in enumerate(zip(*equal)) if a != b), n)
        a, b, ratio = paired(lambda: decode(ours, 1, 16)[1],
                             lambda: decode(side, 1, 16)[1])
        print(f"decode, 1 row: {a * 1e3:.2f}, {name} {b * 1e3:.2f}: {ratio:.2f} "
              f"times as fast ({same} of {n} tokens the same)", flush=True)
        a, b, ratio = paired(lambda: decode(ours, 1, 512)[0],
                             lambda: decode(side, 1, 512)[0])
        print(f"prompt of 512: {a * 1e3:.0f}, {name} {b * 1e3:.0f}: {ratio:.2f} "
              "times as fast", flush=True)
    plain = lambda: decode(ours, 1, 16)[1]  # noqa: E731
    for kind in ("steer", "save"):
        _, _, ratio = paired(plain, lambda: decode(ours, 1, 16, kind)[1])
        print(f"{kind}: {(ratio - 1) * 100:+.1f} % of decode", flush=True)
    _, _, ratio = paired(lambda: decode(ours, 8, 16)[1], plain)
    print(f"8 rows: {ratio:.2f} times the tokens a second of one", flush=True)


if __name__ == "__main__":
    main()
