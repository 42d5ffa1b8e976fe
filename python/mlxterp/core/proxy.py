"""What `model.layers[3].self_attn.output.save()` is made of.

A module's proxy is a name. A value's proxy is the value: that of the trace in
which it was read, as it was then, wherever it is used.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .._core import Layout
from ..engine.base import handle, layout_of
from ..errors import OutOfRangeError, UnknownNameError, UsageError
from .context import TraceContext
from .habits import Strict


class OutputProxy(mx.array):
    """A lazy value that was read in a trace, an mx.array for whatever takes
    one. It stays as it was read: what is set later, and other traces, change
    nothing in it. Its own trace may be edited through it, in place:
    `proxy[:, -1] = 0`, `proxy *= 2`.

    Args:
        value: the value in the trace.
        name: what it is saved as.
        trace: the open Trace it was read in; None is the innermost.
    """

    def __init__(self, value: mx.array, name: str, trace: Any = None):
        trace = trace or TraceContext.current()
        if trace is None:
            raise UsageError(f"'{name}': no trace is open.")
        # `array(value)` would copy: this is a view of it.
        super().__init__(mx.zeros(value.shape, value.dtype))
        super().__setitem__(..., value)
        self._value, self._name, self._trace = value, name, trace
        self._sets = trace.sets  # when it was read

    @property
    def value(self) -> mx.array:
        """The plain mx.array, not saved."""
        return self._value

    @property
    def output(self) -> OutputProxy:
        """Itself: a value is its own output."""
        return self

    def save(self) -> mx.array:
        """Keeps the value in its trace's `saved_values` and returns it, lazy:
        all saved values are evaluated together when the trace ends. Raises
        UsageError when it has ended."""
        self._trace.save(self._name, self._value, self._site(), self)
        return self._value

    def _site(self) -> str | None:
        """The site whose value it is, if it still is."""
        return self._name if self._is_current() else None

    def _is_current(self) -> bool:
        return self._trace.is_open and self._sets == self._trace.sets

    def __getitem__(self, key) -> OutputProxy:
        return _Slice(self, key)

    def __setitem__(self, key, value) -> None:
        if isinstance(value, _Slice) and value._is_now(self, key):
            return  # `x[:, 1:] += 1` has edited in place what it puts back
        if isinstance(value, mx.array):
            value = handle(value)  # not what the user writes into it later
        self._change(lambda x: _with_part(x, key, value), key)

    def _change(self, fn: Callable[[mx.array], mx.array], key: Any = ...) -> None:
        """Edits the trace's value, and shows what it is then."""
        self._edit(fn, key)
        self._value, self._sets = self._now(), self._trace.sets
        super().__setitem__(..., self._value)

    def _edit(self, fn: Callable[[mx.array], mx.array], key: Any) -> None:
        self._check_rows(key)
        # Where it was set since, what was read is what is put back.
        stale = self._trace.set_since(self._name, self._sets)
        self._trace.edit(self._name, fn(self._value) if stale else fn)

    def _now(self) -> mx.array:
        return self._trace.value(self._name)

    def _position_axes(self) -> list[int]:
        site = self._trace.interpretable_model.engine.resolve(self._name)
        axes = (2, 3) if layout_of(site) == Layout.scores else (1,)
        shape, longest = self._value.shape, max(self._trace.lengths)
        return [it for it in axes if it < len(shape) and shape[it] == longest]

    def _check_rows(self, key: Any) -> None:
        """Raises UsageError where an index counts positions from the end, and
        rows end at different ones."""
        lengths, items = self._trace.lengths, _items(key, self._value.ndim)
        if len(set(lengths)) == 1 or not items:
            return
        if any(_counts_back(items[axis]) for axis in self._position_axes()):
            raise UsageError(
                f"'{self._name}[{_shown(key)}]' counts from the end of the longest "
                f"row, and the rows have {', '.join(map(str, lengths))} positions. "
                "From each row's own end counts at_positions(-1, ...), in the "
                "trace's interventions=."
            )

    def __repr__(self) -> str:
        return f"OutputProxy({self._name})"


