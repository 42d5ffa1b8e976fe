"""Sweeps in TransformerLens' shapes: the one walk of the native engine against
one pass a cell, and both against passes written out here."""

from pathlib import Path

import mlx.core as mx
import mlxterp
import pytest
from compare import repeated
from mlx_lm.models import llama
from mlxterp import InterpretableModel, patching

FOLDER = Path(__file__).parents[1] / "parity" / "families" / "llama-gqa"
CLEAN, CORRUPT = [1, 5, 9, 4], [1, 7, 9, 4]


def last(logits: mx.array) -> mx.array:
    return logits[0, -1, 3] - logits[0, -1, 2]


@pytest.fixture(scope="module")
def wrapped():
    mx.random.seed(3)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=11,
        tie_word_embeddings=False,
    )
    return InterpretableModel(llama.Model(args))


@pytest.mark.parametrize(
    "name, shape",
    [
        ("resid_pre", (2, 4)),
        ("attn_out", (2, 4)),
        ("mlp_out", (2, 4)),
        ("attn_head_out_all_pos", (2, 4)),
        ("attn_head_k_all_pos", (2, 2)),
        ("attn_head_out_by_pos", (2, 4, 4)),
        ("attn_head_v_by_pos", (2, 4, 2)),
        ("attn_head_pattern_all_pos", (2, 4)),
        ("attn_head_pattern_by_pos", (2, 4, 4)),
        ("attn_head_pattern_dest_src_pos", (2, 4, 4, 4)),
    ],
)
def test_shapes_and_clean_into_clean(wrapped, name, shape):
    function = getattr(patching, f"get_act_patch_{name}")
    logits, cache = wrapped.run_with_cache(CLEAN)
    same = function(wrapped, CLEAN, cache, last)
    assert same.shape == shape
    assert mx.allclose(same, last(logits), atol=1e-5)
    other = function(wrapped, CORRUPT, cache, last)
    assert mx.abs(other - last(wrapped(mx.array([CORRUPT])))).max().item() > 1e-4


def test_a_cell_is_what_it_says(wrapped):
    _, cache = wrapped.run_with_cache(CLEAN)
    grid = patching.get_act_patch_attn_head_out_by_pos(wrapped, CORRUPT, cache, last)

    def put(z, hook):
        z[:, 1, 2] = cache["z", 1][:, 1, 2]
        return z

    wanted = last(wrapped.run_with_hooks(CORRUPT, [("blocks.1.attn.hook_z", put)]))
    assert grid[1, 1, 2].item() == pytest.approx(wanted.item(), abs=1e-5)
    every = patching.get_act_patch_attn_head_all_pos_every(
        wrapped, CORRUPT, cache, last
    )
    assert [e.shape for e in every] == [(2, 4), (2, 4), (2, 2), (2, 2), (2, 4)]


def test_the_walk_is_one_pass_a_cell():
    model = InterpretableModel(FOLDER)
    clean, corrupt = [5, 41, 46], [5, 9, 46]
    metric = lambda logits: logits[0, -1, 5] - logits[0, 1, 7]  # noqa: E731
    _, cache = model.run_with_cache(clean, lambda n: "hook_resid_pre" in n)
    walk = patching.get_act_patch_resid_pre(model, corrupt, cache, metric)
    cache.inputs = None  # so that it cannot know the clean prompt
    plain = patching.get_act_patch_resid_pre(model, corrupt, cache, metric)
    assert walk.shape == plain.shape == (len(model.layers), 3)
    assert repeated(walk, plain)
    assert mx.abs(plain - plain[0, 0]).max().item() > 0.1


def test_what_is_put_in_is_what_the_cache_holds(monkeypatch):
    """A cache of an edited run, of another prompt, or a dict of one's own."""
    model = InterpretableModel(FOLDER)
    clean, corrupt = [5, 41, 46], [5, 9, 46]
    metric = lambda logits: logits[0, -1, 5] - logits[0, 1, 7]  # noqa: E731
    names = [f"blocks.{i}.hook_resid_pre" for i in range(len(model.layers))]
    _, own = model.run_with_cache(clean, names)
    foreign = {name: own[name] * 1.5 for name in names}
    edited = type(own)(foreign, model, inputs=clean)

    walks = []
    walk = patching.sweeps.patch
    monkeypatch.setattr(
        patching.sweeps, "patch", lambda *a: walks.append(1) or walk(*a)
    )
    grids = [
        patching.get_act_patch_resid_pre(model, corrupt, cache, metric)
        for cache in (own, edited, foreign)
    ]
    assert len(walks) == 1  # the model's own alone is walked
    assert mx.abs(grids[1] - grids[2]).max().item() < 1e-5
    assert mx.abs(grids[1] - grids[0]).max().item() > 0.1

    def put(value, hook):
        value[:, 1] = foreign[hook.name][:, 1]
        return value

    wanted = metric(model.run_with_hooks(corrupt, [(names[1], put)]))
    assert grids[1][1, 1].item() == pytest.approx(wanted.item(), abs=1e-4)


def test_errors(wrapped):
    _, cache = wrapped.run_with_cache(CLEAN)
    with pytest.raises(mlxterp.UsageError, match="one length"):
        patching.get_act_patch_resid_pre(wrapped, [1, 2], cache, last)
    _, part = wrapped.run_with_cache(CLEAN, "blocks.0.hook_resid_pre")
    with pytest.raises(mlxterp.UnknownNameError):
        patching.get_act_patch_resid_pre(wrapped, CORRUPT, part, last)
