"""`InterpretableModel`, where everything starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import mlx.nn as nn

from .analysis import AnalysisMixin
from .core import LayerListProxy, ModuleResolver, OutputProxy, Trace
from .core.proxy import part, read, wrapped, write
from .core.trace import OUTPUT
from .engine.base import Engine
from .engine.wrapped import WrappedEngine
from .errors import UnknownNameError
from .hooks import HookMixin
from .tokenization import TokenizerMixin


class InterpretableModel(TokenizerMixin, AnalysisMixin, HookMixin):
    """A model, opened for reading and editing.

        model = InterpretableModel(module, tokenizer)
        with model.trace("Hello world"):
            attn = model.layers[3].self_attn.output.save()
            logits = model.output.save()

    The model itself is never changed: outside of a trace it is as it was.
    Its modules, and whatever else it has, are attributes of this object too.

    Args:
        model: an `mlx.nn.Module`, of any architecture; or the path or name of
            a model for the native engine.
        tokenizer: anything with `encode` and `decode`; needed for text.
        layer_attr: what the list of layers is called, on the model or on its
            `model`; None for a module that has none.
        embedding_path, norm_path, lm_head_path: where the embedding, the last
            norm and the unembedding are, if not in a usual place.
        strict: raise on names that mean nothing and on `.save()` outside a
            trace; False ignores them, as mlxterp 0.1 in pure Python did.
        engine: runs the model, in place of the one chosen for it.

    Raises:
        AttributeError: there is no list called `layer_attr`.
        IoError, BadDataError, UsageError (all ValueError or OSError): a path
            that cannot be loaded, or something that is no model.
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike,
        tokenizer: Any = None,
        layer_attr: str | None = "layers",
        embedding_path: str | None = None,
        norm_path: str | None = None,
        lm_head_path: str | None = None,
        *,
        strict: bool = True,
        engine: Engine | None = None,
    ):
        if engine is None:
            engine = _engine_for(model, layer_attr)
        self.engine = engine
        self.strict = strict
        # The wrapped module, or what the native engine runs.
        self.model = getattr(engine, "module", getattr(engine, "model", engine))
        self.tokenizer = (
            getattr(engine, "tokenizer", None) if tokenizer is None else tokenizer
        )
        self._layer_attr = layer_attr
        self.layers = self._find_layers()
        self._module_resolver = ModuleResolver(
            self.model, embedding_path, norm_path, lm_head_path
        )

    def _find_layers(self) -> LayerListProxy:
        name = self._layer_attr
        if name is None:
            return LayerListProxy([], model=self)
        if not isinstance(self.model, nn.Module):
            return LayerListProxy([None] * self.engine.n_layers, name, model=self)
        for path in (name, f"model.{name}"):
            found = self.model
            for part in path.split("."):
                found = getattr(found, part, None)
            if isinstance(found, (list, tuple, nn.Sequential)):
                return LayerListProxy(
                    found, name, model_ref=self.model, attr_path=path, model=self
                )
        lists = [
            key
            for key, value in (*self.model.items(), *_inner(self.model))
            if isinstance(value, (list, tuple, nn.Sequential))
        ]
        raise UnknownNameError(
            f"{type(self.model).__name__} has no list of layers at '{name}' or "
            f"'model.{name}': give its name as layer_attr="
            + (f" (it has {', '.join(map(repr, lists))})." if lists else ".")
        )

    def trace(
        self,
        inputs: Any,
        interventions: Mapping[str, Callable] | None = None,
        activations: bool = False,
    ) -> Trace:
        """A pass to use in a `with`.

        inputs: text, a list of texts, token ids, a list of them (rows may
            differ in length), or an mx.array [batch, pos].
        interventions: name or pattern of a site (`layers.4`,
            `layers.*.self_attn.pattern`) to a function of its value, applied
            in this order. Alone a module's name means its output.
        activations: keep `trace.activations` whole after a block that saved
            values; without, a block that saves nothing keeps them.
        """
        return Trace(
            self._forward,
            inputs,
            tokenizer=self.tokenizer,
            interventions=interventions,
            interpretable_model=self,
            strict=self.strict,
            activations=activations,
        )

    def __call__(self, *args, **kwargs):
        """The plain forward pass."""
        return self.engine.forward(*args, **kwargs)

    def _forward(self, inputs):
        return self.engine.forward(inputs)

    @property
    def output(self) -> OutputProxy:
        """What the model returned, inside a trace."""
        return read(self, OUTPUT)

    @output.setter
    def output(self, value: Any) -> None:
        write(self, OUTPUT, value)

    @property
    def input(self) -> OutputProxy:
        """What the model was given, inside a trace."""
        return read(self, "input")

    def __getitem__(self, site: str) -> OutputProxy:
        """Any site by its name. Raises UnknownNameError."""
        self.engine.resolve(site)
        return read(self, site)

    def __setitem__(self, site: str, value: Any) -> None:
        """Sets it, inside a trace."""
        write(self, site, value)

    def named_modules(self) -> list[tuple[str, Any]]:
        """Dotted paths and modules, the model itself (`""`) first."""
        return self.engine.named_modules()

    def parameters(self) -> dict:
        """The tree of parameters."""
        return self.engine.parameters()

    def trainable_parameters(self) -> dict:
        """The tree of those that are not frozen."""
        own = getattr(self.model, "trainable_parameters", self.parameters)
        return own()

    def train(self, mode: bool = True) -> InterpretableModel:
        """Training mode (dropout on), if the model knows of it."""
        if hasattr(self.model, "train"):
            self.model.train(mode)
        return self

    def eval(self) -> InterpretableModel:
        """The other mode."""
        return self.train(False)

    def train_tuned_lens(self, dataset: list[str], *args, **kwargs) -> Any:
        """`mlxterp.tuned_lens.train_tuned_lens` of this model, with all its
        arguments."""
        from .tuned_lens import train_tuned_lens

        return train_tuned_lens(self, dataset, *args, **kwargs)

    def load_tuned_lens(self, path: str) -> Any:
        """`mlxterp.tuned_lens.TunedLens.load`."""
        from .tuned_lens import TunedLens

        return TunedLens.load(path)

    def __getattr__(self, name: str):
        # Only what this object itself does not have comes here; before
        # __init__ has run there is no model to ask.
        model = self.__dict__.get("model")
        if name.startswith("__") or model is None:
            raise AttributeError(name)
        if not isinstance(model, nn.Module):
            return part(self, getattr(model, name, None), name)
        if hasattr(model, name):
            return wrapped(getattr(model, name), name, self)
        inner = getattr(model, "model", None)
        if isinstance(inner, nn.Module) and isinstance(inner.get(name), nn.Module):
            return wrapped(inner[name], name, self)
        raise AttributeError(
            f"Neither InterpretableModel nor {type(model).__name__} has '{name}'."
        )

    def __repr__(self) -> str:
        return (
            "InterpretableModel(\n"
            f"  model={type(self.model).__name__},\n"
            f"  layers={len(self.layers)},\n"
            f"  tokenizer={'✗' if self.tokenizer is None else '✓'}\n"
            ")"
        )


def _engine_for(model: Any, layer_attr: str | None) -> Engine:
    if isinstance(model, nn.Module):
        return WrappedEngine(model, layer_attr)
    # Loaded only where it is needed: a wrapped module needs no native code.
    from .engine.native import NativeEngine

    return NativeEngine(model)


def _inner(model: nn.Module):
    inner = model.get("model")
    return inner.items() if isinstance(inner, nn.Module) else ()
