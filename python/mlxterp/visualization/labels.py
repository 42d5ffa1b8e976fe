"""Texts of tokens as labels."""

from __future__ import annotations

import html


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def token_label(text: str, limit: int = 12) -> str:
    """A token with its line breaks and tabs visible."""
    return shortened(text.replace("\n", "↵").replace("\t", "⇥"), limit)


def plotly_label(text: str) -> str:
    """Text that plotly, which reads some HTML in its labels and MathJax between
    dollars, shows as it is."""
    return html.escape(text, quote=False).replace("$", "&#36;")
