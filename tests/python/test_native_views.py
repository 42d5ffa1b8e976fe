"""Lenses, patching, attention views and hooks on the native engine."""

import mlx.core as mx
import pytest
from mlxterp import InterpretableModel, visualization
from mlxterp.utils import get_activations

TEXT = "When Mary and John went"


@pytest.fixture(scope="module")
def model():
    return InterpretableModel("demo")


def test_the_last_layer_s_lens_is_the_model(model):
    found = model.logit_lens(TEXT, layers=[0, len(model.layers) - 1])
    best = mx.argmax(model(model.to_tokens(TEXT))[0], axis=-1).tolist()
    assert [row[0][0] for row in found[len(model.layers) - 1]] == best
    assert found[0][0][0][2] == model.token_to_str(found[0][0][0][0])


def test_patching(model):
    other = "When Mary and Mary went"
    whole = model.activation_patching(TEXT, other, "output", layers=[3])
    assert whole == pytest.approx({3: 100.0}, abs=0.01)
    attended = model.activation_patching(TEXT, other, "self_attn", layers=[3])
    mixed = model.activation_patching(TEXT, other, "self_attn.z", layers=[3])
    assert attended == pytest.approx(mixed, abs=0.1)


def test_each_prompt_counts_from_its_own_end(model):
    found = get_activations(model, [TEXT, "When"], layers=[2])["layer_2"]
    alone = get_activations(model, "When", layers=[2])["layer_2"]
    assert mx.allclose(found[1], alone[0], atol=1e-3, rtol=1e-3)


def test_a_tuned_lens_learns(model):
    losses = []
    lens = model.train_tuned_lens(
        ["the cat sat on the mat and the dog sat on the cat " * 2],
        num_steps=4,
        learning_rate=0.1,
        max_seq_len=16,
        verbose=False,
        callback=lambda step, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0]
    assert not mx.array_equal(
        lens.translators[0].weight, mx.eye(lens.hidden_dim)
    )


def test_patterns_sum_to_one(model):
    with model.trace(TEXT) as trace:
        found = visualization.get_attention_patterns(trace, [0, 5])
    assert found[5].sum(-1) == pytest.approx(1.0, abs=1e-4)


def test_hooks(model):
    names = [
        name for name in model.hook_names() if name.startswith("blocks.4.")
    ]
    assert len(names) == 21
    logits, cache = model.run_with_cache(TEXT, names)
    middle = cache["resid_pre", 4] + cache["attn_out", 4]
    assert mx.allclose(cache["resid_mid", 4], middle, atol=1e-3, rtol=1e-3)
    edited = model.run_with_hooks(
        TEXT, [("blocks.4.attn.hook_z", lambda value, hook: value * 0)]
    )
    assert edited.shape == logits.shape and not mx.allclose(edited, logits)
    with model.trace(TEXT, interventions=model.skip_layer(4)):
        before = model.layers_input[4].save()
        after = model.layers_output[4].save()
        read = model.attentions_input[4].save()
    assert mx.array_equal(before, after) and read.shape == before.shape
