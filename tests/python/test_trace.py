"""The life of a trace: what it saves, keeps, lets go and builds anew."""

import copy
import dataclasses
import gc
import sys
import threading
import weakref

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from compare import repeated
from families import build, ids
from mlx.utils import tree_flatten
from mlxterp import (
    InterpretableModel,
    UnknownNameError,
    UsageError,
    add_vector,
    noise,
    replace_with,
    scale,
    zero_out,
)
from mlxterp.core import Trace, TraceContext


def gap(a, b):
    return mx.abs(a - b).max().item()


@pytest.fixture
def model():
    return InterpretableModel(build("llama"))


BLOCK = (
    ["input_layernorm"]
    + [f"self_attn.{it}" for it in ("q_proj", "k_proj", "v_proj", "rope", "o_proj")]
    + ["self_attn", "self_attn.attention_weights", "post_attention_layernorm"]
    + [f"mlp.{it}" for it in ("gate_proj", "up_proj", "down_proj")]
    + ["mlp", ""]
)


def test_keys_are_upstreams_in_its_order(model):
    expected = ["model.model.embed_tokens"]
    for i in range(3):
        expected += [f"model.model.layers.{i}.{it}".rstrip(".") for it in BLOCK]
    expected += ["model.model.norm", "model.model", "__model_output__"]
    with model.trace(ids()) as trace:
        assert list(trace.activations) == expected
    assert len(expected) == 46
    assert list(trace.activations) == expected
    assert repr(trace) == "Trace(saved_values=0, activations=46)"
    assert "model.model.layers.0" in trace.activations
    assert "model.model.layers.7" not in trace.activations


def test_saved_values_have_upstreams_names_and_survive(model):
    with model.trace(ids()) as trace:
        inside = model.layers[1].self_attn.output.save()
        model.layers[-1].output.save()
        model.output.save()
        model.layers[0].mlp.down_proj.output.save()
        model.norm.input.save()
    assert list(trace.saved_values) == [
        "layers.1.self_attn.output",
        "layers.2.output",
        "__model_output__",
        "layers.0.mlp.down_proj.output",
        "norm.input",
    ]
    assert trace.get("layers.1.self_attn.output") is inside
    assert trace.get("nothing") is None
    assert inside.shape == (1, 6, 32)
    assert mx.array_equal(trace.get("layers.2.output"), trace.get("norm.input"))


def test_nothing_but_what_is_saved_is_computed():
    class Huge(nn.Module):
        """4 TB, if anyone evaluates it."""

        def __call__(self, x):
            return x + mx.random.normal((1 << 20, 1 << 20)).sum()

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 4), Huge()]

        def __call__(self, x):
            return self.layers[1](self.layers[0](x))

    model = InterpretableModel(Stack())
    edits = {"layers.0": scale(2.0)}
    with model.trace(mx.ones((1, 4)), interventions=edits) as trace:
        early = model.layers[0].output.save()
        model.layers[1].output.value + 1
    with pytest.raises(UsageError, match="dropped when the trace ended: save"):
        trace.activations["model.layers.1"]
    assert repeated(early, model.model.layers[0](mx.ones((1, 4))) * 2)


def test_activations_stay_where_nothing_was_saved(model):
    with model.trace(ids()) as trace:
        pass
    first = trace.activations["model.model.layers.1"]
    assert first is trace.get_activation("model.model.layers.1")
    assert trace.get_activation("model.model.layers.9") is None
    assert trace.activations.get("nonsense") is None
    assert set(trace.activations.copy()) == set(trace.activations)


def test_a_trace_is_freed_when_it_is_dropped(model):
    """Without waiting for the garbage collector."""
    gc.disable()
    try:
        for save in (True, False):
            with model.trace(ids(), interventions={"layers.0": scale(2.0)}) as trace:
                if save:
                    model.output.save()
            run = weakref.ref(trace._values)
            del trace
            assert run() is None
    finally:
        gc.enable()


