"""Texts of tokens as labels."""

from __future__ import annotations


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def token_label(text: str, limit: int = 12) -> str:
    """A token with its line breaks and tabs visible."""
    return shortened(text.replace("\n", "↵").replace("\t", "⇥"), limit)
