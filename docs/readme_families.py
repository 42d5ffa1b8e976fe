"""usage: readme_families.py BINARY README [--check]: writes the list of model
families that `mlxterp families` gives into README.md, between its two marks;
with --check it only says whether the list is that."""

import json
import subprocess
import sys
import textwrap

BEGIN, END = "<!-- from `mlxterp families` -->\n", "<!-- to here -->\n"


def section(binary):
    answer = subprocess.run(
        [binary, "families", "--json"], capture_output=True, text=True, check=True)
    families = json.loads(answer.stdout)["families"]
    names = ", ".join(family["model_type"] for family in families)
    gguf = ", ".join(sorted(
        {name for family in families for name in family["gguf"]}))
    variants = sum(family["variants"] for family in families)
    lines = [
        f"{len(families)} families, {variants} tiny models of which are compared: {names}.",
        f"GGUF files, quantised or not, are read of {gguf}.",
    ]
    return "".join(
        textwrap.fill(line, 90, break_on_hyphens=False) + "\n" for line in lines)


def main():
    binary, path, *check = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    before, found, rest = text.partition(BEGIN)
    inside, closed, after = rest.partition(END)
    if not found or not closed:
        sys.exit(f"{path} lacks the marks {BEGIN.strip()} and {END.strip()}")
    own = section(binary)
    if check and inside != own:
        sys.exit(
            f"{path} says\n{inside}\nand `mlxterp families`\n{own}\nrun "
            f"docs/readme_families.py {binary} {path}")
    if not check and inside != own:
        with open(path, "w", encoding="utf-8") as file:
            file.write(before + BEGIN + own + END + after)


if __name__ == "__main__":
    main()
