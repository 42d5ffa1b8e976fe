"""TransformerLens' and nnterp's ways in, against the model's own modules."""

import mlx.core as mx
import pytest
from families import build
from mlxterp import InterpretableModel
from mlxterp.errors import OutOfRangeError, UnknownNameError, UsageError
from mlxterp.compat.transformer_lens import HookMixin
from view_models import (
    WordTokenizer,
    llama_patterns,
    llama_states,
    tiny_gpt2,
    tiny_llama,
)

TOKENS = [3, 14, 15, 92, 6]
TEXT = " ".join(f"w{token}" for token in TOKENS)


class Model(InterpretableModel, HookMixin):
    """A model with hooks, whether or not it has them by itself."""


@pytest.fixture(scope="module")
def network():
    return tiny_llama()


@pytest.fixture(scope="module")
def model(network):
    return Model(network, WordTokenizer(97))


def close(a, b):
    return mx.allclose(a, b, atol=1e-4)


def test_hook_names_in_the_order_of_the_pass(model):
    names = model.hook_names()
    assert names[0] == "hook_embed"
    assert names[1:18] == [
        "blocks.0." + name
        for name in (
            "hook_resid_pre",
            "attn.hook_q",
            "attn.hook_k",
            "attn.hook_v",
            "attn.hook_rot_q",
            "attn.hook_rot_k",
            "attn.hook_attn_scores",
            "attn.hook_pattern",
            "attn.hook_z",
            "hook_attn_out",
            "hook_resid_mid",
            "mlp.hook_pre",
            "mlp.hook_pre_linear",
            "mlp.hook_post",
            "hook_mlp_out",
            "hook_resid_post",
        )
    ] + ["blocks.1.hook_resid_pre"]
    assert len(names) == 1 + 3 * 16


def test_a_cache_of_everything(model, network):
    logits, cache = model.run_with_cache(TEXT)
    assert close(logits, network(mx.array([TOKENS])))
    assert list(cache) == model.hook_names()
    states = llama_states(network, TOKENS)
    patterns = llama_patterns(network, TOKENS)
    embedded = network.model.embed_tokens(mx.array([TOKENS]))
    assert close(cache["hook_embed"], embedded)
    before = embedded
    for layer, block in enumerate(network.model.layers):
        assert close(cache["resid_pre", layer], before)
        assert close(cache["resid_post", layer], states[layer])
        assert close(cache["pattern", layer][0], patterns[layer])
        x = block.input_layernorm(before)
        attended = block.self_attn(x, "causal", None)
        assert close(cache["attn_out", layer], attended)
        assert close(cache["resid_mid", layer], before + attended)
        y = block.post_attention_layernorm(before + attended)
        assert close(cache["mlp_out", layer], block.mlp(y))
        assert close(cache["pre", layer], block.mlp.gate_proj(y))
        assert close(cache["pre_linear", layer], block.mlp.up_proj(y))
        assert close(block.mlp.down_proj(cache["post", layer]), block.mlp(y))
        q = block.self_attn.q_proj(x).reshape(1, 5, 4, 8)
        assert close(cache["q", layer, "attn"], q)
        z = cache["z", layer].reshape(1, 5, 32)
        assert close(block.self_attn.o_proj(z), attended)
        before = states[layer]


def test_a_cache_of_some(model):
    _, one = model.run_with_cache(TEXT, "blocks.1.hook_resid_post")
    assert list(one) == ["blocks.1.hook_resid_post"] and len(one) == 1
    _, some = model.run_with_cache(TEXT, lambda name: name.endswith("pattern"))
    assert list(some) == [f"blocks.{i}.attn.hook_pattern" for i in range(3)]
    _, mixed = model.run_with_cache(TEXT, ["layers.1.resid_post", "hook_embed"])
    assert close(mixed["layers.1.resid_post"], one["resid_post", 1])
    assert close(one["resid_post", -2], one["resid_post", 1])
    with pytest.raises(UnknownNameError, match="hook_embed"):
        mixed["resid_post", 1]
    with pytest.raises(OutOfRangeError, match="no layer 3"):
        mixed["resid_post", 3]
    assert "hook_embed" in mixed and "hook_z" not in mixed


def test_hooks_edit_the_pass(model, network):
    states = llama_states(network, TOKENS)
    seen = []

    def double(value, hook):
        seen.append((hook.name, hook.layer(), value.shape))
        return value * 2

    logits = model.run_with_hooks(TEXT, [("blocks.1.hook_resid_post", double)])
    hidden = network.model.layers[2](states[1] * 2, "causal", None)
    assert close(logits, network.model.embed_tokens.as_linear(network.model.norm(hidden)))
    assert seen == [("blocks.1.hook_resid_post", 1, (1, 5, 32))]
    assert close(model.run_with_hooks(TEXT), network(mx.array([TOKENS])))


