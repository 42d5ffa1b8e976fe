"""TransformerLens' Exploratory Analysis demo, a test a section: the calls of its
cells on small models, against the model's own logits and sites."""

from functools import partial

import mlx.core as mx
import pytest
from demo_models import close, hooked, words
from mlxterp import UsageError
from mlxterp.compat.transformer_lens import ActivationCache, HookedTransformer, utils

PAIRS = (5, 9, 12, 33), (5, 33, 12, 9), (8, 9, 2, 41), (8, 41, 2, 9)
PROMPTS = [words(*it) for it in PAIRS]
ANSWERS = mx.array([[33, 9], [9, 33], [41, 9], [9, 41]])


@pytest.fixture(scope="module", params=["gpt2", "llama", "wrapped"])
def model(request):
    model = hooked(request.param)
    model.set_use_attn_result(request.param != "wrapped")
    return model


@pytest.fixture(scope="module")
def run(model):
    tokens = model.to_tokens(PROMPTS, prepend_bos=True)
    return tokens, *model.run_with_cache(tokens)


def difference(logits, per_prompt=False):
    found = mx.take_along_axis(logits[:, -1], ANSWERS, axis=-1)
    each = found[:, 0] - found[:, 1]
    return each if per_prompt else each.mean()


def by_stream(model, logits):
    """The differences without what biases say: b_U and the last norm's."""
    bias = model.weight("b_U", folded=True)[ANSWERS]
    return difference(logits, per_prompt=True) - (bias[:, 0] - bias[:, 1])


def directions(model):
    found = model.tokens_to_residual_directions(ANSWERS)
    assert found.shape == (4, 2, model.cfg.d_model)
    return found[:, 0] - found[:, 1]


def test_the_prompt_s_answer(model, capsys):
    utils.test_prompt(PROMPTS[0], "w33", model, prepend_space_to_answer=False, top_k=3)
    said = capsys.readouterr().out
    logits = model(PROMPTS[0])[0, -1]
    order = mx.argsort(-logits).tolist()
    assert f"Rank: {order.index(33)}" in said and said.count("Top ") == 3
    assert f"|w{order[0]}|" in said
    assert f"Ranks of the answer tokens: [('w33', {order.index(33)})]" in said
    assert "Tokenized prompt: ['w1', 'w5', 'w9', 'w12', 'w33']" in said
    utils.test_prompt(PROMPTS[0], ["w33", "w9"], model, False, print_details=False)
    said = capsys.readouterr().out
    assert said.count("Rank: ") == 2 and "Top" not in said


def test_what_reads_the_answer(model, run):
    tokens, logits, cache = run
    last = cache["resid_post", -1][:, -1, :]
    scaled = cache.apply_ln_to_stack(last, layer=-1, pos_slice=-1)
    found = (scaled * directions(model)).sum(axis=-1)
    assert close(found, by_stream(model, logits), atol=2e-3)
    if model.cfg.normalization_type is not None:
        w_u = model.unembed.W_U[:, ANSWERS].transpose(1, 2, 0)  # with the gain folded in
        assert close(w_u[:, 0] - w_u[:, 1], directions(model))


def test_the_lens_by_layers(model, run):
    _, logits, cache = run
    stack, labels = cache.accumulated_resid(
        layer=-1, incl_mid=True, pos_slice=-1, return_labels=True
    )
    n = model.cfg.n_layers
    assert stack.shape == (2 * n + 1, 4, model.cfg.d_model)
    assert labels[:3] == ["0_pre", "0_mid", "1_pre"] and labels[-1] == "final_post"
    attributed = cache.logit_attrs(
        stack, ANSWERS[:, 0], ANSWERS[:, 1], pos_slice=-1
    )
    assert close(attributed[-1], by_stream(model, logits), atol=2e-3)
    whole = cache.accumulated_resid(apply_ln=True, layer=1)
    assert whole.shape == (2, 4, 5, model.cfg.d_model)
    by_itself = cache["resid_pre", 1]
    norm = model.blocks[1].ln1
    assert close(whole[1] * norm.w + norm.b, norm(by_itself), atol=1e-3)


def test_by_layers(model, run):
    _, logits, cache = run
    stack, labels = cache.decompose_resid(layer=-1, pos_slice=-1, return_labels=True)
    embeds = ["embed", "pos_embed"] if "hook_pos_embed" in cache else ["embed"]
    assert labels[: len(embeds) + 2] == [*embeds, "0_attn_out", "0_mlp_out"]
    assert close(stack.sum(axis=0), cache["resid_post", -1][:, -1], atol=1e-3)
    attributed = cache.logit_attrs(stack, ANSWERS[:, 0], ANSWERS[:, 1], pos_slice=-1)
    assert close(attributed.sum(axis=0), by_stream(model, logits), atol=2e-3)
    only = cache.decompose_resid(mode="attn", incl_embeds=False)
    assert len(only) == model.cfg.n_layers
    assert close(only, cache.stack_activation("attn_out"))


