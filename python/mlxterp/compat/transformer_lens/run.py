"""One call of a `HookedTransformer`: what it runs on, its hooks, what it gives."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import mlx.core as mx

from ...core import InterventionComposer
from ...core.trace import planned
from ...errors import OutOfRangeError, UsageError
from .gradients import values_and_gradients
from .hooks import as_intervention
from .utils import lm_cross_entropy_loss


class Both(NamedTuple):
    logits: mx.array
    loss: mx.array


class Run:
    """One call of a model: what it runs on, its hooks, what it gives."""

    def __init__(self, model, input, prepend_bos, stop_at_layer, return_type, per_token):
        self.model, self.return_type, self.per_token = model, return_type, per_token
        kinds = ("logits", "loss", "both", None)
        if return_type not in kinds and not callable(return_type):
            raise UsageError(f"return_type is one of {kinds} or a function of logits")
        self.tokens = model._tokens(input, prepend_bos)
        self.stop = stop_at_layer
        if stop_at_layer is not None:
            self.stop = layer_number(stop_at_layer, len(model.layers))

    def __call__(self, sites: dict[str, str], named: bool, incl_bwd: bool = False):
        """(what is returned, values by name)"""
        model = self.model
        at: dict[str, InterventionComposer] = {}
        backward = []
        for added in model._added:
            for name, site in model._hooks_meant(added.names)[0].items():
                if self.stop is not None and not is_below(name, self.stop):
                    continue
                point = model.hook_point(name)
                if added.backward:
                    backward.append((name, site, added.function, point))
                else:
                    acting = as_intervention(added.function, point)
                    at.setdefault(site, InterventionComposer()).add(acting)
        if backward or incl_bwd:
            return self._both_ways(at, sites, backward, incl_bwd)
        with model.trace(self.tokens, interventions=at) as trace:
            values = {}
            for name, site in sites.items():
                with suppress(*(() if named else (UsageError,))):
                    values[name] = trace.value(site)
                    trace.save(name, values[name])
            out = self._out(trace.output) if self.stop is None else self._stopped(trace)
            kept = out if isinstance(out, tuple) else (out,)
            for i, it in enumerate(kept):
                if isinstance(it, mx.array):
                    trace.save(f"returned {i}", it)
        return out, values

    def _out(self, logits: mx.array) -> Any:
        if callable(self.return_type):
            return self.return_type(logits)
        if self.return_type in (None, "logits"):
            return logits if self.return_type else None
        loss = lm_cross_entropy_loss(logits, self.tokens, self.per_token)
        return Both(logits, loss) if self.return_type == "both" else loss

    def _stopped(self, trace) -> mx.array:
        last = self.stop == len(self.model.layers)
        site = f"layers.{self.stop - last}.resid_{'post' if last else 'pre'}"
        return trace.value(site)

    def _both_ways(self, at, sites, backward, incl_bwd):
        if self.stop is not None or not (
            callable(self.return_type) or self.return_type in ("loss", "both")
        ):
            raise UsageError(
                "gradients are those of one number: return_type='loss', or a function of "
                "the logits, such as your metric; and no stop_at_layer"
            )
        scalar = self._out
        if self.return_type == "both":
            scalar = lambda logits: self._out(logits).loss  # noqa: E731
        model = self.model
        all_sites = {**(sites if incl_bwd else {}), **{n: s for n, s, *_ in backward}}
        edits = [*model.standing, *planned(model, at)]
        logits, value, values, gradients = values_and_gradients(
            model, self.tokens, edits, {**sites, **all_sites}, scalar
        )
        for name, _, function, point in reversed(backward):
            if name in gradients and function(gradients[name], hook=point) is not None:
                raise UsageError(
                    f"the backward hook at '{name}' gives a value: gradients are read "
                    "here, not changed; return None"
                )
        found = {name: values[name] for name in sites if name in values}
        if incl_bwd:
            found |= {f"{n}_grad": gradients[n] for n in sites if n in gradients}
        return (Both(logits, value) if self.return_type == "both" else value), found


def layer_number(layer: int, count: int) -> int:
    if not -count <= layer <= count:
        raise OutOfRangeError(f"there are {count} layers, no layer {layer}")
    return layer % count if layer < 0 else layer


def is_below(name: str, layer: int) -> bool:
    """Whether a hook point comes before that layer."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) < layer
    return name in ("hook_embed", "hook_pos_embed", "embed", "tokens")
