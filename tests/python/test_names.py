"""What names mean, and what is said of those that mean nothing."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from families import build, ids
from mlxterp import InterpretableModel, UnknownNameError, UsageError, zero_out
from mlxterp.engine.wrapped import WrappedEngine


@pytest.fixture(scope="module")
def llama():
    return WrappedEngine(build("llama"))


@pytest.fixture(scope="module")
def gpt2():
    return WrappedEngine(build("gpt2"))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("model.layers.1.mlp", "model.layers.1.mlp.output"),
        ("model.model.layers.1.mlp", "model.layers.1.mlp.output"),
        ("layers.1.mlp", "model.layers.1.mlp.output"),
        ("layers.1.mlp.output", "model.layers.1.mlp.output"),
        ("layers.1.mlp.input", "model.layers.1.mlp.input"),
        ("layers.-1", "model.layers.2.output"),
        ("layers.-3.self_attn.q", "model.layers.0.self_attn.q"),
        ("norm", "model.norm.output"),
        ("embed_tokens.input", "model.embed_tokens.input"),
        ("model", "model.output"),
        ("model.model", "model.output"),
        ("output", "output"),
        ("input", "input"),
        ("logits", "output"),
        ("__model_output__", "output"),
        ("layers.1.self_attn.attention_weights", "model.layers.1.self_attn.pattern"),
        ("layers.1.resid_pre", "model.layers.1.input"),
        ("layers.1.resid_post", "model.layers.1.output"),
        ("layers.1.attn_out", "model.layers.1.attn_out"),
        ("layers.1.mlp_out", "model.layers.1.mlp_out"),
        ("layers.{2}.self_attn.z", "model.layers.2.self_attn.z"),
    ],
)
def test_llama(llama, name, site):
    assert llama.resolve(name) == site
    assert llama.resolve(site) == site
    assert llama.match(name) == [site]


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("layers.1", "model.h.1.output"),
        ("h.1", "model.h.1.output"),
        ("h.-1.attn", "model.h.2.attn.output"),
        ("layers.0.attn.pattern", "model.h.0.attn.pattern"),
        ("layers.0.attn_out", "model.h.0.attn_out"),
        ("model.model.h.0", "model.h.0.output"),
        ("ln_f", "model.ln_f.output"),
    ],
)
def test_gpt2(gpt2, name, site):
    assert gpt2.resolve(name) == site
    assert gpt2.n_layers == 3


@pytest.mark.parametrize(
    ("pattern", "n", "first", "last"),
    [
        ("layers.*", 3, "model.layers.0.output", "model.layers.2.output"),
        (
            "layers.{1..2}.mlp",
            2,
            "model.layers.1.mlp.output",
            "model.layers.2.mlp.output",
        ),
        (
            "layers.*.self_attn.{q,k}_proj",
            6,
            "model.layers.0.self_attn.q_proj.output",
            "model.layers.2.self_attn.k_proj.output",
        ),
        (
            "layers.*.self_attn.pattern",
            3,
            "model.layers.0.self_attn.pattern",
            "model.layers.2.self_attn.pattern",
        ),
        (
            "layers.*.resid_{pre,mid,post}",
            9,
            "model.layers.0.input",
            "model.layers.2.resid_mid",
        ),
        (
            "model.model.layers.*.mlp.*_proj",
            9,
            "model.layers.0.mlp.gate_proj.output",
            "model.layers.2.mlp.up_proj.output",
        ),
        ("*norm", 1, "model.norm.output", "model.norm.output"),
        (
            "layers.0.self_attn.{q,z,k}",
            3,
            "model.layers.0.self_attn.q",
            "model.layers.0.self_attn.z",
        ),
    ],
)
def test_patterns(llama, pattern, n, first, last):
    sites = llama.match(pattern)
    assert len(sites) == len(set(sites)) == n
    assert sites[0] == first
    assert set(sites) >= {last}
    order = {path: i for i, (path, _) in enumerate(llama.named_modules())}
    places = [order[site.rpartition(".")[0]] for site in sites]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("layers.3", "layers.2"),
        ("layers.0.attn", "layers.0.attn_out"),
        ("layers.0.self_atn", "layers.0.self_attn"),
        ("layers.0.mpl", "layers.0.mlp"),
        ("model.layers.0.self_attn.qproj", "layers.0.self_attn.q_proj"),
        ("layers.9.*", ""),
        ("layers.{5..9}", ""),
        ("lm_head", ""),
        ("layers.-4", ""),
        ("norm.pattern", ""),
        ("", None),
    ],
)
def test_unknown_names(llama, name, near):
    if near is None:
        assert llama.resolve(name) == "output"
        return
    for ask in (llama.resolve, llama.match):
        with pytest.raises(UnknownNameError) as caught:
            ask(name)
        assert f"'{near}'" in str(caught.value) or not near
        assert isinstance(caught.value, (KeyError, AttributeError))
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["layers.{1..", "layers.}", "layers.{7..3}", 3, None])
def test_names_that_make_no_sense(llama, name):
    with pytest.raises(UsageError):
        llama.match(name)


def test_a_pattern_where_one_is_needed(llama):
    with pytest.raises(UsageError, match="means 3 sites"):
        llama.resolve("layers.*")


def test_gpt2_works_through_layers():
    """Upstream's defect 5: `layers.N` was silent on GPT-2."""
    model = InterpretableModel(build("gpt2"))
    plain = model(ids())
    with model.trace(ids(), interventions={"layers.0": zero_out}) as trace:
        layer = model.layers[0].output.save()
        pattern = model.layers[1].attn.pattern.save()
        out = model.output.save()
    assert list(trace.saved_values)[0] == "layers.0.output"
    assert mx.all(layer == 0)
    assert pattern.shape == (1, 4, 6, 6)
    assert mx.abs(out - plain).max() > 1e-3
    assert "model.model.h.0" in trace.activations
    assert "model.model.h.0.attn.attention_weights" in trace.activations


