"""Makes tests/io/fixtures with the reference packages.

    python tests/io/make_fixtures.py

needs numpy, torch, safetensors and gguf. Given a Llama GGUF file it also
prints the rows of q_proj and k_proj that checkpoint_test.cpp holds, as
transformers reads them (needs transformers):

    python tests/io/make_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf
"""

import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
ROWS, COLUMNS = 3, 512

# Where each format keeps its float16 scales: random bytes there would be NaN.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
    "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}


def random_blocks(name, rng):
    kind = gguf.GGMLQuantizationType[name]
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(
        0, 256, (ROWS, COLUMNS // numbers, size), dtype=np.uint8)
    for at in HALVES[name]:
        scale = rng.normal(0, 0.1, blocks.shape[:2] + (1,)).astype(np.float16)
        blocks[..., at:at + 2] = scale.view(np.uint8)
    if name == "MXFP4":  # its scale is a power of two of that exponent
        blocks[..., 0] = rng.integers(110, 140, blocks.shape[:2])
    return blocks.reshape(ROWS, -1)


def quants(name="quants.gguf", **split):
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(FIXTURES / name, "test", **split)
    expected = {}

    def add(name, raw):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, raw, raw_dtype=kind)
        expected[name] = torch.tensor(gguf.quants.dequantize(raw, kind))

    for name in HALVES:
        add(name, random_blocks(name, rng))
    values = rng.normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
    add("F32", values)
    add("F16", values.astype(np.float16))
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    add("BF16", bits.view(np.uint8).reshape(ROWS, -1))

    writer.add_uint8("n.uint8", 200)
    writer.add_int8("n.int8", -100)
    writer.add_uint16("n.uint16", 60000)
    writer.add_int16("n.int16", -30000)
    writer.add_uint32("n.uint32", 4000000000)
    writer.add_int32("n.int32", -2000000000)
    writer.add_uint64("n.uint64", 2**62)
    writer.add_int64("n.int64", -(2**62))
    writer.add_float32("n.float32", 0.5)
    writer.add_float64("n.float64", 1e300)
    writer.add_bool("n.bool", True)
    writer.add_string("n.string", "Ünï")
    writer.add_array("a.strings", ["a", "", "ccc"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, -1.5])
    writer.add_array("a.bools", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not split:
        save_file(expected, FIXTURES / "quants_f32.safetensors")


def dtypes():
    """Every dtype; `<name>.as_f32` holds what the float16 ones mean."""
    rng = np.random.default_rng(8)
    tensors = {}
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64,
                  torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        info = torch.iinfo(dtype)
        values = np.array(
            [info.min, info.max, 0, 1, 2, info.max // 3],
            dtype=str(dtype).removeprefix("torch."))
        tensors[str(dtype)] = torch.from_numpy(values).reshape(2, 3)
    tensors["torch.bool"] = torch.tensor([True, False, False, True])
    values = torch.tensor(rng.normal(0, 1, (5, 67)).astype(np.float32))
    tensors["torch.float32"] = values
    for dtype in (torch.float16, torch.bfloat16):
        tensors[str(dtype)] = values.to(dtype)
        tensors[f"{dtype}.as_f32"] = values.to(dtype).float()
    # From float32 to both, as torch rounds: ties, subnormals, large ones.
    bits = rng.integers(0, 2**32, 2000, dtype=np.uint32)
    odd = bits.view(np.float32)
    odd = torch.from_numpy(np.concatenate([
        odd[np.isfinite(odd)],
        np.float32(2.0) ** np.arange(-30, 16, dtype=np.float32) * 1.5,
        np.arange(-2049, 2049, 64).astype(np.float32) + 0.5]))
    tensors["odd"] = odd
    tensors["odd.f16"] = odd.to(torch.float16)
    tensors["odd.bf16"] = odd.to(torch.bfloat16)
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 4)
    save_file(tensors, FIXTURES / "dtypes.safetensors", {"made by": "test"})


def print_rows(path):
    from transformers import AutoModelForCausalLM

    path = pathlib.Path(path)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32)
    attention = model.model.layers[3].self_attn
    for name, rows in (("q", [0, 1, 31, 32, 33, 63, 64, 575]),
                       ("k", [1, 32, 65, 191])):
        weight = getattr(attention, f"{name}_proj").weight
        for row in rows:
            values = ", ".join(f"{v:.9g}f" for v in weight[row, :8].tolist())
            print(f'{{"{name}", {row}, {{{values}}}}},')


def npz():
    np.savez_compressed(
        FIXTURES / "numpy.npz",
        w=np.array([[.5, -1], [2, 3]]), b=np.zeros(3, np.float32))
    np.save(FIXTURES / "vector.npy", np.array([1, 2, 3, 4], np.float64))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_rows(sys.argv[1])
    else:
        FIXTURES.mkdir(exist_ok=True)
        quants()
        quants("split.gguf", split_max_tensors=6)  # in three parts
        dtypes()
        npz()
