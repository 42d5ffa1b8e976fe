"""TransformerLens' Head Detector demo: the calls of its cells on small models,
against scores written out."""

import mlx.core as mx
import pytest
from demo_models import close, hooked, words
from mlxterp import UsageError
from mlxterp.compat.transformer_lens import detect_head, head_detector

TEXT = words(5, 9, 12, 5, 9, 12, 5)
IDS = [1, 5, 9, 12, 5, 9, 12, 5]


@pytest.fixture(scope="module", params=["gpt2", "llama", "wrapped"])
def model(request):
    return hooked(request.param)


def score(pattern, expected, left_out=(), measure="mul"):
    """Of one head, entry by entry."""
    n = len(expected)
    pairs = [(i, j) for i in range(n) for j in range(n) if (i, j) not in left_out]
    if measure == "mul":
        total = sum(pattern[i][j] for i, j in pairs)
        return sum(pattern[i][j] * expected[i][j] for i, j in pairs) / total
    return 1 - sum(abs(pattern[i][j] - expected[i][j]) for i, j in pairs) / n


def expected(kind):
    n = len(IDS)
    rule = {
        "previous_token_head": lambda i, j: j == i - 1,
        "duplicate_token_head": lambda i, j: j < i and IDS[j] == IDS[i],
        "induction_head": lambda i, j: 0 < j <= i and IDS[j - 1] == IDS[i] and j - 1 < i,
    }[kind]
    return [[float(rule(i, j)) for j in range(n)] for i in range(n)]


@pytest.mark.parametrize("kind", head_detector.HEAD_NAMES)
@pytest.mark.parametrize("measure", ["mul", "abs"])
def test_kinds_of_heads(model, kind, measure):
    found = detect_head(model, TEXT, kind, error_measure=measure)
    assert found.shape == (model.cfg.n_layers, model.cfg.n_heads)
    _, cache = model.run_with_cache(TEXT, remove_batch_dim=True)
    for layer, head in ((0, 1), (1, 3)):
        pattern = cache["pattern", layer, "attn"][head].tolist()
        wanted = score(pattern, expected(kind), measure=measure)
        assert found[layer, head].item() == pytest.approx(wanted, abs=1e-4)


def test_leaving_out(model):
    how = dict(exclude_bos=True, exclude_current_token=True)
    found = detect_head(model, TEXT, "previous_token_head", **how)
    _, cache = model.run_with_cache(TEXT, remove_batch_dim=True)
    n = len(IDS)
    out = {(i, i) for i in range(n)} | {(i, 0) for i in range(n)}
    wanted = score(cache["attn", 1][2].tolist(), expected("previous_token_head"), out)
    assert found[1, 2].item() == pytest.approx(wanted, abs=1e-4)


def test_a_pattern_of_one_s_own(model):
    n = len(model.to_str_tokens(TEXT))
    ones = mx.tril(mx.ones((n, n)))
    found = detect_head(model, TEXT, ones, exclude_bos=True, exclude_current_token=True)
    assert close(found, mx.ones(found.shape))
    _, cache = model.run_with_cache(TEXT, remove_batch_dim=True)
    again = detect_head(model, TEXT, ones, [(1, 2)], cache, error_measure="abs")
    assert again[0, 0].item() == -1 and again[1, 2].item() != -1
    by_layer = detect_head(model, TEXT, ones, {1: [2]}, error_measure="abs")
    assert close(again, by_layer)


def test_several_texts(model):
    texts = [TEXT, words(3, 4, 3, 4)]
    how = dict(error_measure="abs")
    found = detect_head(model, texts, "duplicate_token_head", **how)
    each = [detect_head(model, it, "duplicate_token_head", **how) for it in texts]
    assert close(found, (each[0] + each[1]) / 2)


def test_what_fits_not(model, capsys):
    head_detector.get_supported_heads()
    assert "induction_head" in capsys.readouterr().out
    with pytest.raises(UsageError, match="there are previous_token_head"):
        detect_head(model, TEXT, "a_head")
    with pytest.raises(UsageError, match="lower triangular"):
        detect_head(model, TEXT, mx.ones((3, 3)))
    with pytest.raises(UsageError, match="'mul' or 'abs'"):
        detect_head(model, TEXT, "induction_head", error_measure="sum")
