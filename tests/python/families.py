"""Tiny random models of many architectures, as mlx-lm builds them."""

from importlib import import_module

import mlx.core as mx

VOCAB, D, HEADS, KV, LAYERS = 96, 32, 4, 2, 3

_COMMON = {
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 48,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
}
_MLA = {
    "num_key_value_heads": HEADS,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "moe_intermediate_size": 16,
}
_MOE = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}

CONFIGS = {
    "llama": _COMMON,
    "gpt2": {
        "n_ctx": 64,
        "n_embd": D,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_positions": 64,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCAB,
    },
    "qwen3": {
        **_COMMON,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "rope_theta": 1e4,
    },
    "gemma3_text": {
        **_COMMON,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
        "sliding_window_pattern": 3,
    },
    "phi3": _COMMON,
    "mixtral": {**_COMMON, "num_local_experts": 4},
    "mamba2": {
        "num_heads": 4,
        "head_dim": 16,
        "vocab_size": VOCAB,
        "hidden_size": D,
        "intermediate_size": 64,
        "state_size": 8,
        "num_hidden_layers": LAYERS,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": (0.0, 100.0),
        "time_step_rank": "auto",
    },
    "deepseek_v3": {**_COMMON, **_MLA, **_MOE, "first_k_dense_replace": 1},
    "gpt_neox": {
        "max_position_embeddings": 64,
        "hidden_size": D,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "layer_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.5,
    },
    "qwen2": _COMMON,
    "gemma2": {**_COMMON, "head_dim": 8},
    "olmo2": _COMMON,
    "cohere": {**_COMMON, "use_qk_norm": True},
    "starcoder2": _COMMON,
    "phi": {**_COMMON, "partial_rotary_factor": 0.5},
    "gpt_oss": {
        **_COMMON,
        "head_dim": 8,
        "num_hidden_layers": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
    },
    "hunyuan_v1_dense": {
        **_COMMON,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "use_qk_norm": True,
        "rope_scaling": {"alpha": 1.0, "factor": 1.0, "type": "dynamic"},
    },
    "olmoe": {**_COMMON, "num_experts": 4, "num_experts_per_tok": 2},
    "minicpm3": {
        **_COMMON,
        **_MLA,
        "dim_model_base": D,
        "max_position_embeddings": 64,
        "scale_depth": 1.0,
        "scale_emb": 1.0,
        "rope_scaling": {
            "long_factor": [1.0] * 4,
            "short_factor": [1.0] * 4,
            "original_max_position_embeddings": 64,
            "type": "longrope",
        },
    },
}
FAMILIES = list(CONFIGS)
#: With factors or norms of their own before what a part returns is added.
MORE = {
    "granite": {
        **_COMMON,
        "logits_scaling": 2.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.22,
        "max_position_embeddings": 64,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 1e4,
    },
    "minicpm": {**_COMMON, "dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 2.0},
    "glm4": {
        **_COMMON,
        "attention_bias": False,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "partial_rotary_factor": 0.5,
        "rope_theta": 1e4,
    },
}
#: Those that mix tokens without attention. (Gemma 2 does its own softmax.)
NO_ATTENTION = {"mamba2"}


def build(family: str, seed: int = 0, **changes):
    """An mlx-lm model of random weights, evaluated."""
    mx.random.seed(seed)
    of = import_module(f"mlx_lm.models.{family}")
    own = CONFIGS.get(family) or MORE[family]
    config = {"model_type": family, **own, **changes}
    model = of.Model(of.ModelArgs.from_dict(config))
    model.eval()
    _randomise(model)
    mx.eval(model.parameters())
    return model


def _randomise(model):
    """Zeros (biases, gates, routers) hide mistakes: none stay."""
    from mlx.utils import tree_map_with_path

    def some(path, x):
        if not mx.issubdtype(x.dtype, mx.floating):
            return x
        small = mx.random.normal(x.shape, dtype=mx.float32) * 0.1
        return x + small.astype(x.dtype)

    model.update(tree_map_with_path(some, model.parameters()))


def ids(n: int = 6, rows: int = 1) -> mx.array:
    """Token ids [rows, n], the same each time."""
    return (mx.arange(rows * n) * 7 % (VOCAB - 1) + 1).reshape(rows, n)
