"""A process whose threads have run models ends as it should, by itself and with
its own exit code: Python lets `join()` return before a thread's own values are
gone, and MLX has some that want the GIL."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PRELUDE = f"""
import sys, threading
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, {str(ROOT / "python")!r})
import mlx.core as mx
import mlx.nn as nn
import mlxterp
from mlxterp import InterpretableModel

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = [nn.Linear(8, 8) for _ in range(2)]

    def __call__(self, x):
        h = self.embed(x)
        for layer in self.layers:
            h = nn.gelu(layer(h))  # a function that MLX compiles
        return h

small = Small()
mx.eval(small.parameters())
wrapped = InterpretableModel(small)
native = InterpretableModel({str(ROOT / "tests" / "parity" / "families" / "gemma2")!r})

def traced(model):
    with model.trace([[1, 2, 3]], interventions={{"layers.0": mlxterp.noise(0.1)}}):
        return model.output.save()

def plain(model):
    mx.eval(model([[1, 2, 3]]))

def swept(model):
    metric = mlxterp.metrics.kl_divergence()
    edit = {{"layers.0": lambda x: nn.gelu(x) + mx.random.normal(x.shape)}}
    mlxterp.patch(model.edited(edit), [1, 2], [1, 3], metric)

def on_threads(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

"""

WORKS = {
    "native traces": "on_threads(*[lambda: traced(native)] * 4)",
    "wrapped traces": "on_threads(*[lambda: traced(wrapped)] * 4)",
    "plain passes": "on_threads(*[lambda: (plain(native), plain(wrapped))] * 4)",
    "native analyses": "on_threads(*[lambda: swept(native)] * 4)",
    "a pool": """
with ThreadPoolExecutor(4) as pool:
    values = list(pool.map(traced, [native, wrapped] * 4))
for value in values:  # evaluated, and so everybody's
    assert mx.isfinite(value).all()
""",
    "threads one after the other": """
for _ in range(10):
    on_threads(lambda: (traced(native), traced(wrapped), traced(native)))
traced(native)
""",
}


@pytest.mark.parametrize("work", WORKS)
def test_the_process_ends_well(work):
    for _ in range(8):
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + WORKS[work] + "\nsys.exit(7)"],
            capture_output=True,
            text=True,
            timeout=1200,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        assert (done.returncode, done.stderr) == (7, "")