def test_hooks_edit_in_place_and_in_order(model):
    def zero_head(pattern, hook):
        pattern[:, 2] = 0

    def half(pattern, hook):
        return pattern * 0.5

    at = "blocks.0.attn.hook_pattern"
    found = model.run_with_hooks(TEXT, [(at, zero_head), (at, half)])

    def both(pattern, hook):
        heads = mx.array([1.0, 1.0, 0.0, 1.0])[None, :, None, None]
        return pattern * heads * 0.5

    assert close(found, model.run_with_hooks(TEXT, [(at, both)]))
    assert not close(found, model.run_with_hooks(TEXT, [(at, half)]))
    assert not close(found, model.run_with_hooks(TEXT, [(at, zero_head)]))


def test_a_hook_in_place_changes_its_own_value_only(model):
    """The three projections read one array; a hook edits what one reads."""

    def in_place(value, hook):
        value[:, 1:] = 0

    def replaced(value, hook):
        return mx.concatenate([value[:, :1], value[:, 1:] * 0], axis=1)

    at = "layers.0.self_attn.q_proj.input"
    found = model.run_with_hooks(TEXT, [(at, in_place)])
    assert close(found, model.run_with_hooks(TEXT, [(at, replaced)]))
    assert not close(found, model.run_with_hooks(TEXT))


def test_the_middle_of_the_stream_is_what_the_mlp_adds_to(model):
    hook = "blocks.1.hook_resid_mid", lambda v, hook: v * 0
    edits = {"layers.1.resid_mid": lambda x: x * 0}
    with model.trace(TEXT, edits):
        after, added = model["layers.1.resid_post"].save(), model.mlps_output[1].save()
        out = model.output.save()
    assert close(after, added)
    assert close(model.run_with_hooks(TEXT, [hook]), out)


def test_a_hook_at_every_name_that_fits(model):
    names = []
    model.run_with_hooks(
        TEXT,
        [(lambda name: name.endswith("hook_z"), lambda v, hook: names.append(hook.name))],
    )
    assert names == [f"blocks.{i}.attn.hook_z" for i in range(3)]


def test_hooks_that_cannot_be(model):
    with pytest.raises(UnknownNameError, match="near: blocks.0.hook_resid_post"):
        model.run_with_cache(TEXT, "blocks.0.hook_resid_pots")
    with pytest.raises(OutOfRangeError, match="3 layers"):
        model.run_with_hooks(TEXT, [("blocks.3.hook_z", lambda v, hook: v)])
    with pytest.raises(UsageError, match="chose none"):
        model.run_with_cache(TEXT, lambda name: False)
    with pytest.raises(UsageError):
        model.run_with_hooks(TEXT, [("hook_embed", lambda v, hook: v[:, :2])])

    def broken(value, hook):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        model.run_with_hooks(TEXT, [("hook_embed", broken)])


def test_hooks_of_a_gpt2():
    network = tiny_gpt2()
    model = Model(network, WordTokenizer(97))
    names = model.hook_names()
    assert "blocks.1.mlp.hook_pre_linear" not in names
    wanted = ["blocks.1.hook_resid_mid", "blocks.1.mlp.hook_pre", "hook_embed"]
    _, cache = model.run_with_cache(TEXT, wanted)
    block = network.model.h[1]
    pre = block.mlp.c_fc(block.ln_2(cache["resid_mid", 1]))
    assert close(cache["pre", 1], pre)
    _, everything = model.run_with_cache(TEXT)
    assert everything["z", 0].shape == (1, 5, 4, 8)


@pytest.mark.parametrize("family", ["llama", "gemma2", "starcoder2", "phi", "olmo2"])
def test_the_stream_is_the_sum_of_what_is_written(family):
    """Norms behind the parts, and parts side by side, included."""
    model = Model(build(family), WordTokenizer(96))
    _, cache = model.run_with_cache(TEXT)
    for layer in range(len(model.layers)):
        before, after = cache["resid_pre", layer], cache["resid_post", layer]
        attended, mixed = cache["attn_out", layer], cache["mlp_out", layer]
        assert close(before + attended + mixed, after)
        if family == "phi":
            assert f"blocks.{layer}.hook_resid_mid" not in cache
        else:
            assert close(cache["resid_mid", layer], before + attended)


def test_there_may_be_no_middle():
    model = Model(build("gpt_neox"), WordTokenizer(96))
    with pytest.raises(UsageError, match="has no resid_mid"):
        model.run_with_cache(TEXT, "blocks.0.hook_resid_mid")


