"""The classes above the engines, on one that is no wrapped module."""

import mlx.core as mx
import pytest
from families import build, ids
from mlxterp import InterpretableModel, UnknownNameError, UsageError, scale
from mlxterp.core import ModuleProxy
from mlxterp.engine.wrapped import WrappedEngine


class Foreign:
    """An engine of the contract and no more: no module to look into."""

    def __init__(self):
        self._inner = WrappedEngine(build("llama"))
        self.n_layers = self._inner.n_layers
        self.tokenizer = "a tokenizer"
        for name in "resolve match run forward parameters".split():
            setattr(self, name, getattr(self._inner, name))

    def named_modules(self):
        return [(path, object()) for path, _ in self._inner.named_modules()]


@pytest.fixture(scope="module")
def model():
    return InterpretableModel("somewhere", engine=Foreign())


def test_proxies_need_only_names(model):
    plain = model(ids())
    with model.trace([[1, 2, 3]]):
        assert model.output.shape == (1, 3, 96)
    with model.trace(ids(), interventions={"layers.0": scale(2.0)}) as trace:
        at = model.layers[-1].self_attn
        pattern = at.pattern.save()
        flat = at.q_proj.output.save()
        z = model.layers[0].self_attn.z.save()
        pre = model.layers[1].resid_pre.save()
        norm = model.norm.output.save()
        out = model.output.save()
    assert list(trace.saved_values)[:2] == [
        "layers.2.self_attn.pattern",
        "layers.2.self_attn.q_proj.output",
    ]
    assert pattern.shape == (1, 4, 6, 6) and flat.shape == (1, 6, 32)
    assert z.shape == (1, 6, 4, 8) and norm.shape == pre.shape == (1, 6, 32)
    assert mx.abs(out - plain).max() > 1e-4
    with model.trace(ids()):
        model.layers[0].mlp.output = 0.0
        assert mx.all(model.layers[0].mlp.output.value == 0)


def test_what_it_lacks_is_said(model):
    assert isinstance(model.layers[0].mlp, ModuleProxy)
    with pytest.raises(UnknownNameError, match="did you mean"):
        model.layers[0].attn
    with pytest.raises(AttributeError):
        model.nothing
    with pytest.raises(UsageError, match="by itself"):
        model.layers[0](mx.zeros((1, 1, 32)))
    with pytest.raises(IndexError):
        model.layers[3]


def test_it_looks_like_a_model(model):
    assert model.tokenizer == "a tokenizer"
    assert len(model.layers) == 3
    assert "layers=3" in repr(model) and "Foreign" in repr(model)
    assert len(model.named_modules()) == 43
    assert "model" in model.parameters() and model.trainable_parameters()
    assert model.train().eval() is model
