"""Activations kept by name."""

import mlx.core as mx
import pytest
from families import build, ids
from mlxterp import (
    ActivationCache,
    InterpretableModel,
    UnknownNameError,
    collect_activations,
)


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(build("llama"))


def test_all_of_them(model):
    cache = collect_activations(model, ids())
    assert len(cache) == 45 and "__model_output__" not in cache.keys()
    assert cache.keys()[:2] == ["embed_tokens", "layers.0.input_layernorm"]
    assert cache.metadata == {"input_shape": (1, 6), "output_shape": (1, 6, 96)}
    full = collect_activations(model, ids(), normalize_keys=False)
    assert "model.model.layers.0" in full.activations
    assert repr(cache) == "ActivationCache(cached=45 modules)"


def test_some_of_them(model):
    names = ["layers.2", "model.model.layers.0.mlp", "layers.*.self_attn"]
    cache = collect_activations(model, ids(), layers=names)
    assert cache.keys() == ["layers.2", "layers.0.mlp"] + [
        f"layers.{i}.self_attn" for i in range(3)
    ]
    for name in ("layers.0.mlp", "model.layers.0.mlp", "model.model.layers.0.mlp"):
        assert cache.get(name).shape == (1, 6, 32) and name in cache
    assert cache.get("layers.1") is None and "layers.1" not in cache
    with pytest.raises(KeyError):
        cache["layers.1"]
    long = collect_activations(model, ids(), ["layers.2"], normalize_keys=False)
    assert long.keys() == ["model.model.layers.2"] and "layers.2" in long
    with pytest.raises(UnknownNameError):
        collect_activations(model, ids(), layers=["layers.7"])


def test_any_site_and_any_model():
    gpt2 = InterpretableModel(build("gpt2"))
    cache = collect_activations(
        gpt2, [[1, 2, 3], [4]], ["layers.1", "layers.0.attn.pattern", "layers.0.input"]
    )
    assert cache["layers.1"].shape == (2, 3, 32)
    assert cache["layers.0.attn.pattern"].shape == (2, 4, 3, 3)
    assert cache["layers.0.input"].shape == (2, 3, 32)
    assert cache.metadata["input_shape"] == (2, 3)


def test_one_made_by_hand():
    x = mx.zeros((1,))
    cache = ActivationCache({"model.layers.0": x})
    assert cache.get("layers.0") is x and cache.metadata is None
    assert ActivationCache().get("layers.0") is None
