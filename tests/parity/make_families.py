"""Writes families/<variant>/: tiny random models and what transformers computes.

    python3.11 -m venv oracle
    oracle/bin/pip install torch==2.15.0 transformers==5.24.0 \
        safetensors==0.8.0 numpy==2.4.6
    oracle/bin/python tests/parity/make_families.py [VARIANT-PATTERN...]

Neither the build nor the tests need that environment. README.md beside this
file says what a folder holds. Running it twice writes identical files.
"""

import copy
import fnmatch
import json
import shutil
import sys
import tempfile
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

OUT = Path(__file__).with_name("families")
LIMIT = 30_000_000  # bytes, all folders together


# ---- Where a family keeps its parts ---------------------------------------


@dataclass
class Parts:
    """Names of modules: the first six from the root, the others in a layer."""

    embed: str = "model.embed_tokens"
    raw_embed: str = ""  # where a norm stands between the two
    pos_embed: str = ""
    layers: str = "model.layers"
    ln_final: str = "model.norm"
    unembed: str = "lm_head"
    ln1: str = "input_layernorm"  # norms that the layer lacks are left out
    ln2: str = "post_attention_layernorm"
    attn: str = "self_attn"
    pattern: str = ""  # the module that returns it, unless it is attn
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    fused_qkv: str = ""  # instead of q, k, v
    # Blocks with a share of each, in this order; 0: one for each kv head.
    fused_blocks: int = 1
    fused_order: str = "qkv"
    o: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    attn_added: str = "self_attn"  # whose output the residual stream gets
    gate: str = "mlp.gate_proj"  # the factor that goes through the activation
    up: str = "mlp.up_proj"  # the other one, if any
    fused_gate_up: str = ""
    down: str = "mlp.down_proj"
    mlp: str = "mlp"
    mlp_added: str = "mlp"
    router: str = "mlp.gate"  # in layers that have experts
    rotary: bool = True


# Layers without `attn` have the part `mixer`, and the recorder of its kind.
MIXERS = {"lfm2": "conv", "qwen3_next": "linear_attn",
          "qwen3_5_text": "linear_attn", "qwen3_5_moe_text": "linear_attn",
          "granitemoehybrid": "mamba", "mamba2": "mixer"}

POST_NORMS = {
    "attn_added": "post_attention_layernorm",
    "mlp_added": "post_feedforward_layernorm",
    "ln2": "pre_feedforward_layernorm",
}
QK_LAYERNORM = {
    "q_norm": "self_attn.q_layernorm",
    "k_norm": "self_attn.k_layernorm",
}

PARTS = {
    "phi": Parts(
        **QK_LAYERNORM,
        ln_final="model.final_layernorm", o="self_attn.dense",
        gate="mlp.fc1", up="", down="mlp.fc2",
    ),
    "stablelm": Parts(**QK_LAYERNORM),
    "lfm2": Parts(
        **QK_LAYERNORM,
        ln_final="model.embedding_norm", ln1="operator_norm", ln2="ffn_norm",
        o="self_attn.out_proj", gate="feed_forward.w1", up="feed_forward.w3",
        down="feed_forward.w2", mlp="feed_forward", mlp_added="feed_forward",
    ),
    "phi3": Parts(
        fused_qkv="self_attn.qkv_proj", fused_gate_up="mlp.gate_up_proj",
    ),
    "gpt2": Parts(
        embed="transformer.wte", pos_embed="transformer.wpe",
        layers="transformer.h", ln_final="transformer.ln_f", attn="attn",
        ln1="ln_1", ln2="ln_2", fused_qkv="attn.c_attn", o="attn.c_proj", attn_added="attn",
        gate="mlp.c_fc", up="", down="mlp.c_proj", rotary=False,
    ),
    "gpt_neox": Parts(
        embed="gpt_neox.embed_in", layers="gpt_neox.layers",
        ln_final="gpt_neox.final_layer_norm", unembed="embed_out",
        attn="attention",
        fused_qkv="attention.query_key_value", fused_blocks=0,
        o="attention.dense", attn_added="attention",
        gate="mlp.dense_h_to_4h", up="", down="mlp.dense_4h_to_h",
    ),
    "gptj": Parts(
        embed="transformer.wte", layers="transformer.h",
        ln_final="transformer.ln_f", ln1="ln_1", attn="attn", q="attn.q_proj",
        k="attn.k_proj", v="attn.v_proj", o="attn.out_proj",
        attn_added="attn", gate="mlp.fc_in", up="", down="mlp.fc_out",
    ),
    "opt": Parts(
        embed="model.decoder.embed_tokens",
        pos_embed="model.decoder.embed_positions",
        layers="model.decoder.layers",
        ln_final="model.decoder.final_layer_norm",
        ln1="self_attn_layer_norm", ln2="final_layer_norm",
        o="self_attn.out_proj", gate="fc1", up="", down="fc2", mlp="fc2",
        mlp_added="fc2", rotary=False,
    ),
    "gpt_bigcode": Parts(
        embed="transformer.wte", pos_embed="transformer.wpe",
        layers="transformer.h", ln_final="transformer.ln_f", attn="attn",
        ln1="ln_1", ln2="ln_2", fused_qkv="attn.c_attn", fused_blocks=0,
        o="attn.c_proj", attn_added="attn",
        gate="mlp.c_fc", up="", down="mlp.c_proj", rotary=False,
    ),
    "codegen": Parts(
        embed="transformer.wte", layers="transformer.h",
        ln_final="transformer.ln_f", ln1="ln_1", attn="attn",
        fused_qkv="attn.qkv_proj", fused_blocks=4, fused_order="qvk",
        o="attn.out_proj", attn_added="attn", gate="mlp.fc_in", up="",
        down="mlp.fc_out",
    ),
    "nemotron": Parts(gate="mlp.up_proj", up=""),
    "arcee": Parts(gate="mlp.up_proj", up=""),
    "apertus": Parts(
        ln1="attention_layernorm", ln2="feedforward_layernorm",
        gate="mlp.up_proj", up="",
    ),
    "starcoder2": Parts(gate="mlp.c_fc", up="", down="mlp.c_proj"),
    "gemma2": Parts(**POST_NORMS),
    "gemma3_text": Parts(**POST_NORMS),
    "gemma4_text": Parts(**POST_NORMS, router="router"),
    "olmo2": Parts(**POST_NORMS),
    "olmo3": Parts(**POST_NORMS),
    "exaone4": Parts(**POST_NORMS),
    "gpt_neo": Parts(
        embed="transformer.wte", pos_embed="transformer.wpe",
        layers="transformer.h", ln_final="transformer.ln_f", attn="attn",
        ln1="ln_1", ln2="ln_2", q="attn.attention.q_proj",
        k="attn.attention.k_proj", v="attn.attention.v_proj",
        o="attn.attention.out_proj", attn_added="attn",
        gate="mlp.c_fc", up="", down="mlp.c_proj", rotary=False,
    ),
    "glm": Parts(fused_gate_up="mlp.gate_up_proj"),
    "glm4": Parts(
        fused_gate_up="mlp.gate_up_proj",
        attn_added="post_self_attn_layernorm", mlp_added="post_mlp_layernorm",
    ),
    "hunyuan_v1_dense": Parts(
        q_norm="self_attn.query_layernorm", k_norm="self_attn.key_layernorm",
    ),
    "gpt_oss": Parts(router="mlp.router"),
    "llama4_text": Parts(
        mlp="feed_forward", mlp_added="feed_forward",
        gate="feed_forward.gate_proj", up="feed_forward.up_proj",
        down="feed_forward.down_proj", router="feed_forward.router"),
    "mamba2": Parts(
        embed="backbone.embeddings", layers="backbone.layers",
        ln_final="backbone.norm_f", ln1="norm", ln2="", mlp="", mlp_added="",
        rotary=False),
    "granitemoehybrid": Parts(
        fused_gate_up="shared_mlp.input_linear", gate="", up="",
        down="shared_mlp.output_linear", mlp="shared_mlp",
        mlp_added="shared_mlp", router="block_sparse_moe.router"),
    **{kind: Parts(q="self_attn.q_b_proj") for kind in (
        "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "youtu")},
    # Attention and MLP return what is added, added.
    "bloom": Parts(
        embed="transformer.word_embeddings_layernorm",
        raw_embed="transformer.word_embeddings", layers="transformer.h",
        ln_final="transformer.ln_f", attn="self_attention.dense",
        pattern="self_attention",
        fused_qkv="self_attention.query_key_value", fused_blocks=0,
        o="self_attention.dense", attn_added="self_attention.dense",
        gate="mlp.dense_h_to_4h", up="", down="mlp.dense_4h_to_h",
        mlp="mlp.dense_4h_to_h", mlp_added="mlp.dense_4h_to_h", rotary=False,
    ),
    "mpt": Parts(
        embed="transformer.wte", layers="transformer.blocks",
        ln_final="transformer.norm_f", ln1="norm_1", ln2="norm_2",
        attn="attn", fused_qkv="attn.Wqkv", o="attn.out_proj",
        attn_added="attn", gate="ffn.up_proj", up="", down="ffn.down_proj",
        mlp="ffn.down_proj", mlp_added="ffn.down_proj", rotary=False,
    ),
    "falcon": Parts(
        embed="transformer.word_embeddings", layers="transformer.h",
        ln_final="transformer.ln_f", attn="self_attention",
        fused_qkv="self_attention.query_key_value", fused_blocks=0,
        o="self_attention.dense", attn_added="self_attention",
        gate="mlp.dense_h_to_4h", up="", down="mlp.dense_4h_to_h",
    ),
}


# ---- The variants ----------------------------------------------------------


@dataclass
class Variant:
    model_type: str
    config: dict
    prompt: int = 12  # tokens
    weights: str = ""  # the variant whose weights this one shares
    parts: dict | None = None  # where they are not its family's

    def places(self):
        known = PARTS.get(self.model_type, Parts())
        return replace(known, **(self.parts or {}))


def ids_and(kwargs):
    """Special tokens inside the tiny vocabulary; none is special here."""
    return {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | kwargs


def modern(**kwargs):
    """The field names that most families share."""
    return ids_and(
        {
            "vocab_size": 97,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "tie_word_embeddings": False,
        }
        | kwargs
    )


def gpt2_like(**kwargs):
    return ids_and(
        {
            "vocab_size": 97,
            "n_embd": 24,
            "n_inner": 40,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
        }
        | kwargs
    )


def rope(kind, theta=10000.0, **kwargs):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta} | kwargs}


# Eight frequencies, so that every branch of every scaling has some.
WIDE = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16}

LONGROPE = {
    "short_factor": [1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 1.9, 2.2],
    "long_factor": [1.3, 1.8, 2.5, 3.1, 4.0, 4.5, 6.0, 8.0],
    "original_max_position_embeddings": 16,
}
LONGROPE_3 = LONGROPE | {
    "short_factor": [1.0, 1.3, 1.9],
    "long_factor": [1.6, 3.1, 6.0],
}


def sliding(*pattern):
    return {
        "layer_types": [
            "sliding_attention" if slides else "full_attention"
            for slides in pattern
        ]
    }


