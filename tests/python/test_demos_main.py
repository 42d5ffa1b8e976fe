"""TransformerLens' Main demo, a test a section: the calls of its cells on small
models, against steps of our own."""

from functools import partial

import mlx.core as mx
import pytest
from demo_models import close, hooked, plain_loss, words
from mlxterp import OutOfRangeError, UsageError
from mlxterp.compat.transformer_lens import FactoredMatrix, HookPoint, utils

TEXT = words(5, 9, 12, 33, 5, 9, 12)
IDS = [1, 5, 9, 12, 33, 5, 9, 12]


@pytest.fixture(scope="module", params=["gpt2", "llama", "wrapped"])
def model(request):
    return hooked(request.param)


def test_a_loss(model):
    loss = model(TEXT, return_type="loss")
    logits = model.engine.forward([IDS])
    assert close(loss, plain_loss(logits, mx.array([IDS])).mean())
    both = model(TEXT, return_type="both")
    assert close(both.logits, logits) and close(both.loss, loss)
    assert model(TEXT, return_type=None) is None
    each = model(TEXT, return_type="loss", loss_per_token=True)
    assert close(each[0], plain_loss(logits, mx.array([IDS])))
    assert close(model.loss_fn(logits, mx.array([IDS]), per_token=True), each)
    assert model.cfg.device == utils.get_device()


def test_a_cache(model):
    tokens = model.to_tokens(TEXT)
    assert tokens.tolist() == [IDS]
    logits, cache = model.run_with_cache(tokens, remove_batch_dim=True)
    assert close(logits, model.engine.forward([IDS]))
    pattern = cache["pattern", 0, "attn"]
    assert pattern.shape == (model.cfg.n_heads, 8, 8)
    assert close(pattern.sum(axis=-1), mx.ones((model.cfg.n_heads, 8)))
    assert mx.array_equal(cache["attn", 0], pattern)
    assert cache["embed"].shape == (8, model.cfg.d_model)
    name = "blocks.0.attn.hook_pattern"
    _, some = model.run_with_cache(
        tokens, remove_batch_dim=True, stop_at_layer=1, names_filter=[name]
    )
    assert close(some[name], pattern) and len(some) == 1
    assert len(model.to_str_tokens(TEXT)) == 8


def test_stopping(model):
    residual = model(TEXT, stop_at_layer=1)
    with model.trace([IDS]):
        wanted = model.layers_input[1].save()
        last = model.layers_output[-1].save()
    assert close(residual, wanted)
    assert close(model(TEXT, stop_at_layer=len(model.layers)), last)
    before_last = model(TEXT, stop_at_layer=model.cfg.n_layers - 1)
    assert close(model(TEXT, stop_at_layer=-1), before_last)
    with pytest.raises(OutOfRangeError):
        model(TEXT, stop_at_layer=99)
    _, cache = model.run_with_cache(TEXT, stop_at_layer=1)
    layers = {name.split(".")[1] for name in cache if name.startswith("blocks")}
    assert layers == {"0"} and "hook_embed" in cache


def test_ablating_a_head(model):
    shapes = []

    def ablate(value, hook: HookPoint):
        shapes.append(value.shape)
        value[:, :, 1, :] = 0.0
        return value

    tokens = model.to_tokens(TEXT)
    before = model(tokens, return_type="loss")
    after = model.run_with_hooks(
        tokens, return_type="loss", fwd_hooks=[(utils.get_act_name("v", 0), ablate)]
    )
    path = model.engine.part(0, "attn_out")
    with model.trace(tokens, {f"{path}.v": lambda x: _without_head(x, 1)}):
        wanted = model.output.save()
    assert close(after, plain_loss(wanted, tokens).mean())
    assert abs((after - before).item()) > 1e-5 and len(shapes) == 1


def _without_head(x, head):
    x = mx.array(x)
    x[:, :, head] = 0
    return x


