"""nnterp's names on mlxterp's models, and those of nnsight that it stands on:

    from mlxterp.compat.nnterp import StandardizedTransformer

    model = StandardizedTransformer("demo")
    with model.trace("The Eiffel Tower is in") as tracer:
        hidden = model.layers_output[5].save()
        tracer.stop()

`LayerMixin` is what every InterpretableModel has of it.
"""

from .layers import LayerMixin

_FROM = {
    "StandardizedTransformer": "model",
    "Prompt": "prompt_utils",
    "run_prompts": "prompt_utils",
    "get_first_tokens": "prompt_utils",
    "logit_lens": "interventions",
    "patchscope_lens": "interventions",
    "repeat_prompt": "interventions",
    "TargetPrompt": "interventions",
    "TargetPromptBatch": "interventions",
    "get_token_activations": "nnsight_utils",
    "collect_token_activations_batched": "nnsight_utils",
    "compute_next_token_probs": "nnsight_utils",
}

__all__ = ["LayerMixin", *_FROM]


def __getattr__(name: str):
    # These stand on InterpretableModel, which has LayerMixin from here.
    from importlib import import_module

    if name in _FROM:
        return getattr(import_module(f".{_FROM[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
