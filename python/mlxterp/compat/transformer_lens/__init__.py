"""TransformerLens' names on mlxterp's models:

    from mlxterp.compat.transformer_lens import HookedTransformer, utils, patching

    model = HookedTransformer.from_pretrained("demo")
    logits, cache = model.run_with_cache("The Eiffel Tower is in the city of")

`HookMixin` is what every InterpretableModel has of it.
"""

from .cache import HookCache
from .factored_matrix import FactoredMatrix
from .hooks import HookMixin, HookPoint

ActivationCache = HookCache

__all__ = [
    "ActivationCache",
    "FactoredMatrix",
    "HookCache",
    "HookMixin",
    "HookPoint",
    "HookedTransformer",
    "TransformerBridge",
    "detect_head",
    "head_detector",
    "patching",
    "utils",
]


def __getattr__(name: str):
    # These stand on InterpretableModel, which has HookMixin from here.
    from importlib import import_module

    if name in ("HookedTransformer", "TransformerBridge"):
        return import_module(".model", __name__).HookedTransformer
    if name == "detect_head":
        return import_module(".head_detector", __name__).detect_head
    if name in ("utils", "patching", "head_detector"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
