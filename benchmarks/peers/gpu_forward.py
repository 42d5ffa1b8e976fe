"""mlx-lm's forward pass, or its decode, on a GPU: a random Llama of 1.2 B parameters in bfloat16,
the shapes of benchmarks/gpu_bench.cpp.

usage: gpu_forward.py [decode]; needs mlx with CUDA or Metal and mlx-lm."""

import sys
import time

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models import llama

SHAPES = [(1, 1), (1, 16), (1, 128), (1, 512), (8, 16), (8, 512)]


def decode(model):
    from mlx_lm.generate import generate_step

    prompt = mx.array([(3 + 7919 * (i + 1) * 3) % 30000 for i in range(16)])
    best = 1e9
    for _ in range(4):
        steps = generate_step(prompt, model, max_tokens=128)
        next(steps)
        begin = time.perf_counter()
        for token, _ in steps:
            int(token)
        best = min(best, time.perf_counter() - begin)
    print(f"decode 1 row {best / 127 * 1e3:.2f} ms a step", flush=True)


def main():
    model = llama.Model(llama.ModelArgs(
        model_type="llama", hidden_size=2048, num_hidden_layers=16,
        intermediate_size=8192, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, rms_norm_eps=1e-5, vocab_size=128256, rope_theta=500000,
        tie_word_embeddings=True))
    model.update(tree_map(
        lambda x: x.astype(mx.bfloat16), model.parameters()))
    mx.eval(model.parameters())
    if sys.argv[1:] == ["decode"]:
        decode(model)
        return
    for batch, length in SHAPES:
        ids = mx.array([[(3 + 7919 * (i + 1) * 3) % 30000
                         for i in range(length)]] * batch)
        best = 1.0
        for _ in range(20):
            begin = time.perf_counter()
            mx.eval(model(ids))
            best = min(best, time.perf_counter() - begin)
        print(f"forward {batch} x {length} {best * 1e3:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
