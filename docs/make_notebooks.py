"""Turns docs/tutorials/src/*.py into executed notebooks, docs/tutorials/*.ipynb.

    .venv/bin/python docs/make_notebooks.py [NAME...]

A source is Python in percent format: `# %%` begins a cell of code,
`# %% [markdown]` one of text, whose lines are comments.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).resolve().parent
MOST_BYTES = 300_000
MOST_SECONDS = 300  # for a machine that does other work, too

# What a run leaves behind that another run would not: kept out.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|work|tmp|usr|opt)/[^\s'\"]*")


def cells(source: str) -> list[nbformat.NotebookNode]:
    """The cells of a source in percent format."""
    found = []
    for piece in re.split(r"^# %%", source, flags=re.M)[1:]:
        kind, _, body = piece.partition("\n")
        body = body.strip("\n")
        if kind.strip() == "[markdown]":
            body = re.sub(r"^# ?", "", body, flags=re.M)
            found.append(new_markdown_cell(body))
        else:
            found.append(new_code_cell(body))
    for i, cell in enumerate(found):
        cell["id"] = f"cell-{i}"  # the same in every run
    return found


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without timings, warnings' paths and what differs between machines."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream":
                if output.name == "stderr":
                    continue
                output.text = ABSOLUTE_PATH.sub("PATH", output.text)
            elif "data" in output:
                output.metadata = {}
                if "image/png" in output.data:
                    output.data.pop("text/plain", None)
            if kept and output.output_type == kept[-1].output_type == "stream":
                kept[-1].text += output.text  # printed in several writes
            else:
                kept.append(output)
        cell.outputs = kept
    return notebook


def make(source: Path) -> None:
    """Executes one source and writes its notebook."""
    notebook = new_notebook(cells=cells(source.read_text(encoding="utf-8")))
    begin = time.monotonic()
    NotebookClient(notebook, timeout=MOST_SECONDS, kernel_name="python3").execute()
    took = time.monotonic() - begin
    text = nbformat.writes(cleaned(notebook)) + "\n"
    if len(text) > MOST_BYTES:
        sys.exit(f"{source.name}: {len(text)} bytes, more than {MOST_BYTES}")
    target = source.parent.parent / f"{source.stem}.ipynb"
    target.write_text(text, encoding="utf-8")
    print(f"{target.name}: {took:.0f} s, {len(text) // 1000} kB")


def main(names: list[str]) -> None:
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    if importlib.util.find_spec("mlxterp") is None:  # then this checkout's
        os.environ["PYTHONPATH"] = str(HERE.parent / "python")
    for source in sorted((HERE / "tutorials" / "src").glob("*.py")):
        if not names or source.stem in names:
            make(source)


if __name__ == "__main__":
    main(sys.argv[1:])
