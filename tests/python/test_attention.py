"""Attention as explicit values: masks, windows, sinks, grouped heads."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from compare import repeated
from families import build, ids
from mlxterp import InterpretableModel, scale, zero_out
from mlxterp.engine._attention import Attention

MASKS = {
    "none": None,
    "causal": "causal",
    "window": mx.array(
        np.tril(np.ones((5, 5), bool)) & ~np.tril(np.ones((5, 5), bool), -2)
    ),
    "additive": mx.array(
        np.where(np.tril(np.ones((5, 5))), 0.3, -1e9), dtype=mx.float32
    ),
    "by head": mx.array(np.random.default_rng(0).random((1, 4, 5, 5)) < 0.7),
    "by row": mx.array(np.tril(np.ones((2, 1, 5, 5), bool))),
}


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_the_explicit_way_is_the_fused_one(mask, with_sinks, kv):
    key = mx.random.split(mx.random.key(1), 3)
    q = mx.random.normal((2, 4, 5, 8), key=key[0])
    k = mx.random.normal((2, kv, 5, 8), key=key[1])
    v = mx.random.normal((2, kv, 5, 6), key=key[2])
    sinks = mx.array([0.5, -1.0, 2.0, 0.0]) if with_sinks else None
    fused = mx.fast.scaled_dot_product_attention(
        q, k, v, scale=0.4, mask=MASKS[mask], sinks=sinks
    )
    explicit = Attention(q, k, v, 0.4, MASKS[mask], sinks)
    assert mx.abs(explicit.mixed() - fused).max() < 1e-5
    sums = explicit.pattern.sum(-1)
    assert mx.all(sums < 1) if with_sinks else mx.allclose(sums, mx.ones_like(sums))


def test_causal_means_the_last_of_both_align():
    q, k = mx.random.normal((1, 2, 3, 4)), mx.random.normal((1, 2, 7, 4))
    fused = mx.fast.scaled_dot_product_attention(q, k, k, scale=1.0, mask="causal")
    explicit = Attention(q, k, k, 1.0, "causal", None)
    assert mx.abs(explicit.mixed() - fused).max() < 1e-5
    assert explicit.pattern[0, 0, 0, 5:].sum() == 0


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss"])
def test_sliding_windows_are_causal_and_short(family):
    """Upstream's defect 8: it added a boolean mask to the scores."""
    model = InterpretableModel(build(family))
    with model.trace(ids(10)):
        near, far = (
            [model.layers[i].self_attn.pattern.save() for i in range(2)]
            if family == "gpt_oss"
            else [model.layers[i].self_attn.pattern.save() for i in (0, 2)]
        )
    for pattern, window in ((near, 4), (far, 10)):
        p = np.array(pattern)
        assert (p[..., np.triu(np.ones((10, 10), bool), 1)] == 0).all()
        assert (p[..., np.tril(np.ones((10, 10), bool), -window)] == 0).all()
        seen = np.tril(np.ones((10, 10), bool)) & ~np.tril(
            np.ones((10, 10), bool), -window
        )
        assert (p[..., seen] > 0).all()


def test_an_edit_acts_once():
    """Upstream's defect 7: projections ran twice, edits of weights not."""
    model, calls = InterpretableModel(build("llama")), []

    def counted(x):
        calls.append(x.shape)
        return x

    names = [f"layers.0.self_attn.{it}" for it in ("q_proj", "k_proj", "q", "k")]
    with model.trace(ids(), interventions={n: counted for n in names}):
        model.layers[0].self_attn.pattern.save()
    assert len(calls) == 4
    plain = model(ids())
    for name in ("attention_weights", "pattern", "scores"):
        with model.trace(
            ids(), interventions={f"layers.0.self_attn.{name}": scale(0.3)}
        ):
            assert mx.abs(model.output.value - plain).max() > 1e-4


