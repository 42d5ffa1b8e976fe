"""TransformerLens' short names of activations."""

from __future__ import annotations

import re

_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
    # TransformerBridge's words for a layer's input and output.
    "in": "resid_pre",
    "out": "resid_post",
}
_PARTS = {"a": "attn", "attention": "attn", "m": "mlp"}
_PARTS |= dict.fromkeys(("b", "block", "blocks"), "")
_ATTENTION = "q k v z rot_q rot_k result pattern attn_scores".split()
_MLP = "pre post mid pre_linear".split()


def get_act_name(
    name: str, layer: int | str | None = None, layer_type: str | None = None
) -> str:
    """The name of a hook point: `("k", 6)` and `"k6"` are
    `blocks.6.attn.hook_k`, `("scale", 4, "ln1")` is `blocks.4.ln1.hook_scale`,
    `"embed"` is `hook_embed`; a whole name stays as it is."""
    if layer is None and layer_type is None:
        if "." in name or name.startswith("hook_"):
            return name
        if short := re.fullmatch(r"([a-z_]+?)(\d+)([a-z]*\d?)", name):
            name, layer, layer_type = short.groups()
    name = _ALIASES.get(name, name)
    if name in _ATTENTION:
        part = "attn"
    elif name in _MLP:
        part = "mlp"
    else:
        part = _PARTS.get(layer_type, layer_type)
    if layer is None and name in ("scale", "normalized"):
        return f"ln_final.hook_{name}"
    here = "" if layer is None else f"blocks.{layer}."
    return here + (f"{part}." if part else "") + f"hook_{name}"