def test_activations_after_a_save_are_those_asked_for(model):
    edits = {"layers.1": noise(1.0)}
    loose = InterpretableModel(model.model, strict=False)
    for own, asked in ((model, {"activations": True}), (loose, {})):
        with own.trace(ids(), edits, **asked) as trace:
            saved = own.layers[1].output.save()
            logits = own.output.save()
        assert mx.array_equal(trace.activations["model.model.layers.1"], saved)
        assert mx.array_equal(trace.activations["__model_output__"], logits)
        normed = model.model.model.norm(trace.activations["model.model.layers.2"])
        assert gap(trace.activations["model.model"], normed) == 0
        assert len(trace.activations.copy()) == 46


def test_what_a_block_saved_is_among_the_activations(model):
    with model.trace(ids()) as trace:
        saved = model.layers[1].output.save()
        model.layers[0].mlp.output.save()
        model.layers[0].mlp.output = 0.0
        model.layers[2].output.save()
    assert trace.value("layers.-1") is trace.saved_values["layers.2.output"]
    assert "model.model.layers.1" in trace.activations
    for name in ("layers.1", "layers.0.mlp"):  # saved before the edit
        with pytest.raises(UsageError, match=f"'{name}' was dropped"):
            trace.activations[name]
    assert len(trace.activations) == 46 and saved.shape == (1, 6, 32)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]

    def __call__(self, x):
        return self.layers[1](self.layers[0](x))


@pytest.mark.parametrize("saves", [False, True])
def test_values_are_those_of_the_pass_that_ran(saves):
    """Whatever its functions' variables, its weights and its inputs hold when
    they are read."""
    model, traces, wanted, x = InterpretableModel(Scaled()), [], [], mx.ones((1, 4))
    for s in (0.0, 1.0, 4.0):
        edits = {"layers.0": lambda v: v * s}
        with model.trace(x, edits, activations=saves) as trace:
            if saves:
                model.output.save()
        first, second = model.model.layers
        wanted.append(second(first(x) * s))
        mx.eval(wanted[-1])
        traces.append(trace)
        x[0, 1] = 9.0 + s
        second.weight = second.weight * 2
    for trace, want in zip(traces, wanted):
        assert repeated(trace.activations["model.layers.1"], want)
        assert repeated(trace.output, want)
    assert gap(wanted[0], wanted[1]) > 1e-3 < gap(wanted[1], wanted[2])


def test_a_function_acts_once_on_a_value(model):
    """Also where values are set, before and behind it, and draws once."""
    seen = []

    def noisy(layer):
        def fn(x):
            seen.append(layer)
            return x + mx.random.normal(x.shape)

        return fn

    edits = {"layers.0": noisy(0), "layers.2": noisy(2)}
    with model.trace(ids(), edits):
        before = model.layers[0].output.save()
        assert seen == [0, 2]
        model.layers[1].mlp.output = 0.0
        assert seen == [0, 2, 2]  # layer 2 reads another value now
        model.layers[1].self_attn.output *= 0.5
        model.output = model.output * 2
        assert seen == [0, 2, 2, 2]
        after = model.layers[0].output.save()
    assert mx.array_equal(before, after)


def test_finding_queries_takes_no_random_numbers():
    """A pass is built to learn where they are; dropout draws in it."""
    module = build("qwen3")
    module.model.norm = nn.Sequential(module.model.norm, nn.Dropout(0.5))
    outputs = []
    for _ in range(2):
        model = InterpretableModel(module).train()
        mx.random.seed(0)
        for name in ("layers.0.self_attn.q", "layers.0.mlp"):
            with model.trace(ids(), interventions={name: lambda x: x}):
                outputs.append(model.output.save())
            mx.random.seed(0)
    assert repeated(outputs[0], outputs[1])
    module.eval()


def test_no_op_interventions_keep_the_output(model):
    plain = model(ids())
    with model.trace(ids(), interventions={"*.layers.*": lambda x: x}):
        out = model.output.save()
    assert repeated(out, plain)


