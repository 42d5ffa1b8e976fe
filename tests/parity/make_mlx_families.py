"""Writes families/<variant>/ of the families that transformers has no code of:
tiny random models and what mlx-lm computes.

    python3.11 -m venv oracle
    oracle/bin/pip install "mlx[cpu]==0.32.4" mlx-lm==0.32.2 numpy==2.4.6
    oracle/bin/python tests/parity/make_mlx_families.py [VARIANT-PATTERN...]

The folders hold what make_families.py writes, under the same names. mlx-lm's
classes have the names of the checkpoints that the families' own code saves.
"""

import fnmatch
import json
import math
import shutil
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import load_model

OUT = Path(__file__).with_name("families")


@dataclass
class Variant:
    model_type: str
    config: dict
    prompt: int = 12


def config(**kwargs):
    return {
        "vocab_size": 97,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-3,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | kwargs


VARIANTS = {
    "internlm2": Variant("internlm2", config(
        bias=False, tie_word_embeddings=False, rope_theta=1000.0,
        rope_scaling={"type": "linear", "factor": 3.0},
    )),
    "internlm2-bias": Variant("internlm2", config(
        bias=True, tie_word_embeddings=True, num_key_value_heads=1,
        rope_theta=10000.0,
    )),
    "internlm2-rope-dynamic": Variant("internlm2", config(
        bias=True, tie_word_embeddings=False, num_key_value_heads=4,
        max_position_embeddings=8, rope_theta=10000.0,
        rope_scaling={"type": "dynamic", "factor": 2.0},
    )),
    "minicpm": Variant("minicpm", config(
        scale_emb=3.0, scale_depth=1.4, dim_model_base=16, rope_theta=10000.0,
        tie_word_embeddings=False,
    )),
    # Tied as the first checkpoints are: they lack the matrix and say nothing.
    "minicpm-tied": Variant("minicpm", config(
        scale_emb=2.0, scale_depth=0.8, dim_model_base=30, rope_theta=500.0,
        num_key_value_heads=4, num_hidden_layers=3,
    )),
}
# What a config that lacks the field means; older ones leave it out.
USUAL = {
    "internlm2": {"bias": True, "rope_theta": 10000.0,
                  "tie_word_embeddings": False, "hidden_act": "silu"},
    "minicpm": {"hidden_act": "silu"},
}


def randomise(model, tied, seed):
    """Weights under which no part is idle, as in make_families.py."""
    mx.random.seed(seed)

    def some(path, like):
        noise = mx.random.normal(like.shape)
        last = path.split(".")[-2]
        if path.endswith(".bias"):
            return 0.2 * noise
        if "norm" in last:
            return 1 + 0.3 * noise
        if "embed" in last:
            return (0.2 if tied else 0.7) * noise
        spread = {"q_proj": 1.3, "k_proj": 1.3, "wqkv": 1.3}.get(last, 0.9)
        return spread * noise / like.shape[-1] ** 0.5

    model.update(tree_map_with_path(some, model.parameters()))


class Tap(nn.Module):
    """A module that shows what goes into it and what comes out."""

    def __init__(self, inner, see):
        super().__init__()
        self._inner, self._see = inner, see

    def __call__(self, x, *args, **kwargs):
        y = self._inner(x, *args, **kwargs)
        self._see(x, y)
        return y


@dataclass
class Parts:
    embed: str
    attn: str
    o: str
    ln1: str
    ln2: str
    mlp: str
    gate: str
    up: str
    down: str


PARTS = {
    "internlm2": Parts("tok_embeddings", "attention", "wo", "attention_norm",
                       "ffn_norm", "feed_forward", "w1", "w3", "w2"),
    "minicpm": Parts("embed_tokens", "self_attn", "o_proj", "input_layernorm",
                     "post_attention_layernorm", "mlp", "gate_proj", "up_proj",
                     "down_proj"),
}


def record(model, config, ids):
    """Every value of one pass, by mlxterp's names, without the batch axis."""
    found, module = {}, sys.modules[type(model).__module__]
    parts, inner = PARTS[config["model_type"]], model.model
    length = len(ids)
    minicpm = config["model_type"] == "minicpm"
    depth = config["num_hidden_layers"]
    written = config["scale_depth"] / math.sqrt(depth) if minicpm else 1.0

    def keep(name, value, *shape):
        assert name not in found, name
        value = value.astype(mx.float32).reshape(shape or (length, -1))
        found[name] = np.array(value)

    def tap(owner, name, see):
        owner[name] = Tap(owner[name], see)

    def output(*names):
        return lambda _, y: [keep(name, y) for name in names]

    embed = inner[parts.embed]  # stays: a tied unembedding is asked of it
    raw = embed(mx.array([ids]))
    keep("embed", raw * config["scale_emb"] if minicpm else raw)
    if minicpm:
        keep("embed.raw", raw)
    layers = list(inner.layers)
    for i, layer in enumerate(layers):
        site = f"layers.{i}."
        attn, mlp = layer[parts.attn], layer[parts.mlp]

        def rotated(x, y, site=site, names=iter("qk")):
            name = next(names)
            for at, value in ((name, x), (f"rot_{name}", y)):
                value = value[0].swapaxes(0, 1)
                keep(f"{site}attn.{at}", value, *value.shape)

        tap(attn, "rope", rotated)
        heads = config["num_attention_heads"]
        tap(attn, parts.o, lambda x, _, site=site: keep(
            site + "attn.z", x, length, heads, -1))
        for name, own in (("ln1", parts.ln1), ("ln2", parts.ln2)):
            tap(layer, own, output(f"{site}{name}.output"))
        tap(mlp, parts.gate, output(site + "mlp.pre"))
        tap(mlp, parts.up, output(site + "mlp.pre_linear"))
        tap(mlp, parts.down, lambda x, _, site=site: keep(
            site + "mlp.post", x))
        for name, own in (("attn", parts.attn), ("mlp", parts.mlp)):
            def see(_, y, site=site, name=name):
                keep(f"{site}{name}_out", y * written)
                if minicpm:
                    keep(f"{site}{name}.output", y)

            tap(layer, own, see)

        def stream(x, y, site=site):
            keep(site + "resid_pre", x)
            keep(site + "resid_post", y)

        inner.layers[i] = Tap(layer, stream)
    tap(inner, "norm", output("ln_final"))

    attend, left = module.scaled_dot_product_attention, iter(range(depth))

    def seen(q, k, v, cache, scale, mask):
        i = next(left)
        keep(f"layers.{i}.attn.v", v[0].swapaxes(0, 1), length, v.shape[1], -1)
        wide = mx.repeat(k, q.shape[1] // k.shape[1], axis=1)
        scores = (q * scale) @ wide.swapaxes(-1, -2)
        causal = mx.tril(mx.ones((length, length), mx.bool_))
        pattern = mx.softmax(mx.where(causal, scores, -mx.inf), axis=-1)
        keep(f"layers.{i}.attn.pattern", pattern, *pattern.shape[1:])
        return attend(q, k, v, cache=cache, scale=scale, mask=mask)

    module.scaled_dot_product_attention = seen
    try:
        logits = model(mx.array([ids]))
    finally:
        module.scaled_dot_product_attention = attend
    keep("logits", logits)
    if minicpm:
        by = config["dim_model_base"] / config["hidden_size"]
        keep("unembed.raw", model.lm_head(mx.array(found["ln_final"])))
        off = np.abs(found["unembed.raw"] * by - found["logits"]).max()
        assert off < 1e-5, off
    return found


def check(name, found, config):
    """The residual stream adds up, z is the pattern's mix, no part is idle."""
    stream = found["embed"]
    assert np.abs(stream - found["layers.0.resid_pre"]).max() == 0
    n, kv = config["num_attention_heads"], config["num_key_value_heads"]
    for i in range(config["num_hidden_layers"]):
        site = f"layers.{i}."
        stream = stream + found[site + "attn_out"] + found[site + "mlp_out"]
        assert np.abs(stream - found[site + "resid_post"]).max() < 1e-5, name
        pattern, v = found[site + "attn.pattern"], found[site + "attn.v"]
        mixed = np.einsum("hds,shf->dhf", pattern, v.repeat(n // kv, axis=1))
        assert np.abs(mixed - found[site + "attn.z"]).max() < 1e-5, name
        assert pattern.max(-1)[:, 4:].mean() > 1.2 / 8, name
    for key, value in found.items():
        assert np.isfinite(value).all() and value.std() > 0.01, (name, key)
    spread = found["logits"].std()
    assert 0.3 < spread < 3, f"{name}: logits' deviation is {spread}"


def halves(name, folder, config, ids):
    """What half precision makes of four prompts."""
    rows = np.random.default_rng(zlib.crc32(f"half {name}".encode())).integers(
        0, config["vocab_size"], (3, len(ids)))
    prompts = mx.array([ids, *rows.tolist()], mx.int32)
    made = {"half.ids": prompts}
    for key, dtype in (("half.logits", mx.float32),
                       ("half.bfloat16", mx.bfloat16),
                       ("half.float16", mx.float16)):
        model, _ = load_model(folder)
        model.set_dtype(dtype)
        made[key] = model(prompts)
        assert made[key].dtype == dtype
    return made


def make(name, variant):
    config = {"model_type": variant.model_type} | variant.config
    usual = USUAL[variant.model_type]
    ids = np.random.default_rng(zlib.crc32(f"ids {name}".encode())).integers(
        0, config["vocab_size"], variant.prompt).tolist()
    of = __import__(f"mlx_lm.models.{variant.model_type}", fromlist=["Model"])
    for attempt in range(1000):
        model = of.Model(of.ModelArgs.from_dict(config))
        tied = config.get("tie_word_embeddings", True)
        randomise(model, tied, zlib.crc32(name.encode()) % 2**31 + attempt)
        weights = dict(tree_flatten(model.parameters()))
        if "tie_word_embeddings" not in config:
            del weights["lm_head.weight"]
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            mx.save_safetensors(str(scratch / "model.safetensors"), weights,
                                metadata={"format": "pt"})
            older = {k: v for k, v in config.items() if usual.get(k) != v}
            for file, fields in (("config.json", config),
                                 ("config.older.json", older)):
                (scratch / file).write_text(
                    json.dumps(fields, indent=2, sort_keys=True) + "\n")
            model, _ = load_model(scratch)
            found = record(model, config, ids)
            check(name, found, config)
            exact, _ = load_model(scratch)
            exact.apply(lambda x: x.astype(mx.float64))
            exact = np.array(exact(mx.array([ids]))[0])
            error = np.abs(exact - found["logits"]).max()
            if error > 2e-6:
                continue
            made = halves(name, scratch, config, ids)
            folder = OUT / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for file in scratch.iterdir():
                shutil.copyfile(file, folder / file.name)
            # The older config means the same to mlx-lm.
            shutil.copyfile(
                scratch / "config.older.json", scratch / "config.json")
            again, _ = load_model(scratch)
            again = np.array(again(mx.array([ids]))[0])
            assert np.abs(again - found["logits"]).max() < 1e-5, name
        break
    else:
        raise SystemExit(f"{name}: a thousand unlucky draws")
    tensors = {"ids": mx.array(ids, mx.int32)} | made | {
        key: mx.array(value) for key, value in found.items()}
    mx.save_safetensors(str(folder / "expected.safetensors"), tensors)
    print(f"{name:36}{len(tensors):9}{found['logits'].std():12.2f}"
          f"{error:12.1e}{attempt + 1:6}")


def main():
    mx.set_default_device(mx.cpu)
    patterns = sys.argv[1:] or ["*"]
    for name, variant in VARIANTS.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            make(name, variant)


if __name__ == "__main__":
    main()
