"""The include-direction check finds each kind of offence, and only those."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from check_includes import offences  # noqa: E402


def found(files):
    """The offences in a source tree of {path: text}."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return list(offences(Path(folder)))


class CheckIncludes(unittest.TestCase):
    def offends(self, path, text, message):
        result = found({path: text})
        self.assertEqual(len(result), 1, result)
        self.assertTrue(result[0].startswith(f"{path}:1: "), result)
        self.assertIn(message, result[0])

    def test_what_stands_before_is_allowed(self):
        self.assertEqual(found({
            "include/mlxterp/nn/linear.h":
                '#include <string>\n#include "mlx/array.h"\n'
                '#include "mlxterp/io/checkpoint.h"\n'
                '#include "mlxterp/nn/module.h"\n',
            "include/mlxterp/mlxterp.h": '#include "mlxterp/view/html.h"\n',
            "src/nn/linear.cpp":
                '#include "core/fail.h"\n#include <mlx/mlx.h>\n',
            "apps/mlxterp/main.cpp":
                '#include "commands.h"\n#include "mlxterp/mlxterp.h"\n',
            "apps/mlxterp/commands.h": "",
            "python/src/bind.h": '#include "mlx/array.h"\n',
            "python/src/core.cpp":
                '#include "bind.h"\n#include <nanobind/nanobind.h>\n'
                '#include "core/fail.h"\n#include "mlxterp/view/html.h"\n',
        }), [])

    def test_two_types_of_one_name(self):
        text = "namespace mlxterp {\nstruct Row {\n};\n}  // namespace mlxterp\n"
        own = text.replace("struct", "namespace {\nstruct").replace(
            "};\n", "};\n}  // namespace\n")
        self.assertEqual(found({
            "src/io/a.h": text, "src/text/b.cpp": own,
            "src/nn/c.h": text.replace("mlxterp", "mlxterp::nn"),
            "src/nn/d.h": text.replace("struct Row {\n}", "struct Row"),
        }), [])
        self.assertEqual(
            found({"src/io/a.h": text, "src/text/b.cpp": text}),
            ["src/text/b.cpp:2: mlxterp::Row is another type in src/io/a.h"])

    def test_a_later_folder(self):
        self.offends("include/mlxterp/core/a.h",
                     '#include "mlxterp/io/b.h"', "later")
        self.offends("src/io/a.cpp", '#include "text/b.h"', "later")
        self.offends("src/io/a.cpp", "#include <mlxterp/view/b.h>", "later")

    def test_the_umbrella_from_inside(self):
        self.offends("src/view/a.cpp",
                     '#include "mlxterp/mlxterp.h"', "mlxterp.h")

    def test_a_private_header_in_a_public_one(self):
        self.offends("include/mlxterp/io/a.h", '#include "core/fail.h"',
                     "public header")
        self.offends("apps/mlxterp/a.cpp", '#include "core/fail.h"',
                     "not a public header")

    def test_the_whole_of_mlx_in_a_header(self):
        self.offends("src/io/a.h", '#include "mlx/mlx.h"', "mlx/mlx.h")

    def test_what_the_python_extension_may_not_include(self):
        for included in ("commands.h", "mlxterp/mlxterp.h", "apps/mlxterp/a.h"):
            self.offends("python/src/a.cpp", f'#include "{included}"',
                         "neither of python/src nor of the library")
        self.offends("python/src/a.h", '#include "mlx/mlx.h"', "mlx/mlx.h")
        self.offends("python/src/a.cpp", '#include "../b.h"', "from the root")
        self.offends("src/view/a.cpp", '#include "python/src/bind.h"',
                     "'view' includes 'python")

    def test_a_parent_folder(self):
        self.offends("src/io/a.cpp", '#include "../b.h"', "from the root")

    def test_an_unknown_folder(self):
        self.offends("src/new/a.cpp", "", "not in ORDER")
        self.offends("src/a.cpp", "", "not in ORDER")

    def test_a_path_of_one_machine(self):
        for folder in ("home", "tmp"):
            self.offends("src/io/a.cpp", f'open("/{folder}/model");', "machine")


if __name__ == "__main__":
    unittest.main()
