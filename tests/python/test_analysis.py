"""Lenses and activation patching, against plain computations of the model."""

import sys
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from compare import repeated
from families import build
from mlxterp import InterpretableModel
from mlxterp.errors import (
    BadDataError,
    OutOfRangeError,
    UnknownNameError,
    UsageError,
)
from mlxterp.analysis.unembed import tied_projection, top_tokens
from view_models import WordTokenizer, llama_states, tiny_gpt2, tiny_llama

VOCAB = 97
TEXT = "w3 w14 w15 w92 w6"
TOKENS = [3, 14, 15, 92, 6]


@pytest.fixture(scope="module")
def network():
    return tiny_llama()


@pytest.fixture(scope="module")
def model(network):
    return InterpretableModel(network, WordTokenizer(VOCAB))


def ranked(logits, k):
    """(id, logit) of the k highest of [vocab], by numpy."""
    logits = np.array(logits)
    order = np.argsort(-logits)[:k]
    return [(int(i), float(logits[i])) for i in order]


def assert_ranked(found, expected):
    assert [pair[0] for pair in found] == [pair[0] for pair in expected]
    assert [pair[1] for pair in found] == pytest.approx(
        [pair[1] for pair in expected], abs=1e-4
    )


# Token predictions


def test_predictions_of_a_vector_are_a_list_of_ids(model, network):
    state = mx.random.normal((32,), key=mx.random.key(1))
    expected = ranked(state @ network.model.embed_tokens.weight.T, 4)
    found = model.get_token_predictions(state, top_k=4)
    assert found == [token for token, _ in expected]
    assert all(type(token) is int for token in found)
    scored = model.get_token_predictions(state, top_k=4, return_scores=True)
    assert_ranked(scored, expected)
    assert all(type(pair) is tuple and type(pair[1]) is float for pair in scored)


def test_predictions_of_more_axes_are_nested_lists(model):
    states = mx.random.normal((2, 3, 32), key=mx.random.key(2))
    found = model.get_token_predictions(states, top_k=2)
    assert len(found) == 2 and len(found[0]) == 3 and len(found[0][0]) == 2
    assert model.get_token_predictions(states[1], top_k=2) == found[1]
    assert model.get_token_predictions(states[1, 2], top_k=2) == found[1][2]


def test_predictions_default_to_ten_and_stop_at_the_vocabulary(model):
    state = mx.random.normal((32,), key=mx.random.key(1))
    assert len(model.get_token_predictions(state)) == 10
    everything = model.get_token_predictions(state, top_k=1000)
    assert sorted(everything) == list(range(VOCAB))
    assert model.get_token_predictions(state, top_k=0) == []


def test_predictions_through_another_head_or_embedding(model):
    state = mx.random.normal((32,), key=mx.random.key(1))
    head = nn.Linear(32, 11, bias=False)
    embedding = nn.Embedding(13, 32)
    by_head = model.get_token_predictions(
        state, 3, True, embedding_layer=embedding, lm_head=head
    )
    assert_ranked(by_head, ranked(state @ head.weight.T, 3))
    by_rows = model.get_token_predictions(state, 3, True, embedding)
    assert_ranked(by_rows, ranked(state @ embedding.weight.T, 3))


def test_a_quantised_embedding_projects_by_its_rows(model):
    embedding = nn.QuantizedEmbedding(40, 32, group_size=32, bits=4)
    rows = embedding(mx.arange(40))
    state = mx.random.normal((32,), key=mx.random.key(1))
    found = model.get_token_predictions(state, 5, True, embedding)
    assert_ranked(found, ranked(rows @ state, 5))


def test_an_embedding_of_one_s_own_needs_only_a_weight():
    class Rows:
        weight = mx.random.normal((7, 4), key=mx.random.key(3))

    state = mx.ones((1, 4))
    assert repeated(tied_projection(Rows())(state), state @ Rows.weight.T)
    with pytest.raises(UsageError, match="object cannot serve"):
        tied_projection(object())


def test_slices_change_nothing(model, monkeypatch):
    states = mx.random.normal((50, 32), key=mx.random.key(4))
    whole = model.get_token_predictions(states, 3)
    monkeypatch.setattr("mlxterp.analysis.unembed._ROWS", 7)
    assert model.get_token_predictions(states, 3) == whole


