"""Clang's PTX on stdin, a C++ table of it on stdout: a text for each kernel,
since one that is smaller is copied and loaded sooner."""

import re
import sys


def main():
    text = "\n".join(
        line.strip() for line in sys.stdin.read().splitlines()
        if line.strip() and not line.strip().startswith("//"))
    head = text[:text.index(".visible")]
    print("""\
// Made by scripts/make_ptx.sh from activate.cu; not to be edited.

#pragma once

#include <map>
#include <string>

namespace mlxterp::cuda {

inline const std::map<std::string, std::string> kernels = {""")
    for kernel in re.findall(r"\.visible \.entry.*?\n}", text, re.DOTALL):
        name = re.search(r"\.entry (\w+)\(", kernel)[1]
        print(f'    {{"{name}", R"ptx({head}{kernel}\n)ptx"}},')
    print("""\
};

}  // namespace mlxterp::cuda""")


if __name__ == "__main__":
    main()