def test_by_heads(model, run):
    _, logits, cache = run
    stack, labels = cache.stack_head_results(layer=-1, pos_slice=-1, return_labels=True)
    n, h = model.cfg.n_layers, model.cfg.n_heads
    assert stack.shape == (n * h, 4, model.cfg.d_model)
    assert labels == model.all_head_labels()
    for layer in range(n):
        of_layer = stack[layer * h : (layer + 1) * h].sum(axis=0)
        wanted = cache["attn_out", layer][:, -1] - model.weight("b_O", layer)
        assert close(of_layer, wanted, atol=1e-3)
    more, labels = cache.stack_head_results(
        1, incl_remainder=True, return_labels=True, apply_ln=True
    )
    assert labels[-1] == "remainder" and len(more) == h + 1
    scaled = cache.apply_ln_to_stack(cache["resid_post", 0], 1)
    assert close(more.sum(axis=0), scaled, atol=2e-3)
    attributed = cache.logit_attrs(stack, "w9", pos_slice=-1)
    assert attributed.shape == (n * h, 4)


def test_by_neurons(model, run):
    _, _, cache = run
    found, labels = cache.stack_neuron_results(
        -1, pos_slice=-1, neuron_slice=(0, 3), return_labels=True
    )
    assert labels[:4] == ["L0N0", "L0N1", "L0N2", "L1N0"]
    assert found.shape == (3 * model.cfg.n_layers, 4, model.cfg.d_model)
    whole = cache.get_neuron_results(1).sum(axis=-2)
    wanted = cache["mlp_out", 1] - model.weight("b_out", 1)
    assert close(whole, wanted, atol=1e-3)


def test_patterns_of_heads(model, run):
    tokens, _, cache = run
    for number in (1, model.cfg.n_heads + 2):
        layer, head = divmod(number, model.cfg.n_heads)
        pattern = cache["attn", layer][0, head]
        with model.trace(tokens[:1]) as trace:
            path = model.engine.part(layer, "attn_out")
            wanted = trace.value(f"{path}.pattern")
            trace.save("pattern", wanted)
        assert close(pattern, wanted[0, head])
    assert len(model.to_str_tokens(tokens[0])) == 5


def patched(model, tokens, cache, name, setter):
    hooks = [(name, partial(setter, cache=cache))]
    return model.run_with_hooks(tokens, fwd_hooks=hooks, return_type="logits")


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out"])
def test_patching_positions(model, run, kind):
    tokens, logits, cache = run
    corrupted = tokens[mx.array([1, 0, 3, 2])]

    def put(value, hook, cache, pos):
        value = mx.array(value)
        value[:, pos : pos + 1, :] = cache[hook.name][:, pos, :][:, None]
        return value

    for layer, pos in ((0, 2), (1, 4)):
        name = utils.get_act_name(kind, layer)
        found = patched(model, corrupted, cache, name, partial(put, pos=pos))

        def plain(x, name=name, pos=pos):
            x = mx.array(x)
            x[:, pos] = cache[name][:, pos]
            return x

        with model.trace(corrupted, {f"layers.{layer}.{kind}": plain}):
            wanted = model.output.save()
        assert close(found, wanted)
        if pos == 4 and kind == "resid_pre" and layer == model.cfg.n_layers:
            assert close(found, logits)


@pytest.mark.parametrize("kind", ["z", "v", "q", "k", "attn"])
def test_patching_heads(model, run, kind):
    tokens, _, cache = run
    corrupted = tokens[mx.array([1, 0, 3, 2])]
    name = utils.get_act_name(kind, 1, "attn")
    assert name == f"blocks.1.attn.hook_{'pattern' if kind == 'attn' else kind}"
    axis = 1 if kind == "attn" else 2

    def put(value, hook, cache, head):
        at = (slice(None),) * axis + (head,)
        value[at] = cache[hook.name][at]

    before = model(corrupted)
    hooks = [partial(put, head=i) for i in (0, 1)]
    found = [patched(model, corrupted, cache, name, it) for it in hooks]
    assert all(mx.abs(it - before).max().item() > 1e-6 for it in found)
    whole = lambda x, hook: cache[hook.name]  # noqa: E731
    everything = model.run_with_hooks(corrupted, [(name, whole)])

    def both(value, hook, cache):
        for head in range(value.shape[axis]):
            put(value, hook, cache, head)

    assert close(patched(model, corrupted, cache, name, both), everything)


