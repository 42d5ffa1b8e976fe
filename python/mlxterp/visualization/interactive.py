"""Attention patterns as one HTML page to explore, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from ..core.optional import require
from ..errors import UsageError
from ..view.page import HtmlPage
from .extract import check_tokens, row_patterns, to_numpy

__all__ = [
    "InteractiveAttentionConfig",
    "interactive_attention",
    "display_interactive_attention",
    "save_interactive_attention",
    "interactive_attention_from_trace",
]

# The page; {{NAME}} are its fields. Everything a user gives reaches it as data of
# its script, which writes it as text only.
_PAGE = Path(__file__).with_name("page.html")

# The darkest colour of each scale, as red, green, blue; the lightest is the
# page's own background.
_COLOURS = {
    "blues": (8, 81, 156),
    "greens": (0, 109, 44),
    "greys": (70, 70, 70),
    "oranges": (200, 80, 0),
    "purples": (84, 39, 143),
    "reds": (165, 15, 21),
}


@dataclass
class InteractiveAttentionConfig:
    """How the page looks.

    Attributes:
        title: Its heading.
        heatmap_size: Width and height of the heatmap in pixels.
        colorscale: Blues, Greens, Greys, Oranges, Purples or Reds.
        show_layer_flow: Show the chosen token's attention at every layer.
    """

    title: str = "Attention Patterns"
    heatmap_size: int = 350
    colorscale: str = "Blues"
    show_layer_flow: bool = True


def _data(patterns: Mapping[int, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """What the page's script reads: the values of each layer of the first row
    as the bytes of little-endian float32, [head, destination, source]."""
    if not patterns:
        raise UsageError("there are no attention patterns to show")
    layers = []
    for layer in sorted(patterns):
        value = to_numpy(patterns[layer])
        value = value[0] if value.ndim == 4 else value
        if value.ndim != 3:
            raise UsageError(
                "a layer's patterns must be [batch, head, destination, "
                f"source], but layer {layer} has shape {value.shape}"
            )
        check_tokens(value, tokens)
        packed = base64.b64encode(np.ascontiguousarray(value, "<f4").tobytes())
        shape = {"heads": value.shape[0], "destinations": value.shape[1]}
        layers.append({"layer": int(layer), **shape, "values": packed.decode("ascii")})
    return {"tokens": [str(token) for token in tokens], "layers": layers}


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: no character of it can end
    the element or begin another."""
    text = json.dumps(value)  # ASCII, so U+2028 is escaped already
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def interactive_attention(
    attention_patterns: Mapping[int, Any],
    tokens: Sequence[str],
    config: InteractiveAttentionConfig | None = None,
) -> str:
    """A page of attention patterns: choose a layer, a head and a token, by
    pointer or keyboard, and see where the token attends or what attends to it.

    `attention_patterns`: {layer: [batch, head, destination, source]}, the first
    of the batch is shown; `tokens`: the text of each source position. Returns one
    HTML document with everything in it. Raises UsageError for no pattern, or one
    of another shape or number of tokens.
    """
    config = config or InteractiveAttentionConfig()
    colour = _COLOURS.get(config.colorscale.lower())
    if colour is None:
        warnings.warn(
            f"unknown colorscale {config.colorscale!r}, so it is Blues; there "
            f"are {', '.join(name.capitalize() for name in _COLOURS)}",
            stacklevel=2,
        )
        colour = _COLOURS["blues"]
    data = _data(attention_patterns, tokens)
    data["colour"] = list(colour)
    data["flow"] = bool(config.show_layer_flow)
    packed = _json(data)
    fields = {
        "TITLE": html.escape(config.title),
        "SIZE": str(int(config.heatmap_size)),
        "DATA": packed,
        # Two pages of different patterns may stand in one document.
        "VIEW": "v" + hashlib.sha256(packed.encode()).hexdigest()[:12],
    }
    page = _PAGE.read_text(encoding="utf-8")
    # One pass over the template: no text that is put in is searched again.
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda m: fields[m.group(1)], page)


def display_interactive_attention(
    attention_patterns: Mapping[int, Any],
    tokens: Sequence[str],
    config: InteractiveAttentionConfig | None = None,
) -> None:
    """Shows the page in a notebook. Raises as `interactive_attention`, and
    ImportError outside a notebook's Python."""
    ipython = require("IPython.display", "ipython, or use save_interactive_attention")
    page = interactive_attention(attention_patterns, tokens, config)
    ipython.display(HtmlPage(page))


def save_interactive_attention(
    attention_patterns: Mapping[int, Any],
    tokens: Sequence[str],
    filepath: str | os.PathLike[str],
    config: InteractiveAttentionConfig | None = None,
) -> None:
    """Writes the page to a file. Raises as `interactive_attention`, and
    IoError; a file that is there is then left as it was."""
    page = interactive_attention(attention_patterns, tokens, config)
    _core.write_file(os.fspath(filepath), page)


def interactive_attention_from_trace(
    trace: Any,
    tokens: Sequence[str],
    layers: int | Sequence[int] | None = None,
    config: InteractiveAttentionConfig | None = None,
) -> str:
    """The page of a trace's first row. Raises as `interactive_attention`, and
    UnknownNameError for a layer without a pattern."""
    return interactive_attention(row_patterns(trace, layers, tokens), tokens, config)