def test_patching_the_stream(model):
    clean = model.to_tokens(TEXT)
    corrupted = model.to_tokens(words(5, 9, 7, 33, 5, 9, 12))
    right, wrong = model.to_single_token("w33"), model.to_single_token("w7")

    def difference(logits):
        return logits[0, -1, right] - logits[0, -1, wrong]

    _, cache = model.run_with_cache(clean)

    def patch(resid_pre, hook, position):
        resid_pre[:, position, :] = cache[hook.name][:, position, :]
        return resid_pre

    grid = mx.zeros((model.cfg.n_layers, clean.shape[1]))
    for layer in range(model.cfg.n_layers):
        for position in range(clean.shape[1]):
            fn = partial(patch, position=position)
            hooks = [(utils.get_act_name("in", layer), fn)]
            grid[layer, position] = difference(
                model.run_with_hooks(corrupted, fwd_hooks=hooks)
            )
    plain = difference(model(corrupted))
    # Before the token that differs nothing changes; at layer 0, all does there.
    assert close(grid[:, :3], mx.full(grid[:, :3].shape, plain.item()))
    assert close(grid[0, 3], difference(model(clean)))


def test_patterns_by_a_filter(model):
    period = 5
    tokens = mx.array([[3, 8, 40, 22, 11] * 2, [4, 9, 17, 2, 61] * 2])
    logits = model(tokens)
    losses = model.loss_fn(logits, tokens, per_token=True)
    assert losses.shape == (2, 9)
    store = mx.zeros((model.cfg.n_layers, model.cfg.n_heads))

    def score(pattern, hook):
        stripe = mx.diagonal(pattern, offset=1 - period, axis1=-2, axis2=-1)
        store[hook.layer(), :] = stripe.mean(axis=(0, -1))

    found = model.run_with_hooks(
        tokens,
        return_type=None,
        fwd_hooks=[(lambda name: name.endswith("pattern"), score)],
    )
    assert found is None
    _, cache = model.run_with_cache(tokens, lambda name: name.endswith("pattern"))
    for layer in range(model.cfg.n_layers):
        pattern = cache["pattern", layer]
        wanted = [pattern[:, :, i + period - 1, i].mean(axis=0) for i in range(6)]
        assert close(store[layer], mx.stack(wanted).mean(axis=0))
    assert store.min().item() > 0


def test_names_and_weights():
    model = hooked("gpt2")
    shapes = {name: value.shape for name, value in model.tl_named_parameters()}
    c = model.cfg
    assert shapes["blocks.0.attn.W_Q"] == (c.n_heads, c.d_model, c.d_head)
    assert shapes["blocks.1.mlp.W_in"] == (c.d_model, c.d_mlp)
    assert shapes["embed.W_E"] == (c.d_vocab, c.d_model)
    assert shapes["pos_embed.W_pos"] == (c.n_ctx, c.d_model)
    assert shapes["unembed.W_U"] == (c.d_model, c.d_vocab)
    assert "blocks.0.mlp.W_gate" not in shapes
    seen = {}

    def note(activation, hook):
        seen[hook.name] = activation.shape

    def early(name):
        return name.startswith("blocks.0.") or not name.startswith("blocks")

    model.run_with_hooks(TEXT, return_type=None, fwd_hooks=[(early, note)])
    assert seen["hook_embed"] == seen["hook_pos_embed"] == (1, 8, c.d_model)
    assert seen["blocks.0.ln1.hook_scale"] == (1, 8, 1)
    assert seen["blocks.0.attn.hook_result"] == (1, 8, c.n_heads, c.d_model)
    assert seen["ln_final.hook_normalized"] == (1, 8, c.d_model)
    assert set(seen) == {it for it in model.hook_dict if early(it)}


def test_text_and_tokens(model):
    assert model.to_str_tokens("w5 w9") == ["w1", "w5", "w9"]
    assert model.to_str_tokens("w5 w9", prepend_bos=False) == ["w5", "w9"]
    several = model.to_tokens(["w5 w9", "w5 w9 w3"])
    assert several.tolist() == [[1, 5, 9, 0], [1, 5, 9, 3]]
    for row, n in enumerate((3, 4)):
        alone = model(several[row : row + 1, :n])
        assert close(model(several)[row : row + 1, :n], alone)
    assert model.to_string(5) == "w5"
    assert model.to_string(several[0, :3]) == "w1 w5 w9"
    assert model.to_string(several) == ["w1 w5 w9 w0", "w1 w5 w9 w3"]
    assert model.to_single_str_token(5) == "w5"
    with pytest.raises(UsageError, match="not one token"):
        model.to_single_token("w5 w9")
    with pytest.raises(UsageError, match="padding"):
        model.to_tokens("w5", padding_side="left")


