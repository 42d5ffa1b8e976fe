"""What `with model.trace(ids): pass` costs on the host beside the plain call,
for the native model and for mlx-lm's own Llama wrapped; graphs are built, not
evaluated. With MLXTERP_UPSTREAM, the folder of mlxterp 0.1 in pure Python, the
same of it.

usage: python benchmarks/python_overhead.py   (after `make python`, with mlx-lm)
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIZES = dict(
    model_type="llama", hidden_size=576, num_hidden_layers=30,
    intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3,
    head_dim=64, rms_norm_eps=1e-5, vocab_size=49152, tie_word_embeddings=True)
IDS = [504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282]


def best(f, times=60):
    """Milliseconds of the fastest of some calls."""
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        f()
        spent.append(time.perf_counter() - begin)
    return min(spent) * 1e3


def measured(model, plain):
    def traced():
        with model.trace(ids):
            pass

    import mlx.core as mx

    ids = mx.array([IDS])
    return best(lambda: plain(ids)), best(traced)


def upstream():
    """Plain and traced, in a process of its own: it has the same name."""
    import types

    for name in ("wandb", "matplotlib", "matplotlib.pyplot", "datasets"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.path.insert(0, os.environ["MLXTERP_UPSTREAM"])
    from mlx_lm.models import llama
    from mlxterp import InterpretableModel

    module = llama.Model(llama.ModelArgs(**SIZES))
    print(*measured(InterpretableModel(module), module))


def cpp():
    """Milliseconds of a traced graph in C++, or None where it is not built."""
    bench = ROOT / "build/bin/trace_bench"
    if not bench.exists():
        return None
    text = subprocess.run(
        [bench, "--benchmark_filter=graph_"], capture_output=True, text=True
    ).stdout
    found = re.search(r"graph of a traced pass.*?([\d.]+) ms", text)
    return float(found[1]) if found else None


def row(what, value, bound=None):
    sign = "" if bound is None else (
        f"at most {bound:g}" if value <= bound else f"OVER {bound:g}")
    print(f"{what:50} {value:8.3f}  {sign}")


def main():
    from mlx_lm.models import llama
    from mlxterp import InterpretableModel

    native = InterpretableModel("demo")
    plain, traced = measured(native, native)
    row("native: plain call, ms", plain)
    row("native: traced, ms", traced)
    if (ours := cpp()) is not None:
        row("  against C++", traced / ours, 1.5)
    module = llama.Model(llama.ModelArgs(**SIZES))
    plain, traced = measured(InterpretableModel(module), module)
    row("mlx-lm's Llama: plain call, ms", plain)
    row("mlx-lm's Llama, wrapped: traced, ms", traced)
    if os.environ.get("MLXTERP_UPSTREAM"):
        theirs = subprocess.run(
            [sys.executable, __file__, "upstream"],
            capture_output=True, text=True, check=True).stdout.split()
        p, t = map(float, theirs[-2:])
        row("mlxterp 0.1: plain call, ms", p)
        row("mlxterp 0.1: traced, ms", t)
        row("  overhead against mlxterp 0.1's", (traced - plain) / (t - p), 0.125)


if __name__ == "__main__":
    upstream() if sys.argv[1:] == ["upstream"] else main()
