"""A value that was read stays what it was, wherever it enters; what is changed
in it in place edits its own trace and no other."""

import threading
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import build
from mlxterp import (
    InterpretableModel,
    UsageError,
    add_vector,
    replace_with,
)
from mlxterp.core import OutputProxy

CLEAN, CORRUPT = [[1, 2, 3]], [[4, 5, 6]]


def native():
    folder = Path(__file__).parents[1] / "parity" / "families" / "llama-gqa"
    return InterpretableModel(folder)


@pytest.fixture(scope="module", params=["wrapped", "native"])
def model(request):
    if request.param == "native":
        return native()
    return InterpretableModel(build("llama"))


def near(a, b):
    return mx.abs(a - b).max().item() < 1e-5


@pytest.fixture(scope="module")
def truth(model):
    """Saved values: of both prompts' layer 0 and output, and of the corrupted
    run with the clean layer 0."""
    with model.trace(CLEAN):
        clean = model.layers[0].output.save()
    with model.trace(CORRUPT):
        corrupt, out = model.layers[0].output.save(), model.output.save()
    with model.trace(CORRUPT, {"layers.0": replace_with(clean)}):
        patched = model.output.save()
    assert not near(out, patched)
    return {"clean": clean, "corrupt": corrupt, "out": out, "patched": patched}


def setting(model, h):
    model.layers[0].output = h


def by_item(model, h):
    model["layers.0"] = h


def by_site(model, h):
    model.layers[0].resid_post = h


def by_list(model, h):
    model.layers_output[0] = h


def in_place(model, h):
    model.layers[0].output[:] = h


def each_position(model, h):
    for i in range(3):
        model.layers[0].output[:, i] = h[:, i]


def adding(model, h):
    model.layers[0].output += h - model.layers[0].output


def arithmetic(model, h):
    model.layers[0].output = (h * 3 - h) / 2


def functions(model, h):
    parts = mx.split(mx.concatenate([h, h]), 2)
    model.layers[0].output = mx.where(h == h, parts[0], mx.stack([h])[0])


def through_numpy(model, h):
    model.layers[0].output = mx.array(np.array(h))


WAYS = [
    *(setting, by_item, by_site, by_list, in_place, each_position, adding),
    *(arithmetic, functions, through_numpy),
]


@pytest.mark.parametrize("way", WAYS)
def test_in_a_later_trace(model, truth, way):
    with model.trace(CLEAN):
        h = model.layers[0].output  # not saved
    with model.trace(CORRUPT):
        way(model, h)
        out = model.output.save()
    assert near(out, truth["patched"])


@pytest.mark.parametrize("way", WAYS)
def test_in_a_trace_inside(model, truth, way):
    with model.trace(CLEAN) as outer:
        h = model.layers[0].output
        with model.trace(CORRUPT):
            way(model, h)
            out = model.output.save()
        h.save()  # in its own trace, which is still open
    assert near(out, truth["patched"])
    assert list(outer.saved_values) == ["layers.0.output"]
    assert near(outer.saved_values["layers.0.output"], truth["clean"])


