"""What a trace is made of."""

from .cache import ActivationCache, collect_activations
from .context import TraceContext
from .intervention import (
    InterventionComposer,
    add_vector,
    clamp,
    noise,
    replace_with,
    scale,
    zero_out,
)
from .module_resolver import (
    ModuleResolver,
    find_layer_key_pattern,
    normalize_layer_key,
)
from .proxy import LayerListProxy, ModuleProxy, OutputProxy
from .trace import Trace

__all__ = [
    "ActivationCache",
    "InterventionComposer",
    "LayerListProxy",
    "ModuleProxy",
    "ModuleResolver",
    "OutputProxy",
    "Trace",
    "TraceContext",
    "add_vector",
    "clamp",
    "collect_activations",
    "find_layer_key_pattern",
    "noise",
    "normalize_layer_key",
    "replace_with",
    "scale",
    "zero_out",
]