def test_half_precision_scores_are_floats():
    states = mx.random.normal((2, 8), key=mx.random.key(5)).astype(mx.bfloat16)
    rows = mx.random.normal((9, 8), key=mx.random.key(6)).astype(mx.bfloat16)
    found = top_tokens(states, lambda h: h @ rows.T, 2)
    assert type(found[0][0][1]) is float
    expected = (states @ rows.T).astype(mx.float32)
    assert found[0][0][1] == pytest.approx(float(expected[0].max()), rel=2**-7)


def test_a_nan_predicts_nothing(model):
    with pytest.raises(BadDataError, match="NaN"):
        model.get_token_predictions(mx.full((32,), float("nan")))


@pytest.mark.parametrize("shape", [(), (1, 1, 1, 32)])
def test_predictions_of_another_shape(model, shape):
    with pytest.raises(UsageError, match="hidden_state must be"):
        model.get_token_predictions(mx.zeros(shape))


def test_a_negative_top_k(model):
    with pytest.raises(UsageError, match="top_k"):
        model.get_token_predictions(mx.zeros((32,)), top_k=-1)


# The logit lens


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("quantised", [True, False])
def test_logit_lens_is_norm_and_unembedding(tie, quantised):
    network = tiny_llama(tie=tie, quantised=quantised)
    model = InterpretableModel(network, WordTokenizer(VOCAB))
    found = model.logit_lens(TEXT, top_k=3)
    embedding = network.model.embed_tokens
    for layer, state in enumerate(llama_states(network, TOKENS)):
        normed = network.model.norm(state[0])
        if tie:
            logits = normed @ embedding(mx.arange(VOCAB)).T
        else:
            logits = network.lm_head(normed)
        assert len(found[layer]) == len(TOKENS)
        for position, row in enumerate(found[layer]):
            assert_ranked(row, ranked(logits[position], 3))
            assert [text for _, _, text in row] == [f"w{i}" for i, _, _ in row]
    assert list(found) == [0, 1, 2]


def test_the_last_layer_s_lens_is_the_model(model, network):
    logits = network(mx.array([TOKENS]))[0]
    best = mx.argmax(logits, axis=-1).tolist()
    assert [row[0][0] for row in model.logit_lens(TEXT)[2]] == best


def test_logit_lens_of_chosen_layers_and_one_position(model):
    everything = model.logit_lens(TEXT, top_k=2)
    found = model.logit_lens(TEXT, top_k=2, layers=[2, 0], position=-2)
    assert list(found) == [2, 0]
    for layer in found:
        assert len(found[layer]) == 1
        assert_ranked(found[layer][0], everything[layer][3])
    assert model.logit_lens(TEXT, layers=[]) == {}


def test_logit_lens_without_or_with_another_norm(model, network):
    states = llama_states(network, TOKENS)
    rows = network.model.embed_tokens.weight
    found = model.logit_lens(TEXT, 2, position=1, skip_norm=True)
    assert_ranked(found[0][0], ranked(states[0][0, 1] @ rows.T, 2))
    found = model.logit_lens(TEXT, 2, position=1, final_norm=lambda h: -h)
    assert_ranked(found[0][0], ranked(-states[0][0, 1] @ rows.T, 2))
    # A norm without parameters is an empty, and so falsy, module.
    plain = nn.LayerNorm(32, affine=False)
    found = model.logit_lens(TEXT, 2, position=1, final_norm=plain)
    assert_ranked(found[0][0], ranked(plain(states[0][0, 1]) @ rows.T, 2))


