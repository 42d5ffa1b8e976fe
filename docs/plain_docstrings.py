"""Docstrings as the reference shows them.

Ours tell of a parameter in a line, `inputs: text, or token ids`, which the
parser of Google's style takes for a titled box without its name. Such lines
become a list, and a `Returns: ...` on one line a paragraph.
"""

import re

import griffe

PARAMETER = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (\S.*)")
SENTENCE = re.compile(r"(Returns|Raises|Yields): (\S.*)")
SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Yields):$")


def plain(text: str) -> str:
    """The docstring with lists and paragraphs in place of titled boxes."""
    lines: list[str] = []
    section = listed = told = False
    for line in text.split("\n"):
        indented = line.startswith(" ")
        if line.strip() and not indented:
            section = bool(SECTION.match(line))
            # Within a sentence a word before a colon is no parameter.
            begins = listed or not lines or not lines[-1]
            parameter = begins and PARAMETER.fullmatch(line)
            sentence = SENTENCE.fullmatch(line)
            if parameter:
                line = f"- `{parameter[1]}`: {parameter[2]}"
            elif sentence:
                line = f"**{sentence[1]}** {sentence[2]}"
            listed, told = bool(parameter), bool(sentence)
        elif told and indented and not section:
            line = line.strip()
        elif not line.strip():
            told = False
        lines.append(line)
    return "\n".join(lines)


class PlainDocstrings(griffe.Extension):
    """See the module."""

    def on_instance(self, *, obj, **_):
        """Each docstring as it is found."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)
