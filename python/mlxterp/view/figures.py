"""Results as pictures."""

from __future__ import annotations

from ..core.optional import require
from ..errors import UsageError
from ..visualization.labels import plotly_label, token_label


def _grid(sweep):
    """Of a sweep of one or two axes: their names and labels, rows first, its
    values, and the greatest."""
    if len(sweep.axes) > 2:
        raise UsageError(
            f"a picture has two axes, this sweep {len(sweep.axes)}; slice "
            "sweep.delta or use to_pandas()"
        )
    axes = [*sweep.axes, ("", [""])][:2]
    names = [
        [f"{i} {sweep.labels[i]}" if axis == "pos" and sweep.labels else str(i) for i in its]
        for axis, its in axes
    ]
    values = sweep.delta.reshape(sweep.shape[0], -1).tolist()
    most = max((abs(v) for row in values for v in row if v == v), default=0) or 1.0
    return [axis for axis, _ in axes], *names, values, most


def heatmap(sweep, ax=None, cmap: str = "RdBu_r"):
    """What each cell changes, zero in the middle of the colours; the axes."""
    plt = require("matplotlib.pyplot")
    (row_axis, column_axis), rows, columns, values, most = _grid(sweep)
    if ax is None:
        size = (max(4, 0.35 * len(columns) + 2), max(3, 0.25 * len(rows) + 1))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    columns, rows = ([it.replace("$", r"\$") for it in each] for each in (columns, rows))
    image = ax.imshow(values, cmap=cmap, vmin=-most, vmax=most, aspect="auto")
    ax.set_xlabel(column_axis)
    ax.set_ylabel(row_axis)
    ax.set_xticks(range(len(columns)), columns, rotation=90)
    ax.set_yticks(range(len(rows)), rows)
    ax.figure.colorbar(image, ax=ax, label="change of the metric")
    return ax


def interactive(sweep, cmap: str = "RdBu_r"):
    """The same as a plotly Figure: values under the pointer, zoom."""
    go = require("plotly.graph_objects")
    (row_axis, column_axis), rows, columns, values, most = _grid(sweep)
    across = [plotly_label(it) for it in columns]
    down = [plotly_label(f"{row_axis} {it}") for it in rows]
    how = dict(zmin=-most, zmax=most, colorscale=cmap)
    figure = go.Figure(go.Heatmap(z=values, x=across, y=down, **how))
    figure.update_layout(xaxis_title=column_axis, yaxis_autorange="reversed")
    return figure


def winners(lens, ax=None, cmap: str = "Blues"):
    """A lens: the winner of each cell over its probability, the last layer on
    top; the axes."""
    plt = require("matplotlib.pyplot")
    labels, tokens = lens.labels(), lens.tokens()
    rows = ["embed" if it is None else str(it) for it in lens.layers]
    if ax is None:
        size = (max(4, 0.9 * len(labels) + 2), max(3, 0.25 * len(rows) + 1))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    shares = lens.probabilities[..., 0].tolist()
    how = dict(cmap=cmap, vmin=0, vmax=1, aspect="auto", origin="lower")
    image = ax.imshow(shares, **how)
    for y, row in enumerate(tokens):
        for x, token in enumerate(row):
            colour = "white" if shares[y][x] > 0.6 else "black"
            ax.text(x, y, _plain(token), color=colour, ha="center", va="center", size=7)
    ax.set_xticks(range(len(labels)), map(_plain, labels), rotation=90)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xlabel("pos")
    ax.set_ylabel("layer")
    ax.figure.colorbar(image, ax=ax, label="probability of the winner")
    return ax


def largest(parts, count: int = 20, ax=None):
    """Contributions to a logit as bars, the largest on top; the axes."""
    plt = require("matplotlib.pyplot")
    chosen = sorted(parts, key=lambda it: -abs(it.value))[:count][::-1]
    if ax is None:
        size = (6, max(2, 0.25 * len(chosen) + 1))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    colours = ["tab:blue" if it.value >= 0 else "tab:red" for it in chosen]
    ax.barh([it.name for it in chosen], [it.value for it in chosen], color=colours)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("contribution to the metric")
    return ax


def _plain(text: str) -> str:
    return token_label(text).replace("$", r"\$")