class _Slice(OutputProxy):
    """A part of a value, which is edited with it."""

    def __init__(self, of: OutputProxy, key: Any):
        super().__init__(of._value[key], f"{of._name}[{_shown(key)}]", of._trace)
        self._of, self._key = of, key

    def _edit(self, fn: Callable[[mx.array], mx.array], key: Any) -> None:
        self._check_rows(key)
        of = self._key
        self._of._change(lambda x: _with_part(x, of, fn(x[of])), of)

    def _now(self) -> mx.array:
        return self._of._value[self._key]

    def _position_axes(self) -> list[int]:
        items = _items(self._key, self._of._value.ndim)
        if not all(isinstance(it, (int, slice)) for it in items):
            return []
        gone = [isinstance(it, int) for it in items]
        axes = self._of._position_axes()
        return [it - sum(gone[:it]) for it in axes if items and not gone[it]]

    def _site(self) -> None:
        return None

    def _is_now(self, of: OutputProxy, key: Any) -> bool:
        return self._of is of and self._key is key and self._is_current()


def _with_part(x: mx.array, key: Any, value: Any) -> mx.array:
    edited = mx.array(x)
    edited[key] = value
    return edited


def _items(key: Any, ndim: int) -> list:
    """The index of each axis; none where axes are added."""
    items = list(key) if isinstance(key, tuple) else [key]
    if any(it is None for it in items):
        return []
    at = next((i for i, it in enumerate(items) if it is ...), len(items))
    rest = items[at + 1 :]
    return [*items[:at], *[slice(None)] * (ndim - at - len(rest)), *rest]


def _counts_back(index: Any) -> bool:
    if isinstance(index, slice):
        return any(it is not None and it < 0 for it in (index.start, index.stop))
    return bool((mx.array(index) < 0).any().item())


def _shown(key: Any) -> str:
    if isinstance(key, tuple):
        return ", ".join(map(_shown, key))
    if isinstance(key, slice):
        ends = [key.start, key.stop] + ([] if key.step is None else [key.step])
        return ":".join("" if it is None else str(it) for it in ends)
    return "..." if key is ... else str(key)


def _in_place(op):
    def changed(self, other):
        if isinstance(other, mx.array):
            other = handle(other)
        self._change(lambda x: _with_part(x, ..., op(x, other)))
        return self

    return changed


for _name in "add sub mul truediv floordiv mod pow matmul and or".split():
    _op = getattr(operator, f"__{_name}__")
    setattr(OutputProxy, f"__i{_name}__", _in_place(_op))


def read(model: Any, name: str) -> OutputProxy:
    """The value of that name in the model's innermost open trace. Raises
    UsageError where none is open, or the pass did not reach it."""
    trace = TraceContext.current(model)
    if trace is not None:
        return OutputProxy(trace.value(name), name, trace)
    return getattr(model, "habits", Strict()).value_outside(name)


def write(model: Any, name: str, value: Any) -> None:
    """Sets that value in the model's innermost open trace. Raises
    UsageError."""
    trace = TraceContext.current(model)
    if trace is None:
        raise UsageError(
            f"'{name}' can be set only inside `with model.trace(...)`, or "
            "through interventions=."
        )
    # `x.output += 1` has edited in place what it now puts back.
    mine = isinstance(value, OutputProxy) and value._trace is trace
    if not (mine and value._site() == name):
        trace.edit(name, value)


def part(model: Any, module: Any, name: str) -> Any:
    """What a name means that is no attribute of a module: a value of the open
    trace, or a part that only the engine knows. Raises UnknownNameError."""
    engine = getattr(model, "engine", None)
    if engine is None:
        raise UnknownNameError(f"'{name}' is not a part or a value of this model.")
    engine.resolve(name)  # raises where it means nothing
    try:
        engine.resolve(f"{name}.input")
    except UnknownNameError:  # only modules have inputs
        return read(model, name)
    return ModuleProxy(module, name, model)


