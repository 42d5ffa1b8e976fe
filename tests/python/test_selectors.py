"""A selector in a batch of unequal rows does to each what it does to it alone,
at every kind of site, by both engines."""

from pathlib import Path

import mlx.core as mx
import pytest
from families import build
from mlxterp import InterpretableModel
from mlxterp.core.intervention import at_positions, on_heads, on_neurons, scale, zero_out

FOLDERS = Path(__file__).parents[1] / "parity" / "families"
ROWS = [[5, 3, 9, 2, 7, 1], [4, 6], [8, 6, 2]]
FAMILIES = ["llama", "gemma2", "gpt_neox", "qwen3", "olmo2", "granite"]
NATIVE = ["llama-gqa", "gemma2", "gpt_neox"]
LAYER = "resid_pre attn_out mlp_out resid_post".split()
HEADS = "q k v rot_q rot_k z".split()
SCORES = ["scores", "pattern"]


def halved(x):
    return x * 0.5


def selectors(tail):
    yield "last", at_positions(-1, halved)
    yield "ends", at_positions([0, -1], halved)
    if tail in LAYER:
        yield "neurons", on_neurons([0, 3], zero_out)
        yield "both", at_positions(-1, on_neurons([0, 3], zero_out))
    else:
        yield "heads", on_heads(1, scale(0.5))
        yield "both", at_positions(-1, on_heads([0, 1], halved))


@pytest.fixture(scope="module", params=FAMILIES + [f"native {it}" for it in NATIVE])
def model(request):
    if request.param.startswith("native "):
        return InterpretableModel(FOLDERS / request.param.removeprefix("native "))
    return InterpretableModel(build(request.param))


def out(model, rows, edits=None):
    with model.trace(rows, edits):
        return model.output.save()


@pytest.mark.parametrize("tail", [*LAYER, *HEADS, *SCORES])
def test_each_row_as_alone(model, tail):
    path = "layers.1"
    if tail not in LAYER:
        path = model.engine.part(1, "attn_out")
    site, compared = f"{path}.{tail}", 0
    plain = out(model, ROWS)
    for what, fn in selectors(tail):
        together = out(model, ROWS, {site: fn})
        for i, row in enumerate(ROWS):
            alone = out(model, [row], {site: fn})[0]
            here = together[i, : len(row)]
            scale = mx.maximum(mx.abs(alone).max(), 1)
            assert (mx.abs(here - alone) / scale).max() < 1e-5, (what, i)
            compared += 1
            assert mx.abs(here - plain[i, : len(row)]).max() > 1e-6, (what, i)
    assert compared == 3 * len(list(selectors(tail)))
