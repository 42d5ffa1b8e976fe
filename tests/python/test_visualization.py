"""Attention patterns: read, scored, drawn, and as a page."""

import base64
import html.parser
import json
import re
import sys
import types
from dataclasses import astuple

import mlx.core as mx
import numpy as np
import pytest
from compare import repeated
from mlxterp import InterpretableModel
from mlxterp import visualization as viz
from mlxterp.errors import (
    IoError,
    OutOfRangeError,
    UnknownNameError,
    UsageError,
)
from view_models import WordTokenizer, llama_patterns, tiny_llama

TOKENS = [3, 14, 15, 92, 6, 3, 14]
TEXT = " ".join(f"w{token}" for token in TOKENS)
WORDS = TEXT.split()
# Texts that would break out of HTML, formulas and templates.
NASTY = ["<script>alert(1)</script>", '"', "'", "&amp;", "\n", "$\\x$", "{{DATA}}"]


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(tiny_llama(), WordTokenizer(97))


@pytest.fixture(scope="module")
def trace(model):
    with model.trace(TEXT) as trace:
        pass
    return trace


@pytest.fixture(scope="module")
def patterns(trace):
    return viz.get_attention_patterns(trace)


@pytest.fixture
def plt():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


# Reading


def test_patterns_are_the_softmax_of_the_scores(model, patterns):
    assert list(patterns) == [0, 1, 2]
    for layer, expected in enumerate(llama_patterns(model.model, TOKENS)):
        assert isinstance(patterns[layer], np.ndarray)
        assert patterns[layer].shape == (1, 4, 7, 7)
        assert np.allclose(patterns[layer][0], expected, atol=1e-5)


def test_patterns_of_chosen_layers(trace, patterns):
    assert list(viz.get_attention_patterns(trace, 1)) == [1]
    assert list(viz.get_attention_patterns(trace, [2, 0])) == [2, 0]
    with pytest.raises(UnknownNameError, match="layer 3 .* 0, 1, 2"):
        viz.get_attention_patterns(trace, [0, 3])


def test_half_precision_patterns_become_numpy_s():
    network = tiny_llama()
    network.set_dtype(mx.bfloat16)
    model = InterpretableModel(network, WordTokenizer(97))
    with model.trace(TEXT) as trace:
        found = viz.get_attention_patterns(trace, 0)[0]
    assert found.dtype == np.float32
    assert np.allclose(found.sum(-1), 1, atol=0.02)


class Traced:
    """A finished trace of a model whose layers are `h` and whose attention is
    `attn`."""

    def __init__(self, **keys):
        self.activations = {key.replace("_", "."): v for key, v in keys.items()}


def test_names_of_other_families():
    pattern = mx.ones((1, 1, 1, 1))
    traced = Traced()
    traced.activations = {
        "model.h.11.attn.attention_weights": pattern,
        "model.h.2.attn.attention_weights": pattern,
        "model.h.2.attn": pattern,
    }
    assert list(viz.get_attention_patterns(traced)) == [2, 11]
    traced.activations = {}
    assert viz.get_attention_patterns(traced) == {}
    with pytest.raises(ValueError, match="no attention patterns"):
        viz.attention_from_trace(traced, ["a"])


# Scores


def test_scores_are_means_along_diagonals():
    pattern = np.arange(25.0).reshape(5, 5)
    assert viz.previous_token_score(pattern) == np.mean([5, 11, 17, 23])
    assert viz.current_token_score(pattern) == np.mean([0, 6, 12, 18, 24])
    assert viz.first_token_score(pattern) == np.mean([0, 5, 10, 15, 20])
    # From i to i − 3 + 1, for i = 3, 4.
    assert viz.induction_score(pattern, 3) == np.mean([pattern[3, 1], pattern[4, 2]])
    assert type(viz.induction_score(pattern, 3)) is float


def test_scores_of_too_little():
    one = np.ones((1, 1))
    assert viz.previous_token_score(one) == 0.0
    assert viz.induction_score(one, 1) == 0.0
    assert viz.induction_score(np.ones((3, 3)), 5) == 0.0
    with pytest.raises(UsageError, match="seq_len"):
        viz.induction_score(one, 0)