def test_a_direct_path(model, run):
    """Head 0 of layer 0 into the values of head 1 of layer 1, past all else."""
    tokens, _, cache = run
    if model.cfg.normalization_type is None:  # a wrapped module's norms show no scale
        with pytest.raises(UsageError, match="loaded by its path"):
            model.run_with_cache(tokens, "blocks.0.ln1.hook_scale")
        return
    corrupted = tokens[mx.array([1, 0, 3, 2])]
    _, corrupted_cache = model.run_with_cache(corrupted)
    result = utils.get_act_name("result", 0, "attn")
    scale = corrupted_cache[utils.get_act_name("scale", 1, "ln1")]
    moved = cache[result][:, :, 0] - corrupted_cache[result][:, :, 0]
    w = model.blocks[1].attn.W_V[1]
    # Folded weights of a LayerNorm are centred, so a component may be as it is.
    found = corrupted_cache["normalized", 1, "ln1"] + moved / scale
    stream = corrupted_cache["resid_pre", 1] + moved
    if model.cfg.normalization_type == "LNPre":
        stream = stream - stream.mean(axis=-1, keepdims=True)
    assert close(found @ w, stream / scale @ w, atol=1e-3)


def test_scores_by_position(model):
    seq = 6
    tokens = mx.random.randint(2, 90, (2, seq), key=mx.random.key(5))
    tokens = mx.concatenate([tokens, tokens], axis=1)
    store = {}

    def hook_of(name, offset):
        def hook(pattern, hook):
            diagonal = mx.diagonal(pattern, offset=offset, axis1=-1, axis2=-2)
            store[name, hook.layer()] = diagonal.mean(axis=(0, -1))

        return lambda act: act.endswith("hook_pattern"), hook

    hooks = [hook_of("prev", 1), hook_of("dup", seq), hook_of("ind", seq - 1)]
    loss = model.run_with_hooks(tokens, return_type="loss", fwd_hooks=hooks)
    assert close(loss, model.loss_fn(model(tokens), tokens))
    assert len(store) == 3 * model.cfg.n_layers
    _, cache = model.run_with_cache(tokens)
    pattern = cache["pattern", 1]
    wanted = mx.stack([pattern[:, :, i + 1, i] for i in range(2 * seq - 1)])
    assert close(store["prev", 1], wanted.mean(axis=(0, 1)))
    assert utils.get_corner(pattern).shape == (2, 3, 3, 3)
    assert utils.to_numpy(pattern).shape == pattern.shape


def test_ablating_and_the_rest(model, run):
    tokens, _, cache = run

    def ablate(z, hook):
        z = mx.array(z)
        z[:, -1, 1, :] = 0
        return z

    model.add_hook(utils.get_act_name("z", 0), ablate)
    with_hook = model(tokens)
    _, hooked_cache = model.run_with_cache(tokens)
    model.reset_hooks()
    plain = model(tokens)
    assert close(plain, run[1]) and not close(with_hook, plain)
    assert mx.abs(hooked_cache["z", 0][:, -1, 1]).max().item() == 0
    # The total effect is the direct one and what later layers make of it.
    stack = hooked_cache.stack_head_results(layer=-1, pos_slice=-1)
    assert mx.abs(stack[1]).max().item() < 1e-6


def test_caches_by_themselves(model, run):
    tokens, _, cache = run
    other = ActivationCache(dict(cache.cache_dict), model)
    assert close(other.accumulated_resid(), cache.accumulated_resid())
    first = cache.apply_slice_to_batch_dim(0)
    assert not first.has_batch_dim and first["resid_pre", 1].ndim == 2
    assert close(first.decompose_resid(), cache.decompose_resid()[:, 0])
    with pytest.raises(UsageError, match="4 prompts"):
        cache.remove_batch_dim()
    _, some = model.run_with_cache(tokens, pos_slice=-1)
    assert some["z", 0].shape[:2] == (4, 1) and some["resid_pre", 1].shape[1] == 1
    assert close(some["z", 0], cache["z", 0][:, -1:])
    assert close(some["pattern", 0], cache["pattern", 0][:, :, -1:])


def test_of_the_demo_model():
    """The sentence that everybody asks, by a real model."""
    model = HookedTransformer.from_pretrained("demo")
    prompt = "When John and Mary went to the shops, John gave the bag to"
    logits, cache = model.run_with_cache(prompt, remove_batch_dim=True)
    mary, john = (model.to_single_token(it) for it in (" Mary", " John"))
    wanted = logits[0, -1, mary] - logits[0, -1, john]
    assert wanted.item() > 3
    stack, labels = cache.decompose_resid(return_labels=True, pos_slice=-1)
    attributed = cache.logit_attrs(
        stack, " Mary", " John", pos_slice=-1, has_batch_dim=False
    )
    assert attributed.sum().item() == pytest.approx(wanted.item(), abs=2e-2)
    assert attributed.shape == (len(labels),) == (61,)