def test_a_lens_needs_no_norm_and_projection_but_one_of_ones_own_does(network):
    """What the model says of a stream is read by itself; where to put another
    norm must be known."""
    model = InterpretableModel(network, WordTokenizer(VOCAB))
    known = model.logit_lens(TEXT)
    skipped = model.logit_lens(TEXT, skip_norm=True)
    model._module_resolver.get_final_norm = lambda: None
    assert repeated(model.logit_lens(TEXT), known) and not repeated(known, skipped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repeated(model.logit_lens(TEXT, skip_norm=True), skipped)
    with pytest.warns(UserWarning, match="final norm was not found"):
        found = model.tuned_lens(TEXT, lambda h, layer: h)
    assert repeated(found, skipped)
    model._module_resolver.get_output_projection = lambda: (None, None, False)
    assert repeated(model.logit_lens(TEXT), known)
    with pytest.raises(UnknownNameError, match="lm_head_path"):
        model.logit_lens(TEXT, skip_norm=True)


@pytest.mark.parametrize("position", [5, -6, 99])
def test_logit_lens_position_out_of_range(model, position):
    with pytest.raises(OutOfRangeError, match="there are 5, numbered 0 to 4"):
        model.logit_lens(TEXT, position=position)
    with pytest.raises(OutOfRangeError, match="has 5 tokens, so -5 to 4"):
        model.logit_lens(TEXT, position=position, skip_norm=True)


@pytest.mark.parametrize("layer", [3, -1])
def test_logit_lens_layer_out_of_range(model, layer):
    with pytest.raises(OutOfRangeError, match="3 layers, 0 to 2"):
        model.logit_lens(TEXT, layers=[0, layer])


def test_lenses_of_a_gpt2_whose_layers_are_h():
    network = tiny_gpt2()
    model = InterpretableModel(network, WordTokenizer(VOCAB))
    found = model.logit_lens(TEXT)
    assert list(found) == [0, 1]
    logits = network(mx.array([TOKENS]))[0]
    assert [row[0][0] for row in found[1]] == mx.argmax(logits, -1).tolist()
    assert set(model.activation_patching(TEXT, "w1 w2 w3 w4 w5", "attn")) == {0, 1}


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "mixtral", "mamba2"])
def test_other_families(family):
    network = build(family)
    model = InterpretableModel(network, WordTokenizer(96))
    last = len(model.layers) - 1
    logits = network(mx.array([TOKENS]))[0]
    found = model.logit_lens(TEXT)[last]
    assert [row[0][0] for row in found] == mx.argmax(logits, -1).tolist()
    if family == "mamba2":
        with pytest.raises(UnknownNameError, match="layers.0.mixer"):
            model.activation_patching(TEXT, "w9 w8 w7 w1 w2")
    else:  # what they call mlp and attention differs
        for component in ("mlp", "self_attn", "attn"):
            found = model.activation_patching(TEXT, "w9 w8 w7 w1 w2", component)
            assert len(found) == last + 1


# The tuned lens


def test_tuned_lens_translates_before_the_norm(model, network):
    found = model.tuned_lens(TEXT, lambda h, layer: h * -(layer + 1) + 1, top_k=2)
    rows = network.model.embed_tokens.weight
    for layer, state in enumerate(llama_states(network, TOKENS)):
        logits = network.model.norm(state[0] * -(layer + 1) + 1) @ rows.T
        for position, row in enumerate(found[layer]):
            assert_ranked(row, ranked(logits[position], 2))


def test_tuned_lens_position_out_of_range_is_a_value_error(model):
    with pytest.raises(ValueError, match="out of range"):
        model.tuned_lens(TEXT, lambda h, layer: h, position=5)


# Plots


@pytest.fixture
def shown(monkeypatch):
    """The figures that were shown."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    yield figures
    plt.close("all")


def test_lens_plots_show_the_last_tokens(model, shown):
    found = model.logit_lens(TEXT, plot=True, max_display_tokens=2, figsize=(5, 4))
    assert repeated(found, model.logit_lens(TEXT))
    axes = shown[0].axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["w92", "w6"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["L0", "L1", "L2"]
    cells = [text.get_text() for text in axes.texts]
    assert cells == [found[i][p][0][2] for i in range(3) for p in (3, 4)]
    model.tuned_lens(TEXT, lambda h, layer: h, position=-1, plot=True)
    labels = shown[1].axes[0].get_xticklabels()
    assert [t.get_text() for t in labels] == ["w6"]
    assert "Tuned Lens" in shown[1].axes[0].get_title()


def test_tokens_with_dollar_signs_are_drawn(shown):
    from mlxterp.visualization.lens_plots import plot_token_predictions

    results = {0: [[(1, 0.5, "$\\frac$")], [(2, 0.5, "\n")]]}
    figure = plot_token_predictions(results, ["$x", "$"], text="$a$ {")
    figure.canvas.draw()
    assert figure.axes[0].texts[1].get_text() == "↵"


def test_patching_plot_has_a_bar_for_each_layer(model, shown):
    found = model.activation_patching(TEXT, "w1 w2 w3", plot=True, layers=[0, 2])
    heights = [bar.get_height() for bar in shown[0].axes[0].patches]
    assert heights == pytest.approx(list(found.values()))


def test_plots_without_matplotlib_name_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "mlxterp\[viz\]"'):
        model.logit_lens(TEXT, plot=True)
    with pytest.raises(ImportError, match=r"mlxterp\[viz\]"):
        model.activation_patching(TEXT, TEXT, plot=True)


# Activation patching


def patched_llama(network, layer, clean, corrupted):
    """Logits at the end of a corrupted run whose MLP output at one layer is
    the clean run's."""

    def run(tokens, value=None):
        hidden = network.model.embed_tokens(mx.array([tokens]))
        kept = None
        for index, block in enumerate(network.model.layers):
            attended = block.self_attn(block.input_layernorm(hidden), "causal", None)
            hidden = hidden + attended
            out = block.mlp(block.post_attention_layernorm(hidden))
            if index == layer:
                kept = out
                if value is not None:
                    count = min(out.shape[1], value.shape[1])
                    out = mx.concatenate(
                        [out[:, : out.shape[1] - count], value[:, -count:]], axis=1
                    )
            hidden = hidden + out
        normed = network.model.norm(hidden)
        return network.model.embed_tokens.as_linear(normed)[0, -1], kept

    target, value = run(clean)
    start, _ = run(corrupted)
    end, _ = run(corrupted, value)
    return np.array(target), np.array(start), np.array(end)