def test_copying_score(monkeypatch):
    random = np.random.RandomState(0)
    circuit = random.randn(6, 6)
    expected = np.trace(circuit) / 6 / np.abs(circuit).mean()
    assert viz.copying_score(circuit) == pytest.approx(expected)
    assert viz.copying_score(np.eye(4)) == pytest.approx(4.0)
    unembedding = random.randn(6, 10)
    whole = unembedding.T @ circuit @ unembedding
    expected = np.diag(whole).mean() / np.abs(whole).mean()
    monkeypatch.setattr("mlxterp.visualization.patterns._ROWS_AT_ONCE", 3)
    assert viz.copying_score(circuit, unembedding) == pytest.approx(expected)


def test_the_detector_tells_kinds_above_thresholds():
    previous = np.eye(6, k=-1)
    previous[0, 0] = 1
    detector = viz.AttentionPatternDetector()
    assert (
        detector.induction_threshold,
        detector.previous_token_threshold,
        detector.first_token_threshold,
        detector.current_token_threshold,
    ) == (0.4, 0.5, 0.3, 0.3)
    assert list(detector.analyze_head(previous)) == [
        "previous_token",
        "first_token",
        "current_token",
    ]
    assert detector.analyze_head(previous, 2)["induction"] == 1.0
    assert detector.classify_head(previous) == ["previous_token", "first_token"]
    assert detector.classify_head(np.eye(6)) == ["current_token"]
    assert detector.classify_head(previous, 2)[-1] == "induction"
    assert detector.classify_head(np.zeros((6, 6))) == ["unknown"]
    strict = viz.AttentionPatternDetector(previous_token_threshold=1.0)
    assert "previous_token" not in strict.classify_head(previous)


# Searching


def test_head_types_of_a_text(model, patterns):
    found = viz.detect_head_types(model, TEXT, threshold=0.2)
    assert list(found) == ["previous_token", "first_token", "current_token", "unknown"]
    scores = {
        "previous_token": viz.previous_token_score,
        "first_token": viz.first_token_score,
        "current_token": viz.current_token_score,
    }
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    for kind, score in scores.items():
        expected = [(i, h) for i, h in heads if score(patterns[i][0, h]) > 0.2]
        assert found[kind] == expected
    assert viz.detect_head_types(model, TEXT, 1.0)["unknown"] == heads
    assert viz.detect_head_types(model, TEXT, 1.0, [1])["unknown"] == heads[4:8]


def test_induction_heads_on_mlxterp_0_1_s_tokens(model):
    state = np.random.get_state()[1].copy()
    found = viz.detect_induction_heads(model, 8, 3, threshold=0.0)
    assert (np.random.get_state()[1] == state).all()
    # Seeded with 42, from the middle 80 % of 97 tokens.
    tokens = np.random.RandomState(42).randint(9, 87, size=8).tolist() * 3
    expected = []
    for layer, heads in enumerate(llama_patterns(model.model, tokens)):
        for head, pattern in enumerate(np.array(heads)):
            score = np.mean([pattern[i, i - 7] for i in range(8, 24)])
            expected.append((layer, head, score))
    expected.sort(key=lambda it: -it[2])
    assert [(h.layer, h.head) for h in found] == [it[:2] for it in expected]
    assert [h.score for h in found] == pytest.approx(
        [it[2] for it in expected], abs=1e-5
    )
    assert {h.head_type for h in found} == {"induction"}
    other = viz.detect_induction_heads(model, 8, 3, threshold=0.0, seed=1)
    assert [h.score for h in other] != [h.score for h in found]
    middle = (found[4].score + found[5].score) / 2
    above = viz.detect_induction_heads(model, 8, 3, threshold=middle)
    assert repeated(list(map(astuple, above)), list(map(astuple, found[:5])))


@pytest.mark.parametrize("tokenizer", [WordTokenizer(50_000), None])
def test_random_tokens_are_tokens_of_the_model(tokenizer):
    """A tokenizer with more tokens than the embedding has rows, or none."""
    model = InterpretableModel(tiny_llama(), tokenizer)
    expected = viz.detect_induction_heads(
        InterpretableModel(tiny_llama(), WordTokenizer(97)), 5, threshold=0.0
    )
    found = viz.detect_induction_heads(model, 5, threshold=0.0)
    assert repeated(list(map(astuple, found)), list(map(astuple, expected)))


