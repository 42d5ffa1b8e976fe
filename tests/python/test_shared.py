"""One module in several places: each is a value of its own, or an error."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlxterp import (
    InterpretableModel,
    UsageError,
    collect_activations,
    scale,
    zero_out,
)

X = mx.random.normal((1, 3, 8), key=mx.random.key(0))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def __call__(self, x):
        return mx.tanh(self.inner(x))


class Stack(nn.Module):
    """Runs its layers in the order of `chosen`."""

    def __init__(self, layers, chosen=None, **more):
        super().__init__()
        self.layers = layers
        self._chosen = range(len(layers)) if chosen is None else chosen
        for name, part in more.items():
            setattr(self, name, part)

    def __call__(self, x):
        for i in self._chosen:
            x = self.layers[i](x)
        return x


def three():
    block = Block()
    return [block] * 3


def alternating():
    a, b = Block(), Block()
    return [a, b, a, b]


def repeated():
    a, b = Block(), Block()
    return [a, a, b]


def by_hand(layers, x=X, edit=None):
    """(input, inside, output) of each layer, of which `edit`: (which, fn) is
    edited."""
    found = []
    for i, layer in enumerate(layers):
        inside = layer.inner(x)
        y = mx.tanh(inside)
        if edit and edit[0] == i:
            y = edit[1](y)
        found.append((x, inside, y))
        x = y
    return found


def near(a, b):
    return mx.abs(a - b).max().item() <= 1e-5 * max(1, mx.abs(b).max().item())


@pytest.mark.parametrize("make", [three, alternating, repeated])
def test_each_place_in_a_list_is_a_call_of_its_own(make):
    layers = make()
    model = InterpretableModel(Stack(layers))
    assert model.engine.n_layers == len(model.layers) == len(layers)
    wanted = by_hand(layers)
    with model.trace(X) as trace:
        for i, (before, inside, after) in enumerate(wanted):
            assert near(model.layers[i].input, before)
            assert near(model.layers[i].inner.output, inside)
            assert near(model.layers[i].output, after)
            assert near(model.layers[i].resid_post, after)
    keys = [f"model.layers.{i}{tail}" for i in range(len(layers)) for tail in (".inner", "")]
    assert list(trace.activations) == [*keys, "__model_output__"]
    assert len(collect_activations(model, X)) == 2 * len(layers)


@pytest.mark.parametrize("make", [three, alternating, repeated])
def test_an_edit_acts_on_the_place_it_names(make):
    layers = make()
    model = InterpretableModel(Stack(layers))
    for i in range(len(layers)):
        seen = []

        def fn(v):
            seen.append(1)
            return v * 0.5

        wanted = by_hand(layers, edit=(i, lambda v: v * 0.5))
        with model.trace(X, {f"layers.{i}": fn}):
            out = model.output.save()
        with model.trace(X):
            model.layers[i].output *= 0.5
            set_ = model.output.save()
        assert near(out, wanted[-1][2]) and near(set_, out) and seen == [1]
        with model.trace(X, {f"layers.{i}.inner": zero_out}):
            assert near(model.layers[i].output, mx.zeros_like(X))
    with model.trace(X, {"layers.*": scale(2.0)}):
        every = model.output.save()
    x = X
    for layer in layers:
        x = layer(x) * 2
    assert near(every, x)


@pytest.mark.parametrize("chosen", [[0], [0, 1], [2, 1, 0, 0], [0, 1, 2, 0, 1, 2]])
def test_calls_that_are_not_the_lists_are_refused(chosen):
    model = InterpretableModel(Stack(three(), chosen))
    plain = model(X)
    with model.trace(X) as trace:
        assert near(model.output, plain)
        for name in ("layers.0", "layers.2", "layers.1.inner", "layers.0.input"):
            with pytest.raises(UsageError, match=f"called {len(chosen)} times"):
                model[name].save()
    assert list(trace.activations) == ["__model_output__"]
    with pytest.raises(UsageError, match="one Block in several places"):
        with model.trace(X, {"layers.1.inner": zero_out}):
            pass


def test_a_list_under_two_names_is_one_list():
    layers = [Block(), Block()]
    model = InterpretableModel(Stack(layers, blocks=layers))
    with model.trace(X, {"blocks.1": scale(2.0)}):
        assert near(model["layers.1"], model["blocks.1"])
        assert near(model["layers.0"], layers[0](X))
        assert near(model.output, layers[1](layers[0](X)) * 2)


def test_an_attribute_beside_a_list():
    layers = three()
    model = InterpretableModel(Stack(layers, block=layers[0]))
    with model.trace(X):
        assert near(model.layers[1].output, by_hand(layers)[1][2])
        with pytest.raises(UsageError, match="'block' is one Block in several"):
            model["block"].save()


def test_two_lists_cannot_be_told_apart():
    block = Block()

    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.after = [block], [block]

        def __call__(self, x):
            return self.layers[0](self.after[0](x))

    model = InterpretableModel(Coder())
    with model.trace(X):
        for name in ("layers.0", "after.0"):
            with pytest.raises(UsageError, match="known only of a list"):
                model[name].save()


def test_two_names_of_what_is_called_once():
    model = InterpretableModel(Stack([Block()], same=nn.Tanh()))
    model.model.alias = model.model.same
    model.model._chosen = [0]
    with model.trace(X):
        with pytest.raises(UsageError, match="was not called"):
            model["alias"].save()

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = self.two = nn.Linear(8, 8)

        def __call__(self, x):
            return self.two(x)

    model = InterpretableModel(Once(), layer_attr=None)
    with model.trace(X, {"one": scale(3.0)}):
        assert near(model["two"], model.model.one(X) * 3)
        assert near(model["one"], model["two"])


def test_one_place_called_often_is_its_last_call():
    class Universal(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def __call__(self, x):
            for _ in range(3):
                x = self.block(x)
            return x

    model = InterpretableModel(Universal(), layer_attr=None)
    with model.trace(X):
        assert near(model["block"], model.output)
    with model.trace(X, {"block": zero_out}):  # at every call
        assert near(model.output, mx.zeros_like(X))


def test_shared_layers_in_a_module_that_runs_twice():
    inner = Stack(three())

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stack = inner

        def __call__(self, x):
            return self.stack(self.stack(x))

    model = InterpretableModel(Twice(), layer_attr=None)
    wanted = by_hand(inner.layers, inner(X))
    with model.trace(X):
        for i in range(3):  # of the last run
            assert near(model[f"stack.layers.{i}"], wanted[i][2])
