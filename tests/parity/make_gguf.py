"""Makes tests/parity/gguf from tests/parity/families.

    python tests/parity/make_gguf.py

Each tiny checkpoint as llama.cpp's converter would write it: its names, its
order of rows, its transposes, Gemma's norms with one added. Where transformers
reads the architecture, what it reads back must be what went in. Needs gguf,
numpy, safetensors, torch and transformers.
"""

import json
import math
import pathlib

import gguf
import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

HERE = pathlib.Path(__file__).parent
F32 = gguf.GGMLQuantizationType.F32
Q8_0 = gguf.GGMLQuantizationType.Q8_0

# GGUF has no key for what is changed here: query_pre_attn_scalar becomes the
# size of a head. What transformers then computes is kept beside the file.
VARIANTS = {
    "llama-rope-llama3": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3-bias": {},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3": {"query_pre_attn_scalar": 8},
    "gemma3-rope-linear": {},
    "phi3": {},
    "phi3-longrope-long": {},
    "phi3-longrope-short": {},
    "phi3-partial": {},
    "phi3-window": {},
    "gpt2": {},
    "gpt2-unscaled": {"scale_attn_weights": True},
    "nemotron": {},
}

# Its n_inner of 96 is whole blocks; nor has GGUF a key for what is changed.
QUANTISED = "gpt2-inverse-layer"
QUANTISED_CHANGES = {
    "scale_attn_by_inverse_layer_idx": False,
    "activation_function": "gelu_new",
    "n_inner": 96,
}

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight",
              "mlp.c_proj.weight")


def architecture(config):
    name = config["model_type"].removesuffix("_text")
    return gguf.MODEL_ARCH[name.upper()]


def interleaved(weight, heads):
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(
        1, 2).reshape(weight.shape)


def stored(name, weight, config):
    kind = config["model_type"]
    if kind == "llama" and ".q_proj." in name:
        return interleaved(weight, config["num_attention_heads"])
    if kind == "llama" and ".k_proj." in name:
        return interleaved(weight, config["num_key_value_heads"])
    if (kind.startswith("gemma") or kind == "nemotron") and name.endswith("norm.weight"):
        return weight + 1
    if kind == "gpt2" and name.endswith(TRANSPOSED):
        return weight.T
    return weight


