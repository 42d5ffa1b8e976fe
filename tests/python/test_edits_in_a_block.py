"""What is set in a trace acts, whatever the order, or is an error."""

import mlx.core as mx
import mlxterp
import numpy as np
import pytest
from families import build
from mlxterp import InterpretableModel, UnknownNameError, UsageError
from mlxterp import interventions as iv
from test_two_engines import FOLDERS

ROW, LONG = [3, 4, 5, 6, 7, 8], [[3, 4, 5, 6, 7, 8], [9, 8, 7]]


@pytest.fixture(params=["native", "wrapped"])
def model(request):
    if request.param == "native":
        return InterpretableModel(FOLDERS / "llama-gqa")
    return InterpretableModel(build("llama"))


def output(model, edits=None, row=ROW):
    with model.trace(row, interventions=edits):
        return model.output.save()


def width(model):
    with model.trace(ROW):
        return model.layers[0].output.shape[-1]


def same(a, b):
    return mx.allclose(a, b, rtol=1e-4, atol=1e-5).item()


def test_a_later_layer_first(model):
    def slices(it):
        it.layers[1].output[:, -1] += 1
        it.layers[0].output[0][2] = 0

    def whole(it):
        it.layers[1].output += 1
        it.layers[0].output *= 3

    def part(it):
        it.layers[1].mlp.output *= 2
        h = it.layers[0].output
        h *= 3

    for block, edits in (
        (whole, {"layers.0": iv.scale(3.0), "layers.1": lambda x: x + 1}),
        (part, {"layers.0": iv.scale(3.0), "layers.1.mlp": iv.scale(2.0)}),
        (
            slices,
            {
                "layers.0": iv.at_positions(2, iv.zero_out),
                "layers.1": iv.at_positions(-1, lambda x: x + 1),
            },
        ),
    ):
        with model.trace(ROW):
            block(model)
            got = model.output.save()
        assert same(got, output(model, edits))
        for site in edits:
            assert not same(got, output(model, {site: edits[site]}))


def test_steering_and_skipping_out_of_order(model):
    vector = mx.ones((width(model),))
    want = output(model, model.steer([1, 0], vector))
    assert not same(want, output(model, model.steer(1, vector)))
    with model.trace(ROW):
        model.steer([1, 0], vector)
        got = model.output.save()
    assert same(got, want)
    with model.trace(ROW):
        model.skip_layers(1, 1)
        model.steer(0, np.ones(vector.shape))
        got = model.output.save()
    edits = {**model.steer(0, vector), **model.skip_layers(1, 1)}
    assert same(got, output(model, edits))
    with model.trace(ROW, interventions=model.steer(0, vector)):
        behind = model.layers[0].output.save()
    with model.trace(ROW, interventions=edits):
        assert same(model.layers[1].output, behind)


def test_a_proxy_shows_what_is_there(model):
    with model.trace(ROW):
        late = model.layers[1].output
        model.layers[0].output *= 3
        late *= 2
        shown, there = mx.array(late), model.layers[1].output
        assert mx.array_equal(shown, there)
    # A value is put back as it was read where its site was set since.
    with model.trace(ROW):
        first = model.layers[0].output
        model.layers[0].output = first * 2
        first[:, -1] = 0
        got = model.output.save()
    assert same(got, output(model, {"layers.0": iv.at_positions(-1, iv.zero_out)}))


def test_layers_to_skip(model):
    last = len(model.layers) - 1
    assert model.skip_layers(-1, -1).keys() == model.skip_layer(last).keys()
    assert model.skip_layers(0, -1).keys() == model.skip_layers(0, last).keys()
    for start, end in ((1, 0), (-1, 0)):
        with pytest.raises(UsageError, match=f"no layer from {start} to {end}"):
            model.skip_layers(start, end)
    with pytest.raises(mlxterp.OutOfRangeError):
        model.skip_layers(0, last + 1)
    with model.trace(ROW, interventions=model.skip_layers(0, 1)):
        before = model["layers.0.resid_pre"].save()
        assert mx.array_equal(model["layers.1.resid_post"], before)
    given = np.ones((1, 6, width(model)))
    with model.trace(ROW, interventions=model.skip_layers(0, 1, given)):
        assert mx.array_equal(model["layers.1.resid_post"], mx.ones(given.shape))


