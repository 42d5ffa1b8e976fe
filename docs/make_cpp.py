"""usage: make_cpp.py OUT.cpp PAGE...: one program of the C++ blocks of the pages.

The blocks of a page are one function, one after another; their #include lines
go to the top. A block whose first line is `// not run` is left out.
"""

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```cpp\n(.*?)^```", re.M | re.S)
#: What the README's block takes as given.
GIVEN = """const std::string clean = "Mary and John met, John gave a drink to";
const std::string corrupt = "Mary and John met, Mary gave a drink to";
"""


def main():
    out, *pages = map(Path, sys.argv[1:])
    includes, bodies, calls = {"#include <iostream>"}, [], []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        body = ""
        for found in BLOCK.finditer(text):
            if found[1].startswith("// not run"):
                continue
            line = text[: found.start(1)].count("\n") + 1
            body += f'#line {line} "{page}"\n'
            for code in found[1].splitlines(keepends=True):
                if code.startswith("#include"):
                    includes.add(code.strip())
                    code = "\n"
                elif code.startswith("namespace mx ="):
                    code = "\n"  # once, above
                body += code
        if not body:
            sys.exit(f"{page}: no C++ to compile")
        given = GIVEN if "README" in page.name else ""
        bodies.append(f"void page_{len(bodies)}() {{\n{given}{body}}}\n")
        calls.append(f'  std::cout << "{page.name}\\n";\n  page_{len(calls)}();\n')
    out.write_text(
        "\n".join(sorted(includes))
        + "\nnamespace mx = mlx::core;\n"
        + "\n".join(bodies)
        + "int main() {\n"
        + "".join(calls)
        + "}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
