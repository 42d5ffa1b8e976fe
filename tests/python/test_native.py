"""The C++ engine from Python, on the demo model: against mlx-lm's own module
with the same weights, site by site."""

import threading

import mlx.core as mx
import mlx.nn as nn
import mlxterp
import pytest
from compare import repeated
from mlx_lm.models import llama
from mlxterp import InterpretableModel, _core
from mlxterp import interventions as iv

PROMPT = "The Eiffel Tower is located in the city of"
IDS = [504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282]


@pytest.fixture(scope="module")
def model():
    return InterpretableModel("demo")


@pytest.fixture(scope="module")
def peer(model):
    """mlx-lm's Llama with the weights of the native one, wrapped."""
    c = model.engine.config
    module = llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=c["d_model"],
            num_hidden_layers=c["n_layers"],
            intermediate_size=c["d_mlp"],
            num_attention_heads=c["n_heads"],
            num_key_value_heads=c["n_kv_heads"],
            head_dim=c["d_head"],
            rms_norm_eps=1e-5,
            vocab_size=c["vocab"],
            rope_theta=100000.0,
            tie_word_embeddings=True,
        )
    )
    words = dict(model.engine.model.modules)
    module.load_weights(
        [
            (f"{words[path.removesuffix('.weight')]}.weight", value)
            for path, value in model.engine.model.parameters()
        ]
    )
    return InterpretableModel(module, model.tokenizer)


def far(ours: mx.array, theirs: mx.array) -> float:
    """The largest difference in parts of the largest magnitude; NaN fails."""
    assert ours.shape == theirs.shape
    return (mx.abs(ours - theirs).max() / mx.abs(theirs).max()).item()


def test_every_site_is_mlx_lms(model, peer):
    with model.trace(PROMPT) as ours:
        pass
    with peer.trace(PROMPT) as theirs:
        pass
    assert list(ours.activations) == list(theirs.activations)
    worst = max(
        (far(ours.activations[key], theirs.activations[key]), key)
        for key in ours.activations
    )
    print(f"{len(ours.activations)} sites, worst {worst}")
    assert len(ours.activations) == 30 * 14 + 4
    assert worst[0] <= 1e-4


@pytest.mark.parametrize("site", ["q", "k", "v", "rot_q", "rot_k", "z", "pattern"])
def test_attention_is_mlx_lms(model, peer, site):
    for layer in (0, 7, 29):
        name = f"layers.{layer}.self_attn.{site}"
        with model.trace(PROMPT):
            ours = model[name].save()
        with peer.trace(PROMPT):
            theirs = peer[name].save()
        assert far(ours, theirs) <= 1e-4


@pytest.mark.parametrize(
    "name, edit",
    [
        ("layers.4", iv.scale(0.5)),
        ("layers.4.mlp", iv.zero_out),
        ("layers.4.self_attn.q_proj", iv.clamp(-1, 1)),
        ("layers.10.self_attn.pattern", lambda x: x[:, ::-1]),
        ("layers.10.self_attn.z", iv.on_heads([3], iv.zero_out)),
        ("layers.{3..7}.self_attn", iv.replace_with(0.1)),
    ],
)
def test_interventions_do_what_they_do_there(model, peer, name, edit):
    with model.trace(PROMPT, interventions={name: edit}):
        ours = model.output.save()
    with peer.trace(PROMPT, interventions={name: edit}):
        theirs = peer.output.save()
    assert far(ours, theirs) <= 1e-4
    assert far(ours, model(mx.array([IDS]))) > 1e-3


def test_the_oracle(model):
    with model.trace(PROMPT):
        logits = model.output.save()
    assert model.encode(PROMPT) == IDS
    assert logits[0, -1, model.encode(" Paris")[0]].item() == pytest.approx(
        12.8419, abs=1e-3
    )


def test_saved_are_evaluated_the_rest_is_computed_when_asked_for(model):
    with model.trace(PROMPT) as trace:
        model.layers[-1].output.save()
    with pytest.raises(mlxterp.UsageError, match="dropped when the trace ended"):
        trace.activations["model.model.layers.3.mlp"]
    with model.trace(PROMPT, activations=True) as trace:
        resid = model.layers[-1].output.save()
    assert list(trace.saved_values) == ["layers.29.output"]
    mlp = trace.activations["model.model.layers.3.mlp"]
    assert resid.shape == mlp.shape == (1, 10, 576)