class ModuleProxy:
    """A module by name: its parts are proxies too, its values (`output`,
    `input`, and of attention `q`, `k`, `v`, `rot_q`, `rot_k`, `z`, `scores`,
    `pattern`) are read from the open trace, all else is the module's own.

    Inside a trace `proxy.output = v` edits the pass: what is read afterwards
    is behind the edit, what was read before stays as it was.
    """

    def __init__(self, module: Any, name: str, model: Any = None):
        self.__dict__.update(_module=module, _name=name, _model=model)

    @property
    def output(self) -> OutputProxy:
        """What the module returned (its first array)."""
        return read(self._model, f"{self._name}.output")

    @property
    def input(self) -> OutputProxy:
        """What the module was given (its first array)."""
        return read(self._model, f"{self._name}.input")

    @property
    def inputs(self) -> tuple[tuple[OutputProxy], dict]:
        """`((input,), {})`, as nnsight has it."""
        return (self.input,), {}

    def __call__(self, *args, **kwargs):
        """The module's own forward pass."""
        if self._module is None:
            raise UsageError(
                f"'{self._name}' of this engine cannot be called by itself."
            )
        return self._module(*args, **kwargs)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        module, full = self._module, f"{self._name}.{name}"
        if isinstance(module, nn.Module) and hasattr(module, name):
            return wrapped(getattr(module, name), full, self._model)
        return part(self._model, None, full)

    def __getitem__(self, key):
        if isinstance(self._module, nn.Module):
            item = self._module[key]
            return wrapped(item, f"{self._name}.{key}", self._model)
        return getattr(self, str(key))

    def __setattr__(self, name: str, value: Any):
        module, full = self._module, f"{self._name}.{name}"
        own = isinstance(module, nn.Module) and hasattr(module, name)
        if own and isinstance(value, mx.array):
            if isinstance(getattr(module, name), nn.Module):
                raise UsageError(
                    f"'{full}' is a module: set what it returns by "
                    f"'{full}.output = ...', inside a trace."
                )
        if own or (isinstance(module, nn.Module) and not self._is_value(full)):
            setattr(module, name, value)
        else:
            write(self._model, full, value)

    def _is_value(self, name: str) -> bool:
        if TraceContext.current(self._model) is not None:  # or it is an error there
            return True
        with suppress(UnknownNameError):
            return bool(self._model.engine.resolve(name))
        return False

    def __dir__(self):
        keys = self._module if isinstance(self._module, nn.Module) else ()
        return sorted({*super().__dir__(), *dir(self._module), *keys})

    def __repr__(self) -> str:
        return f"ModuleProxy({self._name})"


class LayerListProxy:
    """A model's layers: `[i]` (negative too) is a `ModuleProxy`, a slice a
    list of them; `len` and iteration as of a list.

    Args:
        layers: the layers, or anything of their number.
        base_name: what they are called in saved names.
        model_ref, attr_path: where the live list is, if it may be replaced.
        model: the InterpretableModel they belong to.
    """

    def __init__(
        self,
        layers: Sequence,
        base_name: str = "layers",
        model_ref: Any = None,
        attr_path: str | None = None,
        model: Any = None,
    ):
        self._fixed, self._base_name = layers, base_name
        self._model_ref, self._attr_path = model_ref, attr_path
        self._model = model

    @property
    def _layers(self) -> Sequence:
        if self._model_ref is None or not self._attr_path:
            return self._fixed
        found = operator.attrgetter(self._attr_path)(self._model_ref)
        return found.layers if isinstance(found, nn.Sequential) else found

    def __getitem__(self, idx: int):
        layers = self._layers
        if isinstance(idx, slice):
            return [self[i] for i in range(*idx.indices(len(layers)))]
        i = operator.index(idx)
        if not -len(layers) <= i < len(layers):
            raise OutOfRangeError(f"There are {len(layers)} layers, no layer {i}.")
        i %= len(layers)
        return ModuleProxy(layers[i], f"{self._base_name}.{i}", self._model)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[ModuleProxy]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"LayerListProxy(length={len(self)})"


def wrapped(value: Any, name: str, model: Any) -> Any:
    """A module, or a list of them, as a proxy; anything else as it is."""
    if isinstance(value, nn.Module):
        return ModuleProxy(value, name, model)
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(it, nn.Module) for it in value)
    ):
        return LayerListProxy(value, name, model=model)
    return value