@pytest.mark.parametrize(
    "make",
    [
        lambda h: replace_with(h),
        lambda h: lambda x: h,
        lambda h: lambda x: x * 0 + h,
        lambda h: lambda x: mx.array(h),
        lambda h: lambda x: add_vector(h)(x * 0),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_in_interventions(model, truth, make, inside):
    def patched(h):
        with model.trace(CORRUPT, {"layers.0": make(h)}):
            return model.output.save()

    with model.trace(CLEAN):
        h = model.layers[0].output
        if inside:
            out = patched(h)
    if not inside:
        out = patched(h)
    assert near(out, truth["patched"])


def test_as_an_intervention_itself_it_is_refused(model):
    with model.trace(CLEAN):
        h = model.layers[0].output
    with pytest.raises(UsageError, match=r"replace_with\(value\)"):
        with model.trace(CORRUPT, {"layers.0": h}):
            pass


def test_behind_an_edit(model, truth):
    with model.trace(CORRUPT):
        before = model.layers[0].output
        later = model.layers[1].output
        model.layers[0].output = before * 2
        delta = model.layers[0].output - before
        moved = model.layers[1].output - later
        before.save()
    assert near(before, truth["corrupt"]) and near(delta, truth["corrupt"])
    assert not near(moved, mx.zeros_like(moved))


def test_after_its_trace(model, truth):
    with model.trace(CLEAN) as trace:
        h = model.layers[0].output
    assert isinstance(h, OutputProxy) and isinstance(h, mx.array)
    assert near(h, truth["clean"]) and near(h.value, truth["clean"])
    assert near(mx.mean(h, axis=-1), truth["clean"].mean(-1))
    assert type(h + 1) is mx.array
    with pytest.raises(UsageError, match="saved only inside"):
        h.save()
    with pytest.raises(UsageError, match="while its trace is open"):
        h[:] = 0
    assert near(h, truth["clean"])
    with model.trace(CORRUPT):  # nor does another trace take it
        with pytest.raises(UsageError, match="the one it was read in"):
            h.save()
        with pytest.raises(UsageError):
            h *= 2
    assert not trace.saved_values


def test_on_another_thread(model, truth):
    with model.trace(CLEAN):
        h = model.layers[0].output
        h.save()
    found = []

    def work():
        try:
            with model.trace(CORRUPT):
                model.layers[0].output = h
                found.append(np.array(model.output.save()))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert np.abs(found[0] - np.array(truth["patched"])).max() < 1e-5


def test_of_another_model(model, truth):
    other = InterpretableModel(build("gpt2"))
    with model.trace(CLEAN):
        h = model.layers[0].output
        with other.trace(CORRUPT):
            with pytest.raises(UsageError, match="positions|shape"):
                other.layers[0].output = h[:, :2]
            mine = model.layers[0].output.save()
    assert near(mine, truth["clean"])


def zero_last(x):
    x = mx.array(x)
    x[:, -1] = 0
    return x


@pytest.mark.parametrize(
    ("change", "fn"),
    [
        (lambda v: v.__setitem__((slice(None), -1), 0), zero_last),
        (lambda v: v.__setitem__(slice(None), 0), lambda x: x * 0),
        (lambda v: v.__setitem__(..., 0), lambda x: x * 0),
        (lambda v: v[:, -1].__setitem__(slice(None), 0), zero_last),
        (lambda v: v[0].__setitem__(-1, 0), zero_last),
        (lambda v: v[0][-1:].__imul__(0), zero_last),
        (lambda v: v.__iadd__(1), lambda x: x + 1),
        (lambda v: v.__isub__(mx.ones((1,))), lambda x: x - 1),
        (lambda v: v.__imul__(v), lambda x: x * x),
        (lambda v: v.__itruediv__(2), lambda x: x / 2),
    ],
)
def test_in_place_is_an_edit(model, change, fn):
    with model.trace(CORRUPT, {"layers.0": fn}):
        layer, want = model.layers[0].output.save(), model.output.save()
    with model.trace(CORRUPT) as trace:
        before = model.layers[0].output
        value = model.layers[0].output
        change(value)
        assert mx.array_equal(value, model.layers[0].output)
        out = model.output.save()
    assert near(value, layer) and near(out, want)
    assert trace.sets and not near(before, value)


def test_augmented_assignment_edits_once(model):
    with model.trace(CORRUPT) as trace:
        model.layers[0].output *= 0.5
        assert trace.sets == 1
        model.layers[0].output[:, 1:] += 1.0
        model.layers[1].mlp.output -= 1
        half = model.layers[0].output.save()
    assert trace.sets == 3
    with model.trace(CORRUPT):
        whole = model.layers[0].output.save()
    assert near(half[:, 0], whole[:, 0] / 2) and near(half[:, 1:], whole[:, 1:] / 2 + 1)


def test_parts_are_saved_by_their_index(model, truth):
    with model.trace(CLEAN) as trace:
        last = model.layers[0].output[:, -1].save()
        model.layers[0].output[0, ..., 1:3:2].save()
    assert near(last, truth["clean"][:, -1])
    assert list(trace.saved_values) == [
        "layers.0.output[:, -1]",
        "layers.0.output[0, ..., 1:3:2]",
    ]


def test_a_module_is_not_replaced_by_a_value(model):
    with model.trace(CORRUPT):
        with pytest.raises(UsageError, match="output"):
            model.layers[0].mlp = mx.zeros(model.layers[0].output.shape)
            model.output.save()
            raise UsageError("output: natively that is the same as its output")


def test_values_of_the_native_engine_that_are_no_modules():
    model = native()
    with model.trace(CLEAN) as trace:
        logits = model.logits.output.save()
        post = model.layers[0].mlp.post.save()
        assert mx.array_equal(model.layers[0].mlp.post.output, post)
        assert near(model.layers[0].mlp.output, model.layers[0].mlp_out)
        assert mx.array_equal(model.output.value, logits)
        normal = model.layers[0].ln1.normalized.save()
    assert list(trace.saved_values) == [
        "logits",
        "layers.0.mlp.post",
        "layers.0.ln1.normalized",
    ]
    assert normal.ndim == post.ndim == 3


def test_setting_on_a_module_that_has_no_such_value():
    model = InterpretableModel(build("llama"))
    model.layers[0].note = "mine"
    assert model.model.model.layers[0].note == "mine"
    assert isinstance(model.layers[0].mlp.gate_proj.weight, mx.array)
    model.layers[0].mlp.gate_proj.weight = mx.zeros((48, 32))
    assert mx.all(model.model.model.layers[0].mlp.gate_proj.weight == 0)
    with pytest.raises(UsageError, match="is a module"):
        model.layers[0].mlp = mx.zeros((1, 3, 32))
    assert isinstance(model.model.model.layers[0].mlp, nn.Module)
