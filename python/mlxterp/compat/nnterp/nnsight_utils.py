"""nnterp's `nnsight_utils`: activations and probabilities of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from ...core import TraceContext
from ...errors import OutOfRangeError, UsageError


def get_layer_output(model: Any, layer: int) -> mx.array:
    """What a layer leaves, in a trace."""
    return model.layers_output[layer]


def get_layer_input(model: Any, layer: int) -> mx.array:
    """What a layer reads, in a trace."""
    return model.layers_input[layer]


def get_attention_output(model: Any, layer: int) -> mx.array:
    """What a layer's attention adds, in a trace."""
    return model.attentions_output[layer]


def get_mlp_output(model: Any, layer: int) -> mx.array:
    """What a layer's MLP adds, in a trace."""
    return model.mlps_output[layer]


def get_num_layers(model: Any) -> int:
    """How many layers there are."""
    return len(model.layers)


def project_on_vocab(model: Any, h: mx.array) -> mx.array:
    """`model.project_on_vocab`."""
    return model.project_on_vocab(h)


def get_token_activations(
    model: Any,
    prompts: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    get_activations: Callable[[Any, int], mx.array] = get_layer_output,
    remote: bool = False,
    idx: int = -1,
    tracer: Any = None,
) -> mx.array:
    """One token's activations of each prompt at each layer, [layer, prompt,
    d_model]; a negative index counts from each prompt's own end. In a trace that is
    open (`tracer`), lazy, of its pass. Raises OutOfRangeError, UsageError."""
    layers = range(len(model.layers)) if layers is None else layers
    if tracer is None:
        if prompts is None:
            raise UsageError("get_token_activations needs prompts, or an open tracer")
        with model.trace(prompts) as trace:
            found = _of_open(model, trace, layers, get_activations, idx)
            trace.save("token_activations", found)
        return found
    return _of_open(model, tracer, layers, get_activations, idx)


def _of_open(model, trace, layers, get_activations, idx) -> mx.array:
    at = []
    for n in trace.lengths:
        if not -n <= idx < n:
            raise OutOfRangeError(f"a prompt has {n} tokens, no token {idx}")
        at.append(idx % n)
    rows, found = mx.arange(len(at)), []
    for layer in layers:
        value = get_activations(model, layer)
        value = getattr(value, "value", value)
        found.append(value[rows, mx.array(at)])
    return mx.stack(found)


def collect_token_activations_batched(
    model: Any,
    prompts: Sequence[str],
    batch_size: int,
    layers: Sequence[int] | None = None,
    get_activations: Callable[[Any, int], mx.array] = get_layer_output,
    remote: bool = False,
    idx: int = -1,
    tqdm: Callable | None = None,
    use_session: bool = True,
) -> mx.array:
    """`get_token_activations` of many prompts, a batch at a time."""
    steps = range(0, len(prompts), batch_size)
    found = [
        get_token_activations(
            model, prompts[i : i + batch_size], layers, get_activations, idx=idx
        )
        for i in (tqdm(steps) if tqdm else steps)
    ]
    if not found:
        raise UsageError("there are no prompts")
    return mx.concatenate(found, axis=1)


def compute_next_token_probs(
    model: Any, prompt: str | Sequence[str], remote: bool = False
) -> mx.array:
    """Of what follows each prompt, [prompt, vocab]."""
    with model.trace(prompt):
        return model.next_token_probs.save()


def get_next_token_probs(model: Any) -> mx.array:
    """`model.next_token_probs`, in a trace."""
    if TraceContext.current(model) is None:
        raise UsageError("probabilities are there only inside `with model.trace(...)`")
    return model.next_token_probs
