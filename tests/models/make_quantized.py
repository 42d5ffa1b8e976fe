"""Makes tests/parity/quantized/: tiny random models as mlx-lm quantises them
and the logits that mlx-lm computes of them.

    pip install "mlx[cpu]==0.32.4" mlx-lm==0.32.2
    python make_quantized.py ../parity/quantized [VARIANT-PATTERN]
"""

import fnmatch
import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import utils
from mlx_lm.models import gpt2, gpt_neox, gpt_oss, gptj, llama, qwen3_moe

IDS = [3, 14, 15, 92, 65, 35, 89, 7]

LLAMA = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
MOE = {
    **LLAMA,
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
UNTIED = {**LLAMA, "tie_word_embeddings": False}

# Those that mlx-lm saves under other names than transformers, GPT-2's matrices
# turned. Sizes have to be square somewhere: shapes shall not tell.
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 96,
    "n_ctx": 64,
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 1,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
}
GPTJ = {
    **GPT2,
    "model_type": "gptj",
    "rotary_dim": 8,
    "tie_word_embeddings": False,
}
NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "layer_norm_eps": 1e-5,
    "hidden_act": "gelu_new",  # mlx-lm computes no other
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 32,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,  # mlx-lm knows no other
        "original_max_position_embeddings": 16,
    },
    "max_position_embeddings": 64,
    "layer_types": ["sliding_attention", "full_attention"],
    "tie_word_embeddings": False,
}
FAMILIES = {
    "gpt_oss": gpt_oss,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "gptj": gptj,
    "llama": llama,
    "qwen3_moe": qwen3_moe,
}

DOWN = "model.layers.0.mlp.down_proj"
GATE = "model.layers.0.mlp.gate_proj"
UP = "model.layers.0.mlp.up_proj"


def mixed(path, module):
    """Three bits, but one matrix of six and one as it is."""
    if path == DOWN:
        return {"group_size": 32, "bits": 6}
    if path == UP:
        return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    return path != GATE


def experts_only(path, module):
    """As the published conversions: experts, and the router in 8 bits."""
    if path.endswith("router"):
        return {"group_size": 64, "bits": 8}
    return ".experts." in path


# name: config, bits, group, mode, dtype of the weights, predicate
VARIANTS = {
    "bits2-group32": (LLAMA, 2, 32, "affine", mx.float32, None),
    "bits3-group64": (LLAMA, 3, 64, "affine", mx.float32, None),
    "bits4-group64": (UNTIED, 4, 64, "affine", mx.float32, None),
    "bits5-group32": (LLAMA, 5, 32, "affine", mx.float16, None),
    "bits6-group128": (LLAMA, 6, 128, "affine", mx.float32, None),
    "bits8-group64": (LLAMA, 8, 64, "affine", mx.bfloat16, None),
    "mxfp4": (UNTIED, 4, 32, "mxfp4", mx.float32, None),
    "mixed": (LLAMA, 3, 128, "affine", mx.float32, mixed),
    "experts": (MOE, 4, 32, "affine", mx.bfloat16, None),
    "gpt2": (GPT2, 4, 64, "affine", mx.float32, None),
    "gpt_neox": (NEOX, 4, 32, "affine", mx.float32, None),
    "gptj": (GPTJ, 4, 64, "affine", mx.float32, None),
    "gpt_oss": (GPT_OSS, 4, 32, "mxfp4", mx.bfloat16, experts_only),
    "mxfp8": (UNTIED, 8, 32, "mxfp8", mx.float32, None),
    "nvfp4": (LLAMA, 4, 16, "nvfp4", mx.float32, None),
    "nvfp4-experts": (MOE, 4, 16, "nvfp4", mx.bfloat16, None),
}


def random_model(config, dtype):
    family = FAMILIES[config["model_type"]]
    model = family.Model(family.ModelArgs.from_dict(config))
    for name, value in tree_flatten(model.parameters()):
        noise = mx.random.normal(value.shape)
        near_one = 1 + 0.2 * noise
        scaled = noise * (2.0 / value.shape[-1]) ** 0.5
        if name.endswith(".bias"):
            value = 0.2 * noise
        else:
            value = near_one if value.ndim == 1 else scaled
        model.load_weights([(name, value)], strict=False)
    model.set_dtype(dtype)
    return model