def test_stored_values_are_behind_interventions(model):
    with model.trace(ids(), interventions={"layers.1.mlp": scale(0.0)}) as trace:
        mlp = model.layers[1].mlp.output.save()
        inner = model.layers[1].mlp.down_proj.output.save()
    assert mx.all(mlp == 0) and not mx.all(inner == 0)
    assert mx.all(trace.activations["model.model.layers.1.mlp"] == 0)


# Upstream's defects 1 to 3: silence becomes an error


def test_an_unknown_intervention_is_an_error(model):
    with pytest.raises(UnknownNameError, match="did you mean 'layers.2'"):
        with model.trace(ids(), interventions={"layers.20": zero_out}):
            pass
    assert TraceContext.current() is None
    loose = InterpretableModel(build("llama"), strict=False)
    with loose.trace(ids(), interventions={"layers.20": zero_out}):
        out = loose.output.save()
    assert repeated(out, loose(ids()))


def test_an_intervention_that_never_acts_is_an_error():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]

        def __call__(self, x):
            return self.layers[0](x)

    model = InterpretableModel(Half())
    with pytest.raises(UsageError, match="layers.1.output' never acted"):
        with model.trace(mx.ones((1, 4)), interventions={"layers.1": zero_out}):
            pass
    with model.trace(mx.ones((1, 4))):
        with pytest.raises(UsageError, match="was not called"):
            model.layers[1].output.save()


def test_setting_an_output_edits_the_pass(model):
    plain = model(ids())
    with model.trace(ids()) as trace:
        before = model.layers[1].output.save()
        logits = model.output.value
        model.layers[1].output = model.layers[0].output * 2
        twice = (model.layers[0].output * 2).astype(mx.float32)
        after = model.output.save()
        held = model.layers[1].output.value
        mx.eval(logits)
    assert repeated(logits, plain)
    assert repeated(held, twice)
    assert gap(after, plain) > 1e-3
    assert gap(before, held) > 1e-3  # what was saved before stays
    with model.trace(ids(), interventions={"layers.1": replace_with(twice)}):
        same = model.output.save()
    assert repeated(after, same)
    assert mx.array_equal(trace.output, after)


def test_several_edits_by_setting_add_up(model):
    with model.trace(ids()):
        model.layers[0].mlp.output = 0.0
        model.layers[1].self_attn.pattern = mx.ones((1, 4, 6, 6)) / 6
        model.layers[2].self_attn.z = 0
        set_ = model.output.save()
        pattern = model.layers[1].self_attn.pattern.save()
    edits = {
        "layers.0.mlp": zero_out,
        "layers.1.self_attn.pattern": replace_with(1 / 6),
        "layers.2.self_attn.z": zero_out,
    }
    with model.trace(ids(), interventions=edits):
        out = model.output.save()
    assert repeated(set_, out)
    assert gap(pattern, mx.full((1, 4, 6, 6), 1 / 6)) < 1e-7


def test_setting_outside_a_trace_or_a_wrong_shape_is_an_error(model):
    with pytest.raises(UsageError, match="only inside"):
        model.layers[0].output = mx.zeros((1, 6, 32))
    with model.trace(ids()) as trace:
        with pytest.raises(UsageError, match="replace_with"):
            model.layers[0].output = mx.zeros((1, 5, 32))
        with pytest.raises(UnknownNameError):
            model.layers[0].rot_q = mx.zeros((1,))
            model.layers[0].resid_mid = mx.zeros((1,))
    with pytest.raises(UsageError, match="while its trace is open"):
        trace.edit("layers.0", 0.0)


def test_layers_count_from_the_end_too(model):
    with model.trace(ids()) as trace:
        last = model.layers[-1].output.save()
        assert model["layers.-1"].value is model.layers[2].output.value
    assert list(trace.saved_values) == ["layers.2.output"]
    assert last is not None
    with pytest.raises(IndexError, match="3 layers, no layer 3"):
        model.layers[3]