GPT_OSS = {
    "head_dim": 8,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "intermediate_size": 16,
}
GEMMA = {"num_attention_heads": 4, "head_dim": 8, "tie_word_embeddings": True}
GEMMA4 = {
    "head_dim": 6, "global_head_dim": 12, "intermediate_size": 20,
    "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 97,
    "sliding_window": 5, "tie_word_embeddings": True,
}
GEMMA4_MOE = {
    "enable_moe_block": True, "num_experts": 6, "top_k_experts": 2,
    "moe_intermediate_size": 16,
}
QWEN_MOE = {
    "head_dim": 8,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


def without(field, config):
    return {name: value for name, value in config.items() if name != field}


def kinds_of_layers(other, *attends):
    return {"layer_types": ["full_attention" if it else other for it in attends]}


LFM2 = {"conv_L_cache": 3, "block_multiple_of": 8, "tie_word_embeddings": True}
DELTA = WIDE | {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
}
DELTA_MOE = DELTA | {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 12,
}


DEEPSEEK_MOE = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 16,
    "n_shared_experts": 1, "n_group": 4, "topk_group": 2,
    "first_k_dense_replace": 1, "routed_scaling_factor": 1.7,
}
LATENTS = {
    "q_lora_rank": 14, "kv_lora_rank": 10, "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4, "v_head_dim": 5, "num_key_value_heads": 4,
}
NO_Q_LATENT = {"q_lora_rank": None}
STATE_SPACE = {
    "mamba_n_heads": 6, "mamba_d_head": 8, "mamba_d_state": 5,
    "mamba_n_groups": 1, "mamba_expand": 2, "shared_intermediate_size": 40,
    "embedding_multiplier": 1.6, "residual_multiplier": 0.7,
    "attention_multiplier": 0.45, "logits_scaling": 0.8,
}


MAMBA2 = ids_and({
    "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 3,
    "num_heads": 6, "head_dim": 8, "state_size": 5, "n_groups": 1,
})
LLAMA4 = {
    "head_dim": 8, "attention_chunk_size": 5, "floor_scale": 3,
    "attn_scale": 0.4, "num_local_experts": 6, "num_experts_per_tok": 1,
    "intermediate_size": 16, "intermediate_size_mlp": 40,
}


def bloom_like(**kwargs):
    return ids_and(
        {"vocab_size": 97, "hidden_size": 24, "n_layer": 3, "n_head": 4} | kwargs
    )


def mpt_like(**kwargs):
    return ids_and(
        {"vocab_size": 97, "d_model": 24, "n_layers": 2, "n_heads": 4,
         "max_seq_len": 64} | kwargs
    )