def make(folder, config, bits, group, mode, dtype, predicate):
    model = random_model(config, dtype)
    how = {"mode": mode, "quant_predicate": predicate}
    if "experts" in folder.name and mode == "nvfp4":
        how["global_scale"] = True
    model, quantised = utils.quantize_model(model, dict(config), group, bits, **how)
    quantised["quantization"].setdefault("mode", mode)
    if predicate is mixed:
        quantised["quantization"][GATE] = False
    quantised["quantization_config"] = quantised["quantization"]
    folder.mkdir(parents=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(
        str(folder / "model.safetensors"), weights, metadata={"format": "mlx"}
    )
    (folder / "config.json").write_text(json.dumps(quantised, indent=1))

    expect(folder)


def make_blocks(folder):
    """gpt-oss as OpenAI publishes it: experts in MXFP4, the rows of gate and up
    in turn."""
    weights = dict(tree_flatten(random_model(GPT_OSS, mx.bfloat16).parameters()))
    for name in [name for name in weights if ".experts.gate_proj." in name]:
        gate, up = weights.pop(name), weights.pop(name.replace("gate", "up"))
        both = mx.stack([gate, up], 2).reshape(gate.shape[0], -1, *gate.shape[2:])
        weights[name.replace("gate", "gate_up")] = both
    for name in [name for name in weights if ".experts." in name]:
        value, stem = weights.pop(name), name.rpartition(".")[0]
        if name.endswith(".bias"):
            weights[stem + "_bias"] = value
            continue
        words, scales = mx.quantize(value, 32, 4, mode="mxfp4")
        blocks = words.view(mx.uint8).reshape(*scales.shape, 16)
        weights |= {stem + "_blocks": blocks, stem + "_scales": scales}
    folder.mkdir(parents=True)
    mx.save_safetensors(
        str(folder / "model.safetensors"), weights, metadata={"format": "pt"}
    )
    config = GPT_OSS | {"quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    expect(folder)


def gather_unpacked(x, w, scales, biases=None, rhs_indices=None, **how):
    """mx.gather_qmm with a global scale, which MLX has on a GPU only."""
    global_scale = how.pop("global_scale")
    kinds = {key: how[key] for key in ("group_size", "bits", "mode")}
    whole = mx.stack(
        [
            mx.dequantize(*one[:2], global_scale=one[2], dtype=mx.float32, **kinds)
            for one in zip(w, scales, global_scale)
        ]
    )
    return mx.gather_mm(x, whole.swapaxes(1, 2), rhs_indices=rhs_indices)


def expect(folder):
    # As mlx-lm reads it again; in float32, as mlxterp computes on a CPU.
    loaded, _ = utils.load_model(folder)
    loaded.set_dtype(mx.float32)
    if folder.name == "nvfp4-experts":
        mx.gather_qmm = gather_unpacked
    logits = loaded(mx.array([IDS]))[0]
    mx.save_safetensors(
        str(folder / "expected.safetensors"),
        {"ids": mx.array(IDS, mx.int32), "logits": logits.astype(mx.float32)},
        metadata={"format": "mlx"},
    )
    print(folder.name, float(mx.abs(logits).max()))


def main():
    root, pattern = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "*"
    mx.set_default_device(mx.cpu)
    for seed, (name, variant) in enumerate(VARIANTS.items()):
        if not fnmatch.fnmatch(name, pattern):
            continue
        shutil.rmtree(root / name, ignore_errors=True)
        mx.random.seed(seed)
        make(root / name, *variant)
    if fnmatch.fnmatch("gpt_oss-blocks", pattern):
        shutil.rmtree(root / "gpt_oss-blocks", ignore_errors=True)
        make_blocks(root / "gpt_oss-blocks")


if __name__ == "__main__":
    main()