def cosine(a, b):
    return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("metric", "distance"),
    [
        ("l2", lambda a, b: np.linalg.norm(a - b)),
        ("mse", lambda a, b: np.mean((a - b) ** 2)),
        ("cosine", cosine),
    ],
)
@pytest.mark.parametrize("corrupted", [[9, 8, 7, 1, 2], [9, 8], [1] * 8])
def test_patching_an_mlp(model, network, metric, distance, corrupted):
    text = " ".join(f"w{token}" for token in corrupted)
    found = model.activation_patching(TEXT, text, metric=metric)
    assert list(found) == [0, 1, 2]
    for layer, recovered in found.items():
        target, start, end = patched_llama(network, layer, TOKENS, corrupted)
        base = distance(start, target)
        assert type(recovered) is float
        assert recovered == pytest.approx(
            100 * (base - distance(end, target)) / base, abs=0.02
        )


def test_patching_whole_layers_recovers_everything(model):
    found = model.activation_patching(TEXT, "w9 w8 w7 w1 w2", "output")
    assert list(found.values()) == pytest.approx([100.0] * 3, abs=1e-3)


def test_patching_equal_texts_recovers_nothing(model):
    assert model.activation_patching(TEXT, TEXT, layers=[1]) == {1: 0.0}


def test_attn_and_self_attn_are_one_component(model):
    other = "w9 w8 w7 w1 w2"
    percents = 1e-4  # of a distance that is itself a small difference
    named = model.activation_patching(TEXT, other, "self_attn")
    assert repeated(model.activation_patching(TEXT, other, "attn"), named, percents)
    inside = model.activation_patching(TEXT, other, "self_attn.v_proj")
    assert repeated(model.activation_patching(TEXT, other, "attn.v_proj"), inside, percents)
    assert not repeated(inside, named)


def test_patching_what_is_no_module_s_output(model):
    """The mixed values z, which the engine names: patched at every position
    they are the whole of attention."""
    other = "w9 w8 w7 w1 w2"
    found = model.activation_patching(TEXT, other, "self_attn.z")
    whole = model.activation_patching(TEXT, other, "self_attn")
    assert list(found.values()) == pytest.approx(list(whole.values()), abs=1e-2)


def test_patching_prints_nothing(model, capsys):
    model.activation_patching(TEXT, "w1 w2")
    assert capsys.readouterr().out == ""


def test_patching_what_there_is_not(model):
    with pytest.raises(UnknownNameError, match="mlp.gate_proj"):
        model.activation_patching(TEXT, "w1", "mlp.gate_pro")
    with pytest.raises(OutOfRangeError, match="layer 7"):
        model.activation_patching(TEXT, "w1", layers=[7])
    with pytest.raises(UsageError, match="l2, cosine, mse"):
        model.activation_patching(TEXT, "w1", metric="l3")


def test_distances_do_not_overflow():
    from mlxterp.compat.v01.distances import cosine as angle
    from mlxterp.compat.v01.distances import l2

    huge = mx.array([3e30, 4e30])
    assert l2(huge, mx.zeros(2)) == pytest.approx(5e30, rel=1e-5)
    assert l2(huge, huge) == 0.0
    assert angle(mx.zeros(2), mx.ones(2)) == 1.0
    half = mx.array([300.0, 400.0], mx.float16)
    assert l2(half, -half) == pytest.approx(1000.0)