def test_sweeps_of_a_model_with_a_layer_skipped(model):
    edited = model.edited(model.skip_layers(0, 0))
    metric = mlxterp.metrics.logit(5)
    clean, corrupt = ROW, [3, 9, 5, 6, 7, 8]
    found = mlxterp.patch(edited, clean, corrupt, metric)
    assert abs(found.clean - output(edited)[0, -1, 5].item()) < 1e-4
    for position in range(6):
        with edited.trace(clean):
            value = edited["layers.1.resid_pre"][:, position].save()
        with edited.trace(corrupt):
            edited["layers.1.resid_pre"][:, position] = value
            want = edited.output[0, -1, 5].save()
        assert abs(found.metric[1, position].item() - want.item()) < 1e-4
    ablated = mlxterp.ablate(edited, clean, metric, ablation="zero")
    assert mx.allclose(ablated.delta[0], mx.zeros(ablated.shape[1:]), atol=1e-4)
    if mlxterp.analysis._native._inner(model) is not None:
        assert mlxterp.path_patch(edited, clean, corrupt, metric).shape


def test_what_can_be_set(model):
    vocab = output(model).shape[-1]
    for value in (np.zeros((1, 6, vocab)), mx.zeros((1, 6, vocab)), 0, 0.0):
        with model.trace(ROW):
            model.logits = value
            got = model.output.save()
        assert not got.any()
    with model.trace(ROW):
        model.logits = np.arange(6 * vocab).reshape(1, 6, vocab).tolist()
        assert model.output.save()[0, 1, 2].item() == vocab + 2
    for value in (None, True, "text", object()):
        with pytest.raises(UsageError), model.trace(ROW):
            model.logits = value
        with pytest.raises(UsageError), model.trace(ROW):
            model.layers[0].output = value
        with pytest.raises(UsageError), model.trace(ROW):
            model["layers.0.resid_pre"] = value
    with pytest.raises(UsageError, match="layers.0.resid_post"), model.trace(ROW):
        model.layers[0].output = mx.zeros((1, 1, width(model)))
    for vector in (None, "text"):
        with pytest.raises(UsageError, match="an array or a number is needed"):
            iv.add_vector(vector)


@pytest.mark.parametrize(
    "name, near",
    [
        ("ouput", "output"),
        ("logit", "logits"),
        ("embeddings", ""),
        ("layers_outputs", "layers_output"),
    ],
)
def test_a_slip_in_a_name(model, name, near):
    with pytest.raises(UnknownNameError, match=near), model.trace(ROW):
        setattr(model, name, mx.zeros((1,)))
    assert name not in vars(model)
    setattr(model, name, "a note")  # outside it is an attribute
    assert getattr(model, name) == "a note"


def test_positions_from_the_end_of_unequal_rows(model):
    zero = {"layers.0": iv.at_positions(-1, iv.zero_out)}

    def refused(edit):
        with pytest.raises(UsageError, match=r"6, 3 positions.*at_positions\(-1"):
            with model.trace(LONG):
                edit(model.layers[0].output)

    refused(lambda h: h.__setitem__((slice(None), -1), 0))
    refused(lambda h: h.__setitem__((slice(None), slice(-2, None)), 0))
    refused(lambda h: h.__setitem__((..., [0, -1], slice(None)), 0))
    refused(lambda h: h[:, -1].__imul__(0))
    refused(lambda h: h[1].__setitem__(-1, 0))
    with pytest.raises(UsageError, match="positions"), model.trace(LONG):
        model["layers.0.self_attn.pattern"][:, :, -1] = 0
    with model.trace(LONG):
        h = model.layers[0].output
        h[:, 1] = 0
        h[0, :, -1] = 0  # of the last axis
        h[-1] *= 2  # of the rows
    with model.trace(ROW):  # one end for all
        model.layers[0].output[:, -1] = 0
        got = model.output.save()
    assert same(got, output(model, zero))
    short = output(model, zero, LONG)[1:, :3]
    assert same(short, output(model, zero, LONG[1]))
