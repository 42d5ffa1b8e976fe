"""Steering vectors as transformers, numpy, scikit-learn and the gguf package make
them, for tests/analysis/steering_test.cpp.

Needs torch, transformers, scikit-learn and gguf; writes
tests/analysis/fixtures/steering.{json,safetensors} and *.gguf. With the folder of
llama.cpp's source and that of its libraries as arguments also llama_cpp.safetensors
(made with its release v0.5.0).
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
FIXTURES = HERE / "../analysis/fixtures"
FAMILY = "llama-gqa"
PAIRS = 12
# Of which llama.cpp has our logits as they are. Of exaone4 and deepseek_v3 it has
# others without any vector, by up to 2.0 and 0.57, where ours are transformers'.
VARIANTS = ("arcee", "cohere2", "gemma2", "gemma3", "gpt2", "lfm2")


def prompts(vocab):
    """Pairs of unequal lengths whose last tokens come from two halves of the
    vocabulary, so that the two sides differ in more than noise."""
    drawn = np.random.default_rng(5)
    rows = {"positive": [], "negative": []}
    for _ in range(PAIRS):
        for side, (low, high) in (
            ("positive", (0, vocab // 2)), ("negative", (vocab // 2, vocab))
        ):
            n = int(drawn.integers(3, 7))
            head = drawn.integers(0, vocab, n - 2)
            tail = drawn.integers(low, high, 2)
            rows[side].append([int(i) for i in (*head, *tail)])
    return rows


def residuals(model, ids):
    """What each layer leaves in the stream, [layer, pos, d]."""
    kept = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return np.stack([x.reshape(len(ids), -1).numpy() for x in kept]).astype(np.float64)


def unit(x):
    return x / np.linalg.norm(x)


def directions(positive, negative):
    """By method, of activations [row, d]."""
    differences = positive - negative
    _, _, axes = np.linalg.svd(differences, full_matrices=False)
    axis = axes[0]
    up = np.sign(differences @ axis).sum()
    if up < 0 or (up == 0 and differences.mean(0) @ axis < 0):
        axis = -axis
    both = np.concatenate([positive, negative])
    labels = np.array([1] * len(positive) + [0] * len(negative))
    centred = both - both.mean(0)
    centred /= np.sqrt((centred**2).sum(1).mean())
    probe = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(centred, labels)
    return {
        "mean": differences.mean(0), "pca": axis, "logistic": unit(probe.coef_[0])
    }


def quality(positive, negative, direction):
    axis = unit(direction)
    high, low = positive @ axis, negative @ axis
    differences = positive - negative
    cosines = differences @ axis / np.linalg.norm(differences, axis=1)
    labels = [1] * len(high) + [0] * len(low)
    return {
        "norm": np.linalg.norm(direction),
        "residual_norm": np.linalg.norm(
            np.concatenate([positive, negative]), axis=1).mean(),
        "cosine": cosines.mean(),
        "auc": roc_auc_score(labels, np.concatenate([high, low])),
        "d_prime": (high.mean() - low.mean())
        / np.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2),
    }


def train():
    model = AutoModelForCausalLM.from_pretrained(
        HERE / "families" / FAMILY, dtype=torch.float32)
    rows = prompts(model.config.vocab_size)
    sides = {
        side: [residuals(model, ids) for ids in all_ids]
        for side, all_ids in rows.items()
    }
    tensors, qualities = {}, {}
    for name, positions in (("last", [-1]), ("two", [-2, -1])):
        for layer in range(model.config.num_hidden_layers):
            positive, negative = (
                np.stack([x[layer, p] for x in sides[side] for p in positions])
                for side in ("positive", "negative")
            )
            for method, direction in directions(positive, negative).items():
                key = f"{name}.{method}.{layer}"
                tensors[key] = direction.astype(np.float32)
                qualities[key] = {
                    k: float(v)
                    for k, v in quality(positive, negative, direction).items()
                }
    save_file(tensors, FIXTURES / "steering.safetensors")
    told = {"family": FAMILY, **rows, "qualities": qualities}
    (FIXTURES / "steering.json").write_text(json.dumps(told, indent=1) + "\n")


def some(layer):
    return np.array([layer + i / 4 for i in range(6)], np.float32)


def control_vectors():
    # As repeng 0.4's export_gguf writes it.
    writer = GGUFWriter(FIXTURES / "repeng.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (2, 1):
        writer.add_tensor(f"direction.{layer}", some(layer))
    finish(writer)
    # As llama.cpp's cvector-generator does.
    writer = GGUFWriter(FIXTURES / "cvector_generator.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", 2)
    for layer in (1, 2):
        writer.add_tensor(f"direction.{layer}", some(layer))
    finish(writer)
    # What save_gguf has to write of these, byte for byte.
    writer = GGUFWriter(FIXTURES / "steering.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 2)
    writer.add_string("mlxterp.operation", "add")
    writer.add_string("mlxterp.method", "pca")
    writer.add_uint32("mlxterp.model_layers", 3)
    writer.add_uint32("mlxterp.pairs", 64)
    writer.add_array("mlxterp.residual_norms", [2.5, 4.0])
    for layer in (1, 2):
        writer.add_tensor(f"direction.{layer}", some(layer))
    finish(writer)
    read_as_repeng(FIXTURES / "steering.gguf")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_as_repeng(path):
    """repeng's import_gguf, which insists on the hint and on N >= 1."""
    reader = GGUFReader(path)
    field = reader.get_field("controlvector.model_hint")
    assert str(bytes(field.parts[-1]), "utf-8") == "llama"
    for tensor in reader.tensors:
        assert tensor.name.startswith("direction.")
        layer = int(tensor.name.split(".")[1])
        assert layer >= 1 and np.array_equal(tensor.data, some(layer))


