"""What `model.layers[3].self_attn.output.save()` is made of.

A proxy is a name. It is looked up in the innermost open trace of its model
when a value is asked for, never stored.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import OutOfRangeError, UnknownNameError, UsageError
from .context import TraceContext

#: Names that stand for a value of a module, not for a part of it.
SITE_NAMES = frozenset(
    ("input", "output", "q", "k", "v", "rot_q", "rot_k", "z", "scores", "pattern")
    + ("attention_weights", "result", "resid_pre", "resid_mid", "resid_post")
    + ("attn_out", "mlp_out")
)


class OutputProxy:
    """A value of the current trace: `.save()` keeps it beyond the trace, and
    everything an mx.array can do is done with the lazy value.

    Args:
        value: the value, or None to look `name` up in the current trace.
        name: what it is saved as.
        model: the InterpretableModel whose trace is meant.
    """

    __slots__ = ("_fixed", "_model", "_name")

    def __init__(self, value: Any, name: str, model: Any = None):
        self._fixed, self._name, self._model = value, name, model

    @property
    def _value(self) -> mx.array:
        if self._fixed is not None:
            return self._fixed
        context = TraceContext.current(self._model)
        if context is None or context.trace is None:
            raise UsageError(
                f"'{self._name}' has a value only inside `with model.trace(...)`."
            )
        return context.trace.value(self._name)

    @property
    def value(self) -> mx.array:
        """The lazy mx.array itself, not saved: for functions of `mx`."""
        return self._value

    def save(self) -> mx.array:
        """Keeps the value in the trace's `saved_values` and returns it, lazy:
        all saved values are evaluated together when the trace ends. Raises
        UsageError outside a trace, or where the pass did not reach it."""
        context = TraceContext.current(self._model)
        if context is None:
            if self._fixed is None and not getattr(self._model, "strict", True):
                return None
            raise UsageError(
                f"'{self._name}' can be saved only inside `with model.trace(...)`."
            )
        value = self._value
        context.save(self._name, value)
        return value

    def __getattr__(self, name: str):
        if name.startswith("__"):  # copy, pickle and such ask for these
            raise AttributeError(name)
        return getattr(self._value, name)

    def __getitem__(self, key):
        return self._value[key]

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self):
        return iter(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __float__(self) -> float:
        return float(self._value)

    def __int__(self) -> int:
        return int(self._value)

    def __array__(self, *args, **kwargs):
        import numpy

        return numpy.asarray(self._value, *args, **kwargs)

    def __mlx_array__(self) -> mx.array:
        return self._value

    def __neg__(self):
        return -self._value

    def __abs__(self):
        return abs(self._value)

    def __repr__(self) -> str:
        return f"OutputProxy({self._name})"


def _plain(x):
    return x._value if isinstance(x, OutputProxy) else x


def _add_operators():
    names = "add sub mul truediv floordiv mod pow matmul lt le gt ge eq ne"
    for name in names.split():
        op = getattr(operator, name)

        def forward(self, other, op=op):
            return op(self._value, _plain(other))

        def backward(self, other, op=op):
            return op(_plain(other), self._value)

        setattr(OutputProxy, f"__{name}__", forward)
        if name not in ("lt", "le", "gt", "ge", "eq", "ne"):
            setattr(OutputProxy, f"__r{name}__", backward)
    OutputProxy.__hash__ = None


_add_operators()


class ModuleProxy:
    """A module by name: its parts are proxies too, its values (`output`,
    `input`, and of attention `q`, `k`, `v`, `rot_q`, `rot_k`, `z`, `scores`,
    `pattern`) are `OutputProxy`s, all else is the module's own.

    Inside a trace `proxy.output = v` edits the pass: what is read afterwards
    is behind the edit, what was saved before stays as it was.
    """

    def __init__(self, module: Any, name: str, model: Any = None):
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_model", model)

    @property
    def output(self) -> OutputProxy:
        """What the module returned (its first array)."""
        return OutputProxy(None, f"{self._name}.output", self._model)

    @property
    def input(self) -> OutputProxy:
        """What the module was given (its first array)."""
        return OutputProxy(None, f"{self._name}.input", self._model)

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
        engine = getattr(self._model, "engine", None)
        if engine is not None:
            engine.resolve(full)  # raises where it means nothing
            if name in SITE_NAMES:
                return OutputProxy(None, full, self._model)
            return ModuleProxy(None, full, self._model)
        if name in SITE_NAMES:
            return OutputProxy(None, full, self._model)
        raise UnknownNameError(f"'{self._name}' has no '{name}'.")

    def __getitem__(self, key):
        if isinstance(self._module, nn.Module):
            item = self._module[key]
            return wrapped(item, f"{self._name}.{key}", self._model)
        return getattr(self, str(key))

    def __setattr__(self, name: str, value: Any):
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif name in SITE_NAMES and not _has(self._module, name):
            full = f"{self._name}.{name}"
            context = TraceContext.current(self._model)
            if context is None or context.trace is None:
                raise UsageError(
                    f"'{full}' can be set only inside `with model.trace(...)`, "
                    "or through interventions=."
                )
            context.trace.edit(full, _plain(value))
        else:
            setattr(self._module, name, value)

    def __dir__(self):
        return sorted({*super().__dir__(), *dir(self._module), *_keys(self._module)})

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


def _has(module: Any, name: str) -> bool:
    """Whether a module has a part of a site's name, which then is meant."""
    return isinstance(module, nn.Module) and name in module


def _keys(module: Any):
    return (k for k in module) if isinstance(module, nn.Module) else ()