def test_qwen3_has_patterns_and_they_include_its_norms():
    """Upstream's defect 8 again: none for models with q and k norms."""
    module = build("qwen3")
    model = InterpretableModel(module)
    with model.trace(ids()) as trace:
        at = model.layers[1].self_attn
        q, rot_q, rot_k = at.q.save(), at.rot_q.save(), at.rot_k.save()
        pattern = at.pattern.save()
        flat = at.q_proj.output.save()
    assert mx.array_equal(q.flatten(-2), flat)
    attention = module.layers[1].self_attn
    turned = attention.rope(attention.q_norm(q).swapaxes(1, 2)).swapaxes(1, 2)
    assert mx.abs(turned - rot_q).max() < 1e-5
    k = mx.repeat(rot_k, 2, axis=2)
    scores = mx.einsum("bqhd,bkhd->bhqk", rot_q, k) * attention.scale
    scores = scores + mx.triu(mx.full((6, 6), -mx.inf), 1)
    assert mx.abs(mx.softmax(scores, -1) - pattern).max() < 1e-5
    assert "model.model.layers.1.self_attn.attention_weights" in trace.activations


class KeysFirst(nn.Module):
    """Attention that turns its keys before its queries."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.rope = nn.RoPE(4)

    def __call__(self, x):
        q, k, v = (
            it.reshape(*x.shape[:2], 4, 4).swapaxes(1, 2)
            for it in self.project(x).split(3, -1)
        )
        k = self.rope(k)
        q = self.rope(q)
        z = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5)
        return z.swapaxes(1, 2).flatten(2)


def test_queries_and_keys_are_told_apart():
    model = InterpretableModel(KeysFirst(), layer_attr=None)
    x = mx.random.normal((1, 6, 16))
    flat = model.model.project(x).reshape(1, 6, 3, 4, 4)
    with model.trace(x):
        q, k, v = (model[name].save() for name in "qkv")
        rot_q = model["rot_q"].save()
    for got, wanted in zip((q, k, v), (flat[:, :, i] for i in range(3))):
        assert repeated(got, wanted)
    turned = model.model.rope(q.swapaxes(1, 2)).swapaxes(1, 2)
    assert repeated(turned, rot_q)
    with model.trace(x, interventions={"q": zero_out}):
        assert mx.all(model["rot_q"].value == 0)
        assert not mx.any(mx.all(model["rot_k"].value == 0))


@pytest.mark.parametrize("first", [1, 5])
def test_a_single_head_at_a_single_position(first):
    """What is learnt there must hold for longer inputs."""
    model = InterpretableModel(
        build("qwen3", num_attention_heads=1, num_key_value_heads=1, head_dim=32)
    )
    for length in (first, 1, 5):
        with model.trace(ids(length)):
            q = model.layers[0].self_attn.q.save()
            flat = model.layers[0].self_attn.q_proj.output.save()
        assert q.shape == (1, length, 1, 32)
        assert mx.array_equal(q[:, :, 0], flat)


def test_latent_attention_has_nothing_before_its_rotation():
    """What is turned there is another part of each head."""
    model = InterpretableModel(build("deepseek_v3"))
    with model.trace(ids()):
        at = model.layers[0].self_attn
        q, rot_q = at.q.save(), at.rot_q.save()
        turned = at.rope.input.save()
    assert mx.array_equal(q, rot_q)
    assert turned.shape[-1] == q.shape[-1]  # so only the names tell them apart


def test_reading_the_pattern_does_not_change_the_output():
    model = InterpretableModel(build("llama"))
    with model.trace(ids()):
        model["layers.0.self_attn.pattern"].save()
        model["layers.0.self_attn.scores"].save()
        out = model.output.save()
    assert repeated(out, model(ids()))


def test_an_edited_pattern_is_what_mixes():
    model = InterpretableModel(build("llama"))
    edits = {
        "layers.0.self_attn.scores": zero_out,  # uniform, the mask is gone
        "layers.1.self_attn.pattern": zero_out,
    }
    with model.trace(ids(), interventions=edits):
        pattern = model.layers[0].self_attn.pattern.save()
        z = model.layers[0].self_attn.z.save()
        v = model.layers[0].self_attn.v.save()
        none = model.layers[1].self_attn.z.save()
    assert mx.abs(pattern - 1 / 6).max() < 1e-6
    mean = mx.repeat(v.mean(axis=1, keepdims=True), 2, axis=2)
    assert mx.abs(z - mean).max() < 1e-5
    assert mx.all(none == 0)