def falcon_like(**kwargs):
    return ids_and(
        {"vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 64} | kwargs
    )


def neox(**kwargs):
    config = modern(**kwargs)
    del config["num_key_value_heads"]
    return config


def gpt_neo(*attention_types, **kwargs):
    types = [list(entry) for entry in attention_types]
    return ids_and(
        {
            "vocab_size": 97,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_layers": sum(len(kinds) * n for kinds, n in types),
            "num_heads": 4,
            "max_position_embeddings": 64,
            "window_size": 5,
            "attention_types": types,
        }
        | kwargs
    )


def rope_by_kind(full, local):
    return {
        "rope_parameters": {
            "full_attention": full, "sliding_attention": local,
        }
    }


VARIANTS = {
    # llama
    "llama-mha": Variant("llama", modern(num_key_value_heads=4)),
    "llama-gqa": Variant("llama", modern()),
    "llama-mqa": Variant("llama", modern(num_key_value_heads=1)),
    "llama-head-dim": Variant(
        "llama", modern(head_dim=10, **rope("default", theta=500.0))
    ),
    "llama-tied": Variant("llama", modern(tie_word_embeddings=True)),
    "llama-bias": Variant("llama", modern(attention_bias=True, mlp_bias=True)),
    "llama-rope-linear": Variant(
        "llama", modern(**WIDE, **rope("linear", factor=3.0))
    ),
    "llama-rope-dynamic-short": Variant(
        "llama",
        modern(**WIDE, **rope("dynamic", factor=2.0),
               max_position_embeddings=16),
        weights="llama-rope-dynamic",
    ),
    "llama-rope-dynamic-long": Variant(
        "llama",
        modern(**WIDE, **rope("dynamic", factor=2.0),
               max_position_embeddings=16),
        prompt=20,
        weights="llama-rope-dynamic",
    ),
    "llama-rope-llama3": Variant(
        "llama",
        modern(**WIDE, **rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ), max_position_embeddings=512),
    ),
    "llama-rope-yarn": Variant(
        "llama",
        modern(**WIDE, **rope(
            "yarn", factor=4.0, original_max_position_embeddings=64,
        ), max_position_embeddings=256),
    ),
    "llama-rope-yarn-mscale": Variant(
        "llama",
        modern(**WIDE, **rope(
            "yarn", factor=4.0, original_max_position_embeddings=64,
            beta_fast=8.0, beta_slow=0.5, mscale=1.0, mscale_all_dim=0.7,
            truncate=False,
        ), max_position_embeddings=256),
    ),
    "llama-rope-yarn-attention-factor": Variant(
        "llama",
        modern(**WIDE, **rope(
            "yarn", factor=4.0, original_max_position_embeddings=64,
            attention_factor=1.3,
        ), max_position_embeddings=256),
    ),
    "llama-rope-longrope-short": Variant(
        "llama",
        modern(**WIDE, **rope("longrope", factor=4.0, **LONGROPE)),
        weights="llama-rope-longrope",
    ),
    "llama-rope-longrope-long": Variant(
        "llama",
        modern(**WIDE, **rope("longrope", factor=4.0, **LONGROPE)),
        prompt=20,
        weights="llama-rope-longrope",
    ),
    # mistral
    "mistral": Variant("mistral", modern(sliding_window=None)),
    "mistral-window": Variant("mistral", modern(sliding_window=5)),
    "mistral-head-dim": Variant(
        "mistral", modern(sliding_window=None, head_dim=10)
    ),
    # qwen
    "qwen2": Variant("qwen2", modern()),
    "qwen2-window": Variant(
        "qwen2",
        modern(num_hidden_layers=3, use_sliding_window=True, sliding_window=5,
               max_window_layers=1, tie_word_embeddings=True),
    ),
    "qwen3": Variant("qwen3", modern(head_dim=8)),
    "qwen3-bias": Variant(
        "qwen3",
        modern(head_dim=8, attention_bias=True, tie_word_embeddings=True),
    ),
    # gemma
    "gemma-mha": Variant("gemma", modern(**GEMMA, num_key_value_heads=4)),
    "gemma-mqa": Variant("gemma", modern(**GEMMA, num_key_value_heads=1)),
    "gemma2": Variant(
        "gemma2",
        modern(**GEMMA, num_hidden_layers=3, sliding_window=5,
               query_pre_attn_scalar=12, attn_logit_softcapping=1.5,
               final_logit_softcapping=2.0),
    ),
    "gemma2-no-caps": Variant(
        "gemma2",
        modern(**GEMMA, sliding_window=5, query_pre_attn_scalar=8,
               attn_logit_softcapping=None, final_logit_softcapping=None),
    ),
    "gemma3": Variant(
        "gemma3_text",
        modern(**GEMMA, **sliding(1, 1, 0, 1), num_hidden_layers=4,
               sliding_window=5, query_pre_attn_scalar=12),
    ),
    "gemma3-rope-linear": Variant(
        "gemma3_text",
        modern(
            **GEMMA, **sliding(1, 0, 1), num_hidden_layers=3,
            sliding_window=5, query_pre_attn_scalar=8,
            final_logit_softcapping=2.0,
            rope_parameters={
                "full_attention": {
                    "rope_type": "linear", "factor": 8.0,
                    "rope_theta": 100000.0,
                },
                "sliding_attention": {
                    "rope_type": "default", "rope_theta": 1000.0,
                },
            },
        ),
    ),
    # Layers 3 and 4 read keys and values of 2 and 1.
    "gemma4": Variant(
        "gemma4_text",
        modern(**GEMMA4 | {"hidden_size_per_layer_input": 6},
               **sliding(1, 0, 1, 1, 0), num_hidden_layers=5,
               num_kv_shared_layers=2, use_double_wide_mlp=True,
               final_logit_softcapping=2.0),
    ),
    "gemma4-experts": Variant(
        "gemma4_text",
        modern(**GEMMA4 | GEMMA4_MOE | {"tie_word_embeddings": False},
               **sliding(1, 0, 1, 0), num_hidden_layers=4,
               attention_k_eq_v=True, num_global_key_value_heads=1,
               use_bidirectional_attention="vision"),
    ),
    "gemma4-dense": Variant(
        "gemma4_text",
        modern(**GEMMA4 | {"intermediate_size": 16}, num_hidden_layers=7,
               attention_bias=True, final_logit_softcapping=3.0),
    ),
    "gemma4-all": Variant(
        "gemma4_text",
        modern(**GEMMA4 | GEMMA4_MOE | {"hidden_size_per_layer_input": 4},
               **sliding(1, 0, 0), num_hidden_layers=3,
               attention_k_eq_v=True, num_global_key_value_heads=1,
               num_kv_shared_layers=1, **rope_by_kind(
                   {
                       "rope_type": "proportional", "rope_theta": 100.0,
                       "partial_rotary_factor": 0.5, "factor": 2.0,
                   },
                   {"rope_type": "default", "rope_theta": 500.0},
               )),
    ),
    # phi
    "phi": Variant(
        "phi", modern(num_attention_heads=3, num_key_value_heads=3)
    ),
    "phi-qk-layernorm": Variant(
        "phi",
        modern(qk_layernorm=True, num_attention_heads=3,
               num_key_value_heads=1, **rope("default",
                                             partial_rotary_factor=0.5)),
    ),
    "phi3": Variant("phi3", modern()),
    "phi3-window": Variant(
        "phi3", modern(sliding_window=5, tie_word_embeddings=True)
    ),
    "phi3-partial": Variant(
        "phi3",
        modern(num_attention_heads=3, num_key_value_heads=1,
               **rope("default", partial_rotary_factor=0.75)),
    ),
    "phi3-longrope-short": Variant(
        "phi3",
        modern(original_max_position_embeddings=16,
               **rope("longrope", **LONGROPE_3)),
        weights="phi3-longrope",
    ),
    "phi3-longrope-long": Variant(
        "phi3",
        modern(original_max_position_embeddings=16,
               **rope("longrope", **LONGROPE_3)),
        prompt=20,
        weights="phi3-longrope",
    ),
    # gpt
    "gpt2": Variant("gpt2", gpt2_like()),
    "gpt2-inverse-layer": Variant(
        "gpt2",
        gpt2_like(n_layer=3, scale_attn_by_inverse_layer_idx=True,
                  n_inner=None, activation_function="gelu"),
    ),
    "gpt2-unscaled": Variant(
        "gpt2", gpt2_like(scale_attn_weights=False, tie_word_embeddings=False)
    ),
    "gpt_neox": Variant(
        "gpt_neox", neox(hidden_size=32, num_attention_heads=2)
    ),
    "gpt_neox-sequential": Variant(
        "gpt_neox",
        neox(use_parallel_residual=False, num_attention_heads=3,
             **rope("default", partial_rotary_factor=0.5)),
    ),
    "gpt_neox-no-bias": Variant(
        "gpt_neox",
        neox(attention_bias=False, tie_word_embeddings=True,
             hidden_act="gelu_new",
             **rope("default", partial_rotary_factor=1.0)),
    ),
    "gptj": Variant("gptj", gpt2_like(rotary_dim=4)),
    "gptj-tied": Variant(
        "gptj", gpt2_like(rotary_dim=4, tie_word_embeddings=True)
    ),
    "gpt_bigcode": Variant("gpt_bigcode", gpt2_like()),
    "gpt_bigcode-mha": Variant(
        "gpt_bigcode",
        gpt2_like(multi_query=False, n_head=3, scale_attn_weights=False,
                  n_inner=None, activation_function="gelu",
                  tie_word_embeddings=False),
    ),
    "codegen": Variant("codegen", gpt2_like(rotary_dim=4)),
    # Each of the four shards holds three quarters of a head.
    "codegen-tied": Variant(
        "codegen",
        gpt2_like(n_head=3, rotary_dim=8, tie_word_embeddings=True),
    ),
    "gptj-full-rotary": Variant("gptj", gpt2_like(n_head=3, rotary_dim=8)),
    # opt
    "opt": Variant(
        "opt",
        ids_and({
            "vocab_size": 97, "hidden_size": 24, "ffn_dim": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 64,
        }),
    ),
    "opt-post-norm": Variant(
        "opt",
        ids_and({
            "vocab_size": 97, "hidden_size": 24, "ffn_dim": 40,
            "num_hidden_layers": 2, "num_attention_heads": 4,
            "max_position_embeddings": 64, "do_layer_norm_before": False,
            "word_embed_proj_dim": 16,
        }),
    ),
    # others
    "olmo2": Variant("olmo2", modern(num_key_value_heads=4)),
    "olmo2-gqa": Variant("olmo2", modern()),
    "granite": Variant(
        "granite",
        modern(embedding_multiplier=3.0, logits_scaling=1.7,
               residual_multiplier=0.6, attention_multiplier=0.7,
               tie_word_embeddings=True),
    ),
    "granite-bias": Variant(
        "granite",
        modern(embedding_multiplier=2.0, logits_scaling=0.8,
               residual_multiplier=1.3, attention_multiplier=0.3,
               attention_bias=True, mlp_bias=True),
    ),
    "smollm3": Variant(
        "smollm3",
        modern(num_hidden_layers=4, no_rope_layer_interval=2,
               tie_word_embeddings=True),
    ),
    "smollm3-window": Variant(
        "smollm3",
        modern(num_hidden_layers=3, no_rope_layers=[1, 0, 1],
               use_sliding_window=True, sliding_window=5,
               attention_bias=True),
    ),
    "stablelm": Variant(
        "stablelm",
        modern(use_qkv_bias=True, hidden_size=32, num_attention_heads=2,
               num_key_value_heads=2),
    ),
    "stablelm-qk-layernorm": Variant(
        "stablelm",
        modern(qk_layernorm=True,
               num_attention_heads=4, num_key_value_heads=2,
               **rope("default", partial_rotary_factor=0.67)),
    ),
    "stablelm-parallel": Variant(
        "stablelm",
        modern(use_parallel_residual=True, qk_layernorm=True,
               tie_word_embeddings=True,
               **rope("default", partial_rotary_factor=1.0)),
    ),
    "starcoder2": Variant(
        "starcoder2",
        modern(num_key_value_heads=1, sliding_window=5,
               tie_word_embeddings=True),
    ),
    "starcoder2-no-bias": Variant(
        "starcoder2", modern(use_bias=False, hidden_act="gelu")
    ),
    "cohere": Variant(
        "cohere",
        modern(logit_scale=0.8, tie_word_embeddings=True),
    ),
    "cohere2": Variant(
        "cohere2",
        modern(num_hidden_layers=5, sliding_window=5, logit_scale=0.8,
               tie_word_embeddings=True),
    ),
    "cohere2-bias": Variant(
        "cohere2",
        modern(**sliding(1, 0), sliding_window=5, logit_scale=1.3,
               attention_bias=True, num_key_value_heads=4,
               **rope("default", theta=500.0)),
    ),
    "apertus": Variant(
        "apertus", modern(num_attention_heads=3, num_key_value_heads=1)
    ),
    "apertus-bias": Variant(
        "apertus",
        modern(attention_bias=True, tie_word_embeddings=True,
               **rope("default", theta=500.0)),
    ),
    "apertus-silu": Variant("apertus", modern(hidden_act="silu")),
    "ernie4_5": Variant("ernie4_5", modern(head_dim=8)),
    "ernie4_5-bias": Variant(
        "ernie4_5",
        modern(head_dim=6, use_bias=True, num_key_value_heads=4,
               tie_word_embeddings=True, **rope("default", theta=500.0)),
    ),
    "nemotron": Variant(
        "nemotron", modern(num_attention_heads=3, num_key_value_heads=1)
    ),
    "nemotron-bias": Variant(
        "nemotron",
        modern(head_dim=10, attention_bias=True, mlp_bias=True,
               hidden_act="gelu", tie_word_embeddings=True,
               **rope("default", partial_rotary_factor=1.0)),
    ),
    "arcee": Variant("arcee", modern()),
    "arcee-bias": Variant(
        "arcee",
        modern(head_dim=10, attention_bias=True, mlp_bias=True,
               hidden_act="silu", tie_word_embeddings=True),
    ),
    "olmo": Variant(
        "olmo",
        modern(num_key_value_heads=4, **rope("default", theta=500.0)),
    ),
    "olmo-clip": Variant(
        "olmo",
        modern(clip_qkv=0.8, attention_bias=True, tie_word_embeddings=True),
    ),
    "cohere-qk-norm": Variant(
        "cohere",
        modern(logit_scale=1.3, use_qk_norm=True, attention_bias=True),
    ),
    "olmo3": Variant(
        "olmo3",
        modern(
            **WIDE, num_hidden_layers=5, sliding_window=5,
            max_position_embeddings=256, **rope_by_kind(
                {
                    "rope_type": "yarn", "rope_theta": 500000.0,
                    "factor": 4.0, "original_max_position_embeddings": 64,
                },
                {"rope_type": "default", "rope_theta": 500000.0},
            ),
        ),
    ),
    "olmo3-thetas": Variant(
        "olmo3",
        modern(
            **sliding(0, 1, 0), num_hidden_layers=3, sliding_window=4,
            attention_bias=True, tie_word_embeddings=True, **rope_by_kind(
                {
                    "rope_type": "linear", "rope_theta": 1000.0,
                    "factor": 3.0,
                },
                {"rope_type": "default", "rope_theta": 200.0},
            ),
        ),
    ),
    "gpt_neo": Variant("gpt_neo", gpt_neo((["global", "local"], 2))),
    "gpt_neo-untied": Variant(
        "gpt_neo",
        gpt_neo((["local"], 1), (["global"], 2), num_heads=3, window_size=4,
                intermediate_size=None, activation_function="relu",
                tie_word_embeddings=False),
    ),
    "glm": Variant("glm", modern(head_dim=8)),
    "glm-no-bias": Variant(
        "glm",
        modern(head_dim=12, attention_bias=False, tie_word_embeddings=True,
               num_key_value_heads=4,
               **rope("default", theta=500.0, partial_rotary_factor=1.0)),
    ),
    "glm4": Variant(
        "glm4",
        modern(head_dim=12, num_attention_heads=3, num_key_value_heads=1,
               num_hidden_layers=3),
    ),
    "glm4-no-bias": Variant(
        "glm4",
        modern(head_dim=8, attention_bias=False, tie_word_embeddings=True,
               num_key_value_heads=4,
               **rope("default", theta=500.0, partial_rotary_factor=0.75)),
    ),
    "ministral3": Variant(
        "ministral3",
        modern(**WIDE, **rope(
            "yarn", theta=100.0, factor=4.0,
            original_max_position_embeddings=8, beta_fast=2.0,
            beta_slow=0.05, mscale=1.0, mscale_all_dim=0.7,
            llama_4_scaling_beta=0.4,
        )),
        prompt=20,
    ),
    "ministral3-window": Variant(
        "ministral3",
        modern(head_dim=10, sliding_window=5, tie_word_embeddings=True, **rope(
            "default", original_max_position_embeddings=3,
            llama_4_scaling_beta=0.5,
        )),
    ),
    "exaone4": Variant(
        "exaone4",
        modern(**sliding(1, 1, 0, 1, 1), head_dim=6, num_hidden_layers=5,
               sliding_window=5, sliding_window_pattern="LLG"),
    ),
    "exaone4-every-other": Variant(
        "exaone4",
        modern(num_hidden_layers=4, sliding_window=4, head_dim=8,
               sliding_window_pattern=2, tie_word_embeddings=True),
    ),
    "exaone4-global": Variant(
        "exaone4",
        modern(**WIDE, **sliding(0, 0), sliding_window=None, **rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ), max_position_embeddings=512),
    ),
    "seed_oss": Variant("seed_oss", modern(head_dim=8)),
    "seed_oss-out-bias": Variant(
        "seed_oss",
        modern(head_dim=6, attention_bias=False, attention_out_bias=True,
               mlp_bias=True, tie_word_embeddings=True),
    ),
    "hunyuan": Variant(
        "hunyuan_v1_dense",
        modern(head_dim=8, tie_word_embeddings=True,
               **rope("dynamic", alpha=50.0, factor=1.0)),
    ),
    "hunyuan-bias": Variant(
        "hunyuan_v1_dense",
        modern(head_dim=10, attention_bias=True, num_key_value_heads=4),
    ),
    # experts
    "mixtral": Variant(
        "mixtral",
        modern(num_local_experts=4, num_experts_per_tok=2,
               intermediate_size=24),
    ),
    "mixtral-window": Variant(
        "mixtral",
        modern(num_local_experts=5, num_experts_per_tok=3, sliding_window=5,
               head_dim=8, intermediate_size=16, tie_word_embeddings=True),
    ),
    "qwen3_moe": Variant("qwen3_moe", modern(**QWEN_MOE, norm_topk_prob=True)),
    "qwen3_moe-raw-weights": Variant(
        "qwen3_moe",
        modern(**QWEN_MOE, norm_topk_prob=False, num_key_value_heads=4,
               use_sliding_window=True, sliding_window=5),
    ),
    "qwen3_moe-dense-layers": Variant(
        "qwen3_moe",
        modern(**QWEN_MOE, norm_topk_prob=True, num_hidden_layers=4,
               decoder_sparse_step=2, mlp_only_layers=[3],
               tie_word_embeddings=True),
    ),
    "gpt_oss": Variant(
        "gpt_oss",
        modern(
            **GPT_OSS | WIDE, num_hidden_layers=3, sliding_window=5,
            **rope("yarn", theta=150000.0, factor=4.0, truncate=False,
                   original_max_position_embeddings=16),
        ),
    ),
    "gpt_oss-clamped": Variant(
        "gpt_oss",
        modern(
            **GPT_OSS, **sliding(0, 1, 1, 0), num_hidden_layers=4,
            sliding_window=4, swiglu_limit=0.6, swiglu_alpha=1.3,
            attention_bias=False, tie_word_embeddings=True,
            **rope("default", theta=1000.0),
        ),
    ),
    # other mixers beside attention
    "lfm2": Variant(
        "lfm2",
        modern(**LFM2, **kinds_of_layers("conv", 0, 1, 0), num_hidden_layers=3),
    ),
    "lfm2-bias": Variant(
        "lfm2",
        modern(**kinds_of_layers("conv", 1, 0, 0, 1), num_hidden_layers=4,
               conv_bias=True, conv_L_cache=4, block_auto_adjust_ff_dim=False,
               **rope("default", theta=500.0)),
    ),
    "lfm2-multiplier": Variant(
        "lfm2",
        modern(**LFM2 | {"conv_L_cache": 2}, **kinds_of_layers("conv", 0, 1),
               block_ffn_dim_multiplier=1.3, num_key_value_heads=4),
    ),
    "qwen3_next": Variant(
        "qwen3_next",
        modern(**DELTA_MOE, num_hidden_layers=4, norm_topk_prob=True),
    ),
    "qwen3_next-dense-layers": Variant(
        "qwen3_next",
        modern(**DELTA_MOE | {"linear_num_key_heads": 3,
                              "linear_num_value_heads": 3},
               **kinds_of_layers("linear_attention", 1, 0, 1),
               num_hidden_layers=3, decoder_sparse_step=2, norm_topk_prob=False,
               attention_bias=True, linear_conv_kernel_dim=2,
               tie_word_embeddings=True, **rope(
                   "default", theta=500.0, partial_rotary_factor=0.5)),
    ),
    "qwen3_5": Variant("qwen3_5_text", modern(**DELTA, num_hidden_layers=4)),
    "qwen3_5-attention-first": Variant(
        "qwen3_5_text",
        modern(**DELTA | {"linear_num_key_heads": 1,
                          "linear_num_value_heads": 2,
                          "linear_conv_kernel_dim": 3},
               **kinds_of_layers("linear_attention", 1, 0),
               attention_bias=True, tie_word_embeddings=True,
               **rope("default", theta=500.0, partial_rotary_factor=1.0)),
    ),
    "qwen3_5_moe": Variant(
        "qwen3_5_moe_text",
        without("intermediate_size", modern(
            **DELTA_MOE, **kinds_of_layers("linear_attention", 0, 1))),
    ),
    # Longer than a chunk of the recurrence.
    "qwen3_5-long": Variant(
        "qwen3_5_text",
        modern(**DELTA, **kinds_of_layers("linear_attention", 0, 1),
               max_position_embeddings=128),
        prompt=70,
    ),
    # linear biases
    "bloom": Variant("bloom", bloom_like()),
    "bloom-untied": Variant(
        "bloom", bloom_like(n_head=3, n_layer=4, tie_word_embeddings=False)
    ),
    "mpt": Variant("mpt", mpt_like()),
    "mpt-clipped": Variant(
        "mpt",
        mpt_like(
            n_heads=6, n_layers=3, tie_word_embeddings=False,
            attn_config={"clip_qkv": 1.1, "softmax_scale": 0.7},
        ),
    ),
    "falcon": Variant("falcon", falcon_like(num_attention_heads=3)),
    "falcon-bias": Variant(
        "falcon",
        falcon_like(bias=True, tie_word_embeddings=False, ffn_hidden_size=40,
                    **rope("linear", theta=500.0, factor=3.0)),
    ),
    "falcon-grouped": Variant(
        "falcon",
        falcon_like(new_decoder_architecture=True, num_kv_heads=2),
        parts={"ln1": "ln_attn", "ln2": "ln_mlp"},
    ),
    "falcon-one-norm": Variant(
        "falcon",
        falcon_like(new_decoder_architecture=True, num_kv_heads=2, bias=True,
                    num_ln_in_parallel_attn=1, activation="gelu_new"),
    ),
    # 8 heads of bfloat16 slopes would be powers of 2.
    "falcon-alibi": Variant(
        "falcon",
        falcon_like(alibi=True, multi_query=False, parallel_attn=False,
                    bias=True, hidden_size=32, num_attention_heads=16),
    ),
    "falcon-multi-head": Variant(
        "falcon", falcon_like(multi_query=False, tie_word_embeddings=False)
    ),
    # latents
    "deepseek_v3": Variant(
        "deepseek_v3", modern(**LATENTS | DEEPSEEK_MOE, num_hidden_layers=3)
    ),
    "deepseek_v3-yarn": Variant(
        "deepseek_v3",
        modern(**LATENTS | DEEPSEEK_MOE | NO_Q_LATENT | {
                   "n_shared_experts": 2, "n_group": 1, "topk_group": 1,
                   "qk_rope_head_dim": 16, "v_head_dim": 9},
               attention_bias=True, norm_topk_prob=False,
               rope_interleave=False,
               **rope("yarn", theta=500.0, factor=4.0, mscale=1.0,
                      mscale_all_dim=0.7,
                      original_max_position_embeddings=16)),
    ),
    "deepseek_v2": Variant(
        "deepseek_v2",
        modern(**LATENTS | DEEPSEEK_MOE | NO_Q_LATENT, topk_method="greedy",
               mlp_bias=True),
    ),
    "deepseek_v2-groups": Variant(
        "deepseek_v2",
        modern(**LATENTS | DEEPSEEK_MOE | {
                   "n_shared_experts": 2, "qk_rope_head_dim": 16},
               topk_method="group_limited_greedy", attention_bias=True,
               norm_topk_prob=True,
               **rope("yarn", theta=500.0, factor=4.0, mscale=0.7,
                      mscale_all_dim=0.9,
                      original_max_position_embeddings=16)),
    ),
    "glm4_moe_lite": Variant(
        "glm4_moe_lite",
        modern(**without("first_k_dense_replace", LATENTS | DEEPSEEK_MOE),
               mlp_layer_types=["sparse", "dense"]),
    ),
    # As transformers loads it, the row of a padding token is zeros.
    "youtu": Variant("youtu", modern(**LATENTS, tie_word_embeddings=True,
                                     pad_token_id=None)),
    "glm4_moe": Variant(
        "glm4_moe",
        modern(**DEEPSEEK_MOE, **WIDE, use_qk_norm=True, attention_bias=True),
    ),
    "glm4_moe-plain": Variant(
        "glm4_moe",
        modern(**DEEPSEEK_MOE | {"n_group": 1, "topk_group": 1},
               head_dim=8, partial_rotary_factor=1.0, norm_topk_prob=False),
    ),
    "dots1": Variant(
        "dots1",
        modern(**DEEPSEEK_MOE, head_dim=8, norm_topk_prob=True,
               sliding_window=5, max_window_layers=1),
    ),
    "qwen2_moe": Variant(
        "qwen2_moe",
        modern(**without("head_dim", QWEN_MOE),
               shared_expert_intermediate_size=12),
    ),
    "qwen2_moe-windows": Variant(
        "qwen2_moe",
        modern(**without("head_dim", QWEN_MOE), norm_topk_prob=True,
               shared_expert_intermediate_size=12, num_hidden_layers=4,
               decoder_sparse_step=2, qkv_bias=False, use_sliding_window=True,
               sliding_window=5, max_window_layers=2),
    ),
    "ernie4_5_moe": Variant(
        "ernie4_5_moe",
        modern(moe_num_experts=6, moe_k=2, moe_intermediate_size=16,
               num_hidden_layers=3, tie_word_embeddings=True),
    ),
    "ernie4_5_moe-bias": Variant(
        "ernie4_5_moe",
        modern(moe_num_experts=6, moe_k=2, moe_intermediate_size=16,
               moe_num_shared_experts=1, use_bias=True, num_hidden_layers=3,
               moe_layer_interval=2, moe_layer_start_index=1),
    ),
    # state spaces
    "granitemoehybrid": Variant(
        "granitemoehybrid",
        modern(**STATE_SPACE, **kinds_of_layers("linear_attention", 0, 1, 0),
               num_hidden_layers=3, num_local_experts=6, num_experts_per_tok=2,
               intermediate_size=16, tie_word_embeddings=True),
        parts={"rotary": False},
    ),
    "granitemoehybrid-groups": Variant(
        "granitemoehybrid",
        modern(**STATE_SPACE | {"mamba_n_groups": 2, "mamba_d_conv": 3},
               **kinds_of_layers("linear_attention", 1, 0), num_local_experts=0,
               mamba_conv_bias=False, mamba_proj_bias=True, attention_bias=True,
               time_step_limit=(0.2, 0.9), position_embedding_type="rope"),
    ),
    "granitemoehybrid-attention": Variant(
        "granitemoehybrid",
        modern(**STATE_SPACE, **kinds_of_layers("linear_attention", 1, 1),
               num_local_experts=0, position_embedding_type="rope",
               **rope("default", theta=500.0)),
    ),
    "mamba2": Variant("mamba2", MAMBA2),
    "mamba2-groups": Variant(
        "mamba2",
        MAMBA2 | {
            "n_groups": 2, "conv_kernel": 3, "use_bias": True,
            "use_conv_bias": False, "time_step_limit": (0.2, 0.9),
            "tie_word_embeddings": True, "residual_in_fp32": False},
    ),
    # With fields that its files have and no model reads.
    "mamba2-codestral": Variant(
        "mamba2",
        MAMBA2 | {
            "n_groups": 3, "num_hidden_layers": 2, "norm_before_gate": True,
            "rms_norm": True},
    ),
    # stretches of attention
    "llama4": Variant(
        "llama4_text",
        modern(**LLAMA4, num_hidden_layers=4, interleave_moe_layer_step=2,
               **rope("llama3", factor=8.0, low_freq_factor=1.0,
                      high_freq_factor=4.0, theta=500.0,
                      original_max_position_embeddings=64)),
    ),
    "llama4-layers": Variant(
        "llama4_text",
        modern(**LLAMA4 | {"num_experts_per_tok": 2, "attention_chunk_size": 4},
               num_hidden_layers=3, num_key_value_heads=1,
               no_rope_layers=[0, 1, 1], use_qk_norm=False,
               layer_types=["chunked_attention", "full_attention",
                            "chunked_attention"],
               attn_temperature_tuning=False, attention_bias=True,
               tie_word_embeddings=True),
    ),
    # MobileLLM-R1
    "llama4-dense": Variant(
        "llama4_text",
        modern(**LLAMA4 | {
            "num_local_experts": 0, "num_experts_per_tok": 0,
            "attention_chunk_size": None}, moe_layers=[],
            interleave_moe_layer_step=0, no_rope_layers=[1, 1],
            tie_word_embeddings=True),
    ),
    "olmoe": Variant(
        "olmoe",
        modern(num_experts=6, num_experts_per_tok=3, intermediate_size=16,
               num_key_value_heads=4),
    ),
    "olmoe-gqa": Variant(
        "olmoe",
        modern(num_experts=5, num_experts_per_tok=2, intermediate_size=16,
               norm_topk_prob=True),
    ),
    "olmoe-clip": Variant(
        "olmoe",
        modern(num_experts=4, num_experts_per_tok=2, intermediate_size=16,
               clip_qkv=0.8),
    ),
}


