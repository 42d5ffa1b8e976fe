"""What TransformerLens' demos do not call: names, hooks that stay, copies."""

import copy
import pickle

import mlx.core as mx
import pytest
from demo_models import close, hooked, words
from mlxterp import InterpretableModel, UnknownNameError, UsageError, zero_out
from mlxterp.compat.transformer_lens import HookedTransformer, HookPoint, utils
from test_two_engines import FOLDERS

TEXT = words(5, 9, 12)


@pytest.fixture(params=["gpt2", "llama", "wrapped"])
def model(request):
    return hooked(request.param)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (("k", 6, "a"), "blocks.6.attn.hook_k"),
        (("pre", 2), "blocks.2.mlp.hook_pre"),
        (("embed",), "hook_embed"),
        (("normalized", 27, "ln2"), "blocks.27.ln2.hook_normalized"),
        (("k6",), "blocks.6.attn.hook_k"),
        (("scale4ln1",), "blocks.4.ln1.hook_scale"),
        (("pre5",), "blocks.5.mlp.hook_pre"),
        (("attn_scores", 3), "blocks.3.attn.hook_attn_scores"),
        (("attn", 3), "blocks.3.attn.hook_pattern"),
        (("resid_pre", 0), "blocks.0.hook_resid_pre"),
        (("resid_pre0",), "blocks.0.hook_resid_pre"),
        (("mlp_out", 1), "blocks.1.hook_mlp_out"),
        (("scale",), "ln_final.hook_scale"),
        (("blocks.1.hook_mlp_out",), "blocks.1.hook_mlp_out"),
        (("hook_embed",), "hook_embed"),
        (("in", 4), "blocks.4.hook_resid_pre"),
    ],
)
def test_short_names(given, name):
    assert utils.get_act_name(*given) == name


def test_native_hook_points_in_the_order_of_the_pass():
    names = hooked("llama").hook_names()
    assert names[:4] == [
        "hook_embed",
        "blocks.0.hook_resid_pre",
        "blocks.0.ln1.hook_scale",
        "blocks.0.ln1.hook_normalized",
    ]
    assert names[-3:] == [
        "blocks.1.hook_resid_post",
        "ln_final.hook_scale",
        "ln_final.hook_normalized",
    ]
    _, cache = hooked("llama").run_with_cache(TEXT)
    assert list(cache) == [it for it in names if not it.endswith("hook_result")]
    assert len([it for it in names if it.endswith("hook_result")]) == 2


def test_hooks_that_stay(model):
    name = "blocks.0.hook_mlp_out"
    plain = model(TEXT)

    def drop(value, hook):
        hook.ctx["seen"] = hook.ctx.get("seen", 0) + 1
        return value * 0

    model.add_hook(name, drop)
    dropped = model(TEXT)
    assert not close(dropped, plain)
    assert close(dropped, model.run_with_hooks(TEXT))
    assert model.hook_dict[name].ctx["seen"] == 2
    out, cache = model.run_with_cache(TEXT, name)
    assert close(out, dropped) and mx.abs(cache[name]).max().item() == 0
    model.reset_hooks()
    assert close(model(TEXT), plain) and model.hook_dict[name].ctx == {}
    model.add_perma_hook(name, drop)
    model.reset_hooks()
    assert close(model(TEXT), dropped)
    model.reset_hooks(including_permanent=True)
    assert close(model(TEXT), plain)
    with model.hooks(fwd_hooks=[(name, drop)]):
        assert close(model(TEXT), dropped)
        broken = [(name, lambda v, hook: 1 / 0)]
        with pytest.raises(ZeroDivisionError), model.hooks(broken):
            model(TEXT)
        assert close(model(TEXT), dropped)
    assert close(model(TEXT), plain)
    with pytest.raises(UnknownNameError, match="near"):
        model.add_hook("blocks.0.hook_mlp_outs", drop)
    with pytest.raises(UsageError, match="'fwd' or 'bwd'"):
        model.add_hook(name, drop, dir="both")


def test_hooks_act_in_order(model):
    name = "blocks.0.hook_mlp_out"
    model.add_hook(name, lambda v, hook: v * 2)
    model.add_hook(name, lambda v, hook: v * 0 + 1)
    model.add_hook(name, lambda v, hook: v * 0 + 5, prepend=True)
    _, cache = model.run_with_cache(TEXT, name)
    assert mx.array_equal(cache[name], mx.ones(cache[name].shape))


