"""Sweeps as pictures."""

from __future__ import annotations

from ..core.optional import require
from ..errors import UsageError
from ..visualization.labels import plotly_label


def _grid(sweep):
    """Of a sweep of one or two axes: their names and labels, rows first, its
    values, and the greatest."""
    if len(sweep.axes) > 2:
        raise UsageError(
            f"a picture has two axes, this sweep {len(sweep.axes)}; slice "
            "sweep.change or use to_pandas()"
        )
    axes = [*sweep.axes, ("", [""])][:2]
    labels = {"pos": [f"{i} {it}" for i, it in enumerate(sweep.labels)]}
    names = [[(labels.get(axis) or {i: str(i)})[i] for i in its] for axis, its in axes]
    values = sweep.change.reshape(sweep.shape[0], -1).tolist()
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