def test_induction_needs_a_repetition(model):
    with pytest.raises(UsageError, match="2 repetitions"):
        viz.detect_induction_heads(model, n_repeats=1)


def test_a_pattern_of_one_s_own(model, patterns):
    found = viz.find_attention_pattern(
        model, TEXT, lambda p: float(p[-1, 2]), threshold=0.1
    )
    expected = {
        (layer, head): patterns[layer][0, head, -1, 2]
        for layer in range(3)
        for head in range(4)
        if patterns[layer][0, head, -1, 2] > 0.1
    }
    assert {(h.layer, h.head): h.score for h in found} == pytest.approx(
        expected, abs=1e-6
    )
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert all(h.head_type == "custom" for h in found)


# Figures


def test_configuration_defaults():
    assert vars(viz.AttentionVisualizationConfig()) == {
        "colorscale": "Blues",
        "mask_upper_tri": True,
        "show_colorbar": True,
        "figure_width": 800,
        "figure_height": 600,
        "heads_per_row": 4,
        "hover_info": True,
        "backend": "auto",
    }
    assert vars(viz.InteractiveAttentionConfig()) == {
        "title": "Attention Patterns",
        "heatmap_size": 350,
        "colorscale": "Blues",
        "show_layer_flow": True,
    }


def test_a_matplotlib_heatmap(plt, patterns):
    figure = viz.attention_heatmap(
        patterns[1], NASTY, 2, title="one head", backend="matplotlib"
    )
    figure.canvas.draw()
    axes = figure.axes[0]
    drawn = axes.images[0].get_array()
    assert np.allclose(np.tril(drawn.filled(0)), patterns[1][0, 2])
    assert drawn.mask.sum() == 21  # the future
    assert axes.get_title() == "one head"
    assert axes.get_xticklabels()[0].get_text() == "<script>ale…"
    unmasked = viz.AttentionVisualizationConfig(
        mask_upper_tri=False, backend="matplotlib", show_colorbar=False
    )
    for attention in (patterns[1][0], patterns[1][0, 2], mx.array(patterns[1])):
        figure = viz.attention_heatmap(attention, WORDS, 2, config=unmasked)
        assert len(figure.axes) == 1
        assert np.allclose(figure.axes[0].images[0].get_array(), patterns[1][0, 2])


def test_a_plotly_heatmap(patterns):
    figure = viz.attention_heatmap(patterns[1], NASTY, 2, backend="plotly")
    drawn = np.array(figure.data[0].z, np.float64)
    assert np.allclose(np.nan_to_num(drawn), patterns[1][0, 2])
    assert np.isnan(drawn).sum() == 21
    assert figure.layout.xaxis.ticktext[0] == "&lt;script&gt;ale…"
    assert figure.layout.yaxis.autorange == "reversed"
    assert (figure.layout.width, figure.layout.height) == (800, 600)


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_a_grid_of_heads(plt, trace, backend):
    config = viz.AttentionVisualizationConfig(backend=backend, heads_per_row=3)

    def titles(**options):
        figure = viz.attention_from_trace(trace, WORDS, config=config, **options)
        if backend == "plotly":
            return [it.text for it in figure.layout.annotations]
        return [axes.get_title() for axes in figure.axes if axes.get_title()]

    assert titles(layers=1) == ["L1H0", "L1H1", "L1H2", "L1H3"]
    assert titles(heads=[(2, 1), (0, 3)], head_notation="dot") == ["2.1", "0.3"]
    assert titles(mode="single") == ["L0H0"]
    assert len(titles()) == 12


def test_a_grid_has_one_scale_of_colours(plt, trace, patterns):
    config = viz.AttentionVisualizationConfig(backend="matplotlib")
    figure = viz.attention_from_trace(trace, WORDS, layers=[1, 2], config=config)
    greatest = float(max(patterns[1].max(), patterns[2].max()))
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert limits == {(0.0, greatest)}


def test_more_heads_than_fit_are_told(plt):
    traced = Traced()
    traced.activations = {
        "model.layers.0.self_attn.attention_weights": mx.ones((1, 20, 2, 2))
    }
    config = viz.AttentionVisualizationConfig(backend="matplotlib")
    with pytest.warns(UserWarning, match="16 of 20"):
        figure = viz.attention_from_trace(traced, ["a", "b"], config=config)
    assert sum(bool(axes.images) for axes in figure.axes) == 16


