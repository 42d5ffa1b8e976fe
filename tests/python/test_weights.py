"""Weights by TransformerLens' names: what they make of one site is the next."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from families import CONFIGS, build, ids
from mlxterp import (
    InterpretableModel,
    MlxterpError,
    OutOfRangeError,
    UnknownNameError,
    UsageError,
)
from mlxterp import _core
from test_two_engines import BOTH, FOLDERS, pair, attends

IDS = [3, 4, 5, 6, 7]
#: Those of mlx-lm whose attention and MLP have a module for each weight.
SCALED = {
    "gemma", "gemma2", "gemma3", "gemma3_text", "granite", "granitemoehybrid", "cohere",
    "cohere2", "minicpm",
}
PLAIN = "llama qwen2 qwen3 gemma2 gemma3_text olmo2 cohere starcoder2 phi".split()


def close(a, b):
    assert a.shape == b.shape and a.size > 0
    return bool(mx.allclose(a, b, atol=1e-4, rtol=1e-4))


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(FOLDERS / "llama-gqa")


def test_an_index_is_that_part(model):
    compared = 0
    for name in _core.weight_names:
        if name == "W_pos":
            with pytest.raises(UnknownNameError, match="no learned position"):
                model.W_pos
            continue
        whole = getattr(model, name)
        plain = mx.array(whole)
        for key in (0, -1, slice(1), (..., 0), (slice(None), 0), (slice(None), [0, 2])):
            if isinstance(key, tuple) and plain.ndim < 2:
                continue
            key = (key[0], mx.array(key[1])) if key == (slice(None), [0, 2]) else key
            if isinstance(key, tuple) and isinstance(key[1], mx.array):
                if plain.shape[1] < 3:
                    continue
            assert mx.array_equal(whole[key], plain[key]), (name, key)
            compared += 1
        if not name.endswith("_U"):
            with pytest.raises(IndexError):
                whole[plain.shape[0]]
    for key in ((1, 3), (-1, -1), (1, 3, 0), (0, slice(2)), (0, 1, slice(None), 2)):
        assert mx.array_equal(model.W_K[key], mx.array(model.W_K)[key]), key
        compared += 1
    assert mx.array_equal(model.W_U[:, 7], mx.array(model.W_U)[:, 7])
    tokens = mx.array([[1, 2], [3, 4]])
    assert mx.array_equal(model.W_U[:, tokens], mx.array(model.W_U)[:, tokens])
    assert mx.array_equal(model.W_E[tokens], mx.array(model.W_E)[tokens])
    some = mx.array([-1, 3])
    assert mx.array_equal(model.W_U[:, some], mx.array(model.W_U)[:, some])
    assert mx.array_equal(model.W_E[some], mx.array(model.W_E)[some])
    assert mx.array_equal(model.W_E[[-1, 3]], mx.array(model.W_E)[some])
    assert compared > 60


def test_grouped_heads_are_repeated(model):
    heads, kv = (model.engine.config[it] for it in ("n_heads", "n_kv_heads"))
    assert heads > kv and model.W_K.shape[1] == model.W_Q.shape[1] == heads
    for head in range(heads):
        first = head // (heads // kv) * (heads // kv)
        assert mx.array_equal(model.W_K[1, head], model.W_K[1, first])


def test_what_is_asked_alone_is_computed():
    """A head of every layer of the demo model is 360 times 147 kB."""
    model = InterpretableModel("demo")
    mx.eval(model.W_Q[0, 0])
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(model.W_Q[3, 5], model.W_U[:, 17], model.W_E[17])
    assert mx.get_peak_memory() - before < 4e6


def test_they_are_no_part_of_the_handle(model):
    with pytest.raises(AttributeError):
        model.W_Q = mx.zeros(1)
    edited = model.edited({"layers.0": lambda x: x * 0})
    assert mx.array_equal(edited.W_Q, model.W_Q)


def test_errors(model):
    with pytest.raises(UnknownNameError, match="there are W_E"):
        model.weight("W_X")
    with pytest.raises(OutOfRangeError, match="layer 99"):
        model.weight("W_Q", layer=99)
    with pytest.raises(UsageError, match="no heads"):
        model.weight("W_in", head=0)
    with pytest.raises(OutOfRangeError, match="of layer, no -9"):
        model.W_Q[-9]


@pytest.mark.parametrize("family", PLAIN)
def test_wrapped_models(family):
    model = InterpretableModel(build(family))
    names = ["q", "k", "v", "z", "input", "output"]
    for layer in range(len(model.layers)):
        attention = model.engine.part(layer, "attn_out")
        mlp = model.engine.part(layer, "mlp_out")
        with model.trace(ids(5)) as trace:
            at = {it: trace.value(f"{attention}.{it}") for it in names}
            read, wrote = trace.value(f"{mlp}.input"), trace.value(f"{mlp}.output")
            for name, value in [*at.items(), ("read", read), ("wrote", wrote)]:
                trace.save(name, value)
        heads = at["q"].shape[2]
        for name in "QKV":
            w = model.weight(f"W_{name}", layer)
            b = model.weight(f"b_{name}", layer)
            y = (at["input"][:, None] @ w).swapaxes(1, 2) + b
            value = at[name.lower()]
            value = mx.repeat(value, heads // value.shape[2], axis=2)
            if family in ("qwen3", "gemma3_text", "olmo2", "cohere") and name != "V":
                continue  # `q` is behind a norm there
            assert close(y, value), (name, layer)
        out = (at["z"].swapaxes(1, 2) @ model.W_O[layer]).sum(axis=1) + model.b_O[layer]
        assert close(out, at["output"])
        pre = read @ model.W_in[layer] + model.b_in[layer]
        if family in ("llama", "qwen2", "qwen3"):
            pre = pre * nn.silu(read @ model.W_gate[layer] + model.b_gate[layer])
            assert close(pre @ model.W_out[layer] + model.b_out[layer], wrote)
    embedded = model.W_E[ids(5)]
    assert embedded.shape == (1, 5, 32) and model.W_U.shape == (32, 96)
    assert mx.array_equal(model.W_Q[1, 2], mx.array(model.W_Q)[1, 2])


def test_quantised_and_native_are_the_same():
    module = build("llama", intermediate_size=64)
    nn.quantize(module, group_size=32, bits=8)
    model = InterpretableModel(module)
    with model.trace(ids(5)):
        x = model.layers[1].self_attn.input.save()
        q = model.layers[1].self_attn.q.save()
        h = model.norm.output.save()
        out = model.output.save()
    assert close((x[:, None] @ model.W_Q[1]).swapaxes(1, 2), q)
    assert close(h @ model.W_U + model.b_U, out)


def test_folded_unembedding_of_wrapped_models():
    for family in ("llama", "gemma2", "starcoder2", "phi"):
        model = InterpretableModel(build(family))
        states = mx.random.normal((1, 4, 32), key=mx.random.key(3))
        centred = states
        if family in ("starcoder2", "phi"):
            centred = states - states.mean(axis=-1, keepdims=True)
        normed = centred / mx.sqrt(mx.square(centred).mean(axis=-1, keepdims=True))
        norm = model._module_resolver.get_final_norm()
        plain = norm(states) @ model.W_U + model.b_U
        how = dict(folded=True)
        found = normed @ model.weight("W_U", **how) + model.weight("b_U", **how)
        assert close(found, plain), family


@pytest.mark.parametrize("name", ["qwen3_next", "lfm2", "gemma4"])
def test_layers_that_differ_are_asked_one_by_one(name):
    model = InterpretableModel(FOLDERS / name)
    with pytest.raises(MlxterpError, match=r"as model\.weight\('W_O', layer\) does"):
        model.W_O  # noqa: B018
    layer = next(i for i in range(len(model.layers)) if attends(model, i))
    assert model.weight("W_O", layer).ndim == 3


def test_what_a_wrapped_model_does_not_have():
    with pytest.raises(UnknownNameError, match="has no module of its own for W_Q"):
        InterpretableModel(build("gpt_neox")).weight("W_Q", 0)
    model = InterpretableModel(build("mixtral"))
    with pytest.raises(UnknownNameError, match="W_in"):
        model.weight("W_in", 0)
    with pytest.raises(UnknownNameError, match="there are W_E"):
        model.weight("W_X")
    assert len(CONFIGS) > 10


@pytest.mark.parametrize("name", BOTH)
def test_both_engines_have_the_same(name):
    native, wrapped = pair(FOLDERS / name)
    scaled = native.engine.config["d_model"] and name.split("-")[0] in SCALED
    compared = 0
    first = next((i for i in range(len(native.layers)) if attends(native, i)), 0)
    for weight in _core.weight_names:
        if weight in ("W_E", "W_U", "b_U") and scaled:
            continue  # the factor is no part of mlx-lm's module
        for layer in (None, first):
            ends = weight.endswith(("_E", "_U", "_pos"))
            if ends and layer is not None:
                continue
            try:
                found = wrapped.weight(weight, layer)
            except UnknownNameError:
                continue
            own = native.weight(weight, layer)
            assert found.shape == own.shape, weight
            assert mx.allclose(found, own, atol=1e-6), weight
            compared += 1
    assert compared >= (8 if attends(native, first) else 2)
