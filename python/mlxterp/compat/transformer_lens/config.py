"""`model.cfg`, by TransformerLens' names."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...errors import UnknownNameError, UsageError


@dataclass
class Config:
    """What a model is made of, and how `HookedTransformer` treats it; None where a
    wrapped model does not say, and where its layers differ."""

    model_name: str
    n_layers: int
    d_model: int
    d_vocab: int
    n_heads: int | None = None
    n_key_value_heads: int | None = None  # None where every head has its own
    d_head: int | None = None
    d_mlp: int | None = None
    n_ctx: int | None = None
    act_fn: str | None = None
    gated_mlp: bool | None = None
    normalization_type: str | None = None  # "LN", "RMS", with "Pre" where folded
    eps: float | None = None
    positional_embedding_type: str | None = None
    rotary_dim: int | None = None
    parallel_attn_mlp: bool | None = None
    attn_only: bool = False
    dtype: Any = mx.float32
    device: str = ""
    default_prepend_bos: bool = True
    use_attn_result: bool = False
    use_split_qkv_input: bool = False
    use_attn_in: bool = False
    use_hook_mlp_in: bool = False

    def __post_init__(self):
        self.device = str(mx.default_device())

    @property
    def d_vocab_out(self) -> int:
        return self.d_vocab

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"cfg has no '{name}'; it has {', '.join(vars(self))}")


def config_of(model: Any, folded: bool) -> Config:
    """Of a model. Raises UsageError where its embedding is not found."""
    if not isinstance(model.model, nn.Module):
        return _native(model.engine, folded)
    return _wrapped(model)


def _native(engine: Any, folded: bool) -> Config:
    own = engine.config
    kv = own["n_kv_heads"]
    positions = "rotary" if own["rotary_dims"] else "none"
    if own["alibi"]:
        positions = "alibi"
    return Config(
        model_name=engine.model.path,
        n_layers=own["n_layers"],
        d_model=own["d_model"],
        d_vocab=own["vocab"],
        n_heads=own["n_heads"],
        n_key_value_heads=kv if kv != own["n_heads"] else None,
        d_head=own["d_head"],
        d_mlp=own["d_mlp"],
        n_ctx=own["context"],
        act_fn=own["activation"],
        gated_mlp=own["gated"],
        normalization_type=own["norm"] + ("Pre" if folded else ""),
        eps=own["norm_eps"],
        positional_embedding_type="standard" if own["positions"] else positions,
        rotary_dim=own["rotary_dims"] or None,
        parallel_attn_mlp=own["parallel"],
        dtype=dict(engine.model.parameters())["embed.weight"].dtype,
    )


def _attention(model: Any) -> str:
    """The path of the first attention; not every layer need have one."""
    for layer in range(len(model.layers)):
        with suppress(UnknownNameError):
            return model.engine.part(layer, "attn_out")
    raise UnknownNameError("no layer has attention")


def _wrapped(model: Any) -> Config:
    embedding = model._module_resolver.get_embedding_layer()
    if embedding is None:
        raise UsageError("the embedding was not found: give embedding_path=")
    run = model.engine.run([[0]])
    config = Config(
        model_name=type(model.model).__name__,
        n_layers=len(model.layers),
        d_model=embedding(mx.array([[0]])).shape[-1],
        d_vocab=run.output.shape[-1],
        dtype=run.output.dtype,
    )
    args = getattr(model.model, "args", None)
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        config.n_ctx = config.n_ctx or getattr(args, name, None)
    try:
        path = _attention(model)
        q, k = (run.value(f"{path}.{it}").shape for it in "qk")
        config.n_heads, config.d_head = q[2:]
        config.n_key_value_heads = k[2] if k[2] != q[2] else None
        config.d_mlp = model.weight("W_out", layer=0).shape[-2]
    except (LookupError, UsageError):
        pass  # no attention, or no MLP, as others have
    return config
