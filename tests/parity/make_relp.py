#!/usr/bin/env python3
"""Relevance patching by torch, for tests/analysis/relp_test.cpp.

Rules as Jafari, Eberle, Khakzar and Nanda (2025, arXiv 2508.21258) state them,
put into transformers' own models: LN (a norm's denominator detached), identity
(an activation is x times a detached factor), half (of a gated product half is
detached) and, where it is asked for, AH (patterns detached). Written to
tests/analysis/fixtures/relp.json: of each model, site and rule the attributions
[layer, pos], the difference of the two prompts' values times what comes back,
and the largest of them without signs.

    python tests/parity/make_relp.py        # torch, transformers
"""

import json
from pathlib import Path
from types import MethodType

import torch
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[1]
MODELS = ["llama-gqa", "gpt2", "gemma3", "qwen3", "olmo2-gqa"]
CLEAN = [5, 11, 3, 29, 7, 13, 2]
CORRUPT = [5, 11, 3, 30, 7, 14, 2]


def norm(self, x):
    wide = x.float()
    if isinstance(self, torch.nn.LayerNorm):
        wide = wide - wide.mean(-1, keepdim=True)
    eps = getattr(self, "variance_epsilon", None) or self.eps
    y = wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach()
    gain = 1 + self.weight if type(self).__name__.startswith("Gemma3") else self.weight
    y = y * gain
    return y if getattr(self, "bias", None) is None else y + self.bias


class Activation(torch.nn.Module):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        return x * (self.act(x) / x).detach()


def gated(self, x):
    product = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
    return self.down_proj(product / 2 + (product / 2).detach())


def with_rules(model):
    for module in list(model.modules()):
        if "Norm" in type(module).__name__:
            module.forward = MethodType(norm, module)
        for act in ("act_fn", "act"):
            if act in dict(module.named_children()):
                setattr(module, act, Activation(getattr(module, act)))
        if hasattr(module, "gate_proj"):
            module.forward = MethodType(gated, module)
    return model


def run(model, ids, patterns_held):
    """The values at each site, and the logit difference."""
    kept = {}

    def keep(name):
        def hook(_, args, kwargs):
            x = args[0] if args else kwargs["hidden_states"]
            if not x.requires_grad:
                x.requires_grad_(True)
            x.retain_grad()
            kept[name] = x

        return hook

    hooks = []
    inner = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    for i, layer in enumerate(inner):
        attention = getattr(layer, "attn", None) or layer.self_attn
        for site, module in (
            ("resid_pre", layer),
            ("z", getattr(attention, "c_proj", None) or attention.o_proj),
            ("mlp.post", getattr(layer.mlp, "c_proj", None) or layer.mlp.down_proj),
        ):
            hooks.append(module.register_forward_pre_hook(keep((site, i)), with_kwargs=True))
    softmax = torch.nn.functional.softmax
    if patterns_held:
        torch.nn.functional.softmax = lambda *a, **k: softmax(*a, **k).detach()
    logits = model(torch.tensor([ids])).logits[0, -1]
    torch.nn.functional.softmax = softmax
    for hook in hooks:
        hook.remove()
    return kept, logits[4] - logits[9]


def main():
    out = {}
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(
            ROOT / "parity/families" / name,
            dtype=torch.float32,
            attn_implementation="eager",
        ).eval()
        plain = run(model, CORRUPT, False)[1].item()
        with_rules(model)
        own = out[name] = {}
        for rule, held in (("relevance", False), ("relevance+hold(attn.pattern)", True)):
            source, _ = run(model, CLEAN, held)
            kept, metric = run(model, CORRUPT, held)
            assert abs(metric.item() - plain) < 1e-5 * max(1, abs(plain)), name
            metric.backward()
            found = own[rule] = {}
            for (site, i), x in kept.items():
                way = source[site, i].detach() - x.detach()
                terms = (x.grad * way)[0]
                it = found.setdefault(site, {"cells": [], "size": 0})
                it["cells"] += [float(f"{v:.9g}") for v in terms.sum(-1)]
                it["size"] = max(it["size"], terms.abs().sum(-1).max().item())
    text = json.dumps({"clean": CLEAN, "corrupt": CORRUPT, "models": out})
    (ROOT / "analysis/fixtures/relp.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
