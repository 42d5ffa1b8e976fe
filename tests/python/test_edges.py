"""Scores of edges: what C++ finds, as arrays and as a table."""

from pathlib import Path

import mlx.core as mx
import mlxterp
import pytest
from mlxterp import InterpretableModel, metrics

TESTS = Path(__file__).resolve().parent.parent
CLEAN, CORRUPT = [5, 11, 3, 29, 7, 13, 2], [5, 11, 3, 30, 7, 14, 2]
METRIC = metrics.logit_diff(4, 9)


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(str(TESTS / "parity/families/llama-gqa"))


def test_scores_are_those_of_torch(model):
    expected = mx.load(str(TESTS / "analysis/fixtures/edges.safetensors"))
    for method in ("eap", "eap-ig", "eap-ig-activations", "clean-corrupted"):
        found = mlxterp.edges(model, CLEAN, CORRUPT, METRIC, method)
        wanted = expected[f"llama-gqa.{method.replace('-', '_')}.denoise"]
        scores = mx.where(mx.isnan(found.scores), 0, found.scores)
        assert scores.shape == wanted.shape == (11, 19)
        assert mx.abs(scores - wanted).max().item() < 1e-5
    apart = mlxterp.edges(
        model, CLEAN, CORRUPT, METRIC, direction="noise", ungrouped=True
    )
    scores = mx.where(mx.isnan(apart.scores), 0, apart.scores)
    assert mx.abs(scores - expected["llama-gqa_ungrouped.eap.noise"]).max().item() < 1e-5


def test_routes_need_the_clean_prompt_alone(model):
    expected = mx.load(str(TESTS / "analysis/fixtures/edges.safetensors"))
    found = mlxterp.edges(model, CLEAN, method="ifr")
    scores = mx.where(mx.isnan(found.scores), 0, found.scores)
    assert mx.abs(scores - expected["llama-gqa.ifr.clean"]).max().item() < 1e-5
    with pytest.raises(mlxterp.UsageError, match="leave out the metric"):
        mlxterp.edges(model, CLEAN, metric=METRIC, method="ifr")
    with pytest.raises(mlxterp.UsageError, match="no prompt"):
        mlxterp.edges(model, CLEAN, metric=METRIC)


def test_names_tables_and_positions(model):
    found = mlxterp.edges(model, CLEAN, CORRUPT, METRIC)
    assert found.sources[:3] == ["input", "a0.h0", "a0.h1"]
    assert found.destinations[4] == "a0.kv0<k>" and found.destinations[-1] == "logits"
    assert len(found) == (~mx.isnan(found.scores)).sum().item()
    assert found["m0", "logits"] == pytest.approx(found.scores[5, -1].item())
    for edge in (("m1", "a0.h0<q>"), ("m7", "logits")):
        with pytest.raises(KeyError):
            found[edge]
    apart = mlxterp.edges(model, CLEAN, CORRUPT, METRIC, by_position=True)
    assert apart.scores.shape == (7, 11, 19)
    assert apart["m0", "logits"].sum().item() == pytest.approx(found["m0", "logits"], abs=1e-5)
    assert "EdgeScores" in repr(found)


def test_pandas(model):
    pytest.importorskip("pandas")
    found = mlxterp.edges(model, CLEAN, CORRUPT, METRIC)
    table = found.to_pandas()
    assert list(table) == ["from", "to", "score", "spread"] and len(table) == len(found)
    first = table.iloc[0]
    assert found[first["from"], first["to"]] == pytest.approx(first["score"])
    assert abs(first["score"]) == table["score"].abs().max()
    assert len(found.to_pandas(3)) == 3


def test_what_has_no_meaning_is_refused(model):
    with pytest.raises(mlxterp.UsageError, match="method 'acdc' is not one of"):
        mlxterp.edges(model, CLEAN, CORRUPT, METRIC, "acdc")
    with pytest.raises(mlxterp.UsageError, match="no gradient"):
        mlxterp.edges(model, CLEAN, CORRUPT, metrics.rank(4))
    edited = model.edited({"layers.0.mlp_out": mlxterp.zero_out})
    with pytest.raises(mlxterp.UsageError, match="has edits"):
        mlxterp.edges(edited, CLEAN, CORRUPT, METRIC)
