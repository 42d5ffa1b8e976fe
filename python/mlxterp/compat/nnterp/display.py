"""nnterp's `display`: tables and pictures of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ...core.optional import require
from .prompt_utils import Prompt


def plot_topk_tokens(
    next_token_probs: mx.array,
    tokenizer: Any,
    k: int = 5,
    title: str | None = None,
    file: str | None = None,
    **_: Any,
) -> Any:
    """The `k` likeliest tokens at each layer of probs [layer, vocab], a figure of
    matplotlib's; saved in `file` where one is given."""
    plt = require("matplotlib.pyplot")
    probs = next_token_probs.astype(mx.float32)
    best = mx.argsort(-probs, axis=-1)[:, :k]
    values = mx.take_along_axis(probs, best, axis=-1).tolist()
    figure, axes = plt.subplots(figsize=(2 + 1.6 * k, 1 + 0.35 * len(values)))
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for layer, ids in enumerate(best.tolist()):
        for rank, token in enumerate(ids):
            # What matplotlib would take for a formula is shown as it is.
            text = repr(tokenizer.decode([token])).replace("$", r"\$")
            dark = values[layer][rank] > 0.5
            axes.text(rank, layer, text, ha="center", va="center", color="wk"[not dark])
    axes.set_xlabel("rank")
    axes.set_ylabel("layer")
    axes.set_title(title or f"Top {k} tokens")
    if file is not None:
        figure.savefig(file)
    return figure


def prompts_to_df(prompts: Sequence[Prompt], tokenizer: Any = None) -> Any:
    """Prompts and their answers as a pandas DataFrame, a column for each prompt."""
    pandas = require("pandas", "pandas")
    columns = {}
    for i, it in enumerate(prompts):
        columns[i] = {"prompt": it.prompt}
        for name, words in (it.target_strings or {}).items():
            columns[i][f"{name}_string"] = words
        for name, tokens in it.target_tokens.items() if tokenizer is not None else ():
            columns[i][f"{name}_tokens"] = [tokenizer.decode([t]) for t in tokens]
    return pandas.DataFrame.from_dict(columns)