# ---- Weights ---------------------------------------------------------------


def randomise(model, seed):
    """Weights under which no part is idle: gains differ from 1, biases from
    0, scores spread, and logits have a standard deviation of about 1."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    tied = config.tie_word_embeddings
    normal = lambda like: torch.randn(like.shape, generator=generator)
    done = set()
    for path, module in model.named_modules():
        kind = type(module).__name__
        if hasattr(module, "layer_scalar"):
            module.layer_scalar.copy_(
                0.4 + 0.5 * torch.rand(1, generator=generator))
        for name, buffer in module.named_buffers(recurse=False):
            if name == "e_score_correction_bias":
                buffer.copy_(0.3 * normal(buffer))
        if kind == "XIELUActivation":  # so far from the usual that it shows
            module.beta.fill_(0.3 + 0.4 * torch.rand(1, generator=generator)[0])
            module.eps.fill_(-0.4 * torch.rand(1, generator=generator)[0])
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in done:
                continue
            done.add(id(weight))
            if name in ("alpha_p", "alpha_n"):
                value = 0.5 * normal(weight)
            elif name == "D":
                value = 1.0 + 0.4 * normal(weight)
            elif name == "A_log":  # fades at various speeds
                value = torch.log(0.05 + torch.rand(
                    weight.shape, generator=generator))
            elif name == "bias" or name.endswith("_bias"):
                value = 0.2 * normal(weight)
            elif name == "sinks":
                value = normal(weight)
            elif "Norm" in kind:
                # These gains are stored less 1.
                less = (kind.startswith("Gemma") and
                        not kind.startswith("Gemma4")) or kind.endswith(
                            "1P") or (
                    kind.startswith(("Qwen3Next", "Qwen3_5")) and
                    not kind.endswith("Gated"))
                mean = 0.0 if less else 1.0
                value = mean + 0.3 * normal(weight)
                if kind == "Gemma4RMSNorm" and path.endswith(
                        ("q_norm", "k_norm", "post_per_layer_input_norm")):
                    value *= 0.5  # its scores are divided by nothing
            elif kind == "Gemma4TextRouter":
                value = 1.0 + 0.3 * normal(weight)
            elif isinstance(module, torch.nn.Embedding):
                value = (0.2 if tied else 0.7) * normal(weight)
            else:
                turned = kind in (
                    "Conv1D", "GptOssExperts", "Llama4TextExperts")
                inner = -2 if turned else -1
                last = path.rpartition(".")[2]
                if last in ("q_proj", "q_b_proj", "k_proj", "qkv_proj", "c_attn",
                            "query_key_value", "Wqkv", "gate", "router"):
                    spread = 1.3
                elif last == "in_proj":  # three of its rows are multiplied
                    spread = 0.7
                elif last == "lm_head":
                    spread = 0.8
                elif path.endswith("router.proj"):  # of what is scaled down
                    spread = 1.3 * weight.shape[inner] ** 0.5
                else:
                    spread = 0.9
                value = spread * normal(weight) / weight.shape[inner] ** 0.5
            with torch.no_grad():
                weight.copy_(value)


# ---- What one forward pass computes ---------------------------------------


class Unlucky(Exception):
    """Weights under which rounding shows; others are drawn."""


def heads_of(config, layer=0):
    if config.model_type == "gemma4_text":
        config = config.per_layer_config[layer]
    d_model, n = config.hidden_size, config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or n
    if config.model_type == "falcon":
        shared = config.multi_query and not config.new_decoder_architecture
        kv = 1 if shared else config.num_kv_heads
    if hasattr(config, "kv_lora_rank"):
        return n, n, config.qk_nope_head_dim + config.qk_rope_head_dim
    return n, kv, getattr(config, "head_dim", None) or d_model // n


def first(value):
    return value[0] if isinstance(value, tuple) else value


class Recorder:
    """Hooks on a model; `found` has every value, without the batch axis."""

    def __init__(self, model, parts):
        self.found = {}
        self.removers = []
        self.model, self.parts = model, parts
        self.length = 0

    def keep(self, name, value, *shape):
        assert name not in self.found, name
        value = value.detach().reshape(*(shape or (self.length, -1)))
        self.found[name] = value.to(torch.float32).numpy().copy()

    def output(self, module, keep):
        hook = lambda _m, _args, result: keep(result)
        self.removers.append(module.register_forward_hook(hook).remove)

    def input(self, module, keep):
        hook = lambda _m, args, kwargs: keep(
            args[0] if args else kwargs["hidden_states"])
        self.removers.append(
            module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def attach(self):
        model, parts, config = self.model, self.parts, self.model.config
        at = model.get_submodule
        embed = parts.embed
        if getattr(at(embed.rpartition(".")[0]), "project_in", None):
            embed = embed.rpartition(".")[0] + ".project_in"
        scale = getattr(config, "embedding_multiplier", 1.0)
        self.output(at(embed), lambda x: self.keep("embed", x * scale))
        # What a module gives is a value of its own where a factor follows.
        if parts.raw_embed:
            self.output(at(parts.raw_embed), lambda x: self.keep("embed.raw", x))
        if scale != 1.0:
            self.output(at(embed), lambda x: self.keep("embed.raw", x))
        if getattr(config, "final_logit_softcapping", None) or any(
                getattr(config, name, 1.0) not in (1.0, None)
                for name in ("logit_scale", "logits_scaling")):
            self.output(at(parts.unembed),
                        lambda x: self.keep("unembed.raw", x))
        if parts.pos_embed:
            self.output(at(parts.pos_embed),
                        lambda x: self.keep("pos_embed", x))
        if at(parts.ln_final.rpartition(".")[0])._modules.get(
                parts.ln_final.rpartition(".")[2]):
            self.output(at(parts.ln_final),
                        lambda x: self.keep("ln_final", x))
        for i, layer in enumerate(at(parts.layers)):
            self.attach_layer(f"layers.{i}.", layer)
        if getattr(config, "hidden_size_per_layer_input", 0):
            inner, width = model.model, config.hidden_size_per_layer_input
            self.output(inner.embed_tokens_per_layer,
                        lambda x: self.keep("ple.embed.output", x))
            self.output(inner.per_layer_model_projection,
                        lambda x: self.keep("ple.proj.output", x))
            self.output(inner.per_layer_projection_norm,
                        lambda x: self.keep("ple.norm.output", x,
                                            self.length, -1, width))
            project = inner.project_per_layer_inputs

            def projected(*args):
                value = project(*args)
                self.keep("ple.output", value)
                return value

            inner.project_per_layer_inputs = projected
            self.removers.append(
                lambda: delattr(inner, "project_per_layer_inputs"))

    def attach_layer(self, site, layer):
        parts, config = self.parts, self.model.config
        at, keep = layer.get_submodule, self.keep
        multiplier = getattr(config, "residual_multiplier", 1.0)

        def inner(name, added):
            """The module's own output, where the stream gets another value."""
            if name != added or multiplier != 1.0:
                self.output(at(name), lambda x: keep(
                    f"{site}{'attn' if name == parts.attn else 'mlp'}.output",
                    first(x)))

        mixer = MIXERS.get(config.model_type)
        if mixer is not None and getattr(layer, mixer, None) is None:
            mixer = None
        if mixer is None:
            inner(parts.attn, parts.attn_added)
        if parts.mlp:
            inner(parts.mlp, parts.mlp_added)
        for name in ("ln1", "ln2"):
            module = layer._modules.get(getattr(parts, name))
            # A norm behind a part is where the stream's value comes from.
            if module is not None and getattr(parts, name) != parts.attn_added:
                self.output(module, lambda x, name=name: keep(
                    f"{site}{name}.output", x))
        for name in ("q_norm", "k_norm", "v_norm"):
            path, _, last = getattr(
                parts, name, f"self_attn.{name}").rpartition(".")
            module = layer._modules.get(path) and at(path)._modules.get(last)
            if module is not None:
                # [1, head, pos, d_head] where the heads were moved before it.
                turned = config.model_type in (
                    "apertus", "gemma3_text", "phi", "stablelm", "exaone4",
                    "hunyuan_v1_dense")
                self.output(module, lambda x, name=name, turned=turned: keep(
                    f"{site}attn.{name}.output",
                    x.transpose(1, 2) if turned else x))

        self.input(layer, lambda x: keep(site + "resid_pre", x))
        self.output(layer, lambda x: keep(site + "resid_post", first(x)))
        self.output(at(mixer or parts.attn_added), lambda x: keep(
            site + "attn_out", first(x) * multiplier))
        beside = []  # what experts give that run before an MLP
        if getattr(layer, "block_sparse_moe", None) is not None:
            self.output(layer.block_sparse_moe, beside.append)
        if parts.mlp:
            self.output(at(parts.mlp_added), lambda x: keep(
                site + "mlp_out", (first(x) + sum(beside)) * multiplier))
        if mixer is not None:
            {"conv": self.attach_conv, "mamba": self.attach_ssm,
             "mixer": self.attach_ssm}.get(
                mixer, self.attach_delta)(site, at(mixer))
            if mixer == "mamba" and multiplier != 1.0:
                self.output(at(mixer), lambda x: keep(site + "ssm.output", x))
        else:
            self.attach_attention(site, layer)
        if parts.mlp:
            self.attach_mlp(site, layer)

    def attach_attention(self, site, layer):
        parts, config = self.parts, self.model.config
        at, keep = layer.get_submodule, self.keep
        n, kv, d = heads_of(config, int(site.split(".")[1]))
        self.output(at(parts.pattern or parts.attn), lambda x: keep(
            site + "attn.pattern", x[1], n, self.length, self.length))
        if hasattr(at(parts.attn), "sinks"):
            # They take what the sources leave.
            self.output(at(parts.attn), lambda x: keep(
                site + "attn.sink_share", (1 - x[1].sum(-1)).transpose(1, 2),
                self.length, n, 1))
        self.input(at(parts.o), lambda x: keep(
            site + "attn.z", x, self.length, n, -1))
        if hasattr(at(parts.attn), "qk_norm"):  # one of both
            both = iter("qk")
            self.output(at(parts.attn).qk_norm, lambda x: keep(
                f"{site}attn.{next(both)}_norm.output", x))
        if hasattr(config, "kv_lora_rank"):
            return self.attach_latents(site + "attn.", at(parts.attn))

        def split(qkv):
            blocks = parts.fused_blocks or kv
            sizes = {"q": n * d, "k": kv * d, "v": kv * d}
            pieces = qkv.reshape(self.length, blocks, -1).split(
                [sizes[name] // blocks for name in parts.fused_order], -1)
            most = getattr(
                getattr(config, "attn_config", None), "clip_qkv", None)
            for name, piece in zip(parts.fused_order, pieces):
                if most is not None and name == "v":
                    # What comes out of the projection is no more what is mixed.
                    keep(f"{site}attn.v_proj.output", piece)
                    assert piece.abs().max() > most
                    piece = piece.clamp(-most, most)
                keep(f"{site}attn.{name}", piece, self.length, -1, d)

        def projected(name, x):
            if name == "q" and config.model_type in MIXERS and (
                    x.shape[-1] == 2 * n * d):  # the gate beside it
                x, gate = x.reshape(self.length, n, 2, d).unbind(2)
                keep(f"{site}attn.gate", gate, self.length, n, d)
            most = getattr(config, "clip_qkv", None)
            if most is not None and name == "v":
                # What comes out of the projection is no more what is mixed.
                keep(f"{site}attn.v_proj.output", x)
                x = x.clamp(-most, most)
            keep(f"{site}attn.{name}", x, self.length, -1, d)

        if parts.fused_qkv:
            self.output(at(parts.fused_qkv), split)
        else:
            for name in "qkv":
                path, _, last = getattr(parts, name).rpartition(".")
                if at(path)._modules.get(last) is not None:
                    self.output(at(getattr(parts, name)),
                                lambda x, name=name: projected(name, x))
                elif name == "v" and getattr(at(path), "k_proj", None):
                    self.output(at(parts.k), lambda x: projected("v", x))

        def biased(_module, _args, kwargs):
            bias = kwargs.get("position_bias", kwargs.get("alibi"))
            if bias is None:
                return
            # Of each source; a softmax sees their differences alone.
            if config.model_type == "falcon":  # in the mask, already scaled
                bias = kwargs["attention_mask"][0, :, -1]
            bias = bias.reshape(n, -1)[:, -self.length:].float()
            keep(site + "attn.position_bias",
                 (bias[:, None] - bias[:, :, None]).clamp(max=0),
                 n, self.length, self.length)

        self.removers.append(at(parts.pattern or parts.attn)
                             .register_forward_pre_hook(
                                 biased, with_kwargs=True).remove)

    def attach_latents(self, site, attn):
        """Attention whose keys and values come from one small vector."""
        n, d_rope = attn.num_heads, attn.qk_rope_head_dim
        keep, output, shared = self.keep, self.output, []

        def compressed(x):
            keep(site + "kv_a_proj.output", x)
            shared.append(x[..., -d_rope:])
            keep(site + "k_pe", shared[0])

        def expanded(x):
            k, v = x.reshape(self.length, n, -1).split(
                [attn.qk_nope_head_dim, attn.v_head_dim], -1)
            keep(site + "k_b_proj.output", k)
            keep(site + "v", v, self.length, n, -1)
            keep(site + "k", torch.cat([k, shared[0].reshape(
                self.length, 1, -1).expand(-1, n, -1)], -1), self.length, n, -1)

        if attn.q_proj is not None:
            output(attn.q_proj, lambda x: keep(site + "q", x, self.length, n, -1))
        else:
            output(attn.q_a_proj, lambda x: keep(site + "q_a_proj.output", x))
            output(attn.q_a_layernorm, lambda x: keep(
                site + "q_latent", x))
            output(attn.q_b_proj, lambda x: keep(
                site + "q", x, self.length, n, -1))
        output(attn.kv_a_proj_with_mqa, compressed)
        output(attn.kv_a_layernorm, lambda x: keep(
            site + "kv_latent", x))
        output(attn.kv_b_proj, expanded)

    def in_mixer(self, mixer, name, replaced):
        """While `mixer` runs, its file's function `name` is `replaced`, which
        gets the original first."""
        module = sys.modules[type(mixer).__module__]
        original = getattr(module, name)

        def begin(*_):
            setattr(module, name, lambda *args, **kwargs: replaced(
                original, *args, **kwargs))

        end = lambda *_: setattr(module, name, original)
        self.removers += [
            mixer.register_forward_pre_hook(begin).remove,
            mixer.register_forward_hook(end).remove]

    def attach_conv(self, site, mixer):
        """A gated short convolution."""
        def thirds(x):
            self.keep(site + "conv.in_proj.output", x)
            for name, third in zip("BCx", x.chunk(3, -1)):
                self.keep(f"{site}conv.{name}", third)

        def convolved(inner, x, *args, **kwargs):
            y = inner(x, *args, **kwargs)
            for name, value in (("input", x), ("output", y)):
                self.keep(f"{site}conv.conv.{name}",
                          value[0].transpose(0, 1))
            return y

        self.output(mixer.in_proj, thirds)
        self.in_mixer(mixer, "causal_conv1d_fn", convolved)
        self.input(mixer.out_proj, lambda x: self.keep(
            site + "conv.out_proj.input", x))

    def attach_ssm(self, site, mixer):
        """A state space."""
        site += "ssm."
        heads, groups = mixer.num_heads, mixer.n_groups
        keep, inner = self.keep, mixer.intermediate_size
        state = groups * mixer.ssm_state_size

        def projected(x):
            for name, part in zip("z x B C dt".split(), x.split(
                    [inner, inner, state, state, heads], -1)):
                if name == "z":
                    keep(site + "z", part, self.length, heads, -1)
                else:
                    keep(f"{site}{name}_proj.output", part)

        def convolved(inner, x, weight, bias, activation=None, **kwargs):
            y = inner(x, weight, bias, None, **kwargs)
            keep(site + "conv.output", y[0].transpose(0, 1))
            return inner(x, weight, bias, activation, **kwargs)

        def scanned(scan, x, dt, A, B, C, **kwargs):
            keep(site + "x", x, self.length, heads, -1)
            for name, part in (("B", B), ("C", C)):
                keep(site + name, part, self.length, groups, -1)
            least, most = kwargs.get("dt_limit", (0.0, float("inf")))
            bounded = torch.nn.functional.softplus(
                dt + mixer.dt_bias).clamp(least, most)
            keep(site + "dt", bounded, self.length, heads, 1)
            # By the definition, of each beginning of the prompt.
            states = [
                scan(*(it[:, :end] for it in (x, dt)), A,
                     *(it[:, :end] for it in (B, C)),
                     **kwargs | {"return_final_states": True})[1]
                for end in range(1, self.length + 1)]
            keep(site + "state", torch.cat(states).transpose(-1, -2),
                 self.length, heads, mixer.ssm_state_size, -1)
            made = scan(x, dt, A, B, C, **kwargs)
            out = made[0] if isinstance(made, tuple) else made
            keep(site + "out", out, self.length, heads, -1)
            return made

        self.output(mixer.in_proj, projected)
        self.in_mixer(mixer, "causal_conv1d_fn", convolved)
        self.in_mixer(mixer, "mamba2_chunk_scan", scanned)
        self.output(mixer.norm, lambda x: keep(site + "norm.output", x))
        self.input(mixer.out_proj, lambda x: keep(site + "out_proj.input", x))

    def attach_delta(self, site, mixer):
        """A gated delta net."""
        site += "delta."
        heads, keys = mixer.num_v_heads, mixer.num_k_heads
        keep, n = self.keep, lambda x: x.reshape(self.length, keys, -1)

        def projected(parts, sizes):
            for name, part in zip(parts, sizes):
                if name == "z":
                    keep(site + "z", part, self.length, heads, -1)
                else:
                    keep(f"{site}{name}_proj.output", part)

        k, v = mixer.head_k_dim, mixer.head_v_dim * heads // keys
        if hasattr(mixer, "in_proj_qkvz"):
            self.output(mixer.in_proj_qkvz, lambda x: projected(
                "qkvz", n(x).split([k, k, v, v], -1)))
            self.output(mixer.in_proj_ba, lambda x: projected(
                "ba", n(x).chunk(2, -1)))
        else:
            self.output(mixer.in_proj_qkv, lambda x: projected(
                "qkv", x.split([k * keys, k * keys, v * keys], -1)))
            for name in "zba":
                self.output(getattr(mixer, f"in_proj_{name}"),
                            lambda x, name=name: projected(name, [x]))

        def convolved(inner, x, weight, bias, activation=None, **kwargs):
            y = inner(x, weight, bias, None, **kwargs)
            keep(site + "conv.output", y[0].transpose(0, 1))
            return inner(x, weight, bias, activation, **kwargs)

        def recurred(inner, q, k, v, g, beta, **kwargs):
            for name, x in (("q", q), ("k", k), ("v", v)):
                keep(site + name, x, self.length, -1, x.shape[-1])
            for name, x in (("g", g), ("beta", beta)):
                keep(site + name, x, self.length, -1, 1)
            # By the definition, of each beginning of the prompt.
            step = sys.modules[type(mixer).__module__]
            states = [
                step.torch_recurrent_gated_delta_rule(
                    *(x[:, :end] for x in (q, k, v)), g=g[:, :end],
                    beta=beta[:, :end], output_final_state=True,
                    use_qk_l2norm_in_kernel=True)[1]
                for end in range(1, self.length + 1)]
            keep(site + "state", torch.cat(states), self.length, heads,
                 q.shape[-1], v.shape[-1])
            made = inner(q, k, v, g=g, beta=beta, **kwargs)
            keep(site + "out", made[0], self.length, heads, v.shape[-1])
            return made

        self.in_mixer(mixer, "causal_conv1d_fn", convolved)
        self.in_mixer(mixer, "torch_chunk_gated_delta_rule", recurred)
        self.input(mixer.out_proj, lambda x: keep(site + "out_proj.input", x))

    def attach_mlp(self, site, layer):
        parts, config = self.parts, self.model.config
        at, keep = layer.get_submodule, self.keep
        if config.model_type == "gemma4_text":
            self.attach_beside(site, layer)
        moe = getattr(layer, "block_sparse_moe", None)
        if moe is not None:
            def chosen(result):
                logits, weights, indices = result
                keep(site + "moe.router_logits", logits)
                keep(site + "moe.expert_weights", weights)
                keep(site + "moe.expert_indices", indices)
                self.apart(site, logits, indices)

            self.output(at(parts.router), chosen)
            self.output(moe, lambda x: keep(site + "moe.output", x))
        mlp = getattr(layer, "mlp", None) or getattr(
            layer, "feed_forward", None)
        if hasattr(mlp, "experts"):
            def routed(result):
                if config.model_type == "llama4_text":  # 0 for the others
                    scores, logits = result
                    weights, indices = scores.topk(config.num_experts_per_tok)
                else:
                    logits, weights, indices = result
                keep(site + "mlp.router_logits", logits)
                keep(site + "mlp.expert_weights", weights)
                keep(site + "mlp.expert_indices", indices)
                self.decided(site, at(parts.router), logits, indices)

            self.output(at(parts.router), routed)
            # Of Llama 4's, which all run, the sum.
            self.output(mlp.experts, lambda x: keep(
                site + "mlp.experts.output",
                x if x.shape[0] == self.length else x.reshape(
                    -1, self.length, x.shape[-1]).sum(0)))
            shared = getattr(mlp, "shared_expert", None) or getattr(
                mlp, "shared_experts", None)
            if shared is not None:
                here = site + "mlp.shared_expert"
                self.output(shared, lambda x: keep(here + ".output", x))
                self.output(shared.gate_proj, lambda x: keep(here + ".pre", x))
                self.output(shared.up_proj, lambda x: keep(
                    here + ".pre_linear", x))
            if hasattr(mlp, "shared_expert_gate"):
                self.output(mlp.shared_expert_gate, lambda x: keep(
                    here + "_gate.output", x))
            return
        if parts.fused_gate_up:
            def halves(x):
                gate, up = x.chunk(2, -1)
                keep(site + "mlp.pre", gate)
                keep(site + "mlp.pre_linear", up)

            self.output(at(parts.fused_gate_up), halves)
        else:
            self.output(at(parts.gate), lambda x: keep(site + "mlp.pre", x))
            if parts.up:
                self.output(at(parts.up),
                            lambda x: keep(site + "mlp.pre_linear", x))
        self.input(at(parts.down), lambda x: keep(site + "mlp.post", x))

    def attach_beside(self, site, layer):
        """What Gemma 4 has beside attention and MLP."""
        keep, output = self.keep, self.output
        keep(site + "layer_scalar", layer.layer_scalar.expand(self.length, 1))
        if hasattr(layer, "per_layer_projection"):
            output(layer.per_layer_input_gate,
                   lambda x: keep(site + "ple.pre", x))
            self.input(layer.per_layer_projection,
                       lambda x: keep(site + "ple.post", x))
            output(layer.per_layer_projection,
                   lambda x: keep(site + "ple.output", x))
            output(layer.post_per_layer_input_norm,
                   lambda x: keep(site + "ple_out", x))
            self.removers.append(layer.register_forward_pre_hook(
                lambda _m, args: keep(
                    site + "ple.embedding", args[1])).remove)
        if not hasattr(layer, "router"):
            return
        output(layer.post_feedforward_layernorm_1,
               lambda x: keep(site + "ln_mlp_post.output", x))
        output(layer.post_feedforward_layernorm_2,
               lambda x: keep(site + "ln_moe_post.output", x))
        output(layer.pre_feedforward_layernorm_2,
               lambda x: keep(site + "moe.ln.output", x))
        output(layer.experts, lambda x: keep(site + "moe.output", x))
        scaled = layer.router.scalar_root_size
        self.removers.append(layer.router.proj.register_forward_pre_hook(
            lambda _m, args: keep(
                site + "moe.router_norm.output", args[0] / scaled)).remove)
        output(layer.router.proj,
               lambda x: keep(site + "moe.router_logits", x))

        def routed(result):
            _, weights, indices = result
            keep(site + "moe.expert_weights", weights)
            keep(site + "moe.expert_indices", indices)
            self.apart(site, torch.from_numpy(
                self.found[site + "moe.router_logits"]), indices)

        output(layer.router, routed)

    def decided(self, site, router, logits, indices):
        """The same where scores are corrected or groups left out."""
        statics = getattr(router, "moe_statics", router)
        bias = getattr(statics, "e_score_correction_bias", None)
        groups = getattr(router, "num_group", None) or 1
        if getattr(router, "topk_method", "") == "greedy":
            groups = 1
        if bias is None and groups == 1:
            return self.apart(site, logits, indices)
        gap = 0.012
        if bias is None:  # of a softmax, whose order logits have
            scores, best, gap = logits, lambda x: x.amax(-1), 0.04
        else:
            scores = (logits.softmax(-1) if statics is not router
                      else logits.sigmoid()) + bias
            best = lambda x: x.topk(2, -1).values.sum(-1)
        if groups > 1:
            parts = scores.unflatten(-1, (groups, -1))
            order = best(parts).sort(-1, descending=True)
            k = router.topk_group
            nearest = (order.values[:, k - 1] - order.values[:, k]).min().item()
            if nearest < gap:
                raise Unlucky(f"{site}: two groups are {nearest} apart")
            stays = torch.zeros_like(order.values).scatter(
                -1, order.indices[:, :k], 1.0).bool()
            scores = parts.masked_fill(~stays[..., None], -1e9).flatten(-2)
        top = scores.sort(-1, descending=True).values
        k = indices.shape[-1]
        nearest = (top[:, k - 1] - top[:, k]).min().item()
        if nearest < gap:
            raise Unlucky(f"{site}: two experts are {nearest} apart")
        plain = logits.topk(k, -1).indices.sort(-1).values
        if (plain == indices.sort(-1).values).all():
            raise Unlucky(f"{site}: neither groups nor corrections matter")

    @staticmethod
    def apart(site, logits, indices):
        """Rounding must not be able to choose another expert, not even in
        bfloat16."""
        top = logits.sort(-1, descending=True).values
        k = indices.shape[-1]
        gap = (top[:, k - 1] - top[:, k]).min().item()
        if gap < 0.04:
            raise Unlucky(f"{site}: two experts are {gap} apart")

    def attach_rotated(self):
        """Queries and keys as they meet each other: after RoPE (and qk-norm)."""
        model = self.model

        def keep(i, query, key, own=True):
            _, _, d = heads_of(model.config, i)
            if (hasattr(model.config, "kv_lora_rank") and
                    getattr(model.config, "rope_interleave", False)):
                # It moves the pairs' second halves to the end.
                first = model.config.qk_nope_head_dim
                query, key = (torch.cat([
                    x[..., :first], x[..., first:].unflatten(-1, (2, -1))
                    .transpose(-1, -2).flatten(-2)], -1) for x in (query, key))
            for name, x in (("rot_q", query), ("rot_k", key)):
                if own or name == "rot_q":
                    self.keep(f"layers.{i}.attn.{name}", x[0].transpose(0, 1),
                              self.length, -1, d)

        module = sys.modules[type(model).__module__]
        scale = getattr(module, "get_llama_4_attn_scale", None)
        if scale:
            left = iter(range(model.config.num_hidden_layers))  # it is asked once a layer

            def kept(*args):
                value = scale(*args)
                self.keep(f"layers.{next(left)}.attn.q_scale", value,
                          self.length, 1)
                return value

            module.get_llama_4_attn_scale = kept
            self.removers.append(
                lambda: setattr(module, "get_llama_4_attn_scale", scale))
        if model.config.model_type == "falcon":  # its layers in turn
            _, kv, _ = heads_of(model.config)
            turn = module.apply_rotary_pos_emb
            seen = iter(range(len(layers)))

            def rotate(*args):
                query, key = turn(*args)
                keep(next(seen), query, key[:, :: key.shape[1] // kv])
                return query, key

            module.apply_rotary_pos_emb = rotate
            self.removers.append(
                lambda: setattr(module, "apply_rotary_pos_emb", turn))
            return
        inner = module.eager_attention_forward

        def attend(attention, query, key, *rest, **kwargs):
            keep(attention.layer_idx, query, key,
                 not getattr(attention, "is_kv_shared_layer", False))
            made = inner(attention, query, key, *rest, **kwargs)
            if getattr(attention, "attn_temperature_tuning", False) and (
                    not attention.use_rope):
                # What stands between projection and scores is the factor.
                here = f"layers.{attention.layer_idx}.attn."
                q = torch.from_numpy(self.found[here + "q"]).flatten(1)
                met = query[0].transpose(0, 1).flatten(1)
                self.keep(here + "q_scale", (met * q).sum(-1) / (q * q).sum(-1),
                          self.length, 1)
            if getattr(attention, "kv_lora_rank", 0):
                return made
            if attention.q_proj.out_features == (
                    2 * query.shape[1] * query.shape[-1]):
                self.keep(f"layers.{attention.layer_idx}.attn.mix", made[0],
                          self.length, -1, query.shape[-1])  # z is gated
            return made

        module.eager_attention_forward = attend
        self.removers.append(
            lambda: setattr(module, "eager_attention_forward", inner))

    def run(self, ids):
        self.length = len(ids)
        self.attach()
        if self.parts.rotary:
            self.attach_rotated()
        try:
            with torch.no_grad():
                logits = self.model(
                    torch.tensor([ids]), use_cache=False).logits
        finally:
            for remove in self.removers:
                remove()
        self.keep("logits", logits)
        return self.found


# ---- Checks on what was recorded ------------------------------------------


def windows_of(config):
    """The window of each layer; None where it has none."""
    n = config.num_hidden_layers
    if config.model_type == "gpt_neo":
        return [config.window_size if kind == "local" else None
                for kind in config.attention_layers]
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * n
    return [window if kind == "sliding_attention" else None for kind in types]


def chunk_of(config, layer):
    """The stretches that a layer sees; None where it sees all."""
    types = getattr(config, "layer_types", None) or ()
    return (config.attention_chunk_size if "chunked_attention" in types[
        layer:layer + 1] else None)


def check(name, found, model, parts):
    """The residual stream adds up, and no part is idle."""
    config = model.config
    n_layers = config.num_hidden_layers
    layers = model.get_submodule(parts.layers)

    def near(what, a, b, tolerance=1e-5):
        error = np.abs(a - b).max()
        assert error <= tolerance, f"{name}: {what} is off by {error}"

    stream = found["embed"] + found.get("pos_embed", 0)
    near("layers.0.resid_pre", stream, found["layers.0.resid_pre"])
    if getattr(config, "do_layer_norm_before", True):
        for i in range(n_layers):
            stream = stream + found[f"layers.{i}.attn_out"]
            stream = stream + found.get(f"layers.{i}.mlp_out", 0)
            stream = stream + found.get(f"layers.{i}.ple_out", 0)
            stream = stream * found.get(f"layers.{i}.layer_scalar", 1)
        near("the sum of what is added", stream,
             found[f"layers.{n_layers - 1}.resid_post"])
    else:  # each sum is normalised, and so is what the next layer gets
        for i, layer in enumerate(layers):
            with torch.no_grad():
                middle = layer.self_attn_layer_norm(torch.tensor(
                    stream + found[f"layers.{i}.attn_out"]))
                stream = layer.final_layer_norm(
                    middle + torch.tensor(found[f"layers.{i}.mlp_out"])
                ).numpy()
            near(f"layers.{i}.resid_post", stream,
                 found[f"layers.{i}.resid_post"])

    for key, value in found.items():
        assert np.isfinite(value).all(), f"{name}: {key}"
        if "expert_indices" in key:
            if len(np.unique(value)) <= value.shape[1]:
                raise Unlucky(f"{name}: {key} are the same for all tokens")
        elif "layer_scalar" in key:
            assert value[0, 0] < 0.95, f"{name}: {key} is idle"
        else:
            assert value.std() > 0.01, f"{name}: {key} is idle"
    length = found["logits"].shape[0]
    first_shared = n_layers - getattr(config, "num_kv_shared_layers", 0)
    for i, window in enumerate(windows_of(config)):
        if f"layers.{i}.attn.q" not in found:  # something else mixes
            continue
        n, kv, d = heads_of(config, i)
        assert found[f"layers.{i}.attn.q"].shape == (length, n, d)
        if i < first_shared:
            assert found[f"layers.{i}.attn.k"].shape == (length, kv, d)
            d_value = getattr(config, "v_head_dim", d)
            assert found[f"layers.{i}.attn.v"].shape == (length, kv, d_value)
        else:
            assert f"layers.{i}.attn.k" not in found
        pattern = found[f"layers.{i}.attn.pattern"]
        share = found.get(f"layers.{i}.attn.sink_share")
        if share is None:
            near("a pattern's rows", pattern.sum(-1), 1.0)
        else:
            assert (share > 0).all() and share.max() > 0.3, f"{name}: sinks"
        dest, src = np.indices((length, length))
        seen = src <= dest
        if window:
            assert window < length
            seen &= src > dest - window
        if chunk := chunk_of(config, i):
            assert chunk < length
            seen &= src // chunk == dest // chunk
        assert ((pattern > 0) == seen).all(), f"{name}: layer {i}'s mask"
        assert pattern.max(-1)[:, 4:].mean() > 1.2 * (1 / seen.sum(-1))[
            4:].mean(), f"{name}: layer {i} attends uniformly"
    spread = found["logits"].std()
    assert 0.3 < spread < 3, f"{name}: logits' deviation is {spread}"


# ---- Writing ---------------------------------------------------------------


def crc(text):
    return zlib.crc32(text.encode())


def load(folder, dtype=torch.float32, attention="eager"):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention,
        experts_implementation="eager",
    ).eval()
    if attention == "eager" and getattr(model.config, "alibi", False):
        # Falcon's mask has the biases, and its eager attention, unlike all its
        # others, adds them once more.
        once = lambda _module, args, kwargs: (
            args, kwargs | {"alibi": torch.zeros_like(kwargs["alibi"])})
        for layer in model.transformer.h:
            layer.self_attention.register_forward_pre_hook(
                once, with_kwargs=True)
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]),
                     use_cache=False).logits[0].float().numpy()


