#!/usr/bin/env python3
"""usage: make_sae_eval.py FAMILY FOLDER: how good a small SAE is, by the
formulas of SAELens' evals (sae_lens/evals.py of 6.5x) written out in torch.

FAMILY is tests/parity/families/llama-gqa. Writes FOLDER/{cfg.json,
sae_weights.safetensors}, an SAE in SAELens' layout that explains most of
blocks.0.hook_resid_post, and FOLDER/expected.json: prompts and every metric,
over all positions ("all") and without the first of each prompt ("behind"),
where that is not replaced either. Needs torch and transformers.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GENERATOR = torch.Generator().manual_seed(11)
D, DEAD, LAYER = 24, 4, 0


def random(*shape, scale=1.0):
    return torch.randn(*shape, generator=GENERATOR) * scale


def make_sae(scale):
    basis, _ = torch.linalg.qr(random(D, D))
    W_dec = torch.cat([basis, -basis, random(DEAD, D, scale=0.2)])
    W_dec = W_dec + random(*W_dec.shape, scale=0.05)
    b_enc = torch.full((2 * D + DEAD,), -0.2 * scale)
    b_enc[2 * D:] = -100.0
    return {"W_enc": W_dec.T.contiguous(), "b_enc": b_enc, "W_dec": W_dec,
            "b_dec": random(D, scale=0.05 * scale)}


def encode(sae, x):
    return torch.relu((x - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])


def decode(sae, acts):
    return acts @ sae["W_dec"] + sae["b_dec"]


def run(model, ids, replace=None):
    """Logits, and the residual stream behind the layer, perhaps replaced."""
    seen = {}

    def hook(_, __, output):
        x = output[0] if isinstance(output, tuple) else output
        seen["x"] = x
        if replace is None:
            return output
        y = replace(x)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    handle = model.model.layers[LAYER].register_forward_hook(hook)
    try:
        return model(ids).logits, seen["x"]
    finally:
        handle.remove()


def ce(logits, ids):
    return -torch.log_softmax(logits[:, :-1], -1).gather(
        -1, ids[:, 1:, None])[..., 0]


def kl(own, other):
    p, q = torch.log_softmax(own, -1), torch.log_softmax(other, -1)
    return (p.exp() * (p - q)).sum(-1)


def metrics(model, sae, ids, first):
    """`first`: the first position that counts and is replaced."""
    logits, x = run(model, ids)
    mask = torch.arange(ids.shape[1])[None, :, None] >= first
    with_sae, _ = run(model, ids, lambda x: torch.where(
        mask, decode(sae, encode(sae, x)), x))
    zeros, _ = run(model, ids, torch.zeros_like)
    x = x[:, first:].reshape(-1, D).double()
    sae = {name: value.double() for name, value in sae.items()}
    acts = encode(sae, x)
    recon = decode(sae, acts)
    squared = (x - recon).pow(2).sum(-1).mean()
    variance = x.pow(2).sum(-1).mean() - x.mean(0).pow(2).sum()
    norm = lambda y: torch.linalg.vector_norm(y, dim=-1)  # noqa: E731
    out = {
        "tokens": len(x),
        "mse": squared, "fvu": squared / variance,
        "explained_variance": 1 - squared / variance,
        "cosine": ((x * recon).sum(-1) / norm(x) / norm(recon)).mean(),
        "l2_in": norm(x).mean(), "l2_out": norm(recon).mean(),
        "l2_ratio": (norm(recon) / norm(x)).mean(),
        "relative_bias": norm(recon).pow(2).mean() / (x * recon).sum(-1).mean(),
        "l0": (acts > 0).sum(-1).double().mean(), "l1": acts.sum(-1).mean(),
        "ce": ce(logits, ids)[:, first:].mean(),
        "ce_sae": ce(with_sae, ids)[:, first:].mean(),
        "ce_zero": ce(zeros, ids)[:, first:].mean(),
        "kl_sae": kl(logits, with_sae)[:, first:].mean(),
        "kl_zero": kl(logits, zeros)[:, first:].mean(),
    }
    out = {name: float(value) for name, value in out.items()}
    out["ce_score"] = (out["ce_zero"] - out["ce_sae"]) / (out["ce_zero"] - out["ce"])
    out["kl_score"] = (out["kl_zero"] - out["kl_sae"]) / out["kl_zero"]
    out["active"] = (acts > 0).sum(0).tolist()
    return out


def main():
    family, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(
        family, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, 97, (5, 12), generator=GENERATOR)
    with torch.no_grad():
        scale = run(model, ids)[1].abs().mean().item()
        sae = make_sae(scale)
        expected = {"prompts": ids.tolist(), "all": metrics(model, sae, ids, 0),
                    "behind": metrics(model, sae, ids, 1)}
    save_file(sae, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({
        "architecture": "standard", "d_in": D, "d_sae": 2 * D + DEAD,
        "dtype": "float32", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.0", "model_name": "tiny",
                     "hook_name": f"blocks.{LAYER}.hook_resid_post"}}) + "\n")
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
