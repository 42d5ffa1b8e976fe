"""Every command of README and documentation runs as it stands, one after another
in a folder of the page's own, and on a terminal of 80 columns nothing is wider.

A command stands in a fenced block that begins with ```sh, or in an indented one. A
block whose first line is `# not run` is left out.
"""

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import termios
import threading
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = ROOT / "build" / "bin" / "mlxterp"
COLUMNS = 80
#: What the pages take as given: a book, prompts and labelled texts of one's own
#: (and small SAEs with activations, below).
BOOK = "It was the best of times, it was the worst of times. " * 40
PROMPTS = """The Louvre stands by the river, right in the middle of
The Colosseum was built long ago in the great city of
"""
NOUNS = {"animal": "dog cat horse cow".split(), "thing": "table chair lamp door".split()}
LABELLED = "".join(
    json.dumps({"text": f"{start} {noun}", "label": label, "group": noun}) + "\n"
    for label, nouns in NOUNS.items()
    for noun in nouns
    for start in ("I saw the", "We found a", "Look at this")
)
PAIRS = """{"positive": "I loved every minute", "negative": "I hated every minute"}
{"positive": "The soup was delicious", "negative": "The soup was disgusting"}
{"positive": "What a wonderful day", "negative": "What a horrible day"}
"""
#: What other tests run, where they run at all: they build and install.
ELSEWHERE = ("make", "pip", "scripts/", ".venv/bin/", "brew", "apt-get")


def blocks(page: Path) -> list[tuple[int, list[str], bool]]:
    """(line, its lines, is it fenced) of each ```sh block and each indented one."""
    found, inside, kind = [], [], None
    lines = [*page.read_text(encoding="utf-8").splitlines(), ""]
    for number, line in enumerate(lines, 1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence and kind != "indented":
            if kind is None:
                kind, inside = fence[1] or "text", []
            else:
                if kind == "sh":
                    found.append((number - len(inside), inside, True))
                kind, inside = None, []
        elif kind in (None, "indented") and line.startswith("    "):
            kind = "indented"
            inside.append(line[4:])
        elif kind == "indented":
            found.append((number - len(inside), inside, False))
            kind, inside = None, []
            if fence:
                kind = fence[1] or "text"
        elif kind is not None:
            inside.append(line)
    return found


def commands(page: Path) -> list[tuple[int, str]]:
    """(line, command) of a page, lines that end in a backslash joined."""
    found = []
    for first, lines, fenced in blocks(page):
        if lines[0].strip() == "# not run":
            continue
        begun = None
        for number, line in enumerate(lines, first):
            begun = (number, line) if begun is None else (begun[0], f"{begun[1]}\n{line}")
            if not line.endswith("\\"):
                if ours(begun[1]):
                    found.append(begun)
                elif fenced and line.strip():
                    raise ValueError(f"{page.name}:{number}: not run: {begun[1]}")
                begun = None
    return found


def ours(text: str) -> bool:
    word = text.split(maxsplit=1)[0] if text.split() else ""
    return word.removeprefix("build/bin/") == "mlxterp" or (
        "| mlxterp " in text or word.startswith(ELSEWHERE) and word != "make:"
    )


def on_a_terminal(command: str, folder: Path) -> tuple[int, str]:
    """The exit code, and all that appears on a terminal of 80 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    shown = bytearray()

    def read():
        try:
            while more := os.read(master, 1 << 16):
                shown.extend(more)
        except OSError:  # Linux, when nobody writes any more
            pass

    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    env |= {"PATH": f"{PROGRAM.parent}{os.pathsep}{env['PATH']}", "TERM": "xterm-256color"}
    running = subprocess.Popen(
        ["bash", "-ec", command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    reader = threading.Thread(target=read)
    reader.start()
    code = running.wait()
    reader.join()
    os.close(master)
    return code, shown.decode()


def width(text: str) -> int:
    """The columns a terminal needs for it, without what controls the terminal."""
    text = re.sub(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\))", "", text)
    return sum(
        2 if unicodedata.east_asian_width(it) in "WF" else 1
        for it in text
        if not unicodedata.combining(it) and it.isprintable()
    )


def test_what_a_page_holds(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n\n    mlxterp one \\\n        --two\n    not ours\n\n```sh\nmlxterp three\n"
        "echo x | mlxterp four -\n```\n```python\nmlxterp = 5\n```\n\n```sh\n# not run\n"
        "mlxterp five\n```\n\n    make six\n"
    )
    assert commands(page) == [
        (3, "mlxterp one \\\n    --two"),
        (8, "mlxterp three"),
        (9, "echo x | mlxterp four -"),
        (20, "make six"),
    ]
    assert width("\x1b[1mab\x1b[0m\x1b]8;;x\x07c") == 3 and width("日本") == 4


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if commands(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_command_of_a_page_runs(page, tmp_path):
    assert PROGRAM.exists(), "build the target mlxterp_cli"
    (tmp_path / "book.txt").write_text(BOOK)
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    (tmp_path / "labelled.jsonl").write_text(LABELLED)
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    saes = ROOT / "tests" / "sae" / "fixtures"
    shutil.copytree(saes / "saelens_jumprelu", tmp_path / "jumprelu")
    shutil.copytree(saes / "dl_gated" / "trainer_0", tmp_path / "trainer_0")
    shutil.copytree(saes / "circuit_tracer_clt", tmp_path / "clt")
    shutil.copy(saes / "x.safetensors", tmp_path)
    for line, command in commands(page):
        assert " ..." not in command, f"{page.name}:{line}: cannot be pasted: {command}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line, command in commands(page):
        where = f"{page.name}:{line}: {command}"
        if command.startswith("make "):
            asked = [it for it in shlex.split(command, comments=True)[1:] if "=" not in it]
            assert asked and set(asked) <= targets, where
        elif command.startswith("scripts/"):
            assert os.access(ROOT / command.split()[0], os.X_OK), where
        elif not command.startswith(ELSEWHERE):
            code, shown = on_a_terminal(command.removeprefix("build/bin/"), tmp_path)
            assert code == 0, f"{where}\n{shown}"
            wide = [it for it in re.split(r"[\r\n]+", shown) if width(it) > COLUMNS]
            assert not wide, f"{where}\n" + "\n".join(wide)


def test_every_verb_is_shown():
    told = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True)
    listed = told.stdout.partition("Subcommands:")[2].partition("\n\n")[0]
    verbs = re.findall(r"^  ([a-z][a-z-]*)", listed, re.M)
    assert len(verbs) >= 14
    written = "\n".join(text for page in PAGES for _, text in commands(page))
    assert not [it for it in verbs if not re.search(rf"\bmlxterp {it}\b", written)]
