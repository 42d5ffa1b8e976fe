"""The documentation is true: its code runs, its links lead somewhere.

A fenced block that begins with ```python is run, the blocks of a page one after
another in one namespace. One whose first line is `# not run` is left out. In the
tables of migrate*.md the last column is run, one row after another.
"""

import json
import os
import re
import runpy
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials" / "src").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path) -> list[tuple[int, str]]:
    """(line, code) of each block of a page that is to be run."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start()].count("\n") + 1, found[1])
        for found in BLOCK.finditer(text)
        if not found[1].startswith("# not run")
    ]


def rows(page: Path) -> list[tuple[int, str]]:
    """(line, code) of the last column of a page's tables, where it is ours."""
    found, ours = [], False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("|"):
            ours = False
            continue
        last = line.rstrip("| ").rpartition(" | ")[2]
        ours = ours or last == "mlxterp"
        code = re.findall(r"`([^`]+)`", last)
        if ours and code:
            found.append((number, "\n".join(code)))
    return found


def execute(page: Path, pieces: list[tuple[int, str]]) -> dict:
    """Runs pieces of a page, so that an error tells the page and the line."""
    namespace = {"__name__": page.stem}
    for line, code in pieces:
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("MLXTERP_TUTORIAL_SMALL", "1")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    yield
    plt.close("all")


def test_there_is_something_to_test():
    assert len(TUTORIALS) == 8
    assert sum(bool(blocks(page)) for page in PAGES) >= 6


@pytest.mark.parametrize("source", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(source):
    runpy.run_path(str(source))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p)], ids=lambda path: path.stem
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(page, blocks(page))


@pytest.mark.parametrize(
    "name, least",
    [("migrate", 45), ("migrate_transformer_lens", 16), ("migrate_nnterp", 14)],
)
def test_our_side_of_the_migration_tables_runs(name, least, tmp_path, monkeypatch):
    page = DOCS / "python" / f"{name}.md"
    tested = rows(page)
    assert len(tested) >= least
    monkeypatch.chdir(tmp_path)
    execute(page, sorted(blocks(page) + tested))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_relative_link_leads_somewhere(page):
    for found in LINK.finditer(page.read_text(encoding="utf-8")):
        target = (found[1] or found[2]).partition("#")[0]
        if target and "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("source", TUTORIALS, ids=lambda path: path.stem)
def test_the_notebook_is_its_source(source):
    path = source.parent.parent / f"{source.stem}.ipynb"
    assert path.stat().st_size < 300_000
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pieces = re.split(r"^# %%.*\n", source.read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(cells) == len(pieces)
    for cell, piece in zip(cells, pieces):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            piece = re.sub(r"^# ?", "", piece, flags=re.M)
        else:
            assert cell["execution_count"], "run make notebooks"
            assert not any(it["output_type"] == "error" for it in cell["outputs"])
        assert text == piece.strip("\n"), "run make notebooks"
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_no_page_names_a_place_on_one_machine(page):
    for place in ("/home/", "/Users/", "/root/", os.sep + "work" + os.sep):
        assert place not in page.read_text(encoding="utf-8")


def site_table(page: Path) -> list[str]:
    """The rows of the page's table of sites."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = lines.index("| site | shape |")
    return lines[first : lines.index("", first)]


def test_every_page_lists_the_same_sites():
    table = site_table(ROOT / "README.md")
    assert len(table) > 20
    assert site_table(DOCS / "python" / "sites.md") == table
