"""nnterp's layers, skipping and steering of an InterpretableModel."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...analysis.layer_sites import checked_layers
from ...core import OutputProxy, TraceContext, add_vector
from ...core.intervention import at_positions, replace_with, zero_out
from ...core.proxy import ModuleProxy, write
from ...engine.base import handle
from ...errors import OutOfRangeError, UnknownNameError, UsageError


class LayerSites:
    """One site of every layer: `[i]` is its value in the open trace, which
    `[i] = value` sets; negative layers count from the end."""

    def __init__(self, model: Any, alias: str, tail: str | None = None):
        self._model, self._alias, self._tail = model, alias, tail

    def _site(self, layer: int) -> str:
        layer = _checked(layer, len(self))
        if self._tail is None:
            return f"layers.{layer}.{self._alias}"
        return self._model.engine.part(layer, self._alias) + self._tail

    def __getitem__(self, layer: int) -> OutputProxy:
        return self._model[self._site(layer)]

    def __setitem__(self, layer: int, value: mx.array | float) -> None:
        write(self._model, self._site(layer), value)

    def __len__(self) -> int:
        return len(self._model.layers)


class LayerParts:
    """A part of every layer, "attn_out" its attention and "mlp_out" its MLP: `[i]`
    is the module, whose `output` and `input` are read and set in a trace."""

    def __init__(self, model: Any, makes: str):
        self._model, self._makes = model, makes

    def __getitem__(self, layer: int) -> ModuleProxy:
        engine = self._model.engine
        path = engine.part(_checked(layer, len(self)), self._makes)
        return ModuleProxy(dict(engine.named_modules())[path], path, self._model)

    def __len__(self) -> int:
        return len(self._model.layers)


class LayerMixin:
    """nnterp's layer access of an InterpretableModel."""

    @property
    def token_embeddings(self) -> OutputProxy:
        """What the token embedding returns; may be set in a trace."""
        return self[self._embedding_site()]

    @token_embeddings.setter
    def token_embeddings(self, value: mx.array | float) -> None:
        write(self, self._embedding_site(), value)

    def _embedding_site(self) -> str:
        path = self._module_resolver.get_embedding_path() or "embed"
        return self.engine.resolve(f"{path}.output")

    @property
    def layers_input(self) -> LayerSites:
        """What each layer reads, [batch, pos, d_model]."""
        return LayerSites(self, "resid_pre")

    @property
    def layers_output(self) -> LayerSites:
        """What each layer leaves, [batch, pos, d_model]."""
        return LayerSites(self, "resid_post")

    @property
    def attentions_input(self) -> LayerSites:
        """What each attention reads, behind its norm."""
        return LayerSites(self, "attn_out", ".input")

    @property
    def attentions_output(self) -> LayerSites:
        """What each attention adds to the stream."""
        return LayerSites(self, "attn_out")

    @property
    def attentions(self) -> LayerParts:
        """Each layer's attention."""
        return LayerParts(self, "attn_out")

    @property
    def mlps(self) -> LayerParts:
        """Each layer's MLP."""
        return LayerParts(self, "mlp_out")

    @property
    def attention_probabilities(self) -> LayerSites:
        """Each attention's pattern, [batch, head, dest, src]."""
        return LayerSites(self, "attn_out", ".pattern")

    @property
    def mlps_input(self) -> LayerSites:
        """What each MLP reads, behind its norm."""
        return LayerSites(self, "mlp_out", ".input")

    @property
    def mlps_output(self) -> LayerSites:
        """What each MLP adds to the stream."""
        return LayerSites(self, "mlp_out")

    def skip_layer(
        self, layer: int, skip_with: mx.array | None = None
    ) -> dict[str, Callable]:
        """`skip_layers` of one."""
        return self.skip_layers(layer, layer, skip_with)

    def skip_layers(
        self, start: int, end: int, skip_with: mx.array | None = None
    ) -> dict[str, Callable]:
        """Interventions by which the layers from `start` to `end`, both
        included, leave what they read, or `skip_with` [batch, pos, d_model].
        Negative ones count from the end. Inside an open trace of this model they
        act in it at once. Raises OutOfRangeError, UsageError for no layer.
        """
        first, last = (_checked(it, len(self.layers)) for it in (start, end))
        if first > last:
            raise UsageError(f"there is no layer from {start} to {end}")
        skipping: dict[str, Callable] = {}
        for layer in range(first, last + 1):
            here = f"layers.{layer}."
            if skip_with is not None:
                skipping[f"{here}resid_post"] = replace_with(skip_with)
            elif isinstance(self.model, nn.Module):  # it may add something else
                keep, give = _carrying()
                skipping |= {f"{here}resid_pre": keep, f"{here}resid_post": give}
            else:
                for added in ("attn_out", "mlp_out"):
                    with suppress(UnknownNameError):  # a layer may be a mixer alone
                        self.engine.resolve(here + added)
                        skipping[here + added] = zero_out
        return self._act(skipping)

    def steer(
        self,
        layers: int | Sequence[int],
        steering_vector: mx.array,
        factor: float = 1.0,
        positions: int | Sequence[int] | None = None,
    ) -> dict[str, Callable]:
        """Interventions that add `factor` times a vector [d_model] to what
        layers leave (Turner et al., "Steering Language Models With Activation
        Engineering", 2023, arXiv:2308.10248). Inside an open trace of this
        model they act in it at once.

        positions: where to add it, None for everywhere; negative ones count
            from each row's own last token.

        Raises OutOfRangeError for a layer; a pass raises UsageError for a
        vector of another width.
        """
        fn = add_vector(mx.array(steering_vector) * factor)
        if positions is not None:
            fn = at_positions(positions, fn)
        layers = [layers] if hasattr(layers, "__index__") else layers
        chosen = checked_layers(self, layers)
        return self._act({f"layers.{layer}.resid_post": fn for layer in chosen})

    def _act(self, edits: dict[str, Callable]) -> dict[str, Callable]:
        """The edits, made in the trace of this model that is open, if one is."""
        trace = TraceContext.current(self)
        for site, fn in edits.items() if trace is not None else ():
            trace.edit(site, fn)
        return edits


def _checked(layer: int, count: int) -> int:
    layer = operator.index(layer)
    if not -count <= layer < count:
        raise OutOfRangeError(f"there are {count} layers, no layer {layer}")
    return layer % count


def _carrying() -> tuple[Callable, Callable]:
    """Two interventions: the second gives what the first was given last on its
    thread."""
    carried = threading.local()

    def keep(x: mx.array) -> mx.array:
        carried.value = handle(x)
        return x

    return keep, lambda x: carried.value
