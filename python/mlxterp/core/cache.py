"""Activations kept by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ..engine._names import is_pattern
from ..errors import UnknownNameError
from .module_resolver import normalize_layer_key


@dataclass
class ActivationCache(Mapping):
    """Activations by module name; `layers.0` and `model.model.layers.0` find
    the same one.

    Attributes:
        activations: name to mx.array.
        metadata: what is known of the pass; `collect_activations` gives
            `input_shape` [batch, pos] and `output_shape`.
    """

    activations: dict[str, mx.array] = field(default_factory=dict)
    metadata: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> mx.array:
        if name in self.activations:
            return self.activations[name]
        short = normalize_layer_key(name)
        for key, value in self.activations.items():
            if normalize_layer_key(key) == short:
                return value
        raise UnknownNameError(f"'{name}' is not in this cache: {self.keys()}")

    def get(self, name: str, default: mx.array | None = None) -> mx.array | None:
        """The activation of that name, in full or short form, or `default`."""
        return super().get(name, default)

    def keys(self) -> list[str]:
        """The names, in the order of the pass."""
        return list(self.activations)

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cached={len(self)} modules)"


def collect_activations(
    model: Any,
    inputs: Any,
    layers: list[str] | None = None,
    normalize_keys: bool = True,
) -> ActivationCache:
    """One traced pass, and what it gave, evaluated.

    Args:
        model: an InterpretableModel.
        inputs: whatever `model.trace` takes.
        layers: names or patterns of what to keep (`layers.3`,
            `layers.*.self_attn`); None keeps every module's output.
        normalize_keys: names without `model.` and `model.model.` in front.

    Raises UnknownNameError for a name that means nothing.
    """
    with model.trace(inputs) as trace:
        keys = [key for key in trace.activations if key != "__model_output__"]
        sites = {key: model.engine.resolve(key) for key in keys}
        if layers is not None:
            sites = _chosen(model.engine, layers, sites, normalize_keys)
        found = {}
        for key, site in sites.items():
            name = normalize_layer_key(key) if normalize_keys else key
            found[name] = trace.value(site)
            trace.save(name, found[name])
        shapes = trace.input_shape, tuple(trace.output.shape)
    return ActivationCache(found, {"input_shape": shapes[0], "output_shape": shapes[1]})


def _chosen(
    engine: Any, layers: list[str], sites: Mapping[str, str], short: bool
) -> dict[str, str]:
    """Keys to sites of what `layers` names. A plain name is its own short
    key, so that `layers.0` is found again where the model says `h.0`; what a
    pattern means has the pass's key, or its site's name if it has none."""
    keys = {site: key for key, site in sites.items()}
    chosen: dict[str, str] = {}
    for name in layers:
        matched = engine.match(name)
        for site in matched:
            own = name if short and not is_pattern(name) else None
            chosen[own or keys.get(site, site)] = site
    return chosen
