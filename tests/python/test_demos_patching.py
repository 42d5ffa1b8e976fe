"""TransformerLens' Activation Patching and Attribution Patching demos: the calls of
their cells on small models, against passes of our own."""

import mlx.core as mx
import pytest
from demo_models import close, hooked, words
from mlxterp import UsageError
from mlxterp.compat.transformer_lens import ActivationCache, patching, utils

CLEAN = [words(5, 9, 12, 33), words(5, 33, 12, 9)]
ANSWERS = mx.array([[33, 9], [9, 33]])


@pytest.fixture(scope="module", params=["gpt2", "llama", "wrapped"])
def model(request):
    return hooked(request.param)


@pytest.fixture(scope="module")
def tokens(model):
    clean = model.to_tokens(CLEAN)
    assert model.to_string(clean[0]) == "w1 " + CLEAN[0]
    return clean, clean[mx.array([1, 0])]


def metric(logits):
    last = mx.take_along_axis(logits[:, -1], ANSWERS, axis=1)
    return (last[:, 0] - last[:, 1]).mean()


def by_hand(model, corrupted, cache, name, at):
    """One pass with a part of the value replaced."""

    def put(value, hook):
        value[at] = cache[name][at]

    return metric(model.run_with_hooks(corrupted, [(name, put)]))


def test_patching_layers_and_positions(model, tokens):
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean)
    found = patching.get_act_patch_resid_pre(model, corrupted, cache, metric)
    n, pos = model.cfg.n_layers, clean.shape[1]
    assert found.shape == (n, pos)
    at = slice(None), 3
    wanted = by_hand(model, corrupted, cache, "blocks.1.hook_resid_pre", at)
    assert close(found[1, 3], wanted)
    every = patching.get_act_patch_block_every(model, corrupted, cache, metric)
    assert every.shape == (3, n, pos) and close(every[0], found)
    wanted = by_hand(model, corrupted, cache, "blocks.0.hook_mlp_out", at)
    assert close(every[2, 0, 3], wanted)


def test_patching_heads(model, tokens):
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean)
    n, h, pos = model.cfg.n_layers, model.cfg.n_heads, clean.shape[1]
    kv = model.cfg.n_key_value_heads or h
    given = model, corrupted, cache, metric
    every = patching.get_act_patch_attn_head_all_pos_every(*given)
    assert [it.shape for it in every] == [(n, it) for it in (h, h, kv, kv, h)]
    assert isinstance(every, mx.array) == (h == kv)
    at = slice(None), slice(None), 1
    for which, name in ((0, "z"), (1, "q"), (3, "v")):
        wanted = by_hand(model, corrupted, cache, f"blocks.1.attn.hook_{name}", at)
        assert close(every[which][1, 1], wanted), name
    every = patching.get_act_patch_attn_head_by_pos_every(*given)
    assert [it.shape for it in every] == [(n, pos, it) for it in (h, h, kv, kv, h)]
    at = slice(None), 4, 1
    wanted = by_hand(model, corrupted, cache, "blocks.0.attn.hook_z", at)
    assert close(every[0][0, 4, 1], wanted)
    at = slice(None), 2, 4
    wanted = by_hand(model, corrupted, cache, "blocks.1.attn.hook_pattern", at)
    assert close(every[4][1, 4, 2], wanted)


def test_hooks_that_were_added_count(model, tokens):
    clean, corrupted = tokens
    _, cache = model.run_with_cache(clean[:1])
    one = lambda logits: logits[0, -1, 33] - logits[0, -1, 9]  # noqa: E731
    plain = patching.get_act_patch_resid_pre(model, corrupted[:1], cache, one)
    with model.hooks([("blocks.1.hook_mlp_out", lambda x, hook: x * 0)]):
        edited = patching.get_act_patch_resid_pre(model, corrupted[:1], cache, one)
        wanted = one(model(corrupted[:1]))
    assert not close(edited, plain)
    assert close(edited[0, 0], wanted)


