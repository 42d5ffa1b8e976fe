"""mlxterp: read, edit and explain what happens inside language models on MLX.

    from mlxterp import InterpretableModel, interventions as iv

    model = InterpretableModel(module, tokenizer)
    with model.trace("Hello", interventions={"layers.4": iv.scale(0.5)}):
        attn = model.layers[3].self_attn.output.save()
"""

from types import SimpleNamespace

from . import _core
from ._blas import warn_where_slow
from .core import (
    ActivationCache,
    InterventionComposer,
    add_vector,
    clamp,
    collect_activations,
    noise,
    replace_with,
    scale,
    zero_out,
)
from .core.intervention import at_positions, on_heads, on_neurons
from .errors import (
    BadDataError,
    IoError,
    MlxterpError,
    OutOfRangeError,
    UnknownNameError,
    UsageError,
)
from .model import InterpretableModel

warn_where_slow(_core.blas())

__version__ = "0.1.0"

interventions = SimpleNamespace(
    zero_out=zero_out,
    scale=scale,
    add_vector=add_vector,
    replace_with=replace_with,
    clamp=clamp,
    noise=noise,
    compose=InterventionComposer,
    at_positions=at_positions,
    on_heads=on_heads,
    on_neurons=on_neurons,
)

# Imported when first asked for: where each is.
_LATER = {
    "get_activations": "utils",
    "batch_get_activations": "utils",
    "TunedLens": "tuned_lens",
    "train_tuned_lens": "tuned_lens",
    "visualization": "visualization",
}
_NOT_YET = ("SAE", "SAEConfig", "SAETrainer")

__all__ = [
    "ActivationCache",
    "BadDataError",
    "InterpretableModel",
    "InterventionComposer",
    "IoError",
    "MlxterpError",
    "OutOfRangeError",
    "UnknownNameError",
    "UsageError",
    "add_vector",
    "at_positions",
    "clamp",
    "collect_activations",
    "interventions",
    "noise",
    "on_heads",
    "on_neurons",
    "replace_with",
    "scale",
    "zero_out",
]


def __getattr__(name: str):
    if name in _NOT_YET:
        raise AttributeError(f"mlxterp.{name} is not built yet.")
    if name in _LATER:
        from importlib import import_module

        module = import_module(f".{_LATER[name]}", __name__)
        return module if _LATER[name] == name else getattr(module, name)
    raise AttributeError(f"module 'mlxterp' has no attribute '{name}'")
