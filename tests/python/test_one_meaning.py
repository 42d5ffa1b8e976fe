"""One meaning: each intervention, selector and metric gives the same numbers
through the shell, natively and on a wrapped mlx-lm model of the same folder.
"""

import json
import subprocess
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from compare import repeated
from mlx_lm.utils import load_model
from mlxterp import InterpretableModel, metrics, sweeps
from mlxterp import interventions as iv

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "parity" / "families" / "llama-gqa"
SHELL = ROOT / "build" / "bin" / "mlxterp"
IDS, SHORT = [3, 9, 41, 7, 66, 12], [5, 80, 2]
WIDTH = 24

VECTOR = mx.array(np.linspace(-1, 1, WIDTH), mx.float32)
VALUE = mx.array(np.linspace(-2, 2, len(IDS) * WIDTH), mx.float32)
VALUE = VALUE.reshape(1, len(IDS), WIDTH)

#: Site, the shell's words, Python's.
RESID, Z, PATTERN = "layers.0.resid_post", "layers.0.self_attn.z", "pattern"
EDITS = {
    "zero_out": ("layers.0.mlp", "zero_out", iv.zero_out),
    "scale": ("layers.0.mlp", "scale(-1.5)", iv.scale(-1.5)),
    "add_vector": (RESID, "add_vector(FILE:vector)", iv.add_vector(VECTOR)),
    "replace_with a number": (Z, "replace_with(0.25)", iv.replace_with(0.25)),
    "replace_with": (RESID, "replace_with(FILE:value)", iv.replace_with(VALUE)),
    "clamp": (RESID, "clamp(-0.02, 0.03)", iv.clamp(-0.02, 0.03)),
    "compose": (
        RESID,
        "compose(scale(2), clamp(-0.1, 0.1))",
        iv.compose(iv.scale(2.0), iv.clamp(-0.1, 0.1)),
    ),
    "at_positions": (
        RESID,
        "at_positions([1,-1], scale(3))",
        iv.at_positions([1, -1], iv.scale(3.0)),
    ),
    "at_positions of a pattern": (
        f"layers.0.self_attn.{PATTERN}",
        "at_positions(-2, zero_out)",
        iv.at_positions(-2, iv.zero_out),
    ),
    "on_heads": (Z, "on_heads([0,-1], zero_out)", iv.on_heads([0, -1], iv.zero_out)),
    "on_heads of a pattern": (
        f"layers.1.self_attn.{PATTERN}",
        "on_heads(2, zero_out)",
        iv.on_heads(2, iv.zero_out),
    ),
    "on_heads of keys": (
        "layers.1.self_attn.k",
        "on_heads(1, scale(2))",
        iv.on_heads(1, iv.scale(2.0)),
    ),
    "on_neurons": (
        "layers.1.mlp.down_proj.input",
        "on_neurons([3,-4], replace_with(1))",
        iv.on_neurons([3, -4], iv.replace_with(1.0)),
    ),
    "nested": (
        Z,
        "at_positions(2, on_heads(1, scale(-2)))",
        iv.at_positions(2, iv.on_heads(1, iv.scale(-2.0))),
    ),
    "a pattern of sites": ("layers.{0..1}.mlp", "scale(0.5)", iv.scale(0.5)),
}


@pytest.fixture(scope="module")
def native():
    return InterpretableModel(FOLDER)