def test_an_induction_loss(model):
    a, b = (mx.random.randint(2, 90, (2, 4), key=mx.random.key(i)) for i in (1, 2))
    bos = mx.array([[model.tokenizer.bos_token_id]] * 2)
    clean = mx.concatenate([bos, a, a], axis=1)
    corrupted = mx.concatenate([bos, a, b], axis=1)

    def loss(logits):
        logits = logits[:, -a.shape[1] : -1]
        logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return mx.take_along_axis(logs, a[:, 1:, None], axis=-1).mean()

    _, cache = model.run_with_cache(clean)
    found = patching.get_act_patch_attn_head_out_all_pos(model, corrupted, cache, loss)

    def put(z, hook):
        z[:, :, 2] = cache["z", 1][:, :, 2]

    wanted = loss(model.run_with_hooks(corrupted, [("blocks.1.attn.hook_z", put)]))
    assert close(found[1, 2], wanted)


# Attribution patching


def both_ways(model, tokens):
    """The demo's get_cache_fwd_and_bwd: `metric(model(tokens)).backward()` is
    run_with_cache(..., return_type=metric, incl_bwd=True)."""
    value, cache = model.run_with_cache(
        tokens, lambda name: "_input" not in name, return_type=metric, incl_bwd=True
    )
    forward = {k: v for k, v in cache.items() if not k.endswith("_grad")}
    backward = {k[:-5]: v for k, v in cache.items() if k.endswith("_grad")}
    assert forward.keys() == backward.keys()
    return value, ActivationCache(forward, model), ActivationCache(backward, model)


@pytest.fixture(scope="module")
def gradients(model, tokens):
    clean, corrupted = (both_ways(model, it) for it in tokens)
    return clean[1], corrupted[1], corrupted[2]


def test_gradients_are_differences(model, tokens, gradients):
    _, corrupted = tokens
    value, forward, grads = both_ways(model, corrupted)
    assert close(value, metric(model(corrupted)))
    key = mx.random.key(4)
    names = ["blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"]
    names += ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_v", "hook_embed"]
    for name in names:
        step = mx.random.normal(forward[name].shape, key=key) * 2e-3
        up, down = (
            metric(model.run_with_hooks(corrupted, [(name, lambda x, hook, s=s: x + s)]))
            for s in (step, -step)
        )
        slope = (grads[name] * step).sum().item()
        assert slope == pytest.approx((up - down).item() / 2, rel=0.02, abs=2e-5), name
    # The stream between two layers has one gradient, whatever it is called.
    post = model.cfg.n_layers - 1
    assert close(grads["resid_pre", post], grads["resid_post", post - 1])


def test_backward_hooks(model, tokens):
    _, corrupted = tokens
    _, _, grads = both_ways(model, corrupted)
    seen = {}

    def keep(gradient, hook):
        seen[hook.name] = gradient

    model.add_hook(lambda name: name.endswith("hook_z"), keep, "bwd")
    with pytest.raises(UsageError, match="one number"):
        model(corrupted)
    value = model(corrupted, return_type=metric)
    model.reset_hooks()
    assert close(value, metric(model(corrupted)))
    layers = reversed(range(model.cfg.n_layers))
    assert list(seen) == [f"blocks.{i}.attn.hook_z" for i in layers]
    for name, gradient in seen.items():
        assert close(gradient, grads[name])
    lost = []
    loss = model.run_with_hooks(
        corrupted,
        return_type="loss",
        bwd_hooks=[("blocks.0.hook_mlp_out", lambda g, hook: lost.append(g))],
    )
    assert close(loss, model(corrupted, return_type="loss")) and len(lost) == 1
    with pytest.raises(UsageError, match="not changed"):
        model.run_with_hooks(
            corrupted,
            return_type="loss",
            bwd_hooks=[("blocks.0.hook_mlp_out", lambda g, hook: g)],
        )


