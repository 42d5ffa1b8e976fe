#!/usr/bin/env python3
"""usage: make_torch_files.py FOLDER: values.pt and legacy.pt, what torch.save
writes today and what it wrote before 1.6, of the same values: every dtype,
views, shared storages, nested dicts. tests/io/torch_pickle_test.cpp knows them.
"""

import sys
from collections import OrderedDict
from pathlib import Path

import torch

NAMES = ("float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool "
         "uint16 uint32 uint64").split()


def values(new):
    count = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    shared = torch.arange(10, dtype=torch.float32)
    out = OrderedDict()
    for name in NAMES:
        if name.startswith("uint") and name != "uint8" and not new:
            continue  # older than these
        out[name] = count.to(getattr(torch, name))
    out["turned"] = count.T
    out["every_other"] = shared[1::2]
    out["head"] = shared[:4]
    out["cube"] = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)
    out["scalar"] = torch.tensor(2.5)
    out["empty"] = torch.zeros(0, 3)
    out["parameter"] = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    out["nested"] = {
        "none": None, "yes": True, "no": False, "small": 7, "large": -(2**40),
        "real": 0.25, "text": "héllo", "list": [1, "two", [3.0]],
        "tuple": (4, 5, 6, 7), "size": torch.Size([8, 9]),
        "dtype": torch.float16, "device": torch.device("cpu"),
        "inner": {"tensor": shared}, 3: "a key that is no text"}
    return out


def main():
    folder = Path(sys.argv[1])
    torch.save(values(True), folder / "values.pt")
    torch.save(values(False), folder / "legacy.pt",
               _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
