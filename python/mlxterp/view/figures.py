"""Sweeps as pictures."""

from __future__ import annotations

from ..core.optional import require
from ..errors import UsageError
from ..visualization.labels import plotly_label


def _grid(sweep):
    """Rows, columns and values of a sweep of one or two axes."""
    if len(sweep.axes) > 2:
        raise UsageError(
            f"a picture has two axes, this sweep {len(sweep.axes)}; slice "
            "sweep.delta or use to_pandas()"
        )
    values = sweep.delta.reshape(sweep.shape[0], -1).tolist()
    (row_axis, rows), *rest = sweep.axes
    column_axis, columns = rest[0] if rest else ("", [0])
    names = {"": lambda _: ""}
    if sweep.labels:
        names["pos"] = lambda i: f"{i} {sweep.labels[i]}"
    name = lambda axis, i: names.get(axis, str)(i)  # noqa: E731
    return (
        (row_axis, [name(row_axis, i) for i in rows]),
        (column_axis, [name(column_axis, i) for i in columns]),
        values,
    )


def _largest(values) -> float:
    return max((abs(v) for row in values for v in row if v == v), default=0) or 1.0


def heatmap(sweep, ax=None, cmap: str = "RdBu_r"):
    """What each cell changes, zero in the middle of the colours; the axes."""
    plt = require("matplotlib.pyplot")
    (row_axis, rows), (column_axis, columns), values = _grid(sweep)
    if ax is None:
        size = (max(4, 0.35 * len(columns) + 2), max(3, 0.25 * len(rows) + 1))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    columns, rows = (
        [str(it).replace("$", r"\$") for it in each] for each in (columns, rows)
    )
    most = _largest(values)
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
    (row_axis, rows), (column_axis, columns), values = _grid(sweep)
    most = _largest(values)
    columns = [plotly_label(str(c)) for c in columns]
    map_ = go.Heatmap(
        z=values,
        x=columns,
        y=[plotly_label(f"{row_axis} {r}") for r in rows],
        zmin=-most,
        zmax=most,
        colorscale=cmap,
    )
    figure = go.Figure(map_)
    figure.update_layout(xaxis_title=column_axis, yaxis_autorange="reversed")
    return figure