def test_attribution_of_the_stream(model, gradients):
    clean, corrupted, grads = gradients
    one, labels = clean.accumulated_resid(-1, incl_mid=True, return_labels=True)
    other = corrupted.accumulated_resid(-1, incl_mid=True)
    slopes = grads.accumulated_resid(-1, incl_mid=True)
    attributed = (slopes * (one - other)).sum(axis=(1, 3))
    assert attributed.shape == (len(labels), one.shape[2])
    # Of the embedding: what the whole difference at each place is worth.
    wanted = (grads["resid_pre", 0] * (clean["resid_pre", 0] - corrupted["resid_pre", 0]))
    assert close(attributed[0], wanted.sum(axis=(0, 2)))
    assert mx.abs(attributed[:, :2]).max().item() < 1e-5  # before the difference


def test_attribution_of_layers_and_heads(model, gradients):
    clean, corrupted, grads = gradients
    one, labels = clean.decompose_resid(-1, return_labels=True)
    other, slopes = corrupted.decompose_resid(-1), grads.decompose_resid(-1)
    by_layer = (slopes * (one - other)).sum(axis=(1, 3))
    assert by_layer.shape[0] == len(labels)
    heads = [it.stack_head_results(-1) for it in (clean, corrupted)]
    # d metric / d result of a head is that of the attention's output.
    if "blocks.0.attn.hook_result" in grads:
        slopes = grads.stack_head_results(-1)
        by_head = (slopes * (heads[0] - heads[1])).sum(axis=(1, 3))
        h = model.cfg.n_heads
        for layer in range(model.cfg.n_layers):
            of_layer = by_head[layer * h : (layer + 1) * h].sum(axis=0)
            assert close(of_layer, by_layer[labels.index(f"{layer}_attn_out")])


def test_attribution_of_vectors_and_patterns(model, gradients):
    clean, corrupted, grads = gradients
    n = model.cfg.n_layers
    for name in "q k v z".split():
        stacks = [mx.stack([it[name, i] for i in range(n)]) for it in gradients]
        attributed = (stacks[2] * (stacks[0] - stacks[1])).sum(axis=(1, 3, 5 - 1))
        assert attributed.shape[0] == n
        assert close(stacks[0], clean.stack_activation(name))
    patterns = [it.stack_activation("pattern") for it in gradients]
    found = (patterns[2] * (patterns[0] - patterns[1])).sum(axis=1)
    assert found.shape == (n, model.cfg.n_heads, 5, 5)
    # An attribution cache is a cache like any other.
    shared = {k: grads[k] * (clean[k] - corrupted[k]) for k in grads.cache_dict}
    cache = ActivationCache(shared, model)
    assert close(cache.stack_activation("pattern").sum(axis=1), found)


def test_paths_into_heads(model, gradients):
    _, _, grads = gradients
    w = model.blocks[1].attn.W_Q
    vector = grads["q", 1]
    read = mx.einsum("bphd,hmd->bphm", vector, w)
    assert read.shape == (2, 5, model.cfg.n_heads, model.cfg.d_model)
    name = utils.get_act_name("q", 1)
    assert name in grads


def test_split_inputs_are_refused(model):
    with pytest.raises(UsageError, match="path_patch"):
        model.set_use_split_qkv_input(True)
    with pytest.raises(UsageError, match="path_patch"):
        model.run_with_cache(CLEAN[0], "blocks.0.hook_q_input")


def test_what_the_mlp_reads():
    model = hooked("llama")
    _, cache = model.run_with_cache(
        CLEAN[0], ["blocks.1.hook_mlp_in", "blocks.1.hook_resid_mid"]
    )
    assert close(cache["mlp_in", 1], cache["resid_mid", 1])
    zero = [("blocks.1.hook_mlp_in", lambda x, hook: x * 0)]
    with model.trace([1, 5, 9, 12, 33], {"layers.1.mlp.input": lambda x: x * 0}):
        wanted = model.output.save()
    assert close(model.run_with_hooks(CLEAN[0], zero), wanted)
    with pytest.raises(UsageError, match="resid_mid"):
        hooked("wrapped").run_with_cache(CLEAN[0], "blocks.1.hook_mlp_in")
