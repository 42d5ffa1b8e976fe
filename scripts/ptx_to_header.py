"""Clang's PTX of NAME.cu on stdin, a C++ table of it, NAME_kernels,
on stdout: a text for each kernel, since one that is smaller is copied and loaded
sooner.

usage: ptx_to_header.py NAME"""

import re
import sys


def main():
    source = sys.argv[1]
    text = "\n".join(
        line.strip() for line in sys.stdin.read().splitlines()
        if line.strip() and not line.strip().startswith("//"))
    head = text[:text.index(".visible")]
    print(f"""\
// Made by scripts/make_ptx.sh from {source}.cu; not to be edited.

#pragma once

#include <map>
#include <string>

namespace mlxterp::cuda {{

inline const std::map<std::string, std::string> {source}_kernels = {{""")
    for kernel in re.findall(r"\.visible \.entry.*?\n}", text, re.DOTALL):
        name = re.search(r"\.entry (\w+)\(", kernel)[1]
        print(f'    {{"{name}", R"ptx({head}{kernel}\n)ptx"}},')
    print("""\
};

}  // namespace mlxterp::cuda""")


if __name__ == "__main__":
    main()
