"""TransformerLens' `utils`: names, a test of a prompt, losses."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from .act_names import get_act_name
from .cache import sliced

__all__ = [
    "get_act_name",
    "get_corner",
    "get_device",
    "lm_accuracy",
    "lm_cross_entropy_loss",
    "remove_batch_dim",
    "sliced",
    "test_prompt",
    "to_numpy",
    "transpose",
]


def to_numpy(tensor: Any) -> np.ndarray:
    """A NumPy array of an mx.array, bfloat16 as float32, or of anything else."""
    if isinstance(tensor, mx.array) and tensor.dtype == mx.bfloat16:
        tensor = tensor.astype(mx.float32)
    return np.array(tensor)


def get_corner(tensor: mx.array, n: int = 3) -> mx.array:
    """The first `n` along every axis."""
    return tensor[tuple(slice(n) for _ in range(tensor.ndim))]


def get_device() -> str:
    """What MLX computes on."""
    return str(mx.default_device())


def remove_batch_dim(tensor: mx.array) -> mx.array:
    """Without a first axis of length 1."""
    return tensor[0] if tensor.shape[0] == 1 else tensor


def transpose(tensor: mx.array) -> mx.array:
    """With its last two axes swapped."""
    return tensor.swapaxes(-1, -2)


def lm_cross_entropy_loss(
    logits: mx.array, tokens: mx.array, per_token: bool = False
) -> mx.array:
    """-log p of each token given those before it, [batch, pos - 1]; its mean
    without `per_token`."""
    logits = logits[..., :-1, :].astype(mx.float32)
    right = mx.take_along_axis(logits, tokens[..., 1:, None], axis=-1)[..., 0]
    loss = mx.logsumexp(logits, axis=-1) - right
    return loss if per_token else loss.mean()


def lm_accuracy(
    logits: mx.array, tokens: mx.array, per_token: bool = False
) -> mx.array:
    """Whether each token is the likeliest after those before it, [batch, pos -
    1]; the share of them without `per_token`."""
    right = mx.argmax(logits[..., :-1, :], axis=-1) == tokens[..., 1:]
    return right if per_token else right.astype(mx.float32).mean()


def test_prompt(
    prompt: str,
    answer: str | list[str],
    model: Any,
    prepend_space_to_answer: bool = True,
    print_details: bool = True,
    prepend_bos: bool | None = None,
    top_k: int = 10,
) -> None:
    """Prints how likely a prompt's right answer is: rank, logit and probability
    of each of its tokens, and the `top_k` tokens beside it. Of a list of
    answers the first token of each, after the same prompt."""
    several = isinstance(answer, list)
    answers = [
        f" {it}" if prepend_space_to_answer and not it.startswith(" ") else it
        for it in ([answer] if isinstance(answer, str) else answer)
    ]
    begin = model.to_tokens(prompt, prepend_bos=prepend_bos)[0].tolist()
    ends = [model.to_tokens(it, prepend_bos=False)[0].tolist() for it in answers]
    if several:
        ends = [it[:1] for it in ends]
    print("Tokenized prompt:", model.to_str_tokens(mx.array(begin)))
    print("Tokenized answer:", [model.to_str_tokens(mx.array(it)) for it in ends])
    whole = begin if several else begin + ends[0]
    logits = model(mx.array([whole]))[0].astype(mx.float32)
    ranks = []
    for i in range(1 if several else len(ends[0])):
        row = logits[len(begin) - 1 + i]
        probs, order = mx.softmax(row), mx.argsort(-row).tolist()
        for token in [it[0] for it in ends] if several else [ends[0][i]]:
            name, rank = model.to_string([token]), order.index(token)
            ranks.append((name, rank))
            print(
                f"Rank: {rank:<8} Logit: {row[token].item():5.2f} "
                f"Prob: {probs[token].item():6.2%} Token: |{name}|"
            )
        for k, token in enumerate(order[:top_k] if print_details else ()):
            print(
                f"Top {k}th token. Logit: {row[token].item():5.2f} "
                f"Prob: {probs[token].item():6.2%} Token: |{model.to_string([token])}|"
            )
    print(f"Ranks of the answer tokens: {ranks}")


test_prompt.__test__ = False  # no test of pytest's