def without_vocabulary(reader, path):
    """The same model; llama.cpp asks for a word on the tokenizer."""
    writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "tokenizer.")) or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    writer.add_tokenizer_model("no_vocab")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    finish(writer)


def llama_cpp(source, libraries):
    """The logits that llama.cpp has with a control vector of each layer alone."""
    tensors = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        program = folder / "steer"
        shared = [*Path(libraries).glob("libllama.*so"), *Path(libraries).glob(
            "libggml.*so"), Path(libraries) / "libggml-base.so"]
        subprocess.run(
            ["cc", HERE / "steer_llama_cpp.c", f"-I{source}/include",
             f"-I{source}/ggml/include", "-o", program, *shared,
             f"-Wl,-rpath,{libraries}"], check=True)
        for variant in VARIANTS:
            reader = GGUFReader(HERE / "gguf" / f"{variant}.gguf")
            without_vocabulary(reader, folder / "model.gguf")
            name = reader.fields["general.architecture"].contents()
            layers, d = (int(reader.fields[f"{name}.{key}"].contents())
                         for key in ("block_count", "embedding_length"))
            drawn = np.random.default_rng(11)
            directions = drawn.normal(size=(layers - 1, d)).astype(np.float32)
            (folder / "directions").write_bytes(directions.tobytes())
            ids = [3, 5, 7, 9, 2]
            subprocess.run(
                [program, folder / "model.gguf", folder / "directions",
                 folder / "out", *map(str, ids)],
                check=True, stderr=subprocess.DEVNULL,
                env={**os.environ, "GGML_FOLDER": str(libraries)})
            logits = np.frombuffer((folder / "out").read_bytes(), np.float32)
            tensors |= {
                f"{variant}.ids": np.array(ids, np.int32),
                f"{variant}.directions": directions,
                f"{variant}.logits": logits.reshape(layers, -1)}
    save_file(tensors, FIXTURES / "llama_cpp.safetensors")


if __name__ == "__main__":
    train()
    control_vectors()
    if len(sys.argv) == 3:
        llama_cpp(*sys.argv[1:])
