"""Activation patching in TransformerLens' shapes: `get_act_patch_*`.

    _, clean_cache = model.run_with_cache(clean)
    grid = patching.get_act_patch_resid_pre(model, corrupted, clean_cache, metric)

Each takes `(model, corrupted_tokens, clean_cache, patching_metric)` and gives
the metric of every patched run, an mx.array [layer, ...]. `patching_metric`:
from logits [batch, pos, vocab] to one number. What is put in is what the cache
holds, a HookCache or any mapping of hook names, whatever run it is from: each
cell is a pass of its own. Only where these values are what a native model says
itself of the cache's one prompt are all cells swept in one walk (`sweeps.patch`,
which takes more kinds of metrics). What a cell is and in which order the axes
stand is TransformerLens' `patching` module's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import mlx.core as mx

from ... import _core
from ...analysis import metrics, sweeps
from ...core.inputs import to_rows
from ...errors import UsageError

PatchingMetric = Callable[[mx.array], mx.array]


def _plain(model, corrupted, clean, metric, short, axes, shown) -> mx.array:
    """One pass a cell."""
    order = ("head", "dest", "src") if short == "pattern" else ("pos", "head")
    sizes = dict(zip(order, clean[0].shape[1:]))
    ranges = [range(len(clean)), *(range(sizes[axis]) for axis in axes[1:])]
    found = []
    for layer, *cell in product(*ranges):
        chosen = dict(zip(axes[1:], cell))
        at = slice(None), *(chosen.get(axis, slice(None)) for axis in order)

        def set_there(value, hook, layer=layer, at=at):
            if value.shape != clean[layer].shape:
                raise UsageError(
                    f"'{hook.name}' is {value.shape} in the corrupted run and "
                    f"{clean[layer].shape} in the clean one: give prompts of one "
                    "length"
                )
            value[at] = clean[layer][at]

        name = shown.format(layer)
        logits = model.run_with_hooks(corrupted, [(name, set_there)])
        found.append(mx.array(metric(logits), mx.float32).reshape(()))
        mx.eval(found[-1])
    return mx.stack(found).reshape([len(r) for r in ranges])


def _swept(model, inputs, corrupted, metric, short, axes) -> mx.array:
    """All cells in one walk."""
    own = metrics.custom_of_run("patching_metric", lambda logits: metric(logits[None]))
    by = ["pos" if axis == "dest" else axis for axis in axes]
    return sweeps.patch(model, inputs, corrupted, own, short, by).metric


def _is_own(model, inputs, clean, shown) -> bool:
    """Whether these are the values of the model's own plain run, but for the last
    bits, which a product need not give twice."""
    hooks = [shown.format(i) for i in range(len(clean))]
    own = model.run_with_cache(inputs, hooks)[1]
    return all(
        a.shape == b.shape
        and mx.abs(a - b).max().item() <= 1e-5 * mx.abs(a).max().item()
        for a, b in zip(own.activations.values(), clean)
    )


def _function(short: str, axes: tuple[str, ...], hook: str, about: str):
    def act_patch(
        model,
        corrupted_tokens,
        clean_cache: Mapping[str, mx.array],
        patching_metric: PatchingMetric,
    ) -> mx.array:
        if isinstance(corrupted_tokens, str):
            corrupted_tokens = model.to_tokens(corrupted_tokens)
        clean = [clean_cache[hook.format(i)] for i in range(len(model.layers))]
        inputs = getattr(clean_cache, "inputs", None)
        walks = (
            inputs is not None
            and "src" not in axes
            and isinstance(getattr(model.engine, "model", None), _core.Model)
            and not getattr(model, "_added", None)  # hooks, which a walk sees not
            and len(to_rows(corrupted_tokens, model.tokenizer)) == 1
        )
        if walks and _is_own(model, inputs, clean, hook):
            return _swept(model, inputs, corrupted_tokens, patching_metric, short, axes)
        return _plain(
            model, corrupted_tokens, clean, patching_metric, short, axes, hook
        )

    act_patch.__doc__ = f"""{about}: [{", ".join(axes)}]."""
    return act_patch


def _block(short: str):
    about = f"{short} of one layer at one position"
    return _function(short, ("layer", "pos"), f"blocks.{{}}.hook_{short}", about)


def _head(short: str, what: str, *axes: str, where="all positions"):
    hook = f"blocks.{{}}.attn.hook_{short}"
    axes = "layer", *(axes or ("head",))
    return _function(short, axes, hook, f"{what} of one head, {where}")


def _by_pos(short: str, what: str):
    return _head(short, what, "pos", "head", where="one position")


get_act_patch_resid_pre = _block("resid_pre")
get_act_patch_resid_mid = _block("resid_mid")
get_act_patch_attn_out = _block("attn_out")
get_act_patch_mlp_out = _block("mlp_out")
get_act_patch_attn_head_out_all_pos = _head("z", "The output (z)")
get_act_patch_attn_head_q_all_pos = _head("q", "The query")
get_act_patch_attn_head_k_all_pos = _head("k", "The key (of a kv head)")
get_act_patch_attn_head_v_all_pos = _head("v", "The value (of a kv head)")
get_act_patch_attn_head_out_by_pos = _by_pos("z", "The output (z)")
get_act_patch_attn_head_q_by_pos = _by_pos("q", "The query")
get_act_patch_attn_head_k_by_pos = _by_pos("k", "The key (of a kv head)")
get_act_patch_attn_head_v_by_pos = _by_pos("v", "The value (of a kv head)")
get_act_patch_attn_head_pattern_all_pos = _head("pattern", "The pattern")
get_act_patch_attn_head_pattern_by_pos = _head(
    "pattern", "The pattern", "head", "dest", where="one destination"
)
get_act_patch_attn_head_pattern_dest_src_pos = _head(
    "pattern", "The pattern", "head", "dest", "src", where="one weight"
)


def get_act_patch_block_every(model, corrupted_tokens, clean_cache, metric) -> mx.array:
    """resid_pre, attn_out and mlp_out: [3, layer, pos]."""
    each = (get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out)
    return mx.stack([f(model, corrupted_tokens, clean_cache, metric) for f in each])


def get_act_patch_attn_head_all_pos_every(
    model, corrupted_tokens, clean_cache, metric
) -> mx.array | list[mx.array]:
    """out, q, k, v, pattern: [5, layer, head]; where the model has fewer kv heads
    a list of five, whose k and v are [layer, kv_head]."""
    each = [_head(short, "All") for short in ("z", "q", "k", "v", "pattern")]
    return _joined([f(model, corrupted_tokens, clean_cache, metric) for f in each])


def get_act_patch_attn_head_by_pos_every(
    model, corrupted_tokens, clean_cache, metric
) -> mx.array | list[mx.array]:
    """The same by position, of the pattern its destination: [5, layer, pos, head],
    or a list."""
    each = [_by_pos(short, "All") for short in ("z", "q", "k", "v")]
    found = [f(model, corrupted_tokens, clean_cache, metric) for f in each]
    pattern = get_act_patch_attn_head_pattern_by_pos(
        model, corrupted_tokens, clean_cache, metric
    )
    return _joined([*found, pattern.swapaxes(1, 2)])


def _joined(each: list[mx.array]) -> mx.array | list[mx.array]:
    return mx.stack(each) if len({it.shape for it in each}) == 1 else each