def test_drawing_what_there_is_not(patterns, trace):
    with pytest.raises(OutOfRangeError, match="4 heads"):
        viz.attention_heatmap(patterns[0], WORDS, head_idx=4)
    with pytest.raises(OutOfRangeError, match="no head 9 in layer 1"):
        viz.attention_from_trace(trace, WORDS, heads=[(1, 9)])
    with pytest.raises(UsageError, match="7 by 7, but there are 2 tokens"):
        viz.attention_heatmap(patterns[0], ["a", "b"], backend="matplotlib")
    with pytest.raises(UsageError, match="shape"):
        viz.attention_heatmap(np.ones(3), WORDS)
    with pytest.raises(UsageError, match="backend 'gnuplot'"):
        viz.attention_heatmap(patterns[0], WORDS, backend="gnuplot")
    with pytest.raises(UsageError, match="mode 'cloud'"):
        viz.attention_from_trace(trace, WORDS, mode="cloud")
    with pytest.raises(UsageError, match="head_notation"):
        viz.attention_from_trace(trace, WORDS, head_notation="HL")


def test_a_missing_backend_names_what_to_install(patterns, monkeypatch):
    modules = sys.modules
    monkeypatch.setitem(modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(modules, "plotly", None)
    monkeypatch.setitem(modules, "plotly.graph_objects", None)
    for backend in ("auto", "matplotlib", "plotly"):
        with pytest.raises(ImportError, match=r'pip install "mlxterp\[viz\]"'):
            viz.attention_heatmap(patterns[0], WORDS, backend=backend)


def test_a_padded_row_is_drawn_without_its_padding(model):
    with model.trace(["w3 w14", TEXT]) as trace:
        page = viz.interactive_attention_from_trace(trace, ["w3", "w14"])
    with model.trace("w3 w14") as alone:
        expected = viz.get_attention_patterns(alone, 1)[1][0]
    found = read(page)["layers"][1]["values"].reshape(4, 2, 2)
    assert np.allclose(found, expected, atol=1e-5)


# The page


def read(page):
    """The data of a page, its values decoded."""
    [text] = re.findall(
        r'<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    data = json.loads(text)
    for layer in data["layers"]:
        layer["values"] = np.frombuffer(base64.b64decode(layer["values"]), "<f4")
    return data


class Elements(html.parser.HTMLParser):
    """The elements of a page and what they load."""

    def __init__(self, page):
        super().__init__()
        self.names, self.attributes = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += attributes


def test_a_page_holds_the_patterns(patterns):
    data = read(viz.interactive_attention({2: patterns[2], 0: patterns[0]}, WORDS))
    assert data["tokens"] == WORDS
    assert [layer["layer"] for layer in data["layers"]] == [0, 2]
    for layer in data["layers"]:
        expected = patterns[layer["layer"]][0]
        assert layer["heads"] == 4
        assert (layer["values"].reshape(4, 7, 7) == expected).all()


def test_no_text_leaves_its_place(patterns):
    config = viz.InteractiveAttentionConfig(title="</title><b>{{DATA}}", colorscale="Reds")
    plain = Elements(viz.interactive_attention(patterns, WORDS))
    page = viz.interactive_attention(patterns, NASTY, config)
    assert read(page)["tokens"] == NASTY
    assert Elements(page).names == plain.names
    assert "alert(1)</script>" not in page
    assert "&lt;/title&gt;&lt;b&gt;{{DATA}}</title>" in page
    assert plain.names.count("script") == 2


def test_a_page_loads_nothing(patterns):
    page = viz.interactive_attention(patterns, WORDS)
    assert not re.search(r"https?:|//cdn|@import|url\(", page)
    loading = {"src", "href", "data", "srcset", "action"}
    assert not loading & {name for name, _ in Elements(page).attributes}


def test_a_page_serves_keyboards_and_both_themes(patterns):
    page = viz.interactive_attention(patterns, WORDS)
    attributes = Elements(page).attributes
    for wanted in (("tabindex", "0"), ("aria-live", "polite"), ("type", "range")):
        assert wanted in attributes
    assert "prefers-color-scheme: dark" in page and "keydown" in page


def test_equal_pages_are_equal_and_others_kept_apart(patterns):
    page = viz.interactive_attention(patterns, WORDS)
    assert viz.interactive_attention(patterns, WORDS) == page
    names = {
        re.search(r'data-view="(\w+)"', viz.interactive_attention(patterns, t))[1]
        for t in (WORDS, NASTY)
    }
    assert len(names) == 2


def test_a_page_s_options(patterns):
    config = viz.InteractiveAttentionConfig(heatmap_size=123, show_layer_flow=False)
    page = viz.interactive_attention(patterns, WORDS, config)
    assert "width:123px;height:123px" in page
    assert read(page)["flow"] is False
    odd = viz.InteractiveAttentionConfig(colorscale="Sunset")
    with pytest.warns(UserWarning, match="Sunset"):
        viz.interactive_attention(patterns, WORDS, odd)


def test_pages_of_nothing(patterns):
    with pytest.raises(UsageError, match="no attention patterns"):
        viz.interactive_attention({}, [])
    with pytest.raises(UsageError, match="tokens"):
        viz.interactive_attention(patterns, WORDS[:3])
    with pytest.raises(UsageError, match="shape"):
        viz.interactive_attention({0: np.ones((2, 2))}, ["a", "b"])


def test_saving_replaces_the_file_or_leaves_it(patterns, tmp_path, capsys):
    path = tmp_path / "page.html"
    viz.save_interactive_attention(patterns, NASTY, path)
    page = path.read_text(encoding="utf-8")
    assert page == viz.interactive_attention(patterns, NASTY)
    with pytest.raises(UsageError):
        viz.save_interactive_attention(patterns, ["a"], path)
    assert path.read_text(encoding="utf-8") == page
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(IoError, match="cannot write"):
        viz.save_interactive_attention(patterns, WORDS, tmp_path / "no" / "p.html")
    assert capsys.readouterr().out == ""


def test_interactive_mode_is_a_page_that_notebooks_show(trace):
    page = viz.attention_from_trace(trace, NASTY, mode="interactive")
    assert read(page)["tokens"] == NASTY
    shown = page._repr_html_()
    names = Elements(shown).names
    assert names == ["iframe"]
    assert dict(Elements(shown).attributes)["srcdoc"] == page


def test_showing_needs_a_notebook(patterns, monkeypatch):
    modules = sys.modules
    monkeypatch.setitem(modules, "IPython.display", None)
    with pytest.raises(ImportError, match="save_interactive_attention"):
        viz.display_interactive_attention(patterns, WORDS)
    seen = []
    fake = types.ModuleType("IPython.display")
    fake.display = seen.append
    monkeypatch.setitem(modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(modules, "IPython.display", fake)
    viz.display_interactive_attention(patterns, WORDS)
    assert seen[0] == viz.interactive_attention(patterns, WORDS)


def test_names_of_the_module():
    for name in viz.__all__:
        assert hasattr(viz, name)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_attention_weights_are_float32_whatever_the_model_is(dtype):
    network = tiny_llama()
    network.set_dtype(dtype)
    half = InterpretableModel(network, WordTokenizer(97))
    with half.trace(TEXT) as trace:
        pass
    key = next(k for k in trace.activations if k.endswith(".attention_weights"))
    assert trace.activations[key].dtype == mx.float32
    assert np.allclose(np.array(trace.activations[key]).sum(-1), 1, atol=0.02)


def test_heads_of_each_layer_by_number(trace):
    tokens = ["a"] * viz.get_attention_patterns(trace, 0)[0].shape[-1]
    config = viz.AttentionVisualizationConfig(backend="matplotlib")
    one = viz.attention_from_trace(
        trace, tokens, layers=[1], heads=[0], mode="single", config=config
    )
    assert [axes.get_title() for axes in one.axes if axes.get_title()] == ["L1H0"]
    both = viz.attention_from_trace(
        trace, tokens, layers=[0, 2], heads=[1], config=config
    )
    names = [axes.get_title() for axes in both.axes if axes.get_title()]
    assert names == ["L0H1", "L2H1"]