def draw(name, variant, seed, scratch):
    """Files in `scratch`, and what the oracle computes of them: ids, values by
    name, and how far its float32 logits are from its float64 ones."""
    config = AutoConfig.for_model(variant.model_type, **variant.config)
    for field in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon",
                  "norm_epsilon", "norm_eps"):
        if hasattr(config, field):  # so large that a wrong one shows
            setattr(config, field, 1e-3)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    randomise(model, seed)
    model.save_pretrained(scratch)

    # The oracle reads the files too: what it computes is of what they say.
    model = load(scratch)
    ids = np.random.default_rng(crc("ids " + name)).integers(
        0, config.vocab_size, variant.prompt).tolist()
    parts = variant.places()
    found = Recorder(model, parts).run(ids)
    assert (logits_of(model, ids) == found["logits"]).all(), name
    check(name, found, model, parts)
    if getattr(config, "alibi", False):
        fused = logits_of(load(scratch, attention="sdpa"), ids)
        assert np.abs(fused - found["logits"]).max() < 1e-5, name

    exact = logits_of(copy.deepcopy(model).double(), ids)
    error = np.abs(exact - found["logits"]).max()
    if error > 2e-6:
        raise Unlucky(f"{name}: float32 itself is off by {error}")
    return ids, found, error, halves(name, model, ids, scratch)


