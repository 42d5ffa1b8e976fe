"""Makes more of tests/parity/gguf, with llama.cpp's own converter.

    python tests/parity/convert_gguf.py LLAMA_CPP [VARIANT...]

LLAMA_CPP is the folder of that name inside the source distribution of
llama-cpp-python 0.3.36 (PyPI), vendor/llama.cpp, whose conversion/ and gguf-py/
are used. Each tiny checkpoint of families/ is converted as it is, in float32
and without a vocabulary, which it has none of. GGUF has no key for some fields;
where they are changed, what transformers computes with the changed ones is kept
beside the file. Where a checkpoint of families/ cannot be told at all, such as one
whose MLP is not four times as wide as the model, there is another one instead,
which is drawn as those are and kept as the file and its logits alone. Needs torch,
transformers, safetensors and numpy, as make_families.py does.
"""

import copy
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from make_families import (
    DEEPSEEK_MOE, DELTA, DELTA_MOE, GEMMA4, GEMMA4_MOE, LATENTS, STATE_SPACE,
    bloom_like, crc, gpt2_like, kinds_of_layers, load, logits_of, modern,
    randomise, rope, sliding, without,
)

HERE = Path(__file__).parent

# Fields that change; those that only the converter reads, in HINTS.
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
        "original_max_position_embeddings": 16, "mscale": 0.9,
        "mscale_all_dim": 0.9}
