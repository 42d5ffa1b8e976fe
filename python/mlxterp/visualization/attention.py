"""Heatmaps of attention patterns, with matplotlib or plotly. What draws raises
UsageError for what cannot be drawn, OutOfRangeError for a head beyond what there
is, and ImportError where the backend is not installed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.optional import available, require
from ..errors import OutOfRangeError, UsageError
from .extract import (
    check_tokens,
    get_attention_patterns,
    head_pattern,
    row_patterns,
)
from .labels import plotly_label, token_label

__all__ = [
    "AttentionVisualizationConfig",
    "get_attention_patterns",
    "attention_heatmap",
    "attention_from_trace",
]

# More small heatmaps than this cannot be read on one figure.
_MAX_HEADS = 16


@dataclass
class AttentionVisualizationConfig:
    """How attention is drawn.

    Attributes:
        colorscale: A colour map of the backend, such as "Blues".
        mask_upper_tri: Leave out what a causal model cannot attend to.
        show_colorbar: Draw the scale of the colours.
        figure_width, figure_height: Size of one heatmap in pixels.
        heads_per_row: Columns of a grid.
        hover_info: Tell tokens and value under the pointer (plotly).
        backend: "auto", "plotly", "matplotlib" or "circuitsvis".
    """

    colorscale: str = "Blues"
    mask_upper_tri: bool = True
    show_colorbar: bool = True
    figure_width: int = 800
    figure_height: int = 600
    heads_per_row: int = 4
    hover_info: bool = True
    backend: str = "auto"


def attention_heatmap(
    attention: Any,
    tokens: Sequence[str],
    head_idx: int = 0,
    title: str | None = None,
    config: AttentionVisualizationConfig | None = None,
    backend: str = "auto",
) -> Any:
    """One head's pattern as a heatmap: destinations down, sources across.

    Args:
        attention: [batch, head, destination, source], the first of the batch
            is drawn, or its last three or two axes.
        tokens: The text of each source position.
        head_idx: Which head.
        title: Of the figure.
        backend: "auto" for the config's, there for what is installed.

    Returns: a matplotlib or plotly Figure.
    """
    config = config or AttentionVisualizationConfig()
    pattern = head_pattern(attention, head_idx)
    backend = backend if backend != "auto" else config.backend
    named = [(title or "Attention pattern", pattern)]
    return _drawn(backend, named, tokens, None, replace(config, heads_per_row=1))


def attention_from_trace(
    trace: Any,
    tokens: Sequence[str],
    layers: int | Sequence[int] | None = None,
    heads: int | Sequence[int | tuple[int, int]] | None = None,
    mode: str = "grid",
    head_notation: str = "LH",
    config: AttentionVisualizationConfig | None = None,
) -> Any:
    """The attention patterns of a trace's first row.

    Args:
        trace: What `model.trace` gave.
        tokens: The text of each position, as `model.to_str_tokens`.
        layers: One layer, several, or None for all.
        heads: (layer, head) pairs, or heads of each of the layers; None means
            all. The first 16 are drawn.
        mode: "grid" for one figure of all heads, "single" for the first,
            "interactive" for a page to explore.
        head_notation: "LH" labels L3H1, "dot" labels 3.1.

    Returns: a matplotlib or plotly Figure; for "interactive" an HTML page that
        notebooks show. Raises also UnknownNameError for a layer without a
        pattern.
    """
    config = config or AttentionVisualizationConfig()
    if mode not in ("grid", "single", "interactive"):
        raise UsageError(f"unknown mode {mode!r}; there are grid, single, interactive")
    if head_notation not in ("LH", "dot"):
        raise UsageError(f"unknown head_notation {head_notation!r}; there are LH, dot")
    if isinstance(heads, int):
        heads = [heads]
    paired = heads is not None and not any(isinstance(it, int) for it in heads)
    if layers is None and paired:
        layers = sorted({layer for layer, _ in heads})
    patterns = row_patterns(trace, layers, tokens)
    if heads is not None and not paired:
        heads = [(layer, head) for layer in patterns for head in heads]
    if mode == "interactive" and config.backend != "circuitsvis":
        from .interactive import HtmlPage, interactive_attention

        return HtmlPage(interactive_attention(patterns, tokens))
    chosen = _chosen_heads(patterns, heads)[: 1 if mode == "single" else None]
    label = "L{}H{}" if head_notation == "LH" else "{}.{}"
    named = [(label.format(i, h), head_pattern(patterns[i], h)) for i, h in chosen]
    if mode == "interactive":
        return _circuitsvis(named, tokens, config)
    return _drawn(config.backend, named, tokens, "Attention patterns", config)


def _chosen_heads(
    patterns: dict[int, np.ndarray], heads: Sequence[tuple[int, int]] | None
) -> list[tuple[int, int]]:
    """`heads`, or all there are."""
    if heads is None:
        return [(i, head) for i, p in patterns.items() for head in range(p.shape[1])]
    for layer, head in heads:
        if layer not in patterns or not 0 <= head < patterns[layer].shape[1]:
            known = ", ".join(f"{i} ({p.shape[1]} heads)" for i, p in patterns.items())
            raise OutOfRangeError(
                f"there is no head {head} in layer {layer}; layers: {known}"
            )
    return list(heads)


def _drawn(name: str, heads: list, tokens: Sequence[str], title: str | None, config):
    """A figure by that backend; "auto" takes what is installed."""
    if name in ("auto", "circuitsvis"):  # the latter draws no figures
        name = "plotly" if available("plotly") else "matplotlib"
    if name not in _GRIDS:
        raise UsageError(
            f"unknown backend {name!r}; there are auto, {', '.join(_GRIDS)}, "
            "and circuitsvis for mode='interactive'"
        )
    return _GRIDS[name](_Grid(heads, tokens, config), title, config)


class _Grid:
    """What is drawn: at most _MAX_HEADS (name, pattern) pairs with their tokens,
    `rows` by `columns`, and the `low` and `high` end of one scale of colours."""

    def __init__(self, heads: list, tokens: Sequence[str], config: Any):
        for _, pattern in heads:
            check_tokens(pattern, tokens)
        if len(heads) > _MAX_HEADS:
            warnings.warn(
                f"{_MAX_HEADS} of {len(heads)} heads are drawn; choose layers or "
                "heads, or mode='interactive' for all",
                stacklevel=4,
            )
        self.heads, self._config = heads[:_MAX_HEADS], config
        self.columns = max(1, min(config.heads_per_row, len(self.heads)))
        self.rows = -(-len(self.heads) // self.columns)
        patterns = [pattern for _, pattern in self.heads]
        self.low = min((float(np.nanmin(it)) for it in patterns), default=0)
        self.low = min(0.0, self.low)
        self.high = max((float(np.nanmax(it)) for it in patterns), default=1)
        self._labels = [token_label(token) for token in tokens]

    def masked(self, pattern: np.ndarray) -> np.ndarray:
        """Future sources as NaN, which is drawn as nothing."""
        if not self._config.mask_upper_tri:
            return pattern
        destinations, sources = pattern.shape
        future = np.triu(np.ones(pattern.shape, bool), k=1 + sources - destinations)
        return np.where(future, np.nan, pattern.astype(np.float32))

    def labels(self, pattern: np.ndarray) -> tuple[list[str], list[str]]:
        """Of sources and destinations; with a cache the latter are the last."""
        return self._labels, self._labels[len(self._labels) - pattern.shape[0] :]


def _matplotlib_grid(grid: _Grid, title: str | None, config: Any) -> Any:
    plt = require("matplotlib.pyplot")
    heads, rows, columns = grid.heads, grid.rows, grid.columns
    # A grid's heatmaps are half as wide and high as one alone.
    scale = 100 if len(heads) == 1 else 200
    size = config.figure_width / scale * columns, config.figure_height / scale * rows
    with plt.rc_context({"text.parse_math": False}):
        figure, places = plt.subplots(
            rows, columns, figsize=size, squeeze=False, layout="constrained"
        )
        for index, axes in enumerate(places.flat):
            if index >= len(heads):
                axes.axis("off")
                continue
            name, pattern = heads[index]
            image = axes.imshow(
                grid.masked(pattern),
                cmap=config.colorscale,
                vmin=grid.low,
                vmax=grid.high,
            )
            axes.set_title(name)
            across, down = grid.labels(pattern)
            axes.set_xticks([])
            axes.set_yticks([])
            # Only the outer heatmaps have room for their tokens.
            if index + columns >= len(heads):
                how = dict(rotation=45, ha="right", fontsize=7)
                axes.set_xticks(range(len(across)), across, **how)
                axes.set_xlabel("Source")
            if index % columns == 0:
                axes.set_yticks(range(len(down)), down, fontsize=7)
                axes.set_ylabel("Destination")
            if config.show_colorbar and index == 0:
                figure.colorbar(image, ax=places.ravel().tolist())
        if title:
            figure.suptitle(title)
    return figure


def _plotly_grid(grid: _Grid, title: str | None, config: Any) -> Any:
    graph = require("plotly.graph_objects")
    subplots = require("plotly.subplots")
    heads, rows, columns = grid.heads, grid.rows, grid.columns
    figure = subplots.make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[plotly_label(name) for name, _ in heads],
        horizontal_spacing=0.05 if columns < 10 else 0.2 / columns,
        vertical_spacing=0.1 if rows < 6 else 0.5 / rows,
    )
    for index, (_, pattern) in enumerate(heads):
        across, down = grid.labels(pattern)
        where = {"row": index // columns + 1, "col": index % columns + 1}
        # Equal tokens must stay apart, so the axes count positions and only
        # their labels are tokens.
        figure.add_trace(
            graph.Heatmap(
                z=grid.masked(pattern),
                text=[[f"{plotly_label(d)} → {plotly_label(s)}" for s in across] for d in down],
                hovertemplate="%{text}<br>%{z:.4f}<extra></extra>",
                hoverinfo=None if config.hover_info else "skip",
                colorscale=config.colorscale,
                zmin=grid.low,
                zmax=grid.high,
                showscale=config.show_colorbar and index == 0,
                hoverongaps=False,
            ),
            **where,
        )
        for update, labels in (figure.update_xaxes, across), (figure.update_yaxes, down):
            shown = [plotly_label(token) for token in labels]
            update(tickvals=[*range(len(labels))], ticktext=shown, **where)
        figure.update_yaxes(autorange="reversed", **where)
    scale = 1 if len(heads) == 1 else 0.5
    figure.update_layout(
        title=plotly_label(title) if title else None,
        width=config.figure_width * columns * scale,
        height=config.figure_height * rows * scale,
    )
    return figure


def _circuitsvis(heads: list, tokens: Sequence[str], config: Any) -> Any:
    """CircuitsVis' own view of the heads."""
    circuitsvis = require("circuitsvis", "circuitsvis")
    for _, pattern in heads:
        check_tokens(pattern, tokens)
    return circuitsvis.attention.attention_heads(
        attention=np.stack([pattern for _, pattern in heads]),
        tokens=list(tokens),
        attention_head_names=[name for name, _ in heads],
        mask_upper_tri=config.mask_upper_tri,
    )


_GRIDS = {"matplotlib": _matplotlib_grid, "plotly": _plotly_grid}
