#!/usr/bin/env python3
"""usage: make_edges.py FAMILIES FILE: scores of every edge of three tiny models,
by a plain computation in float64 that shares nothing with the library.

Each destination gets a zero of its own, added to its own copy of the residual
stream; torch differentiates by it, and `exact` sets it to what the source
changes, one forward an edge. FILE holds, for each of llama-gqa, llama-mha and
gpt2, and with _ungrouped where queries share keys and values:

    <model>.<method>.<direction>   [source, destination], 0 where no edge is

    <model>.ifr.clean              likewise, of the clean run

in the order of a layer's heads, then its MLP, and of its q, k, v, then its MLP.
tests/analysis/edges_test.cpp compares. Needs torch and safetensors.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

torch.set_default_dtype(torch.float64)
CLEAN = torch.tensor([5, 11, 3, 29, 7, 13, 2])
CORRUPT = torch.tensor([5, 11, 3, 30, 7, 14, 2])
TOKEN, FOIL = 4, 9


class Model:
    """A decoder, one copy of the stream at a time."""

    def __init__(self, folder, ungrouped):
        self.w = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}
        c = json.loads((folder / "config.json").read_text())
        self.gpt2 = c["model_type"] == "gpt2"
        if self.gpt2:
            self.layers, self.heads, self.eps = c["n_layer"], c["n_head"], c["layer_norm_epsilon"]
            self.d, self.kv = c["n_embd"], c["n_head"]
            self.dh = self.d // self.heads
            self.prefix = "transformer." if any(k.startswith("transformer.") for k in self.w) else ""
        else:
            self.layers, self.heads = c["num_hidden_layers"], c["num_attention_heads"]
            self.kv, self.dh = c["num_key_value_heads"], c["head_dim"]
            self.d, self.eps = c["hidden_size"], c["rms_norm_eps"]
            self.theta = c["rope_parameters"]["rope_theta"]
        self.ungrouped = ungrouped
        self.copies = self.heads if ungrouped else self.kv
        self.sources = 1 + self.layers * (self.heads + 1)
        self.names, self.before = [], []
        for i in range(self.layers):
            first = 1 + i * (self.heads + 1)
            for kind, n in (("q", self.heads), ("k", self.copies), ("v", self.copies)):
                self.names += [(i, kind, h) for h in range(n)]
                self.before += [first] * n
            self.names.append((i, "m", 0))
            self.before.append(first + self.heads)
        self.names.append((self.layers, "logits", 0))
        self.before.append(self.sources)

    def norm(self, x, name):
        if not self.gpt2:
            return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.w[name + ".weight"]
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        return x * self.w[name + ".weight"] + self.w[name + ".bias"]

    def rotate(self, x):
        if self.gpt2:
            return x
        half = self.dh // 2
        by = self.theta ** (-torch.arange(half) / half)
        angle = torch.arange(x.shape[0])[:, None] * by
        a, b = x[:, :half], x[:, half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def part(self, i, kind, h):
        """Weight [dh, d] and bias [dh] of one head."""
        rows = slice(h * self.dh, (h + 1) * self.dh)
        if not self.gpt2:
            return self.w[f"model.layers.{i}.self_attn.{kind}_proj.weight"][rows], 0
        at = "qkv".index(kind) * self.d + h * self.dh
        name = f"{self.prefix}h.{i}.attn.c_attn"
        return self.w[name + ".weight"][:, at:at + self.dh].T, self.w[name + ".bias"][at:at + self.dh]

    def output(self, i, h):
        rows = slice(h * self.dh, (h + 1) * self.dh)
        if self.gpt2:
            return self.w[f"{self.prefix}h.{i}.attn.c_proj.weight"][rows], self.w[f"{self.prefix}h.{i}.attn.c_proj.bias"]
        return self.w[f"model.layers.{i}.self_attn.o_proj.weight"][:, rows].T, 0

    def mlp(self, i, x):
        if self.gpt2:
            name = f"{self.prefix}h.{i}.mlp."
            y = x @ self.w[name + "c_fc.weight"] + self.w[name + "c_fc.bias"]
            y = torch.nn.functional.gelu(y, approximate="tanh")
            return y @ self.w[name + "c_proj.weight"] + self.w[name + "c_proj.bias"]
        name = f"model.layers.{i}.mlp."
        y = torch.nn.functional.silu(x @ self.w[name + "gate_proj.weight"].T)
        return (y * (x @ self.w[name + "up_proj.weight"].T)) @ self.w[name + "down_proj.weight"].T

    def embed(self, ids):
        if not self.gpt2:
            return self.w["model.embed_tokens.weight"][ids]
        return self.w[self.prefix + "wte.weight"][ids] + self.w[self.prefix + "wpe.weight"][:len(ids)]

    def run(self, x, added, moved=()):
        """The metric, and what each source writes, [source, pos, d]. `added`: by
        destination, to its copy of the stream. `moved`: by source, what it writes
        instead."""
        moved, self.seen = dict(moved), {}
        x = moved.get(0, x)
        written = [x]
        n = x.shape[0]
        mask = torch.ones(n, n).tril().log()
        for i in range(self.layers):
            ln1 = f"{self.prefix}h.{i}.ln_1" if self.gpt2 else f"model.layers.{i}.input_layernorm"
            ln2 = f"{self.prefix}h.{i}.ln_2" if self.gpt2 else f"model.layers.{i}.post_attention_layernorm"
            group = self.heads // self.kv

            def read(kind, h, weights_of):
                w, b = self.part(i, kind, weights_of)
                return self.norm(x + added[(i, kind, h)], ln1) @ w.T + b

            self.seen |= {name: x for name in self.names if name[0] == i and name[1] != "m"}
            total, bias = 0, 0
            for h in range(self.heads):
                shared = h if self.ungrouped else h // group
                q = self.rotate(read("q", h, h))
                k = self.rotate(read("k", shared, h // group))
                v = read("v", shared, h // group)
                pattern = (q @ k.T / self.dh**0.5 + mask).softmax(-1)
                w, bias = self.output(i, h)
                written.append(moved.get(len(written), pattern @ v @ w))
                total = total + written[-1]
            x = x + total + bias
            self.seen[(i, "m", 0)] = x
            y = self.mlp(i, self.norm(x + added[(i, "m", 0)], ln2))
            written.append(moved.get(len(written), y))
            x = x + written[-1]
        self.seen[(self.layers, "logits", 0)] = x
        x = x + added[(self.layers, "logits", 0)]
        x = self.norm(x, self.prefix + "ln_f" if self.gpt2 else "model.norm")
        unembed = self.w[self.prefix + "wte.weight"] if self.gpt2 else self.w["lm_head.weight"]
        logits = x @ unembed.T
        return logits[-1, TOKEN] - logits[-1, FOIL], torch.stack(written), logits

    def nothing(self, grad=False):
        shape = len(CLEAN), self.d
        return {name: torch.zeros(shape, requires_grad=grad) for name in self.names}

    def gradients(self, x, moved=()):
        added = self.nothing(True)
        self.run(x, added, moved)[0].backward()
        # None: what is read there goes nowhere.
        return torch.stack([
            torch.zeros_like(it) if it.grad is None else it.grad for it in added.values()
        ])

    def flow(self, ids):
        """Information flow routes: of each stream that is read the shares of what
        was written, by how much nearer it is to them than to nothing; the mean
        over positions."""
        with torch.no_grad():
            written = self.run(self.embed(ids), self.nothing())[1]
        out = torch.zeros(self.sources, len(self.names))
        for d, name in enumerate(self.names):
            x, parts = self.seen[name], written[:self.before[d]]
            near = (x.abs().sum(-1) - (x - parts).abs().sum(-1)).clamp(min=0)
            out[:self.before[d], d] = (near / near.sum(0)).nan_to_num().mean(-1)
        return out

    def scores(self, method, base, other):
        start, end = self.embed(base), self.embed(other)
        with torch.no_grad():
            metric, own, _ = self.run(start, self.nothing())
            change = self.run(end, self.nothing())[1] - own
        out = torch.zeros(self.sources, len(self.names))
        if method == "exact":
            with torch.no_grad():
                for d, name in enumerate(self.names):
                    for s in range(self.before[d]):
                        added = self.nothing()
                        added[name] = change[s]
                        out[s, d] = self.run(start, added)[0] - metric
            return out
        if method == "eap_ig_activations":
            # One layer's heads, its MLP or the embedding at a time.
            groups = [[0]]
            for first in range(1, self.sources, self.heads + 1):
                groups += [list(range(first, first + self.heads)), [first + self.heads]]
            for group in groups:
                for k in range(5):
                    line = {s: own[s] + k / 5 * change[s] for s in group}
                    g = self.gradients(start, line)
                    out[group] += torch.einsum("spd,tpd->st", change[group], g) / 5
            for d, before in enumerate(self.before):
                out[before:, d] = 0
            return out
        shares = {"eap": [0], "eap_ig": [k / 5 for k in range(5)], "clean_corrupted": [0, 1]}[method]
        g = sum(self.gradients(start + a * (end - start)) for a in shares) / len(shares)
        out = torch.einsum("spd,tpd->st", change, g)
        for d, before in enumerate(self.before):
            out[before:, d] = 0
        return out


out = {}
for name in ("llama-gqa", "llama-mha", "gpt2"):
    folder = Path(sys.argv[1]) / name
    for ungrouped in (False, True) if name == "llama-gqa" else (False,):
        model = Model(folder, ungrouped)
        expected = load_file(folder / "expected.safetensors")
        for method in ("eap", "eap_ig", "eap_ig_activations", "clean_corrupted", "exact"):
            for direction, runs in (("denoise", (CORRUPT, CLEAN)), ("noise", (CLEAN, CORRUPT))):
                if direction == "noise" and method not in ("eap", "exact"):
                    continue
                key = f"{name}{'_ungrouped' if ungrouped else ''}.{method}.{direction}"
                out[key] = model.scores(method, *runs).float().contiguous()
                print(key, tuple(out[key].shape), float(out[key].abs().max()))
        key = f"{name}{'_ungrouped' if ungrouped else ''}.ifr.clean"
        out[key] = model.flow(CLEAN).float().contiguous()
        print(key, tuple(out[key].shape), float(out[key].abs().max()))
        if "ids" in expected and "logits" in expected:
            logits = model.run(model.embed(expected["ids"].flatten()[:7].long()), model.nothing())[2]
            print(float((logits - expected["logits"].reshape(-1, logits.shape[-1])[:7]).abs().max()))
        else:
            print(sorted(expected)[:20])
save_file(out, sys.argv[2])