def test_a_hook_above_where_it_stops_is_not_called(model):
    called = []
    hooks = [("blocks.1.hook_mlp_out", lambda v, hook: called.append(1))]
    model.run_with_hooks(TEXT, hooks, stop_at_layer=1)
    assert not called


def test_handles_have_hooks_of_their_own(model):
    edited = model.edited({"layers.0.mlp_out": zero_out})
    assert isinstance(edited, HookedTransformer)
    hook = "blocks.0.hook_mlp_out", lambda v, hook: v * 0
    assert close(edited(TEXT), model.run_with_hooks(TEXT, [hook]))
    edited.add_hook(*hook)
    assert not model._added and close(model(TEXT), copy.copy(model)(TEXT))
    # What stands acts first, gradients included.
    backward = [(hook[0], lambda g, hook: None)]
    loss = edited.run_with_hooks(TEXT, bwd_hooks=backward, return_type="loss")
    assert close(loss, edited(TEXT, return_type="loss"))


def test_copies():
    how = dict(default_prepend_bos=False, fold_ln=True)
    model = HookedTransformer(FOLDERS / "llama-gqa", **how)
    other = pickle.loads(pickle.dumps(model))
    assert isinstance(other, HookedTransformer) and not other.cfg.default_prepend_bos
    assert mx.array_equal(other.W_Q, model.W_Q)
    assert not mx.array_equal(model.W_Q, InterpretableModel(FOLDERS / "llama-gqa").W_Q)
    _, cache = model.run_with_cache([[3, 4]])
    for again in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
        assert list(again) == list(cache) and mx.array_equal(again["z", 1], cache["z", 1])
    alone = pickle.loads(pickle.dumps(cache))
    with pytest.raises(UsageError, match="knows no model"):
        alone.apply_ln_to_stack(alone["resid_post", 1])
    alone.model = model
    how = dict(apply_ln=True)
    assert close(alone.accumulated_resid(**how), cache.accumulated_resid(**how))


def test_the_plain_model_keeps_its_ways():
    plain = InterpretableModel("demo")
    model = HookedTransformer.from_pretrained("demo")
    ids = plain.to_tokens("Hello there").tolist()[0]
    bos = model.tokenizer.bos_token_id
    assert model.to_tokens("Hello there").tolist()[0] == [bos, *ids]
    assert model.to_tokens("Hello there", prepend_bos=False).tolist()[0] == ids
    assert plain("Hello").shape[1] == model("Hello").shape[1] - 1
    with model.trace("Hello") as trace:
        pass
    assert trace.input_shape == (1, 1)


def test_from_pretrained():
    processed = HookedTransformer.from_pretrained(FOLDERS / "gpt2")
    plain = HookedTransformer.from_pretrained_no_processing(FOLDERS / "gpt2")
    assert processed.cfg.normalization_type == "LNPre"
    assert plain.cfg.normalization_type == "LN"
    _, cache = plain.run_with_cache([[3, 4, 5]])
    q = cache["normalized", 1, "ln1"][:, None] @ processed.W_Q[1]
    assert close(q.swapaxes(1, 2) + processed.b_Q[1], cache["q", 1])
    x = plain.blocks[1].ln1(cache["resid_pre", 1])
    assert close((x[:, None] @ plain.W_Q[1]).swapaxes(1, 2) + plain.b_Q[1], cache["q", 1])
    final = plain.ln_final(cache["resid_post", -1])
    assert close(plain.unembed(final), plain([[3, 4, 5]]))
    plain.enable_compatibility_mode(disable_warnings=True)
    assert mx.array_equal(plain.W_Q, processed.W_Q)
    assert isinstance(plain.blocks[0].attn.hook_z, HookPoint)
    assert len(plain.blocks) == 2 and plain.blocks[-1].attn.W_Q.ndim == 3
    bias = plain.accumulated_bias(2)
    wanted = sum(plain.weight("b_O", i) + plain.weight("b_out", i) for i in range(2))
    assert close(bias, wanted)


def test_a_tokenizer_without_a_beginning():
    from view_models import WordTokenizer

    model = HookedTransformer(FOLDERS / "gpt2", WordTokenizer(97))
    with pytest.raises(UsageError, match="prepend_bos=False"):
        model("w5")
    assert model("w5", prepend_bos=False).shape[1] == 1