def test_saving_outside_a_trace_is_an_error(model):
    with pytest.raises(UsageError, match="only inside"):
        model.layers[0].output.save()
    with pytest.raises(UsageError, match="only inside"):
        model.output.save()
    with pytest.raises(UsageError, match="only inside"):
        model.layers[0].output.shape
    loose = InterpretableModel(build("llama"), strict=False)
    assert loose.layers[0].output.save() is None
    assert loose.output.save() is None


def test_a_trace_belongs_to_its_model(model):
    other = InterpretableModel(build("gpt2"))
    with model.trace(ids()):
        with pytest.raises(UsageError, match="only inside"):
            other.layers[0].output.save()


# Exceptions


def test_errors_arrive_unchanged_and_leave_no_trace_open(model):
    class Mine(Exception):
        pass

    error = Mine("here")

    def breaks(_):
        raise error

    with pytest.raises(Mine) as caught:
        with model.trace(ids(), interventions={"layers.1.mlp": breaks}):
            pass
    assert caught.value is error
    with pytest.raises(Mine) as caught:
        with model.trace(ids()) as trace:
            kept = model.layers[0].output.save()
            raise error
    assert caught.value is error
    assert TraceContext.current() is None
    assert trace.saved_values["layers.0.output"] is kept
    with model.trace(ids()):
        assert repeated(model.output.value, model(ids()))


def test_nan_made_by_an_intervention_is_an_error(model):
    bad = {"layers.1.mlp": lambda x: x * mx.array(float("nan"))}
    with pytest.raises(UsageError, match="layers.1.mlp.output' made a NaN"):
        with model.trace(ids(), interventions=bad):
            model.output.save()
    with pytest.raises(UsageError, match="NaN"):  # also with nothing saved
        with model.trace(ids(), interventions=bad):
            pass
    masked = {"layers.1.self_attn.scores": scale(2.0)}  # -inf is no NaN
    with model.trace(ids(), interventions=masked):
        model.output.save()


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: x[:, :2], r"returned .*1, 2, 32.*; expected .*1, 6, 32"),
        (lambda x: x.astype(mx.float16), r"returned float16 .*; expected float32"),
        (lambda x: None, "returned .*NoneType.*; expected an mlx.core.array"),
        (scale, "makes an intervention"),
        (3.0, "must be a function"),
    ],
)
def test_an_intervention_keeps_shape_and_dtype(model, fn, message):
    with pytest.raises(UsageError, match=message):
        with model.trace(ids(), interventions={"layers.1": fn}):
            pass


def test_a_trace_is_no_use_before_it_begins(model):
    trace = model.trace(ids())
    assert trace.output is None and dict(trace.activations) == {}
    with pytest.raises(UsageError, match="has not begun"):
        trace.value("output")
    with pytest.raises(UsageError, match="interpretable_model"):
        Trace(lambda x: x, ids())


# Several at once


def test_nested_traces(model):
    other = InterpretableModel(build("gpt2"))
    with model.trace(ids()) as outer:
        clean = model.layers[1].output.value
        with other.trace(ids()):
            theirs = other.layers[0].output.save()
            mine = model.layers[2].output.save()  # goes to its own trace
        with model.trace(ids(), interventions={"layers.1": add_vector(clean)}) as inner:
            doubled = model.layers[1].output.save()
        again = model.layers[1].output.save()
    assert repeated(doubled, again * 2)
    assert list(outer.saved_values) == ["layers.2.output", "layers.1.output"]
    assert list(inner.saved_values) == ["layers.1.output"]
    assert mine.shape == theirs.shape
    assert TraceContext.current() is None


