"""Plots of the lenses and of activation patching, shown with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.optional import require
from .labels import shortened, token_label

# Tried in order for every character: token texts may be of any script.
_FONTS = [
    "DejaVu Sans",
    "Arial Unicode MS",
    "PingFang SC",
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "SimHei",
]


def _settings(font_family: str | None) -> dict[str, Any]:
    """The settings of one plot; the caller's own stay as they are."""
    import matplotlib.font_manager as fonts

    wanted = ([font_family] if font_family else []) + _FONTS
    known = {font.name for font in fonts.fontManager.ttflist}
    return {
        "font.family": [name for name in wanted if name in known] or ["sans-serif"],
        "axes.unicode_minus": False,
        # A dollar sign of a token is no formula.
        "text.parse_math": False,
    }


def plot_token_predictions(
    results: Mapping[int, Sequence[Sequence[tuple[int, float, str]]]],
    tokens: Sequence[str],
    title: str = "Logit Lens",
    text: str = "",
    max_display_tokens: int = 15,
    figsize: tuple[float, float] = (16, 10),
    cmap: str = "viridis",
    font_family: str | None = None,
) -> Any:
    """Shows the likeliest token of each layer (rows) at each position
    (columns, under the input's tokens); equal tokens have equal colours.

    Args:
        results: What `logit_lens` returns, with at least one token each.
        tokens: The input's token at each position of `results`.
        max_display_tokens: Only the last so many positions are shown.

    Returns: the matplotlib Figure. Raises ImportError without matplotlib.
    """
    plt = require("matplotlib.pyplot")
    layers = sorted(results)
    shown = slice(max(0, len(tokens) - max(1, max_display_tokens)), None)
    labels = [token_label(token, 10) for token in tokens[shown]]
    best = [[row[0][2] if row else "" for row in results[i][shown]] for i in layers]
    codes = {t: n for n, t in enumerate(sorted({t for row in best for t in row}))}
    with plt.rc_context(_settings(font_family)):
        figure, axes = plt.subplots(figsize=figsize)
        axes.imshow(
            [[codes[token] for token in row] for row in best],
            cmap=cmap,
            aspect="auto",
            interpolation="nearest",
        )
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(layers)), [f"L{layer}" for layer in layers])
        box = dict(boxstyle="round,pad=0.25", facecolor="black", alpha=0.45)
        how = dict(ha="center", va="center", color="white", fontsize=8, bbox=box)
        for y, row in enumerate(best):
            for x, token in enumerate(row):
                axes.text(x, y, token_label(token, 10), **how)
        axes.set_xlabel("Input token")
        axes.set_ylabel("Layer")
        quoted = f"\n{token_label(text, 60)!r}" if text else ""
        axes.set_title(f"{title}: likeliest token at each layer{quoted}")
        figure.tight_layout()
        plt.show()
    return figure


def plot_recovery(
    results: Mapping[int, float],
    component: str,
    clean_text: str,
    corrupted_text: str,
    figsize: tuple[float, float] = (12, 8),
    cmap: str = "RdBu_r",
) -> Any:
    """Shows what `activation_patching` returns as one bar a layer.

    Returns: the matplotlib Figure. Raises ImportError without matplotlib.
    """
    plt = require("matplotlib.pyplot")
    layers = sorted(results)
    values = [results[layer] for layer in layers]
    with plt.rc_context(_settings(None)):
        figure, axes = plt.subplots(figsize=figsize)
        low, high = plt.get_cmap(cmap)(0.1), plt.get_cmap(cmap)(0.9)
        # The default map runs from blue to red; blue is what helps.
        colours = [low if value > 0 else high for value in values]
        bars = axes.bar(layers, values, color=colours, edgecolor="black")
        axes.bar_label(bars, [f"{value:.1f}" for value in values], fontsize=8)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(layers)
        axes.set_xlabel("Layer")
        axes.set_ylabel("Recovery (%)")
        axes.set_title(
            f"Activation patching of {component}\n"
            f"clean: {shortened(clean_text, 60)!r}\n"
            f"corrupted: {shortened(corrupted_text, 60)!r}"
        )
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        figure.tight_layout()
        plt.show()
    return figure