@pytest.fixture(scope="module")
def wrapped():
    return InterpretableModel(load_model(FOLDER)[0])


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs `mlxterp trace` of the folder; its JSON and the logits."""
    folder = tmp_path_factory.mktemp("shell")
    arrays = folder / "arrays.safetensors"
    mx.save_safetensors(str(arrays), {"vector": VECTOR, "value": VALUE})

    def run(*arguments):
        out = folder / "out.safetensors"
        words = [it.replace("FILE", str(arrays)) for it in arguments]
        ids = ",".join(map(str, IDS))
        command = [SHELL, "trace", FOLDER, "--ids", ids, "--json", *words]
        command += ["--save", "logits", "-o", out, "--force"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), mx.load(str(out))["logits"]

    return run


def logits(model, rows, edits):
    with model.trace(rows, interventions=edits) as trace:
        out = model.output.save()
    return [np.array(out[i, :n]) for i, n in enumerate(trace.lengths)]


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_means_the_same(native, wrapped, shell, name):
    site, words, edit = EDITS[name]
    plain = logits(native, [IDS], {})[0]
    ours = logits(native, [IDS], {site: edit})[0]
    assert np.abs(ours - plain).max() > 1e-4  # it does something
    theirs = logits(wrapped, [IDS], {site: edit})[0]
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    _, told = shell("--edit", f"{site}={words}")
    np.testing.assert_allclose(np.array(told)[0], ours, atol=1e-5)
    if "FILE" not in words:
        read = logits(wrapped, [IDS], {site: iv.parse(words)})[0]
        np.testing.assert_allclose(read, theirs, atol=1e-6)
    if name in ("replace_with", "at_positions"):
        return  # of as many positions; position 1 and -1 of a short row
    both = logits(native, [IDS, SHORT], {site: edit})
    others = logits(wrapped, [IDS, SHORT], {site: edit})
    alone = logits(native, [SHORT], {site: edit})[0]
    np.testing.assert_allclose(both[0], ours, atol=1e-4)
    np.testing.assert_allclose(both[1], alone, atol=1e-4)
    np.testing.assert_allclose(others[1], alone, atol=1e-4)


def test_seeded_noise_means_the_same_in_the_shell(native, shell):
    ours = logits(native, [IDS], {RESID: iv.noise(0.5, seed=42)})[0]
    _, told = shell("--edit", f"{RESID}=noise(0.5, 42)")
    np.testing.assert_allclose(np.array(told)[0], ours, atol=1e-5)


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max())
    return e / e.sum()


#: The shell's words, Python's metric, and its definition, of logits [vocab].
METRICS = {
    "logit(id:5)": (metrics.logit(5), lambda x: x[5]),
    "logit_diff(id:5,id:9)": (metrics.logit_diff(5, 9), lambda x: x[5] - x[9]),
    "prob(id:5)": (metrics.probability(5), lambda x: softmax(x)[5]),
    "log_prob(id:5)": (metrics.log_probability(5), lambda x: np.log(softmax(x)[5])),
    "rank(id:5)": (metrics.rank(5), lambda x: (x > x[5]).sum()),
}


@pytest.mark.parametrize("words", METRICS)
def test_a_metric_means_the_same(native, wrapped, shell, words):
    metric, definition = METRICS[words]
    site, text, edit = EDITS["scale"]
    told, _ = shell("--metric", words, "--edit", f"{site}={text}")
    edited = logits(wrapped, [IDS], {site: edit})[0][-1]
    plain = logits(wrapped, [IDS], {})[0][-1]
    found = sweeps.ablate(native, [IDS], metric, "z", ablation="zero", layers=[0])
    assert found.clean == pytest.approx(float(definition(plain)), abs=1e-4)
    read = sweeps.ablate(native, [IDS], words, "z", ablation="zero", layers=[0])
    assert repeated(read.metric, found.metric)
    heads = [
        logits(wrapped, [IDS], {Z: iv.on_heads(head, iv.zero_out)})[0][-1]
        for head in range(4)
    ]
    wanted = [float(definition(x)) for x in heads]
    np.testing.assert_allclose(found.metric[0].tolist(), wanted, atol=1e-4)
    (measured,) = told["next_edited"]["metrics"].values()
    assert measured == pytest.approx(float(definition(edited)), abs=1e-4)


def test_loss_and_kl_mean_the_same(native, wrapped):
    plain = logits(wrapped, [IDS], {})[0]
    zero = [
        logits(wrapped, [IDS], {Z: iv.on_heads(head, iv.zero_out)})[0]
        for head in range(4)
    ]

    def loss(x):
        return -np.mean([np.log(softmax(r)[i]) for r, i in zip(x[:-1], IDS[1:])])

    def kl(x):
        p, q = softmax(plain[-1]), softmax(x[-1])
        return np.sum(p * np.log(p / q))

    for metric, definition in ((metrics.loss(), loss), (metrics.kl_divergence(), kl)):
        found = sweeps.ablate(native, [IDS], metric, "z", ablation="zero", layers=[0])
        wanted = [float(definition(x)) for x in zero]
        assert max(wanted) - min(wanted) > 1e-4
        np.testing.assert_allclose(found.metric[0].tolist(), wanted, atol=1e-4)


@pytest.mark.parametrize(
    "pattern",
    ["layers.*.self_attn.z", "layers.{0..1}.mlp", "layers.{0,1}.self_attn.q"],
)
def test_a_pattern_means_the_same(native, wrapped, pattern):
    assert len(native.engine.match(pattern)) == len(wrapped.engine.match(pattern)) == 2