def test_an_intervention_may_run_models_itself(model):
    other = InterpretableModel(build("gpt2"))
    keys = []

    def runs(x):
        model(ids(3)), model.model(ids(3))
        with other.trace(ids()) as trace, model.trace(ids()) as own:
            keys.append((len(trace.activations), len(own.activations)))
        return x

    with model.trace(ids(), interventions={"layers.0.mlp": runs}) as trace:
        out = model.output.save()
    assert keys == [(35, 46)]
    assert len(trace.activations) == 46
    assert repeated(out, model(ids()))


def test_threads(model):
    plain = model(ids())
    mx.eval(plain)
    wanted = np.array(plain)
    errors, start = [], threading.Barrier(4)

    def work(n):
        try:
            start.wait()
            for i in range(12):
                if n == 0:  # untraced beside traced ones
                    assert repeated(model(ids()), plain)
                    continue
                factor = 0.1 * n + 0.01 * i
                with model.trace(
                    ids(), interventions={"layers.0.mlp": scale(factor)}
                ) as trace:
                    mlp = model.layers[0].mlp.output.save()
                    down = model.layers[0].mlp.down_proj.output.save()
                    assert len(trace.activations) == 46
                assert repeated(mlp, down * factor)
        except BaseException as error:
            errors.append(error)

    before = vars(nn.Linear)["__call__"], mx.fast.scaled_dot_product_attention
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # many changes of thread inside each pass
    try:
        for it in threads:
            it.start()
        for it in threads:
            it.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors
    now = vars(nn.Linear)["__call__"], mx.fast.scaled_dot_product_attention
    assert now == before


class Waits(nn.Module):
    """Lets another thread in, in the middle of the first pass."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
        self._meanwhile = None

    def __call__(self, x):
        x = self.layers[0](x)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile:
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()
        return self.layers[1](x)


def test_another_thread_is_no_part_of_a_pass():
    module = Waits()
    mx.eval(module.parameters())
    model, x = InterpretableModel(module), np.ones((1, 4), np.float32)
    seen = []

    def meanwhile():
        seen.append(np.array(module(mx.array(x))))
        with model.trace(mx.array(x), interventions={"layers.1": scale(3.0)}):
            seen.append(np.array(model.output.save()))

    module._meanwhile = meanwhile
    with model.trace(mx.array(x), interventions={"layers.1": scale(2.0)}) as trace:
        out = model.output.save()
        assert list(trace.activations).count("model.layers.0") == 1
    plain = np.array(module(mx.array(x)))
    assert repeated(seen[0], plain)
    assert repeated(seen[1], plain * 3)
    assert repeated(np.array(out), plain * 2)


# Training


def test_gradients_through_a_trace_are_mlxs(model):
    x, target = ids(), ids() * 3 % 96

    def plain(module):
        return nn.losses.cross_entropy(module(x), target).mean()

    def traced(module):
        with model.trace(x):
            logits = model.output.save()
        return nn.losses.cross_entropy(logits, target).mean()

    module = model.model
    loss, grads = nn.value_and_grad(module, plain)(module)
    loss2, grads2 = nn.value_and_grad(module, traced)(module)
    assert repeated(loss, loss2)
    for (path, a), (path2, b) in zip(tree_flatten(grads), tree_flatten(grads2)):
        assert path == path2 and repeated(a, b), path


def test_gradients_of_an_edit(model):
    """Through the explicit attention too, against finite differences."""

    def loss(t, site):
        with model.trace(ids(), interventions={site: lambda x: x * t}):
            return model.output.value[0, -1, 3]

    for site in ("layers.1.mlp", "layers.1.self_attn.pattern"):
        slope = mx.grad(loss)(mx.array(1.0), site)
        h = 0.05
        near = loss(mx.array(1 + h), site) - loss(mx.array(1 - h), site)
        assert abs(slope - near / (2 * h)) < 5e-3


def test_training_and_what_changes_the_module_between_traces():
    model = InterpretableModel(build("llama", intermediate_size=64))
    step = optim.SGD(learning_rate=0.1)
    with model.trace(ids()):
        before = model.output.save()

    def loss(module):
        return module(ids()).square().mean()

    _, grads = nn.value_and_grad(model.model, loss)(model.model)
    step.update(model.model, grads)
    with model.trace(ids()):
        after = model.output.save()
    assert gap(before, after) > 1e-6
    assert repeated(after, model(ids()))

    nn.quantize(model.model, group_size=32, bits=8)
    with model.trace(ids()) as trace:
        quantised = model.layers[0].mlp.gate_proj.output.save()
        assert (
            "Quantized"
            in type(
                dict(model.named_modules())["model.layers.0.mlp.gate_proj"]
            ).__name__
        )
    assert len(trace.activations) == 46
    assert quantised.shape == (1, 6, 64)


def test_dtype_is_kept_from_end_to_end():
    """Upstream's defect 11: a half-precision model turned to float32."""
    module = build("llama")
    module.set_dtype(mx.bfloat16)
    model = InterpretableModel(module)
    vector = mx.random.normal((32,))
    for fn in (noise(0.1), add_vector(vector), replace_with(0.5), scale(mx.array(2.0))):
        with model.trace(ids(), interventions={"layers.1": fn}):
            assert model.layers[1].output.save().dtype == mx.bfloat16
            assert model.output.save().dtype == mx.bfloat16


