"""Every architecture as mlx-lm has it, traced unmodified."""

import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from compare import repeated
from families import FAMILIES, NO_ATTENTION, build, ids
from mlxterp import InterpretableModel, UsageError, zero_out
from mlxterp.engine.wrapped import WrappedEngine

ATTENTIVE = [it for it in FAMILIES if it not in NO_ATTENTION]
SITES = ("q", "k", "v", "rot_q", "rot_k", "z", "scores", "pattern")

everywhere = pytest.mark.parametrize("family", FAMILIES)
attentive = pytest.mark.parametrize("family", ATTENTIVE)


def modules_called(model, x):
    """The modules whose `__call__` Python really runs, seen by its profiler."""
    seen = {}

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_name == "__call__":
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module):
                seen[id(module)] = module

    sys.setprofile(watch)
    try:
        model(x)
    finally:
        sys.setprofile(None)
    return seen


def found(model):
    """All that a trace could leave changed."""
    kinds = {base for m in model.modules() for base in type(m).__mro__}
    return (
        model.__class__,
        {kind: dict(vars(kind)) for kind in kinds if kind is not object},
        mx.fast.scaled_dot_product_attention,
        mx.softmax,
    )


@everywhere
def test_a_trace_that_does_nothing_gives_the_plain_output(family):
    model, x = build(family), ids()
    plain = model(x)
    traced = InterpretableModel(model)
    with traced.trace(x) as trace:
        saved = traced.output.save()
    assert repeated(saved, plain)
    assert trace.output is saved


@everywhere
def test_every_module_that_runs_is_traced(family):
    model, x = build(family), ids()
    called = modules_called(model, x)
    traced = InterpretableModel(model)
    with traced.trace(x) as trace:
        pass
    paths = {id(m): path for path, m in traced.named_modules()}
    missing = [
        paths[it]
        for it in called
        if paths[it] and f"model.{paths[it]}" not in trace.activations
    ]
    assert not missing
    assert len(called) > 15
    for path in paths.values():
        if path and id(dict(traced.named_modules())[path]) in called:
            assert trace.activations[f"model.{path}"].size > 0


@everywhere
def test_zeroing_any_module_changes_the_output(family):
    model, x = build(family), ids()
    plain = model(x)
    traced = InterpretableModel(model)
    with traced.trace(x) as trace:
        keys = [k for k in trace.activations if k != "__model_output__"]
    without_effect = []
    for key in keys:
        with traced.trace(x, interventions={key: zero_out}):
            out = traced.output.save()
        if mx.abs(out - plain).max() < 1e-7:
            without_effect.append(key)
    assert not without_effect


@everywhere
def test_everything_is_left_as_found(family):
    model, x = build(family), ids()
    before = found(model)
    traced = InterpretableModel(model)
    with traced.trace(x):
        assert found(model) == before  # already when the block begins
    assert found(model) == before

    def breaks(_):
        raise RuntimeError("mine")

    last = traced.named_modules()[-1][0]
    for name in (last, "output"):
        with pytest.raises(RuntimeError, match="^mine$"):
            with traced.trace(x, interventions={name: breaks}):
                pass
        assert found(model) == before
    with pytest.raises(ZeroDivisionError):
        with traced.trace(x):
            1 / 0
    assert found(model) == before


@everywhere
def test_rows_of_different_length_equal_their_single_runs(family):
    model = build(family)
    traced = InterpretableModel(model)
    rows = [[5, 3, 9, 2, 7, 1], [4, 4], [8, 6, 2]]
    with traced.trace(rows) as trace:
        together = traced.output.save()
        layer = traced.layers[0].output.save()
    assert trace.lengths == [6, 2, 3]
    for i, row in enumerate(rows):
        with traced.trace([row]):
            alone, one = traced.output.save(), traced.layers[0].output.save()
        assert mx.abs(together[i, : len(row)] - alone[0]).max() < 1e-5
        assert mx.abs(layer[i, : len(row)] - one[0]).max() < 1e-5


def attentions(engine, run):
    """The paths of a pass's attention modules."""
    keys = [k for k in run.keys() if k.endswith(".attention_weights")]
    assert keys
    return [engine.resolve(k).removesuffix(".pattern") for k in keys]