def test_names(model):
    find = model.engine.resolve
    for name in (
        "layers.3.self_attn",
        "model.layers.3.self_attn",
        "model.model.layers.3.self_attn",
        "blocks.3.hook_attn_out",
        "layers.3.attn_out",
    ):
        assert find(name) == "layers.3.attn_out"
    assert find("layers.3.self_attn.attention_weights") == "layers.3.attn.pattern"
    assert find("__model_output__") == find("output") == "logits"
    with pytest.raises(mlxterp.UnknownNameError, match="layers.3.attn"):
        find("layers.3.attnn")
    with pytest.raises(AttributeError):
        model.layers[3].nothing  # noqa: B018


def test_errors_arrive(model):
    def raises(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="^mine$"):
        with model.trace(PROMPT, interventions={"layers.4": raises}):
            pass
    with pytest.raises(mlxterp.UsageError, match="layers.4.resid_post.*float16"):
        with model.trace(
            PROMPT, interventions={"layers.4": lambda x: x.astype(mx.float16)}
        ):
            pass
    with pytest.raises(mlxterp.UsageError, match="returned.*int"):
        with model.trace(PROMPT, interventions={"layers.4": lambda x: 1}):
            pass
    with pytest.raises(mlxterp.UsageError, match="NaN"):
        with model.trace(PROMPT, interventions={"layers.4": lambda x: x * mx.nan}):
            model.output.save()
    with pytest.raises(mlxterp.OutOfRangeError, match="49152"):
        model(mx.array([[49152]]))
    with pytest.raises(mlxterp.IoError):
        InterpretableModel("/nowhere/model.gguf")


def test_rows_of_different_length(model):
    rows = [[504, 414, 46682], [504], IDS]
    with model.trace(rows) as trace:
        logits = model.output.save()
    assert trace.lengths == [3, 1, 10]
    for i, row in enumerate(rows):
        alone = model(mx.array([row]))
        assert far(logits[i, : len(row)], alone[0]) <= 1e-4


def test_gradients_are_mlx_lms(model, peer):
    def through(it):
        def loss(scale):
            edit = {"layers.4.mlp": lambda x: x * scale}
            with it.trace(IDS, interventions=edit) as trace:
                pass
            return trace.output[0, -1, 7042]

        return mx.grad(loss)(mx.array(1.0)).item()

    assert through(model) == pytest.approx(through(peer), rel=1e-3)


def test_a_probe_trains_through_the_native_model(model):
    weight = mx.zeros((576, 8)), mx.random.normal((8, 576)) * 0.02
    target = mx.array([7042])

    def loss(down, up):
        edit = {"layers.20": lambda x: x + x @ down @ up}
        with model.trace(IDS, interventions=edit) as trace:
            pass
        return nn.losses.cross_entropy(trace.output[:, -1], target).mean()

    step = mx.value_and_grad(loss, argnums=(0, 1))
    losses = []
    for _ in range(4):
        value, grads = step(*weight)
        weight = tuple(w - 0.02 * g for w, g in zip(weight, grads))
        mx.eval(value, *weight)
        losses.append(value.item())
    assert losses[-1] < losses[0]


def test_parameters_update_and_value_and_grad():
    model = InterpretableModel("demo")
    loss, grads = nn.value_and_grad(
        model.model, lambda ids: model(ids)[0, -1].square().mean()
    )(mx.array([IDS]))
    gate = grads["layers"][3]["mlp"]["gate_proj"]["weight"]
    assert gate.shape == (1536, 576) and mx.abs(gate).max().item() > 0
    before = model.layers[3].mlp
    assert model.model.layers[3].mlp.gate_proj.weight.shape == (1536, 576)
    model.model.update({"ln_final": {"weight": mx.zeros((576,))}})
    assert mx.abs(model(mx.array([IDS]))).max().item() == 0
    with pytest.raises(mlxterp.UnknownNameError):
        model.model.update({"nothing": mx.zeros((1,))})
    # All or nothing.
    wrong = {"ln_final": {"weight": mx.ones((576,))}, "embed": {"weight": mx.ones(3)}}
    with pytest.raises(mlxterp.UsageError, match=r"\(3\), it is float32 \(49152, 576\)"):
        model.model.update(wrong)
    assert model.model.ln_final.weight.max().item() == 0
    assert repr(before) == "ModuleProxy(layers.3.mlp)"


def test_threads(model):
    plain = model(mx.array([IDS]))
    mx.eval(plain)
    found = {}

    def run(i):
        with mx.stream(mx.new_stream(mx.default_device())):
            edits = {f"layers.{i}.mlp": iv.zero_out} if i else None
            with model.trace(IDS, interventions=edits):
                found[i] = model.output.save()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert repeated(found[0], plain)
    assert all(not repeated(found[i], plain) for i in (1, 2, 3))


def test_verify(model):
    checks = _core.verify(model.engine.model, None)
    assert len(checks) == 10 and all(c.passed for c in checks)