# Models of other shapes


class Pair(nn.Module):
    """Returns a tuple, a dict and takes its input by name."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def __call__(self, *, x, flag=None):
        return "label", self.first(x), {"rest": flag}


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        shared = nn.Linear(4, 4)
        self.layers = [Pair(), Pair()]
        self.left, self.right = shared, shared
        self.table = {"deep": [nn.Linear(4, 4)]}

    def __call__(self, x):
        for layer in self.layers:
            label, x, rest = layer(x=x, flag=x)
            assert label == "label" and set(rest) == {"rest"}
        x = self.right(self.left(x))
        return {"logits": self.table["deep"][0](x), "n": 1}


class Sharing(nn.Module):
    """Two parents hold the same module, which has a part."""

    def __init__(self):
        super().__init__()
        shared = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.layers = [nn.Sequential(nn.Linear(4, 4), shared) for _ in range(2)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_module_that_two_parents_hold_has_a_value_in_each():
    model = InterpretableModel(Sharing())
    x = mx.random.normal((1, 4))
    first = "layers.0.layers.1"
    with model.trace(x, interventions={first: scale(2.0)}) as trace:
        one = model[first].save()
        inside = model[first + ".layers.1"].save()
        two = model["layers.1.layers.1"].save()
        inside_two = model["layers.1.layers.1.layers.1"].save()
    assert gap(one, inside * 2) == 0 and gap(two, inside_two) == 0
    assert gap(one, two) > 1e-3
    assert mx.array_equal(trace.activations["model.layers.1.layers.1"], two)
    assert len(model.named_modules()) == 1 + 2 + 2 + 3


@pytest.mark.parametrize("change", ["replace", "add", "remove"])
def test_a_model_that_changes_its_parts(change):
    model = InterpretableModel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    x = mx.ones((1, 4))
    with model.trace(x):
        pass
    layers = model.model.layers
    if change == "replace":
        layers[1] = nn.Tanh()
    elif change == "add":
        layers.append(nn.Tanh())
    else:
        layers.pop()
    with model.trace(x) as trace:
        assert repeated(mx.array(model.layers[-1].output), model(x))
        assert len(trace.activations) == len(layers) + 1
    if change == "remove":
        with pytest.raises(UnknownNameError):
            model["layers.1"]
    assert len(model.layers) == len(layers)
    layers[0].part = nn.Tanh()
    assert ("layers.0.part", layers[0].part) in model.named_modules()
    del layers[0].part
    assert "layers.0.part" not in dict(model.named_modules())


def test_tuples_dicts_keywords_and_shared_modules():
    model = InterpretableModel(Odd())
    x = mx.random.normal((2, 4))
    plain = model(x)["logits"]
    with model.trace(x, interventions={"layers.0": lambda y: y}) as trace:
        first = model.layers[0].output.save()
        assert gap(model.layers[0].input.value, x) == 0
        inner = model.layers[0].first.output.save()
        deep = model["table.deep.0"].save()
        out = model.output.save()
    assert gap(first, inner) == 0 and repeated(out, plain) and gap(deep, out) == 0
    assert list(trace.activations)[-2:] == ["model.table.deep.0", "__model_output__"]
    for name in ("left", "right"):
        with pytest.raises(UsageError, match=r"several places \(left, right\)"):
            with model.trace(x, interventions={name: scale(2.0)}):
                pass
        with model.trace(x), pytest.raises(UsageError, match="called 2 times"):
            model[name].save()
    with model.trace(x, interventions={"layers.1.input": zero_out}):
        zeroed = model.layers[1].first.input.save()
    assert mx.all(zeroed == 0)


@dataclasses.dataclass
class Answer:
    note: str
    logits: mx.array


class Compiled(nn.Module):
    """Keeps a compiled function that calls its modules."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4)]
        self.step = mx.compile(self.inner)

    def inner(self, x):
        return self.layers[0](x) * 2

    def __call__(self, x):
        return Answer("an", self.step(x))


