"""mlx-lm's forward pass of a random 8B-shaped Llama in 4 bit on a GPU, the shapes of
benchmarks/packed_bench.cpp. On CUDA more than one row compiles for half a minute at
its first use: each shape says what that took.

usage: gpu_packed.py [LENGTH...]; needs mlx with CUDA or Metal and mlx-lm."""

import sys
import time

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.models import llama


def main():
    model = llama.Model(llama.ModelArgs(
        model_type="llama", hidden_size=4096, num_hidden_layers=32,
        intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, rms_norm_eps=1e-5, vocab_size=128256, rope_theta=500000,
        tie_word_embeddings=False))
    model.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    nn.quantize(model, 64, 4)
    mx.eval(model.parameters())
    for length in map(int, sys.argv[1:] or ("1", "16", "128")):
        ids = mx.array([[(3 + 7919 * (i + 1) * 3) % 30000 for i in range(length)]])
        times = []
        for _ in range(11):
            begin = time.perf_counter()
            mx.eval(model(ids))
            times.append(time.perf_counter() - begin)
        print(f"mlx-lm 1 x {length:3} {min(times) * 1e3:.2f} ms, at first "
              f"{times[0]:.1f} s", flush=True)


if __name__ == "__main__":
    main()