def test_wrong_part_of_a_layer_names_the_right_one():
    """Upstream's defect 4: its own documents say `layers[3].attn`."""
    model = InterpretableModel(build("llama"))
    with pytest.raises(
        AttributeError, match="'layers.1.attn_out', 'layers.1.self_attn'"
    ):
        model.layers[1].attn
    with pytest.raises(AttributeError):
        model.nothing


def test_layers_elsewhere():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = [nn.Linear(4, 4) for _ in range(2)]

        def __call__(self, x):
            return self.blocks[1](self.blocks[0](x))

    with pytest.raises(AttributeError, match=r"layer_attr=.*'blocks'"):
        InterpretableModel(Stack())
    model = InterpretableModel(Stack(), layer_attr="blocks")
    x = mx.ones((1, 4))
    with model.trace(x, interventions={"layers.0": zero_out}) as trace:
        zeroed = model.layers[0].output.save()
        model["blocks.1"].save()
    assert mx.all(zeroed == 0)
    assert list(trace.saved_values) == ["blocks.0.output", "blocks.1"]
    flat = InterpretableModel(nn.Linear(4, 4), layer_attr=None)
    assert len(flat.layers) == 0
    with flat.trace(x):
        assert flat.output.save().shape == (1, 4)


def test_parts_of_an_mlp_by_one_name():
    """Whatever a wrapped model's parts are called."""
    for family in ("llama", "gpt2", "phi", "starcoder2"):
        model = InterpretableModel(build(family))
        with model.trace(ids()):
            post = model["layers.1.mlp.post"].save()
            pre = model.layers[1].mlp.pre.save()
        hooks = [f"blocks.1.mlp.hook_{it}" for it in ("pre", "post")]
        _, cache = model.run_with_cache(ids(), hooks)
        assert mx.array_equal(cache["post", 1], post)
        assert mx.array_equal(cache["pre", 1], pre) and pre.shape == post.shape
    with pytest.raises(UnknownNameError):
        model["layers.1.mlp.pre_linear"]


def test_what_another_tool_s_model_has():
    model = InterpretableModel(build("llama"))
    with pytest.raises(UnknownNameError, match="HookedTransformer has it"):
        model.cfg
    with pytest.raises(UnknownNameError, match="StandardizedTransformer has it"):
        model.next_token_probs
    with model.trace(ids()):
        assert model.logits.save().shape == (1, 6, 96)
