"""mlx-lm's decode on a GPU: a random Llama of 1.2 B parameters in bfloat16, as
benchmarks/gpu_bench.cpp decode. Needs mlx-lm and MLX's CUDA wheel."""

import time

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models.llama import Model, ModelArgs


def main():
    model = Model(ModelArgs(
        model_type="llama", hidden_size=2048, num_hidden_layers=16,
        intermediate_size=8192, num_attention_heads=32, num_key_value_heads=8,
        head_dim=64, rms_norm_eps=1e-5, vocab_size=128256, tie_word_embeddings=True))
    model.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    mx.eval(model.parameters())
    ids = mx.array([(3 + 7919 * (i + 1) * 3) % 30000 for i in range(16)])

    def seconds():
        steps = generate_step(ids, model, max_tokens=129)
        next(steps)
        begin = time.perf_counter()
        for _ in steps:
            pass
        return time.perf_counter() - begin

    best = min(seconds() for _ in range(4)) / 128
    print(f"decode {'1 row, mlx-lm':28}{best * 1e3:6.2f} ms a step, {1 / best:6.0f} tokens/s")


if __name__ == "__main__":
    main()