@attentive
@pytest.mark.parametrize("length", [1, 2, 4, 6, 9])
def test_attention_values_belong_together(family, length):
    model, x = build(family), ids(length)
    engine = WrappedEngine(model)
    run = engine.run(x)
    for path in attentions(engine, run):
        at = {tail: run.value(f"{path}.{tail}") for tail in SITES}
        batch, pos, heads, d_head = at["rot_q"].shape
        assert (batch, pos) == (1, length)
        assert at["q"].shape == at["rot_q"].shape
        assert at["k"].shape == at["rot_k"].shape
        assert at["scores"].shape == at["pattern"].shape == (1, heads, pos, pos)

        pattern, scores = np.array(at["pattern"]), np.array(at["scores"])
        sums = pattern.sum(-1)
        if family == "gpt_oss":
            assert (sums < 1).all() and (sums > 0).all()
        else:
            np.testing.assert_allclose(sums, 1, atol=1e-5)
        later = np.triu(np.ones((pos, pos), bool), 1)
        assert (pattern[..., later] == 0).all()
        assert (scores[..., later] < -1e30).all()

        kv = at["v"].shape[2]
        v = np.repeat(np.array(at["v"]), heads // kv, axis=2)
        mixed = np.einsum("bhqk,bkhd->bqhd", pattern, v)
        if not (family == "deepseek_v3" and length == 1):
            np.testing.assert_allclose(mixed, np.array(at["z"]), atol=1e-5)


@attentive
def test_z_through_the_output_projection_is_attentions_output(family):
    model, x = build(family), ids()
    engine = WrappedEngine(model)
    run = engine.run(x)
    modules = dict(engine.named_modules())
    for path in attentions(engine, run):
        z = run.value(f"{path}.z").flatten(-2)
        names = ("o_proj", "dense", "c_proj", "out_proj")
        project = next(modules[path][n] for n in names if n in modules[path])
        out = run.value(f"{path}.output")
        assert repeated(project(z), out)


@attentive
@pytest.mark.parametrize("site", SITES)
def test_attention_values_can_be_edited(family, site):
    model, x = build(family), ids()
    plain = model(x)
    engine = WrappedEngine(model)
    paths = attentions(engine, engine.run(x))
    seen = []

    def itself(value):
        seen.append(value.shape)
        return value + 0

    same = engine.run(x, [(f"{it}.{site}", itself) for it in paths])
    assert mx.abs(same.output - plain).max() < 1e-4
    assert len(seen) == len(paths)

    def other(value):  # not a mere scale, which a norm would undo
        return value[..., ::-1] if site != "scores" else value * 0.5

    for path in paths[:1]:
        run = engine.run(x, [(f"{path}.{site}", other)])
        assert mx.abs(run.output - plain).max() > 1e-6
        # What is read is what came out of the edit.
        again = engine.run(x, [(f"{path}.{site}", lambda v: mx.full(v.shape, 0.25))])
        assert mx.all(again.value(f"{path}.{site}") == 0.25)


@attentive
@pytest.mark.parametrize("length", [2, 4])
def test_as_many_positions_as_heads_are_not_mistaken(family, length):
    """4 query heads, 2 kv heads: the axes of a norm's input are told apart
    by a longer pass; reversing the heads must not reverse positions."""
    model, x = build(family), ids(length)
    engine, learnt = WrappedEngine(model), WrappedEngine(model)
    path = attentions(engine, engine.run(x))[0]
    learnt.resolve(f"{path}.pattern")
    longer = learnt.run(ids(7))
    longer.value(f"{path}.q"), longer.value(f"{path}.k")
    for site in ("q", "k"):
        one, two = engine.run(x), learnt.run(x)
        name = f"{path}.{site}"
        assert repeated(one.value(name), two.value(name))
        swap = [(name, lambda v: v[:, :, ::-1])]
        fresh = WrappedEngine(model).run(x, swap)
        assert repeated(fresh.output, learnt.run(x, swap).output)


@pytest.mark.parametrize("family", sorted(NO_ATTENTION))
def test_a_model_without_attention_says_so(family):
    traced = InterpretableModel(build(family))
    with traced.trace(ids()):
        with pytest.raises(UsageError, match="scaled_dot_product_attention"):
            traced["layers.0.mixer.z"].save()
