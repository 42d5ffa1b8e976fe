"""The interventions by themselves, and on heads, positions and neurons."""

import mlx.core as mx
import numpy as np
import pytest
from compare import repeated
from families import build, ids
from mlxterp import (
    InterpretableModel,
    InterventionComposer,
    Layout,
    OutOfRangeError,
    SiteView,
    UsageError,
    add_vector,
    at_positions,
    clamp,
    noise,
    on_heads,
    on_neurons,
    replace_with,
    scale,
    zero_out,
)
from mlxterp.compat import v01

DTYPES = [mx.float32, mx.float16, mx.bfloat16]


def some(*shape, dtype=mx.float32):
    return mx.random.normal(shape, key=mx.random.key(0)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_one_keeps_shape_and_dtype(dtype):
    x, wide = some(2, 5, 8, dtype=dtype), some(8)
    for fn in (
        zero_out,
        scale(0.5),
        scale(mx.array(0.5)),
        add_vector(wide),
        replace_with(1.0),
        replace_with(2),
        replace_with(some(1, 5, 8)),
        v01.replace_with(wide),
        v01.replace_with(some(2, 3, 8)),
        v01.replace_with(some(2, 7, 8), align="start"),
        v01.clamp(),
        v01.noise(0.1, seed=3),
        clamp(-0.5, 0.5),
        clamp(max_val=mx.array(0.1)),
        noise(0.1),
        noise(0.1, seed=3),
        InterventionComposer(scale(2.0), add_vector(wide)),
        at_positions([0, -1], add_vector(wide)),
        on_neurons(3, zero_out),
    ):
        y = fn(x)
        assert y.dtype == dtype and y.shape == x.shape


def test_what_they_do():
    x = some(1, 4, 6)
    v = some(6)
    assert mx.all(zero_out(x) == 0)
    assert mx.array_equal(scale(3)(x), x * 3)
    assert mx.array_equal(add_vector(v)(x), x + v)
    assert mx.array_equal(clamp(-0.1, 0.2)(x), mx.clip(x, -0.1, 0.2))
    assert mx.array_equal(v01.clamp()(x), x)
    same = noise(1.0, seed=5)
    assert mx.array_equal(same(x), same(x)) and not mx.array_equal(same(x), x)
    big = mx.zeros((1, 100, 100))
    assert abs(mx.std(noise(0.3)(big)).item() - 0.3) < 0.01


@pytest.mark.parametrize("n", [2, 4, 7])
def test_replacing_aligns_positions(n):
    x, value = some(1, 4, 3), some(1, n, 3) + 10
    k = min(n, 4)
    end, start = v01.replace_with(value)(x), v01.replace_with(value, "start")(x)
    assert mx.array_equal(end[:, -k:], value[:, -k:])
    assert mx.array_equal(end[:, :-k] if k < 4 else x[:, :0], x[:, : 4 - k])
    assert mx.array_equal(start[:, :k], value[:, :k])
    assert mx.array_equal(start[:, k:], x[:, k:])
    if n != 4:
        with pytest.raises(ValueError, match=f"{n} positions for 4"):
            v01.replace_with(value, "strict")(x)
        with pytest.raises(UsageError, match=rf"has shape \(1, 4, 3\).* \(1, {n}, 3\)"):
            replace_with(value)(x)
    flat = v01.replace_with(value[0])(x[0])
    assert mx.array_equal(flat, end[0])


def test_wrong_arguments():
    with pytest.raises(UsageError, match="align"):
        v01.replace_with(0.0, align="middle")
    with pytest.raises(UsageError, match="above"):
        clamp(1, 0)
    with pytest.raises(UsageError, match="neither"):
        clamp()
    with pytest.raises(UsageError, match=r"\(5\) does not fit"):
        add_vector(mx.zeros(5))(mx.zeros((1, 4, 6)))
    with pytest.raises(UsageError, match="does not broadcast"):
        v01.replace_with(mx.zeros((2, 2, 5)))(mx.zeros((1, 4, 6)))
    with pytest.raises(OutOfRangeError, match="position 4 .*; it has 4"):
        at_positions(4, zero_out)(mx.zeros((1, 4, 6)))
    with pytest.raises(OutOfRangeError):
        on_neurons([0, -7], zero_out)(mx.zeros((1, 4, 6)))
    with pytest.raises(UsageError, match="no head axis"):
        on_heads(0, zero_out)(mx.zeros((4, 6)))
    with pytest.raises(UsageError, match="selects nothing"):
        at_positions([], zero_out)
    with pytest.raises(UsageError, match="twice"):
        at_positions([3, -1], zero_out)(mx.zeros((1, 4, 6)))
    with pytest.raises(UsageError, match="selected part has shape"):
        at_positions(0, lambda x: x[..., :1])(mx.zeros((1, 4, 6)))


def test_composition_keeps_order():
    x = some(1, 4, 6)
    one = InterventionComposer().add(scale(2.0)).add(add_vector(mx.ones(6)))
    assert mx.array_equal(one.build()(x), x * 2 + 1)
    assert mx.array_equal(one(x), x * 2 + 1)
    built = one.build()
    one.add(zero_out)
    assert mx.array_equal(built(x), x * 2 + 1)


def test_parts_of_an_activation():
    x = np.array(some(2, 4, 3, 5))
    for fn, where in (
        (at_positions([1, -1], zero_out), np.s_[:, [1, 3]]),
        (on_heads([2], zero_out), np.s_[:, :, 2]),
        (on_neurons([0, 4], zero_out), np.s_[..., [0, 4]]),
        (at_positions(0, on_heads(1, zero_out)), np.s_[:, 0, 1]),
    ):
        wanted = x.copy()
        wanted[where] = 0
        given = mx.array(x)
        assert np.array_equal(np.array(fn(given)), wanted)
        assert np.array_equal(np.array(given), x)  # never in place


def test_heads_of_a_pattern_are_another_axis():
    model = InterpretableModel(build("llama"))
    half = on_heads([1], scale(0.5))
    composed = InterventionComposer(half, at_positions(2, zero_out))
    edits = {
        "layers.0.self_attn.pattern": composed,
        "layers.0.self_attn.z": half,
    }
    with model.trace(ids(), interventions=edits):
        pattern = model.layers[0].self_attn.pattern.save()
        z = model.layers[0].self_attn.z.save()
    sums = np.array(pattern.sum(-1))  # [batch, head, dest]
    wanted = np.ones((1, 4, 6))
    wanted[:, 1] = 0.5
    wanted[:, :, 2] = 0
    np.testing.assert_allclose(sums, wanted, atol=1e-5)
    assert z.shape == (1, 6, 4, 8) and mx.all(z[:, 2] == 0)


def test_zeroing_a_head_is_zeroing_its_part_of_the_output_projection():
    module = build("llama")
    model = InterpretableModel(module)
    with model.trace(
        ids(), interventions={"layers.1.self_attn.z": on_heads(2, zero_out)}
    ):
        edited = model.output.save()
    weight = module.model.layers[1].self_attn.o_proj.weight
    weight[:, 16:24] = 0
    module.model.layers[1].self_attn.o_proj.weight = weight
    assert repeated(edited, module(ids()))


def test_edits_act_in_the_order_given():
    model = InterpretableModel(build("llama"))
    for order in (["layers.0", "layers.*"], ["layers.*", "layers.0"]):
        fns = {"layers.0": add_vector(mx.ones(32)), "layers.*": scale(2.0)}
        with model.trace(ids(), interventions={name: fns[name] for name in order}):
            got = model.layers[0].output.save()
        with model.trace(ids()):
            plain = model.layers[0].output.save()
        first = order[0] == "layers.0"
        wanted = (plain + 1) * 2 if first else plain * 2 + 1
        assert mx.abs(got - wanted).max() < 1e-5


LONG, SHORT = [5, 9, 2, 14, 7, 3], [8, 4, 11]


@pytest.fixture(scope="module", params=["native", "wrapped"])
def model(request):
    """A model by either engine, and a layer's name in it."""
    if request.param == "native":
        return InterpretableModel("demo")
    return InterpretableModel(build("llama"))


def run(model, rows, edits):
    with model.trace(rows, interventions=edits) as trace:
        out = model.output.save()
    return [out[i, : n] for i, n in enumerate(trace.lengths)]


@pytest.mark.parametrize("positions", [-1, [0, -2], 1])
@pytest.mark.parametrize("steers", [False, True])
def test_positions_count_from_each_rows_own_end(model, positions, steers):
    with model.trace([[1]]):
        width = model.layers[1].output.value.shape[-1]
    vector = mx.random.normal((width,), key=mx.random.key(1)) * 3
    edits = {"layers.1.resid_post": at_positions(positions, add_vector(vector))}
    if steers:
        edits = model.steer(1, vector, positions=positions)
    both = run(model, [LONG, SHORT], edits)
    for row, ids_ in zip(both, (LONG, SHORT)):
        alone, plain = run(model, [ids_], edits)[0], run(model, [ids_], {})[0]
        assert mx.abs(alone - plain).max() > 0.05
        assert mx.abs(row - alone).max() < 1e-3


def test_positions_of_a_pattern_count_from_each_rows_own_end(model):
    edits = {"layers.1.self_attn.pattern": at_positions(-1, zero_out)}
    with model.trace([LONG, SHORT], interventions=edits):
        pattern = model.layers[1].self_attn.pattern.save()
    sums = np.array(pattern.sum(-1))[:, 0]
    np.testing.assert_allclose(sums[0], [1, 1, 1, 1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(sums[1, :3], [1, 1, 0], atol=1e-5)


def test_a_function_is_told_where_it_acts_if_it_asks(model):
    told = []

    def zero_of_two(x, at):
        told.append((at.name, at.layout.name, at.lengths))
        return x * 0

    edits = {
        "layers.1.self_attn.z": zero_of_two,
        "layers.1.self_attn.pattern": InterventionComposer(zero_of_two),
        "layers.1": lambda x, factor=0.5: x * factor,
        "layers.0.self_attn.z": on_heads(0, zero_of_two),
    }
    run(model, [LONG, SHORT], edits)
    assert sorted((layout, lengths) for _, layout, lengths in told) == [
        ("heads", [6, 3]),
        ("heads", [6, 3]),
        ("scores", [6, 3]),
    ]
    # By one name, whatever the engine calls its modules.
    assert {name for name, *_ in told} == {
        "layers.1.attn.z",
        "layers.1.attn.pattern",
        "layers.0.attn.z",
    }


def test_seeded_noise_differs_between_sites_and_is_the_same_in_every_run(model):
    found = []
    for _ in range(2):
        edits = {
            f"layers.{i}.resid_post": InterventionComposer(scale(0), noise(1.0, seed=7))
            for i in (0, 1)
        }
        with model.trace([LONG], interventions=edits):
            found += [model.layers[i].output.save() for i in (0, 1)]
    assert mx.array_equal(found[0], found[2]) and mx.array_equal(found[1], found[3])
    assert mx.abs(found[0] - found[1]).max() > 0.5
    lax = {f"layers.{i}.resid_post": v01.noise(1.0, seed=7) for i in (0, 1)}
    lax = {k: InterventionComposer(scale(0), fn) for k, fn in lax.items()}
    with model.trace([LONG], interventions=lax):
        a, b = (model.layers[i].output.save() for i in (0, 1))
    assert mx.array_equal(a, b)


def test_heads_of_a_pattern_in_lenses_and_collected_values():
    import mlxterp

    model = InterpretableModel("demo")
    edits = {"layers.1.attn.pattern": on_heads([3], zero_out)}
    with model.trace([LONG], interventions=edits):
        wanted = model["layers.1.resid_post"].save()
        logits = model.output.save()
    found = mlxterp.collect(model, [LONG], ["layers.1.resid_post"], interventions=edits)
    assert mx.abs(found.values["layers.1.resid_post"] - wanted[0]).max() < 1e-4
    lens = mlxterp.lens(model, [LONG], top_k=1, interventions=edits)
    best = logits[0].max(-1)
    assert mx.abs(lens.logits[-1, :, 0] - best).max() < 1e-2
    plain = mlxterp.lens(model, [LONG], top_k=1)
    assert mx.abs(lens.logits - plain.logits).max() > 1e-2


def test_a_view_can_be_made():
    view = SiteView("z", Layout.heads, [4, 2])
    x = mx.ones((2, 4, 3, 5))
    y = np.array(at_positions(-1, on_heads(1, zero_out))(x, view))
    wanted = np.ones(x.shape)
    wanted[0, 3, 1] = wanted[1, 1, 1] = 0
    assert np.array_equal(y, wanted)
    assert (view.name, view.lengths) == ("z", [4, 2])