def test_to_tokens(model):
    assert model.to_tokens(TEXT).tolist() == [TOKENS]
    assert model.to_tokens(["w1 w2", "w3 w4"]).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(UsageError, match="1, 2 tokens"):
        model.to_tokens(["w1", "w1 w2"])
    with pytest.raises(UsageError, match="bos_token_id"):
        model.to_tokens("w1", prepend_bos=True)
    begun = Model(tiny_llama(), WordTokenizer(97))
    begun.tokenizer.bos_token_id = 7
    assert begun.to_tokens("w1", prepend_bos=True).tolist() == [[7, 1]]
    assert begun.to_tokens("w7 w1", prepend_bos=True).tolist() == [[7, 1]]


# nnterp


def test_values_of_layers(model, network):
    states = llama_states(network, TOKENS)
    with model.trace(TEXT):
        after = model.layers_output[1].save()
        before = model.layers_input[-1].save()
        x = model.attentions_input[2].save()
        attended = model.attentions_output[2].save()
        y = model.mlps_input[2].save()
        mixed = model.mlps_output[2].save()
    assert close(after, states[1]) and close(before, states[1])
    block = network.model.layers[2]
    assert close(x, block.input_layernorm(states[1]))
    assert close(attended, block.self_attn(x, "causal", None))
    assert close(mixed, block.mlp(y))
    assert close(before + attended + mixed, states[2])
    assert len(model.mlps_output) == 3
    with pytest.raises(OutOfRangeError, match="no layer 3"):
        model.layers_output[3]


def test_setting_a_layer_s_value(model, network):
    with model.trace(TEXT):
        model.layers_output[0] = model.layers_input[0] * 1
        edited = model.output.save()
    with model.trace(TEXT, interventions=model.skip_layer(0)):
        skipped = model.output.save()
    assert close(edited, skipped)
    with pytest.raises(UsageError, match="only inside"):
        model.layers_output[0] = 0.0


def test_skipping_layers(model, network):
    states = llama_states(network, TOKENS)
    with model.trace(TEXT, interventions=model.skip_layers(1, 2)):
        logits = model.output.save()
        left = model.layers_output[2].save()
    assert close(left, states[0])
    normed = network.model.norm(states[0])
    assert close(logits, network.model.embed_tokens.as_linear(normed))
    with pytest.raises(OutOfRangeError):
        model.skip_layer(3)


def test_interventions_that_skip_serve_again(model):
    skipping = model.skip_layer(1)
    found = []
    for text in (TEXT, "w1 w2", TEXT):
        with model.trace(text, interventions=skipping):
            found.append(model.output.save())
    assert close(found[0], found[2]) and found[1].shape[1] == 2


def test_steering(model, network):
    vector = mx.random.normal((32,), key=mx.random.key(1))
    states = llama_states(network, TOKENS)
    with model.trace(TEXT, interventions=model.steer(1, vector, 3.0)):
        everywhere = model.layers_output[1].save()
    assert close(everywhere, states[1] + 3 * vector)
    with model.trace(TEXT, interventions=model.steer([0, 1], vector, -1.0, [-1, 2])):
        first = model.layers_output[0].save()
    expected = mx.array(states[0])
    for position in (4, 2):
        expected[0, position] = expected[0, position] - vector
    assert close(first, expected)
    with pytest.raises(OutOfRangeError):
        model.steer([0, 3], vector)
    with (
        pytest.raises(UsageError),
        model.trace(TEXT, interventions=model.steer(0, mx.zeros(5))),
    ):
        pass


def test_steering_and_skipping_act_inside_a_trace(model):
    vector = mx.random.normal((32,), key=mx.random.key(1))
    for edits in (
        lambda: model.steer([0, 1], vector, 3.0, positions=-1),
        lambda: model.steer(1, steering_vector=vector, factor=2.0),
        lambda: model.skip_layers(0, 1),
        lambda: model.skip_layer(1, skip_with=mx.ones((1, 5, 32))),
    ):
        with model.trace(TEXT, interventions=edits()):
            wanted = model.output.save()
        with model.trace(TEXT):
            plain = model.output.save()
            edits()
            acted = model.output.save()
        assert close(acted, wanted)
        assert not close(acted, plain)


@pytest.mark.parametrize("name", ["token_embeddings", "logits", "embed_tokens"])
def test_a_value_of_the_model_can_be_set_in_a_trace(model, name):
    with model.trace(TEXT):
        shape = (1, 5, 97) if name == "logits" else (1, 5, 32)
        new = mx.random.normal(shape, key=mx.random.key(2))
        setattr(model, name, new)
        out = model.output.save()
    if name == "logits":
        assert close(out, new)
    else:
        site = "model.embed_tokens"
        with model.trace(TEXT, interventions={site: lambda x: new}):
            wanted = model.output.save()
        assert close(out, wanted)
    with pytest.raises(UsageError, match="only inside"):
        setattr(model, name, new)
    model.note = 3  # a user's own attribute stays one
    assert model.note == 3