def add_sizes(writer, config):
    if config["model_type"] == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_feed_forward_length(config["n_inner"])
        writer.add_block_count(config["n_layer"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if config["model_type"] == "nemotron":
        writer.add_layer_norm_eps(config["norm_eps"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])


def add_gemma(writer, config):
    for cap, add in (
            ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
            ("final_logit_softcapping", writer.add_final_logit_softcapping)):
        if config[cap]:
            add(config[cap])
    writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] == "gemma2":
        return
    types = config["layer_types"]
    writer.add_sliding_window_pattern(types.index("full_attention") + 1)
    full = config["rope_parameters"]["full_attention"]
    writer.add_rope_freq_base(full["rope_theta"])
    if full["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(full["factor"])
    local = config["rope_parameters"]["sliding_attention"]["rope_theta"]
    if local != 10000:
        writer.add_rope_freq_base_swa(local)


def add_phi3(writer, config):
    rope = config["rope_parameters"]
    heads = config["num_attention_heads"]
    width = int(rope["partial_rotary_factor"] * config["hidden_size"]) // heads
    original = config["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_sliding_window(config["sliding_window"] or 0)
    if rope["rope_type"] != "longrope":
        return
    scale = config["max_position_embeddings"] / original
    writer.add_rope_scaling_attn_factors(
        math.sqrt(1 + math.log(scale) / math.log(original)))
    for length in ("long", "short"):
        writer.add_tensor(
            f"rope_factors_{length}.weight",
            np.array(rope[f"{length}_factor"], dtype=np.float32))


def add_nemotron(writer, config):
    rope = config["rope_parameters"]
    width = int(rope["partial_rotary_factor"] * config["hidden_size"])
    writer.add_rope_dimension_count(width // config["num_attention_heads"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def add_llama(writer, config):
    """Llama 3's stretch of slow turns, which GGUF keeps as a tensor."""
    rope = config["rope_parameters"]
    width = config.get(
        "head_dim", config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope["rope_theta"])
    context = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width)
    smooth = np.clip((context / turns - low) / (high - low), 0, 1)
    factors = 1 / ((1 - smooth) / rope["factor"] + smooth)
    writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))


def write(path, config, weights, quant=F32):
    """Where a matrix's rows are no whole blocks it stays in float32."""
    arch = architecture(config)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name("tiny")
    writer.add_vocab_size(config["vocab_size"])
    add_sizes(writer, config)
    kind = config["model_type"]
    if kind.startswith("gemma"):
        add_gemma(writer, config)
    elif kind == "phi3":
        add_phi3(writer, config)
    elif kind == "llama":
        add_llama(writer, config)
    elif kind == "nemotron":
        add_nemotron(writer, config)
    elif kind != "gpt2":
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = gguf.get_tensor_name_map(arch, layers)
    for name, weight in weights.items():
        raw = np.ascontiguousarray(stored(name, weight, config))
        gguf_name = names.get_name(name, (".weight", ".bias"))
        assert gguf_name, name
        if quant != F32 and raw.ndim == 2 and raw.shape[-1] % 32 == 0:
            raw = gguf.quantize(raw, quant)
            writer.add_tensor(gguf_name, raw, raw_dtype=quant)
        else:
            writer.add_tensor(gguf_name, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_transformers(path, model, weights):
    """transformers maps the file's tensors to the model's own."""
    read = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)
    for name, weight in weights.items():
        error = np.abs(read["tensors"][name].numpy() - weight).max()
        assert error < 1e-6, (path.name, name, error)
    print(f"{path.name}: transformers reads the same {len(weights)} tensors")


def save_expected(path, model, folder):
    with safe_open(folder / "expected.safetensors", "numpy") as file:
        ids = file.get_tensor("ids")
    with torch.no_grad():
        logits = model(torch.tensor(ids[None])).logits[0]
    save_file(
        {"ids": torch.tensor(ids), "logits": logits.contiguous()},
        path.with_suffix(".safetensors"))


def load(folder, changes):
    config = AutoConfig.from_pretrained(folder, **changes)
    return AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32,
        attn_implementation="eager").eval()


def quantised(out):
    folder = HERE / "families" / QUANTISED
    config = json.loads((folder / "config.json").read_text())
    path = out / "gpt2-q8_0.gguf"
    weights = load_file(folder / "model.safetensors")
    write(path, config | QUANTISED_CHANGES, weights, Q8_0)
    model = load(folder, QUANTISED_CHANGES)
    with torch.no_grad():
        for name, slot in model.named_parameters():
            weight = weights[name]
            if name.endswith("mlp.c_proj.weight"):
                raw = gguf.quantize(np.ascontiguousarray(weight.T), Q8_0)
                weights[name] = gguf.dequantize(raw, Q8_0).T
                assert 0 < np.abs(weights[name] - weight).max() < 0.1
                slot.copy_(torch.tensor(weights[name]))
    check_transformers(path, model, weights)
    save_expected(path, model, folder)


def main():
    out = HERE / "gguf"
    out.mkdir(exist_ok=True)
    for name, changes in VARIANTS.items():
        folder = HERE / "families" / name
        config = json.loads((folder / "config.json").read_text()) | changes
        weights = load_file(folder / "model.safetensors")
        path = out / f"{name}.gguf"
        write(path, config, weights)
        model = load(folder, changes)
        check_transformers(path, model, weights)
        if changes:
            save_expected(path, model, folder)
    quantised(out)


if __name__ == "__main__":
    main()
