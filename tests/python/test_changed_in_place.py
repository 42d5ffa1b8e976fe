"""A module may change its arrays in place: what was read stays as it was."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from compare import repeated
from families import build, ids
from mlxterp import InterpretableModel

X = mx.ones((1, 3, 4))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def __call__(self, x):
        x *= 2
        h = self.a(x)
        h += 1
        y = self.b(h)
        y -= 3
        return y


class Attends(nn.Module):
    """What it is given and gives is overwritten; so are queries and scores."""

    def __init__(self, fused):
        super().__init__()
        self.q_proj, self.fused = nn.Linear(4, 4), fused

    def __call__(self, x):
        q = self.q_proj(x)[:, None]
        if self.fused:
            z = mx.fast.scaled_dot_product_attention(q, q, q, scale=1.0)
            z *= 5
        else:
            scores = q @ q.swapaxes(-1, -2)
            pattern = mx.softmax(scores, axis=-1)
            scores *= 7
            z = pattern @ q
            pattern *= 0
        q *= 0
        return z[:, 0]


class Block(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.self_attn = Attends(fused)

    def __call__(self, x):
        return x + self.self_attn(x)


def test_inputs_and_outputs():
    network = InPlace()
    model, given = InterpretableModel(network, layer_attr=None), mx.array(X)
    a = network.a(X * 2)
    with model.trace(given):
        sites = "a.input", "a.output", "b.input", "b.output"
        seen = [model[it].save() for it in sites]
        output = model.output.save()
        first = model.input.save()
    for value, want in zip(seen, (X * 2, a, a + 1, network.b(a + 1))):
        assert repeated(value, want)
    assert repeated(output, network.b(a + 1) - 3)
    assert mx.array_equal(given, X) and mx.array_equal(first, X)
    with model.trace(given):
        model.a.output *= 1
        assert repeated(mx.array(model.output), output)
    constant = mx.zeros((1, 3, 4))
    for _ in range(2):
        with model.trace(given, interventions={"a": lambda x: constant}):
            edited = model.output.save()
        assert repeated(edited, network.b(constant + 1) - 3)
    assert not constant.any()


@pytest.mark.parametrize("fused", [True, False])
def test_attention(fused):
    network = Block(fused)
    model = InterpretableModel(network, layer_attr=None)
    q = network.self_attn.q_proj(X)
    with model.trace(X):
        scores = model["self_attn.scores"].save()
        pattern = model["self_attn.pattern"].save()
        z = model["self_attn.z"].save() if fused else None
    want = q[:, None] @ q[:, None].swapaxes(-1, -2)
    assert mx.allclose(scores, want, atol=1e-5)
    assert mx.allclose(pattern, mx.softmax(want, axis=-1), atol=1e-5)
    if fused:
        assert mx.allclose(z[:, :, 0], mx.softmax(want, axis=-1)[:, 0] @ q, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gemma3_text", "granite"])
def test_embeddings(family):
    module = build(family)
    inner = module.model
    table = inner.wte if family == "gpt2" else inner.embed_tokens
    model = InterpretableModel(module, layer_attr="h" if family == "gpt2" else "layers")
    x = ids(6)
    want = table(x)
    with model.trace(x) as trace:
        seen = model.token_embeddings.save()
        plain = model.output.save()
    assert mx.array_equal(seen, want)
    with model.trace(x) as trace:
        pass
    name = next(it for it in trace.activations if it.endswith(("wte", "embed_tokens")))
    assert mx.array_equal(trace.activations[name], want)
    _, cache = model.run_with_cache(x, "hook_embed")
    assert mx.array_equal(cache["hook_embed"], want)
    with model.trace(x):
        model.token_embeddings *= 1
        again = model.output.save()
    assert mx.allclose(again, plain, atol=1e-5)
