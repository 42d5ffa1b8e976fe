"""nnterp's prompts: text, and the tokens whose probabilities are followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ...errors import UsageError
from .nnsight_utils import compute_next_token_probs

Words = str | Sequence[str]


def get_first_tokens(words: Words, tokenizer: Any) -> list[int]:
    """The first token of each word as it stands and behind a space, each once.
    `tokenizer`: one, or a model that has one."""
    encode = getattr(tokenizer, "tokenizer", tokenizer).encode
    space = _plain(encode, " ")[:1]
    found = []
    for word in [words] if isinstance(words, str) else words:
        found += _plain(encode, word)[:1]
        spaced = _plain(encode, f" {word}")[:1]
        found += spaced if spaced != space else []
    if not found:
        raise UsageError(f"{words!r} has no tokens")
    return list(dict.fromkeys(found))


def _plain(encode: Callable, text: str) -> list[int]:
    """Of a text as it stands, with nothing added."""
    try:
        return list(encode(text, add_special_tokens=False))
    except TypeError:  # one that adds nothing
        return list(encode(text))


@dataclass
class Prompt:
    """A prompt and, by name, the tokens that count as an answer."""

    prompt: str
    target_tokens: dict[str, list[int]]
    target_strings: Mapping[str, Words] | None = None

    @classmethod
    def from_strings(
        cls, prompt: str, target_strings: Mapping[str, Words] | Words, tokenizer: Any
    ) -> Prompt:
        """With the first tokens of words; words alone are called "target"."""
        if not isinstance(target_strings, Mapping):
            target_strings = {"target": target_strings}
        tokens = {k: get_first_tokens(v, tokenizer) for k, v in target_strings.items()}
        return cls(prompt, tokens, dict(target_strings))

    def has_no_collisions(self, ignore_targets: Words | None = None) -> bool:
        """Whether no token stands under two names."""
        ignored = [ignore_targets] if isinstance(ignore_targets, str) else ignore_targets
        chosen = [v for k, v in self.target_tokens.items() if k not in (ignored or ())]
        return len({it for v in chosen for it in v}) == sum(map(len, chosen))

    def get_target_probs(
        self, probs: mx.array, layer: int | None = None
    ) -> dict[str, mx.array]:
        """The sum over each name's tokens, of probs [batch, layer, vocab]."""
        sums = {
            name: probs[:, :, mx.array(tokens)].sum(axis=2)
            for name, tokens in self.target_tokens.items()
        }
        return sums if layer is None else {k: v[:, layer] for k, v in sums.items()}

    def run(self, model: Any, get_probs: Callable) -> dict[str, mx.array]:
        """`get_target_probs` of what `get_probs(model, prompt)` gives."""
        return self.get_target_probs(get_probs(model, self.prompt))


def next_token_probs_unsqueeze(model: Any, prompt: Words, **_: Any) -> mx.array:
    """`compute_next_token_probs` with an axis of one layer, [prompt, 1, vocab]."""
    return compute_next_token_probs(model, prompt)[:, None]


def run_prompts(
    model: Any,
    prompts: Sequence[Prompt],
    batch_size: int = 32,
    get_probs_func: Callable = next_token_probs_unsqueeze,
    func_kwargs: Mapping[str, Any] | None = None,
    remote: bool = False,
    tqdm: Callable | None = None,
) -> dict[str, mx.array]:
    """For each name the sums over its tokens, [prompt, layer], of what
    `get_probs_func(model, texts)` gives, [prompt, layer, vocab]. Raises UsageError
    where prompts have not the same names."""
    if not prompts:
        return {}
    names = list(prompts[0].target_tokens)
    for it in prompts:
        if set(it.target_tokens) != set(names):
            raise UsageError(
                f"all prompts have the same names: {names}, and {list(it.target_tokens)}"
            )
    steps = range(0, len(prompts), batch_size)
    found: dict[str, list[mx.array]] = {name: [] for name in names}
    for i in tqdm(steps) if tqdm else steps:
        some = prompts[i : i + batch_size]
        probs = get_probs_func(model, [it.prompt for it in some], **(func_kwargs or {}))
        for row, it in zip(list(probs), some):
            for name, tokens in it.target_tokens.items():
                found[name].append(row[:, mx.array(tokens)].sum(axis=1))
    return {name: mx.stack(it) for name, it in found.items()}
