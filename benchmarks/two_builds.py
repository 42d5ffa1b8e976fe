"""Whether a change made mlxterp slower: two builds, the same commands by turns.

    benchmarks/two_builds.py BEFORE/build/bin AFTER/build/bin [--turns 11]
    benchmarks/two_builds.py BEFORE/build/bin AFTER/build/bin --instructions

Prints, for each command, the second build's cost over the first's: CPU seconds
of the fastest of each build's turns (noise only ever adds) and the median of the
ratios of neighbouring turns; or, with --instructions, the instructions executed
as valgrind counts them, which do not depend on what else the machine does.
OpenBLAS uses one thread, so that waiting counts as nothing.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

IOI = [
    "When Mary and John went to the store, John gave a drink to",
    "When Mary and John went to the store, Mary gave a drink to",
]
OTHER = "As Anna and Tom left for the shop, Tom gave some food to"
ANSWERS = ["--metric", "logit_diff( Mary, John)"]

COMMANDS = {
    "trace, every resid_post": ["mlxterp", "trace", "demo", IOI[0], "--save", "layers.*.resid_post"],
    "lens": ["mlxterp", "lens", "demo", IOI[0]],
    "patch, no shared prefix": ["mlxterp", "patch", "demo", "--clean", IOI[0], "--corrupt", OTHER, *ANSWERS],
    "patch, heads": ["mlxterp", "patch", "demo", "--clean", IOI[0], "--corrupt", IOI[1], "--site", "z", "--by", "layer,head", *ANSWERS],
    "graph of a pass": ["trace_bench", "--benchmark_filter=graph_plain", "--benchmark_min_time=200x"],
    "graph of a traced pass": ["trace_bench", "--benchmark_filter=graph_traced", "--benchmark_min_time=200x"],
}


def run(arguments, environment):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)}\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def instructions(arguments, environment):
    counted = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    _, said = run(counted + arguments, environment)
    return int(re.search(r"I\s+refs:\s+([\d,]+)", said).group(1).replace(",", ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--only", default="", help="a part of the names of the commands to run")
    parser.add_argument("--instructions", action="store_true")
    given = parser.parse_args()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    unit = "1e9 instructions" if given.instructions else "CPU seconds"
    print(f"{'':<26}{'before':>9}{'after':>9}  {unit}; ratio" + ("" if given.instructions else " (median of turns)"))
    for name, (program, *rest) in COMMANDS.items():
        if given.only not in name:
            continue
        both = [[str(build / program), *rest] for build in (given.before, given.after)]
        if given.instructions:
            before, after = (instructions(it, environment) / 1e9 for it in both)
            print(f"{name:<26}{before:>9.3f}{after:>9.3f}  {after / before:.3f}", flush=True)
            continue
        turns = []
        for turn in range(given.turns):
            # Whoever is second finds a warm cache: they take it in turns.
            order = both if turn % 2 == 0 else both[::-1]
            seconds = [run(it, environment)[0] for it in order]
            turns.append(seconds if turn % 2 == 0 else seconds[::-1])
        before, after = (min(it) for it in zip(*turns))
        median = statistics.median(b / a for a, b in turns)
        print(f"{name:<26}{before:>9.3f}{after:>9.3f}  {after / before:.3f} ({median:.3f})", flush=True)


if __name__ == "__main__":
    main()