def halves(name, model, ids, scratch):
    """What half precision makes of some prompts. The largest error of one is
    half chance; but of a mixture the others might ask other experts."""
    mixture = hasattr(model.config, "num_experts_per_tok") or getattr(
        model.config, "enable_moe_block", False)
    n = 1 if mixture else 4
    more = np.random.default_rng(crc("half " + name)).integers(
        0, model.config.vocab_size, (n - 1, len(ids)))
    prompts = torch.tensor([ids, *more.tolist()], dtype=torch.int32)
    made = {"half.ids": prompts}
    with torch.no_grad():
        made["half.logits"] = model(prompts.long()).logits
        for dtype in (torch.bfloat16, torch.float16):
            half = load(scratch, dtype)
            for key, buffer in half.named_buffers():
                assert "inv_freq" not in key or (
                    buffer.dtype == torch.float32), key
            logits = half(prompts.long()).logits
            if model.config.model_type == "mamba2":  # which widens them
                logits = logits.to(dtype)
            assert logits.dtype == dtype
            made[f"half.{str(dtype).removeprefix('torch.')}"] = logits
    return made


def older(config):
    """The same config as files from before transformers 5 have it: RoPE's
    parameters in fields of their own, no list of layer types, and nothing that
    is the default anyway."""
    fields = json.loads(config.to_json_string(use_diff=False))
    kind = fields["model_type"]
    ropes = fields.pop("rope_parameters", None)
    # Defaults, of course, are those of an empty config.
    default = json.loads(
        type(config)().to_json_string(use_diff=False))
    default_ropes = default.pop("rope_parameters", None)
    if ropes and kind == "gemma3_text":
        fields["rope_local_base_freq"] = ropes["sliding_attention"][
            "rope_theta"]
        default["rope_local_base_freq"] = 10000.0
        ropes = ropes["full_attention"]
        default_ropes = default_ropes["full_attention"]
    if kind == "gemma4_text":
        # As published: what layers that see everything have of their own.
        if ropes != default_ropes:
            fields["rope_parameters"] = ropes
        ropes = None
        default.pop("per_layer_config")
        own = fields.pop("per_layer_config")
        own = next(iter(own.values()))
        fields["global_head_dim"] = own["head_dim"]
        if "num_key_value_heads" in own:
            fields["num_global_key_value_heads"] = own["num_key_value_heads"]
        every = [
            "full_attention" if i % 6 == 5 else "sliding_attention"
            for i in range(len(fields["layer_types"]))]
        every[-1] = "full_attention"
        if fields["layer_types"] == every:
            del fields["layer_types"]
        del default["layer_types"]
    if ropes and kind == "olmo3":
        full, local = ropes["full_attention"], ropes["sliding_attention"]
        theta = type(config).default_theta
        if [full["rope_theta"], local["rope_theta"]] == [theta, theta]:
            del full["rope_theta"]
            fields["rope_scaling"] = full
        else:  # no older file could say that
            fields["rope_parameters"] = ropes
        ropes = None
    if ropes:
        theta, part = "rope_theta", "partial_rotary_factor"
        if kind == "gpt_neox":
            theta, part = "rotary_emb_base", "rotary_pct"
        fields[theta] = ropes.pop("rope_theta")
        default[theta] = default_ropes["rope_theta"]
        if "partial_rotary_factor" in ropes:
            fields[part] = ropes.pop("partial_rotary_factor")
            default[part] = default_ropes["partial_rotary_factor"]
        # These two mean another one by none; gpt-oss always says it.
        if ropes["rope_type"] != "default" or kind in (
                "ministral3", "apertus", "gpt_oss"):
            if kind != "gemma3_text" and (
                    ropes["rope_type"] in ("linear", "dynamic", "longrope")):
                ropes["type"] = ropes.pop("rope_type")
            if kind == "phi3":  # which has it beside the scaling
                ropes.pop("original_max_position_embeddings")
            fields["rope_scaling"] = ropes

    types = fields.get("layer_types")
    if kind not in ("gpt_oss", "gemma4_text"):  # which always had it
        fields.pop("layer_types", None)
    if kind in ("olmo3", "exaone4"):
        every = fields.get("sliding_window_pattern", 4)
        usual = isinstance(every, int) and every and [
            "sliding_attention" if (i + 1) % every else "full_attention"
            for i in range(len(types))]
        if types != usual:
            fields["layer_types"] = types
    if kind == "lfm2":
        attends = [i for i, it in enumerate(types) if it == "full_attention"]
        if attends != list(range(len(types))):
            fields["full_attn_idxs"] = attends
        fields["block_ff_dim"] = fields.pop("intermediate_size")
        fields["tie_embedding"] = fields.pop("tie_word_embeddings")
    if kind == "granitemoehybrid":
        fields["layer_types"] = [
            {"linear_attention": "mamba", "full_attention": "attention"}[it]
            for it in types]
    elif kind == "llama4_text":
        interval, step = (
            fields["no_rope_layer_interval"], fields["interleave_moe_layer_step"])
        rotates = [int((i + 1) % interval != 0) for i in range(len(types))]
        if types != [
                "chunked_attention" if it and fields["attention_chunk_size"]
                else "full_attention" for it in fields["no_rope_layers"]]:
            fields["layer_types"] = types
        if fields["no_rope_layers"] == rotates:
            fields["no_rope_layers"] = []
        if step and fields["moe_layers"] == list(
                range(step - 1, len(types), step)):
            del fields["moe_layers"]
    elif kind in MIXERS and kind not in ("lfm2", "mamba2"):
        every = types.index("full_attention") + 1
        if types == ["linear_attention" if (i + 1) % every else "full_attention"
                     for i in range(len(types))]:
            fields["full_attention_interval"] = every
        else:
            fields["layer_types"] = types
    if kind in ("gemma3_text", "cohere2"):
        fields["sliding_window_pattern"] = types.index("full_attention") + 1
    for field in [field for field in fields if field.startswith("_")]:
        del fields[field]
    fields = {
        field: value
        for field, value in fields.items()
        if field == "model_type"
        or field not in default
        or value != default[field]
    }
    if kind == "bloom":  # as its own files have it
        fields["n_embed"] = fields.pop("hidden_size")
        fields["num_attention_heads"] = fields.pop("n_head")
        fields["apply_residual_connection_post_layernorm"] = False
        fields["seq_length"] = 2048
    if kind == "mpt":
        fields |= {"no_bias": True, "expansion_ratio": 4}
    if kind == "qwen3_moe":
        fields["num_experts"] = fields.pop("num_local_experts")
    # What follows from other fields.
    n_heads = fields.get("num_attention_heads")
    if kind in ("llama", "mistral", "mixtral") and (
            fields.get("head_dim") == config.hidden_size // n_heads):
        del fields["head_dim"]
    if kind in ("llama", "phi", "phi3", "cohere", "granite", "olmo2",
                "olmoe", "cohere2", "apertus", "arcee", "olmo") and fields.get("num_key_value_heads") == n_heads:
        del fields["num_key_value_heads"]
    fields["torch_dtype"] = fields.pop("dtype", "float32")
    fields["architectures"] = config.architectures
    fields["transformers_version"] = "4.57.0"
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def make(name, variant, out):
    """One folder; what the table says of it."""
    folder = out / name
    for attempt in range(1000):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                ids, found, error, half = draw(
                    name, variant, crc(variant.weights or name) + attempt,
                    scratch)
            except Unlucky:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for file in ("config.json", "model.safetensors"):
                shutil.copyfile(Path(scratch) / file, folder / file)
            # The older spelling means the same to the oracle.
            text = older(AutoConfig.from_pretrained(folder))
            (folder / "config.older.json").write_text(text)
            (Path(scratch) / "config.json").write_text(text)
            again = logits_of(load(scratch), ids)
            assert (again == found["logits"]).all(), (
                f"{name}: the older config means something else")
            break
    else:
        raise SystemExit(f"{name}: a thousand unlucky draws")

    tensors = {"ids": torch.tensor(ids, dtype=torch.int32)} | half
    for key, value in found.items():
        integer = "expert_indices" in key
        tensors[key] = torch.from_numpy(
            value.astype(np.int32) if integer else value)
    save_file(tensors, folder / "expected.safetensors")
    size = sum(file.stat().st_size for file in folder.iterdir())
    return (name, len(ids), len(tensors), float(found["logits"].std()),
            float(error), attempt, size)


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    patterns = sys.argv[1:] or ["*"]
    print(f"{'variant':36}{'ids':>4}{'tensors':>9}{'logits std':>12}"
          f"{'fp32 error':>12}{'draws':>6}{'bytes':>9}")
    for name, variant in VARIANTS.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            name, n_ids, n, spread, error, draws, size = make(
                name, variant, OUT)
            print(f"{name:36}{n_ids:4}{n:9}{spread:12.2f}{error:12.1e}"
                  f"{draws + 1:6}{size:9}", flush=True)
    if patterns == ["*"]:
        for folder in OUT.iterdir():
            assert folder.name in VARIANTS, f"{folder} is no longer made"
    files = [file for file in OUT.rglob("*") if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    print(f"{len(list(OUT.iterdir()))} variants, {total} bytes")
    assert total < LIMIT, total


if __name__ == "__main__":
    main()