VARIANTS = {
    "apertus": {},
    "arcee": {},
    "arcee-bias": {"hidden_act": "relu2"},
    "cohere": {},
    "cohere2": {},
    "deepseek_v2-groups": {"rope_parameters": YARN},
    "deepseek_v3": {"norm_topk_prob": False},  # no key then
    "dots1": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {},
    "exaone4-every-other": {},
    "falcon": {},
    "falcon-grouped": {},
    "gemma-mha": {},
    "gemma-mqa": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe-plain": {},
    "gpt_neox-no-bias": {"hidden_act": "gelu"},
    "gpt_neox-sequential": {},
    "gpt_oss": {},
    "granite": {},
    "granite-bias": {},
    "granitemoehybrid-attention": {},
    "granitemoehybrid-groups": {"time_step_limit": [0.0, float("inf")],
                                "position_embedding_type": "nope"},
    "hunyuan-bias": {},
    "internlm2": {},
    "lfm2": {},
    "llama-bias": {},
    "minicpm": {},
    "ministral3": {},
    "mistral-head-dim": {},
    "mixtral": {},
    "mpt": {"layer_norm_epsilon": 1e-5},
    "olmo": {},
    "olmo-clip": {},
    "olmo2": {},
    "olmo2-gqa": {},
    "olmo3": {},
    "olmo3-thetas": {},
    "olmoe": {"rms_norm_eps": 1e-5},  # what it writes whatever is said
    "olmoe-gqa": {"rms_norm_eps": 1e-5, "norm_topk_prob": False},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "seed_oss": {},
    "seed_oss-out-bias": {},
    "smollm3": {"no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0]},
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
    "starcoder2-no-bias": {"hidden_act": "gelu_pytorch_tanh"},
    "youtu": {},
}
HINTS = {
    "cohere2": {"rotary_pct": 1.0},
    "falcon": {"num_kv_heads": 1},
    "glm-whole-heads": {"layernorm_epsilon": 1e-3, "seq_length": 64,
                        "rope_ratio": 0.05},
    "glm4_moe_lite-small": {"first_k_dense_replace": 1},
    "granitemoehybrid-attention": {
        "layer_types": ["attention"] * 2, "num_experts_per_tok": 0},
    "granitemoehybrid-groups": {"layer_types": ["attention", "mamba"]},
    "granitemoehybrid-small": {"layer_types": ["mamba", "attention"]},
    "gpt_neox-no-bias": {"rotary_pct": 1.0},
    "gpt_neox-sequential": {"rotary_pct": 0.5},
    "internlm2": {"architectures": ["InternLM2ForCausalLM"]},
    "minicpm": {"architectures": ["MiniCPMForCausalLM"]},
    "mpt": {"architectures": ["MPTForCausalLM"]},
    "qwen3_5-small": {"mtp_num_hidden_layers": 1},
}

# Models of their own: model_type and config.
OWN = {
    "bloom-small": ("bloom", bloom_like(
        n_layer=2, vocab_size=31, layer_norm_epsilon=1e-3)),
    "gemma4-experts-small": ("gemma4_text", modern(
        **GEMMA4 | GEMMA4_MOE | {"num_experts": 3}, **sliding(1, 0, 1),
        num_hidden_layers=3, vocab_size=31, rms_norm_eps=1e-3,
        attention_k_eq_v=True, num_global_key_value_heads=1)),
    "gemma4-shared": ("gemma4_text", modern(
        **GEMMA4 | {"hidden_size_per_layer_input": 6,
                    "vocab_size_per_layer_input": 31}, **sliding(1, 0, 1, 0),
        vocab_size=31, rms_norm_eps=1e-3, num_hidden_layers=4,
        num_kv_shared_layers=2, use_double_wide_mlp=True,
        final_logit_softcapping=2.0)),
    "glm4_moe_lite-small": ("glm4_moe_lite", modern(
        **LATENTS | DEEPSEEK_MOE | {"n_routed_experts": 4, "n_group": 1,
                                    "topk_group": 1, "num_experts_per_tok": 2},
        mlp_layer_types=["dense", "sparse"], vocab_size=31, rms_norm_eps=1e-3)),
    "glm-whole-heads": ("glm", modern(
        vocab_size=31, num_attention_heads=3, num_key_value_heads=1, head_dim=8,
        rms_norm_eps=1e-3,
        **rope("default", theta=500.0, partial_rotary_factor=0.5))),
    "gpt_bigcode-wide": ("gpt_bigcode", gpt2_like(
        vocab_size=31, n_inner=96, layer_norm_epsilon=1e-3)),
    "granitemoehybrid-small": ("granitemoehybrid", modern(
        **STATE_SPACE, **kinds_of_layers("linear_attention", 0, 1),
        num_local_experts=3, num_experts_per_tok=2, intermediate_size=16,
        vocab_size=31, rms_norm_eps=1e-3, tie_word_embeddings=True)),
    "qwen3_5-small": ("qwen3_5_text", modern(
        **DELTA, **kinds_of_layers("linear_attention", 0, 1), vocab_size=31,
        rms_norm_eps=1e-3)),
    "qwen3_5_moe-small": ("qwen3_5_moe_text", without("intermediate_size", modern(
        **DELTA_MOE | {"num_experts": 3},
        **kinds_of_layers("linear_attention", 0, 1), vocab_size=31,
        rms_norm_eps=1e-3))),
    "qwen3_next-small": ("qwen3_next", modern(
        **DELTA_MOE | {"num_experts": 3},
        **kinds_of_layers("linear_attention", 0, 1), norm_topk_prob=True,
        vocab_size=31, rms_norm_eps=1e-3, tie_word_embeddings=True)),
    "phi-wide": ("phi", modern(
        vocab_size=31, num_attention_heads=3, num_key_value_heads=3, intermediate_size=96,
        layer_norm_eps=1e-3)),
}


def converter(llama_cpp):
    """A function that converts a folder into a file."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, get_model_architecture

    def convert(folder, path, hints):
        fields = ModelBase.load_hparams(folder, False) | hints
        kind = get_model_class(
            get_model_architecture(fields, ModelType.TEXT), mmproj=False)
        bare = type(kind.__name__, (kind,), {
            "set_vocab": lambda self: None, "model_arch": kind.model_arch})
        if getattr(kind, "supports_mtp_export", False):
            bare.no_mtp = "mtp_num_hidden_layers" not in hints
        with torch.inference_mode():
            model = bare(folder, gguf.LlamaFileType.ALL_F32, path, eager=True,
                         model_name="tiny", hparams=fields)
            if hasattr(model, "impl"):  # which does it for this one
                model.impl.set_vocab = lambda: None
            model.write()

    return convert


def save_expected(path, folder, changes):
    config = AutoConfig.from_pretrained(folder, **changes)
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32,
        attn_implementation="eager", experts_implementation="eager").eval()
    with safe_open(folder / "expected.safetensors", "numpy") as file:
        ids = file.get_tensor("ids")
        before = file.get_tensor("logits")
    with torch.no_grad():
        logits = model(torch.tensor(ids[None])).logits[0]
    assert np.abs(logits.numpy() - before).max() > 1e-5, path.name
    save_file({"ids": torch.tensor(ids), "logits": logits.contiguous()},
              path.with_suffix(".safetensors"))


def add_draft(folder):
    """A layer that guesses further tokens, as Qwen 3.5's checkpoints have it:
    a copy of the last one with what joins it to the model."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    width = tensors["model.norm.weight"].shape[0]
    for name in list(tensors):
        if name.startswith("model.layers.1."):
            tensors[name.replace("model.layers.1.", "mtp.layers.0.")] = (
                tensors[name].clone())
    tensors["mtp.fc.weight"] = torch.ones(width, 2 * width)
    for name in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"):
        tensors[f"mtp.{name}.weight"] = torch.ones(width)
    save_file(tensors, path, {"format": "pt"})


def draw(name, folder):
    """A model of OWN's in `folder`; what is computed of it, beside the file."""
    kind, fields = OWN[name]
    config = AutoConfig.for_model(kind, **fields)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager").eval()
    ids = np.random.default_rng(crc("ids " + name)).integers(
        0, config.vocab_size, 12).tolist()
    for attempt in range(1000):
        randomise(model, crc(name) + attempt)
        model.save_pretrained(folder)
        found = load(folder)
        logits = logits_of(found, ids)
        exact = logits_of(copy.deepcopy(found).double(), ids)
        if np.abs(exact - logits).max() < 2e-6:
            break
    else:
        raise SystemExit(f"{name}: a thousand unlucky draws")
    save_file({"ids": torch.tensor(ids, dtype=torch.int32),
               "logits": torch.tensor(logits)},
              HERE / "gguf" / f"{name}.safetensors")


def main():
    convert = converter(Path(sys.argv[1]).resolve())
    logging.disable(logging.WARNING)
    for name in sys.argv[2:] or [*VARIANTS, *OWN]:
        folder, path = HERE / "families" / name, HERE / "gguf" / f"{name}.gguf"
        with tempfile.TemporaryDirectory() as scratch:
            if name in OWN:
                draw(name, Path(scratch))
                if "mtp_num_hidden_layers" in HINTS.get(name, {}):
                    add_draft(Path(scratch))
            else:
                config = json.loads((folder / "config.json").read_text())
                Path(scratch, "config.json").write_text(
                    json.dumps(config | VARIANTS[name]))
                shutil.copy(folder / "model.safetensors", scratch)
            # Rows of the embedding without a token would be left out.
            vocabulary = {str(i): i for i in range(97)}
            Path(scratch, "tokenizer.json").write_text(json.dumps(
                {"model": {"vocab": vocabulary}, "added_tokens": []}))
            convert(Path(scratch), path, HINTS.get(name, {}))
        if VARIANTS.get(name):
            save_expected(path, folder, VARIANTS[name])
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
