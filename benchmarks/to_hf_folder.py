"""usage: to_hf_folder.py MODEL.gguf FOLDER: a Llama GGUF as the float32 Hugging
Face folder that mlx-lm loads. Needs gguf, safetensors and transformers."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file
from transformers import AutoTokenizer

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def name_of(name):
    if name in WHOLE:
        return WHOLE[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def halves(weight, heads):
    """Rows of q and k as the half-split rotation wants them: GGUF interleaves."""
    rows, columns = weight.shape
    by_pair = weight.reshape(heads, rows // heads // 2, 2, columns)
    return by_pair.swapaxes(1, 2).reshape(rows, columns)


def main():
    source, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    reader = gguf.GGUFReader(source)

    def fact(key):
        return reader.fields[f"llama.{key}"].contents()

    heads = fact("attention.head_count")
    kv_heads = fact("attention.head_count_kv")
    weights = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            weight = halves(weight, heads)
        elif ".attn_k." in tensor.name:
            weight = halves(weight, kv_heads)
        weights[name_of(tensor.name)] = np.ascontiguousarray(weight, np.float32)

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": fact("embedding_length"),
        "intermediate_size": fact("feed_forward_length"),
        "max_position_embeddings": fact("context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": fact("block_count"),
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": round(fact("attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": fact("rope.freq_base"),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "torch_dtype": "float32",
        "vocab_size": fact("vocab_size"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(
        source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # Last: a folder with a config is a whole one.
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