def test_positions_of_tokens(model):
    text = "w4 w5 w6 w5"
    assert model.get_token_position("w5", text) == 2
    assert model.get_token_position("w5", text, prepend_bos=False) == 1
    assert model.get_token_position("w5", text, mode="last") == 4
    assert model.get_token_position(6, mx.array([4, 5, 6])) == 2
    with pytest.raises(UsageError, match="not in the input"):
        model.get_token_position("w90", text)


def test_with_and_without_a_bos(model):
    assert model("w4 w5").shape[1] == model("w4 w5", prepend_bos=True).shape[1] == 3
    assert model("w4 w5", prepend_bos=False).shape[1] == 2
    assert close(model("w4 w5", prepend_bos=False), model(mx.array([[4, 5]])))


def test_factored_matrices():
    key = mx.random.key(0)
    a = mx.random.normal((5, 2), key=key)
    b = mx.random.normal((2, 5), key=mx.random.key(1))
    ab, factored = a @ b, FactoredMatrix(a, b)
    assert close(factored.norm(), mx.linalg.norm(ab))
    assert (factored.rdim, factored.ldim, factored.mdim) == (5, 5, 2)
    values = mx.linalg.svd(ab, stream=mx.cpu)[1]
    assert close(factored.S, values[:2])
    plain = mx.linalg.eigvals(ab, stream=mx.cpu)
    greatest = sorted(mx.abs(plain).tolist())[-2:]
    found = sorted(mx.abs(factored.eigenvalues).tolist())
    assert found == pytest.approx(greatest, abs=1e-4)
    c = mx.random.normal((5, 30), key=key)
    abc = factored @ c
    assert isinstance(abc, FactoredMatrix) and abc.mdim == 2 and close(abc.AB, ab @ c)
    assert close(abc.norm(), mx.linalg.norm(ab @ c))
    assert close(factored.AB, ab) and close(factored.T.AB, ab.T)
    left = mx.random.normal((30, 5), key=key) @ factored
    assert isinstance(left, FactoredMatrix) and left.shape == (30, 5)
    v = c[:, 0]
    assert close(factored @ v, ab @ v) and close(v @ factored, v @ ab)
    u, s, v = factored.svd()
    assert close((u * s) @ v.T, ab) and close(factored.make_even().AB, ab)
    assert close((2 * factored).AB, 2 * ab) and close(factored[1:, 2].AB, ab[1:, 2:3])
    assert close(mx.array(factored), ab)  # an array, where one is wanted
    with pytest.raises(UsageError, match="do not fit"):
        FactoredMatrix(a, c)


def test_circuits(model):
    n, h, d = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head
    ov = model.OV
    assert ov.shape == (n, h, model.cfg.d_model, model.cfg.d_model)
    assert ov.eigenvalues.shape == (n, h, d)
    assert ov.eigenvalues.dtype == mx.complex64
    assert close(ov[1, 2].AB, model.W_V[1, 2] @ model.W_O[1, 2])
    assert close(model.QK[0, 1].AB, model.W_Q[0, 1] @ model.W_K[0, 1].T)
    full = model.embed.W_E @ ov @ model.unembed.W_U
    assert full.shape == (n, h, model.cfg.d_vocab, model.cfg.d_vocab)
    assert isinstance(full, FactoredMatrix)
    one = model.W_E @ ov[0, 3].AB @ model.W_U
    assert close(full[0, 3].AB, one, atol=1e-3)
    # The trace is the sum of the eigenvalues.
    traced = full.eigenvalues.sum(axis=-1)
    assert close(mx.real(traced)[0, 3], mx.trace(one), atol=2e-3)


def test_what_is_not_there(model):
    with pytest.raises(UsageError, match=r"InterpretableModel\(path\).generate"):
        model.generate("w5", max_new_tokens=3)
    with pytest.raises(UsageError, match="resid_pre"):
        model(mx.zeros((1, 2, 24)), start_at_layer=1)
    with pytest.raises(UsageError, match="checkpoint_index"):
        type(model).from_pretrained("demo", checkpoint_index=3)
    with pytest.raises(AttributeError, match="it has model_name"):
        model.cfg.nothing