@pytest.mark.parametrize("called_before", [False, True])
def test_a_model_that_compiles_itself(called_before):
    """What a trace does to it must not be compiled in."""
    module, x = Compiled(), mx.ones((1, 4))
    if called_before:
        mx.eval(module(x).logits)
    model = InterpretableModel(module)
    with model.trace(x, interventions={"layers.0": zero_out}):
        zeroed = model.output.save()
        inner = model.layers[0].output.save()
    assert mx.all(zeroed == 0) and mx.all(inner == 0)
    assert repeated(module(x).logits, module.inner(x))
    assert mx.any(module(x).logits != 0)
    with model.trace(x, interventions={"output": scale(0.5)}):
        half = model.output.save()
    assert repeated(half * 2, module.inner(x))
    runs = []
    once = mx.compile(lambda x: runs.append(1) or x + 1)
    once(x), once(x)
    assert runs == [1]  # compiling is on again


def test_a_trace_inside_a_compiled_function():
    model = InterpretableModel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    x = mx.ones((1, 4))

    def half(x):
        with model.trace(x, interventions={"layers.1": scale(0.5)}):
            return model.layers[1].output.save()

    compiled = mx.compile(half)
    compiled(x)
    assert repeated(compiled(x), half(x))


def test_a_subclass_calling_super_fires_once():
    class Louder(nn.Linear):
        def __call__(self, x):
            return super().__call__(x) * 2

    model = InterpretableModel(nn.Sequential(Louder(4, 4), nn.Linear(4, 4)))
    seen = []
    x = mx.random.normal((1, 4))
    with model.trace(x, interventions={"layers.0": lambda y: seen.append(1) or y}):
        out = model.layers[0].output.save()
    assert seen == [1]
    assert repeated(out, model.model.layers[0](x))


def test_proxies_behave_like_their_value(model):
    with model.trace(ids()):
        proxy = model.layers[0].output
        value = proxy.value
        assert proxy.shape == (1, 6, 32) and proxy.dtype == mx.float32
        for made, wanted in (
            (proxy[0, -1], value[0, -1]),
            (proxy + proxy, value * 2),
            (1 - proxy, 1 - value),
            (proxy @ value.swapaxes(1, 2), value @ value.swapaxes(1, 2)),
            (-proxy, -value),
            (proxy > 0, value > 0),
            (mx.array(proxy), value),
        ):
            assert repeated(made, wanted)
        assert np.array(proxy).shape == (1, 6, 32)
        assert repr(proxy) == "OutputProxy(layers.0.output)"
        assert repr(model.layers[0].mlp) == "ModuleProxy(layers.0.mlp)"
    copy.copy(model.layers[0])
