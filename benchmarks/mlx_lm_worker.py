"""The peer's half of against_mlx_lm.py: what mlxterp_worker.cpp does, by mlx-lm.

usage: mlx_lm_worker.py FOLDER cpu|gpu; see against_mlx_lm.py for what is asked on stdin.
"""

import ctypes
import sys
import time

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step


def blas():
    """The library whose cblas_sgemm the process would call."""
    if sys.platform == "darwin":
        return "Accelerate"
    try:
        config = ctypes.CDLL(None).openblas_get_config
        config.restype = ctypes.c_char_p
        core = ctypes.CDLL(None).openblas_get_corename
        core.restype = ctypes.c_char_p
    except AttributeError:
        return "the wheel's own"
    version = " ".join(config().decode().split()[:2])
    return f"{version} ({core().decode()})"


def decode(model, length, tokens):
    """One prompt: seconds until its first token, of the others, the ids."""
    prompt = mx.array([(7919 * i) % 40000 + 100 for i in range(length)])
    begin = time.perf_counter()
    ids, ends = [], []
    for token, _ in generate_step(prompt, model, max_tokens=tokens):
        ids.append(int(token))
        ends.append(time.perf_counter())
    print(ends[0] - begin, ends[-1] - ends[0], *ids, flush=True)


def main():
    mx.set_default_device(mx.gpu if sys.argv[2:] == ["gpu"] else mx.cpu)
    model, _ = load(sys.argv[1])
    print("ready", blas(), flush=True)
    for line in sys.stdin:
        if line.startswith("decode"):
            decode(model, *map(int, line.split()[2:4]))
            continue
        _, batch, length = line.split()
        row = [[(7919 * i) % 40000 + 100 for i in range(int(length))]]
        ids = mx.array(row * int(batch))
        begin = time.perf_counter()
        logits = model(ids)
        mx.eval(logits)
        seconds = time.perf_counter() - begin
        print(seconds, mx.max(logits).item(), flush=True)


if __name__ == "__main__":
    main()
