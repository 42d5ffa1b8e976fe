"""nnterp's lenses: the logit lens, and patchscopes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ...errors import OutOfRangeError, UsageError
from .nnsight_utils import get_token_activations

__all__ = [
    "TargetPrompt",
    "TargetPromptBatch",
    "logit_lens",
    "patch_object_attn_lens",
    "patchscope_lens",
    "repeat_prompt",
]


def logit_lens(
    model: Any,
    prompts: str | Sequence[str],
    remote: bool = False,
    return_inv_logits: bool = False,
) -> mx.array | tuple[mx.array, mx.array]:
    """What each layer would say next, probabilities [prompt, layer, vocab]
    (nostalgebraist, 2020); with `return_inv_logits` also those of the negative
    normalised stream."""
    hidden = get_token_activations(model, prompts)
    probs = _probs(model, hidden)
    if not return_inv_logits:
        return probs
    # Behind the norm, a negative state is the norm of the negative one but for a
    # bias, which stays.
    norm = model._module_resolver.get_final_norm()
    if norm is not None:
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        shift = (norm(rows) + norm(-rows)) / 2
        if float(mx.abs(shift).max()) > 1e-6:
            raise UsageError("return_inv_logits: this model's last norm has a bias")
    return probs, _probs(model, -hidden)


def _probs(model: Any, hidden: mx.array) -> mx.array:
    """Of [layer, prompt, d_model]: [prompt, layer, vocab]."""
    logits = model.project_on_vocab(hidden.swapaxes(0, 1)).astype(mx.float32)
    return mx.softmax(logits, axis=-1)


@dataclass
class TargetPrompt:
    """A prompt and the number of the token whose value is put in."""

    prompt: str
    index_to_patch: int


def repeat_prompt(
    words: Sequence[str] | None = None,
    rel: str = " ",
    sep: str = "\n",
    placeholder: str = "?",
    index_to_patch: int = -1,
) -> TargetPrompt:
    """A prompt that repeats words and then asks for the placeholder's (Ghandeharioun
    et al., "Patchscopes", 2024, arXiv:2401.06102)."""
    words = ["king", "1135", "hello"] if words is None else words
    lines = [f"{word}{rel}{word}" for word in words]
    return TargetPrompt(sep.join([*lines, placeholder]), index_to_patch)


@dataclass
class TargetPromptBatch:
    """One target prompt for each source."""

    prompts: list[str]
    index_to_patch: list[int]

    @classmethod
    def from_target_prompts(cls, prompts: Sequence[TargetPrompt]) -> TargetPromptBatch:
        return cls([it.prompt for it in prompts], [it.index_to_patch for it in prompts])

    @classmethod
    def from_target_prompt(cls, prompt: TargetPrompt, batch_size: int):
        return cls.from_target_prompts([prompt] * batch_size)

    @classmethod
    def from_prompts(
        cls, prompts: str | Sequence[str], index_to_patch: int | Sequence[int]
    ) -> TargetPromptBatch:
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if isinstance(index_to_patch, int):
            index_to_patch = [index_to_patch] * len(prompts)
        return cls(prompts, list(mx.array(index_to_patch).tolist()))

    @staticmethod
    def auto(target: Any, batch_size: int) -> TargetPromptBatch:
        """Of one prompt as many as there are sources; of a list itself."""
        if isinstance(target, TargetPromptBatch):
            return target
        if isinstance(target, TargetPrompt):
            return TargetPromptBatch.from_target_prompt(target, batch_size)
        if isinstance(target, (list, tuple)):
            return TargetPromptBatch.from_target_prompts(target)
        raise UsageError(
            "a target is a TargetPrompt, a list of them or a TargetPromptBatch, not "
            f"{type(target).__name__}"
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, i: int) -> TargetPrompt:
        return TargetPrompt(self.prompts[i], self.index_to_patch[i])

    def __iter__(self) -> Iterator[TargetPrompt]:
        return (self[i] for i in range(len(self)))


def patchscope_lens(
    model: Any,
    source_prompts: str | Sequence[str] | None = None,
    target_patch_prompts: Any = None,
    layers: int | Sequence[int] | None = None,
    latents: mx.array | None = None,
    remote: bool = False,
) -> mx.array:
    """What the target prompts say next where a token's value at a layer is that of
    each source's last token there, [source, layer, vocab].

    latents: the values to put in, [layer, source, d_model], instead of sources.
    """
    if (latents is None) == (source_prompts is None):
        raise UsageError("patchscope_lens takes source_prompts or latents, one of them")
    n_layers = len(model.layers)
    layers = [layers] if isinstance(layers, int) else layers
    layers = list(range(n_layers)) if layers is None else list(layers)
    if latents is None:
        latents = get_token_activations(model, source_prompts, layers)
    sources = latents.shape[1]
    targets = TargetPromptBatch.auto(target_patch_prompts or repeat_prompt(), sources)
    if len(targets) != sources or len(latents) != len(layers):
        raise UsageError(
            f"{sources} sources at {len(latents)} layers do not fit {len(targets)} "
            f"targets at {len(layers)}"
        )
    found = []
    for layer, value in zip(layers, latents):
        with model.trace(targets.prompts) as trace:
            at = _positions(targets, trace.lengths)
            hidden = model.layers_output[layer]
            hidden[mx.arange(sources), at] = value
            found.append(model.next_token_probs.save())
    return mx.stack(found, axis=1)


def _positions(targets: TargetPromptBatch, lengths: Sequence[int]) -> mx.array:
    for i, n in zip(targets.index_to_patch, lengths):
        if not -n <= i < n:
            raise OutOfRangeError(f"a target prompt has {n} tokens, no token {i}")
    return mx.array([i % n for i, n in zip(targets.index_to_patch, lengths)])


def patch_object_attn_lens(
    model: Any,
    source_prompts: str | Sequence[str],
    target_prompts: str | Sequence[str],
    attn_idx_patch: int,
    num_patches: int = 5,
) -> mx.array:
    """What target prompts say next where from each layer on, `num_patches` layers'
    attention reads the sources' last tokens in place of one of its own, [target,
    layer, vocab]."""
    targets = [target_prompts] if isinstance(target_prompts, str) else target_prompts
    held = get_token_activations(
        model, source_prompts, get_activations=lambda m, i: m.attentions_input[i]
    )
    n, found = len(model.layers), []
    targets_at = TargetPromptBatch.from_prompts(targets, attn_idx_patch)
    for layer in range(n):
        with model.trace(list(targets)) as trace:
            at = _positions(targets_at, trace.lengths)
            for other in range(layer, min(n, layer + num_patches)):
                read = model.attentions_input[other]
                read[mx.arange(len(targets)), at] = held[other]
            found.append(model.next_token_probs.save())
    return mx.stack(found, axis=1)
