"""Makes tests/models/fixtures/packed.gguf: a tiny random Llama whose matrices are
each packed in another of GGUF's types.

    pip install gguf==0.19.0 numpy
    python make_packed_gguf.py fixtures/packed.gguf
"""

import sys

import gguf
import numpy as np

Type = gguf.GGMLQuantizationType
D, HEADS, KV_HEADS, D_MLP, VOCAB = 256, 4, 2, 256, 96

MATRICES = {
    "token_embd": (VOCAB, Type.Q5_K),
    "output": (VOCAB, Type.Q8_0),
    "blk.0.attn_q": (D, Type.Q4_K),
    "blk.0.attn_k": (D // HEADS * KV_HEADS, Type.Q5_K),
    "blk.0.attn_v": (D // HEADS * KV_HEADS, Type.Q4_1),
    "blk.0.attn_output": (D, Type.Q4_0),
    "blk.0.ffn_gate": (D_MLP, Type.Q5_0),
    "blk.0.ffn_up": (D_MLP, Type.Q6_K),  # groups of 16: MLX has none
    "blk.0.ffn_down": (D, Type.Q5_1),
}


def k_blocks(random, rows, kind):
    """Random blocks of K quants, which the package reads but does not write: two
    scales, then bytes that may have any value."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = random.integers(0, 256, (rows, size), dtype=np.uint8)
    scale = random.uniform(2e-5, 4e-5, (rows, 1)).astype(np.float16)
    if kind == Type.Q6_K:
        blocks[:, -2:] = scale.view(np.uint8)
    else:
        least = (scale * np.float16(8)).astype(np.float16)
        blocks[:, :4] = np.hstack([scale * np.float16(20), least]).view(np.uint8)
    return blocks


def main():
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(sys.argv[1], "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(D)
    writer.add_block_count(1)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    for name in "output_norm", "blk.0.attn_norm", "blk.0.ffn_norm":
        gain = random.uniform(0.5, 1.5, D).astype(np.float32)
        writer.add_tensor(name + ".weight", gain)
    for name, (rows, kind) in MATRICES.items():
        if kind.name.endswith("_K"):
            blocks = k_blocks(random, rows, kind)
        else:
            numbers = random.normal(0, D**-0.5, (rows, D)).astype(np.float32)
            blocks = gguf.quants.quantize(numbers, kind)
        spread = gguf.quants.dequantize(blocks, kind).std()
        print(f"{name:20} {kind.name:5} {blocks.shape} standard deviation {spread:.3f}")
        writer.add_tensor(name + ".weight", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
