"""The lens of a wrapped model says what that of the native one says."""

import json

import mlx.core as mx
import mlx.nn as nn
import mlxterp
import pytest
from families import build
from mlxterp import InterpretableModel, OutOfRangeError, UsageError, lens
from test_two_engines import FOLDERS, pair

ROW = [3, 4, 5, 6, 7]
# With soft caps, factors of the logits, and none.
FAMILIES = ["llama-gqa", "llama-tied", "gemma2", "granite", "cohere", "olmo2", "phi"]


def same(a, b):
    assert a.shape == b.shape
    return (mx.abs(a - b) / mx.maximum(mx.abs(a).max(), 1)).max().item() < 2e-5


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"embed": True, "track": 7, "top_k": 3},
        {"layers": [-1, 0], "positions": [-1, 1]},
        {"interventions": {"layers.0.mlp_out": lambda x: x * 3}},
    ],
)
def test_as_natively(name, options):
    native, wrapped = pair(FOLDERS / name)
    ours, theirs = lens(native, ROW, **options), lens(wrapped, ROW, **options)
    assert ours.layers == theirs.layers and ours.positions == theirs.positions
    assert ours.prompt == theirs.prompt == ROW
    assert same(ours.logits, theirs.logits)
    assert same(ours.probabilities, theirs.probabilities)
    assert mx.array_equal(ours.ids, theirs.ids)
    assert ours.logits.size >= 2 * 2 * 3
    if "track" in options:
        assert mx.array_equal(ours.ranks, theirs.ranks)
        assert same(ours.track_probabilities, theirs.track_probabilities)
    assert theirs._repr_html_() and len(theirs.tokens()) == len(theirs.layers)
    told, same_told = json.loads(ours.to_json()), json.loads(theirs.to_json())
    assert told["rows"][0]["site"] == same_told["rows"][0]["site"]


def test_the_last_layer_is_the_model():
    wrapped = InterpretableModel(build("mamba2"))  # no native family
    found = lens(wrapped, ROW, top_k=4)
    with wrapped.trace([ROW]):
        logits = wrapped.output.save()[0].astype(mx.float32)
    want = mx.sort(logits, axis=-1)[:, ::-1][:, :4]
    assert same(found.logits[-1], want)
    shifted = mlxterp.TunedLens(3, 32)
    for translator in shifted.translators:
        translator.bias = mx.ones((32,))
    tuned = lens(wrapped, ROW, top_k=4, tuned=shifted)
    assert same(tuned.logits[-1], want) and not same(tuned.logits[0], found.logits[0])
    edited = wrapped.edited({"layers.0": lambda x: x * 0})
    assert not same(lens(edited, ROW, top_k=4).logits, found.logits)


def test_what_it_refuses():
    model = InterpretableModel(build("llama"))
    for options, error in (
        ({"layers": [3]}, OutOfRangeError),
        ({"positions": [9]}, OutOfRangeError),
        ({"track": 96}, OutOfRangeError),
        ({"track": "word"}, UsageError),
        ({"top_k": 0}, OutOfRangeError),
        ({"site": "nothing"}, UsageError),
    ):
        with pytest.raises(error):
            lens(model, ROW, **options)
    with pytest.raises(UsageError, match="reads one"):
        lens(model, [ROW, ROW])
    flat = InterpretableModel(nn.Linear(4, 4), layer_attr=None)
    with pytest.raises(UsageError, match="has no layers"):
        lens(flat, [[1]])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_last_layer_says_what_the_model_says(name):
    """With the factor and the soft cap behind the projection, and edits there."""
    for model in pair(FOLDERS / name):
        last, n = len(model.layers) - 1, 4
        norm = model._module_resolver.get_final_norm_path()
        for edits in ({}, {norm: lambda x: x * 2}, {"output": lambda x: x * 2}):
            edited = model.edited(edits)
            with edited.trace([ROW]):
                want = mx.sort(edited.output[0].astype(mx.float32), axis=-1)[:, ::-1]
                state = edited[f"{norm}.output"].save()
            found = edited.logit_lens(ROW, top_k=n)[last]
            assert same(mx.array([[s for _, s, _ in r] for r in found]), want[:, :n])
        own = model.get_token_predictions(state[0], n, True)
        with model.trace([ROW]):
            want = mx.sort(model.output[0].astype(mx.float32), axis=-1)[:, ::-1]
        assert same(mx.array([[score for _, score in row] for row in own]), want[:, :n])
        given = model._module_resolver.get_final_norm()
        found = model.logit_lens(ROW, top_k=n, final_norm=given)[last]
        assert same(mx.array([[s for _, s, _ in r] for r in found]), want[:, :n])
