#!/usr/bin/env python3
"""usage: check_includes.py [ROOT]: the include-direction check.

Each folder of include/mlxterp and src includes only itself and the folders
before it in ORDER; public headers include no private one; mlx/mlx.h, which
costs seconds, stands in no header; nothing names a folder of one machine.
A type has one definition: two of one name in one namespace share the code of
vector and the like, whichever the linker takes.
What python/src includes is its own, public, or private of a folder of src, and
nothing includes it. Prints every offence as path:line: what, and exits 1 where there is one.
"""

import re
import sys
from pathlib import Path

# circuits, service and web have their places, but no files yet.
ORDER = [
    "core", "io", "text", "nn", "models", "trace",
    "generate", "analysis", "sae", "circuits",
    "spec", "report", "view", "service", "web",
]
SUFFIXES = {".h", ".cpp"}

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
MACHINE_PATH = re.compile(r"(?<![\w.}])/(home|root|work|tmp|Users)/")
MACHINE_PATH_FOLDERS = [
    "apps", "benchmarks", "cmake", "examples", "include", "python", "rust",
    "scripts", "src",
]
MACHINE_PATH_SUFFIXES = SUFFIXES | {".cmake", ".py", ".rs", ".sh", ".txt"}


def files(folder, suffixes):
    return sorted(
        path for path in folder.rglob("*")
        if path.suffix in suffixes and path.is_file()
        and "target" not in path.parts and "node_modules" not in path.parts
    )


def includes(path):
    """(line number, included path, is it in quotes) of each #include."""
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        if found := INCLUDE.match(line):
            yield number, found[2], found[1] == '"'


TYPE = re.compile(
    r"(?:template <.*> )?(?:struct|class|enum class) (\w+)(?: final)?(?: : [^;]*)?(?: \{|$)")


def types(path):
    """(line number, qualified name) of each type that other files can see, or that the
    linker takes for theirs."""
    inside = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if found := re.match(r"namespace ?([\w:]*) ?\{", line):
            inside.append(found[1])
        elif re.match(r"\}  // namespace", line) and inside:
            inside.pop()
        elif (found := TYPE.match(line)) and "" not in inside:
            yield number, "::".join([*inside, found[1]])


def check_types(root):
    """One definition of each, in all of ours that is linked together."""
    first = {}
    folders = ("include", "src", "apps", "python/src", "tests")
    for path in (it for folder in folders for it in files(root / folder, SUFFIXES)):
        for number, name in types(path):
            other = first.setdefault(name, path)
            if other != path:
                yield path, number, (
                    f"{name} is another type in {other.relative_to(root)}")


def folder_of(included):
    """The folder of ours that `included` lies in, or None."""
    first, *rest = included.removeprefix("mlxterp/").split("/")
    return first if rest and first in ORDER else None


def check_library(root):
    """include/mlxterp and src: direction, privacy, mlx.h."""
    for base in (root / "include" / "mlxterp", root / "src"):
        public = base.name == "mlxterp"
        for path in files(base, SUFFIXES):
            own, *rest = path.relative_to(base).parts
            if not rest and public:
                own = None  # an umbrella such as mlxterp.h may include all
            elif not rest or own not in ORDER:
                yield path, 1, f"'{own}' is not in ORDER of check_includes.py"
                continue
            for line, included, quoted in includes(path):
                if path.suffix == ".h" and included == "mlx/mlx.h":
                    yield path, line, "mlx/mlx.h in a header; include the part"
                if ".." in included.split("/"):
                    yield path, line, f"'{included}': write it from the root"
                if quoted and public and not included.startswith(
                        ("mlx/", "mlxterp/")):
                    yield path, line, f"public header includes '{included}'"
                other = folder_of(included)
                if own and other and ORDER.index(other) > ORDER.index(own):
                    yield path, line, (
                        f"'{own}' includes '{included}', which comes later")
                if own and not other and ".." not in included.split("/") and (
                        included.startswith("mlxterp/") or quoted
                        and not public
                        and not included.startswith(("mlx/", "hwy/"))):
                    yield path, line, f"'{own}' includes '{included}'"


def check_apps(root):
    """apps and examples use the public headers and their own only."""
    for base in (root / "apps", root / "examples"):
        for path in files(base, SUFFIXES):
            for line, included, quoted in includes(path):
                if (quoted and not included.startswith(("mlx/", "mlxterp/"))
                        and not (path.parent / included).is_file()):
                    yield path, line, f"'{included}' is not a public header"


def check_python(root):
    """python/src: bindings of the library, and nothing of the apps'."""
    base = root / "python" / "src"
    for path in files(base, SUFFIXES):
        for line, included, quoted in includes(path):
            if path.suffix == ".h" and included == "mlx/mlx.h":
                yield path, line, "mlx/mlx.h in a header; include the part"
            if ".." in included.split("/"):
                yield path, line, f"'{included}': write it from the root"
            elif quoted and not (
                    included.startswith("mlx/") or folder_of(included)
                    or (path.parent / included).is_file()):
                yield path, line, (
                    f"'{included}' is neither of python/src nor of the library")


def check_machine_paths(root):
    for name in MACHINE_PATH_FOLDERS:
        for path in files(root / name, MACHINE_PATH_SUFFIXES):
            text = path.read_text(encoding="utf-8")
            for number, line in enumerate(text.splitlines(), 1):
                if found := MACHINE_PATH.search(line):
                    yield path, number, f"a path of one machine: {found[0]}"


def offences(root):
    checks = (
        check_library, check_apps, check_python, check_machine_paths, check_types)
    for check in checks:
        for path, line, what in check(root):
            yield f"{path.relative_to(root)}:{line}: {what}"


def main():
    default = Path(__file__).resolve().parent.parent
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    found = list(offences(root))
    print("\n".join(found) if found else "check_includes: clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
