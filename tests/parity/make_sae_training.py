"""Losses of 100 steps of each recipe, by torch's autograd in float64, written
from the formulas that SAELens 6, dictionary_learning, sparsify and OpenAI's
sparse_autoencoder train by. Writes tests/sae/fixtures/training.{json,safetensors}.

    python tests/parity/make_sae_training.py    (needs torch and safetensors)
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
FOLDER = pathlib.Path(__file__).parents[1] / "sae" / "fixtures"
D, F, B, BATCHES, STEPS = 16, 64, 32, 20, 100


class JumpReLU(torch.autograd.Function):
    """Rajamanoharan et al. 2024, as SAELens has it."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, g):
        pre, threshold = ctx.saved_tensors
        near = (((pre - threshold) / ctx.bandwidth).abs() < 0.5).to(pre.dtype)
        down = -(threshold / ctx.bandwidth * near * g).sum(0)
        return (pre > threshold) * g, down, None


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, g):
        pre, threshold = ctx.saved_tensors
        near = (((pre - threshold) / ctx.bandwidth).abs() < 0.5).to(pre.dtype)
        return torch.zeros_like(pre), -(near / ctx.bandwidth * g).sum(0), None


def keep(values, k):
    """All but the k largest of a row become 0."""
    top = values.topk(k, dim=-1)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values)


def auxiliary(case, pre, norms, dead, e, y, p):
    """e: y - recon, detached. SAELens, dictionary_learning, sparsify, OpenAI."""
    kind = case["aux"]
    if kind == "none" or not dead.any():
        return torch.tensor(0.0)
    n = int(dead.sum())
    k = min(case.get("aux_k", D // 2), n)
    scale = min(n / case.get("aux_k", D // 2), 1.0)
    rank = pre * norms if kind == "saelens" else pre.relu()
    top = torch.where(dead, rank, -torch.inf).topk(k, dim=-1)
    z = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
    if kind == "saelens":
        z = z / norms
    rest = e - z @ p["W_dec"]
    if kind == "saelens":
        return scale * rest.pow(2).sum(-1).mean()
    if kind == "sparsify":
        return scale * rest.pow(2).sum() / (y - y.mean(0)).pow(2).sum()
    if kind == "openai":
        bias = p["b_dec"]
        rest = (z @ p["W_dec"] + bias) - (e + bias.detach())
    return rest.pow(2).sum() / (e - e.mean(0)).pow(2).sum()


def loss_of(case, p, x, y, dead, sparsity):
    recipe = case["recipe"]
    rows = len(x)
    variance = (y - y.mean(0)).pow(2).sum()
    # Of a crosscoder the sum of each layer's (Lindsey et al. 2024).
    parts = p["W_dec"].view(F, case["blocks"] or 1, -1)
    norms = parts.norm(dim=2).sum(1)
    over = variance if case["loss"] == "variance" else rows

    def squares(acts, upto=F):
        recon = acts[:, :upto] @ p["W_dec"][:upto] + p["b_dec"]
        if "W_skip" in p:
            recon = recon + x @ p["W_skip"]
        return (recon - y).pow(2).sum() / over, recon

    x_in = x - p["b_dec"] if case["subtract_b_dec"] else x
    h = x_in @ p["W_enc"].T
    least = None
    if recipe == "relu_l1":
        acts = (h + p["b_enc"]).relu()
        weights = torch.ones(F) if case["unit_decoder"] else norms
        loss = squares(acts)[0] + sparsity * (acts * weights).sum(-1).mean()
    elif recipe == "gated":
        gate = h + p["b_gate"]
        acts = (gate > 0) * (h * p["r_mag"].exp() + p["b_mag"]).relu()
        loss = (
            squares(acts)[0]
            + sparsity * (gate.relu() * norms).sum(-1).mean()
            + squares(gate.relu())[0]
        )
    elif recipe == "jump_relu":
        pre, threshold = h + p["b_enc"], p["threshold"]
        acts = JumpReLU.apply(pre, threshold, case["bandwidth"])
        loss = squares(acts)[0]
        l0 = Step.apply(pre, threshold, case["bandwidth"]).sum(-1).mean()
        if case["penalty"] == "step":
            loss = loss + sparsity * l0
        elif case["penalty"] == "quadratic":
            loss = loss + sparsity * (l0 - case["target_l0"]).pow(2)
        else:
            loss = loss + sparsity * torch.tanh(4 * acts * norms).sum(-1).mean()
        below = (threshold - pre).relu() * dead * norms
        loss = loss + case["pre_act"] * below.sum(-1).mean()
    else:
        pre = h + p["b_enc"]
        ranked = case["rank_by_norm"] and not case["unit_decoder"]
        rank = pre * norms if ranked else pre
        if recipe == "topk":
            acts = keep(rank, case["k"]).relu()
        else:
            flat = keep(rank.relu().flatten(), case["k"] * rows)
            acts = flat.view_as(rank)
            least = acts[acts > 0].min().item()
        if ranked:
            acts = acts / norms
        if recipe == "matryoshka":
            errors = [squares(acts, w)[0] for w in case["widths"]]
            n = len(errors)
            loss = sum(errors) / (n * n if case["mean_over_widths"] else 1)
        else:
            loss = squares(acts)[0]
        recon = squares(acts)[1]
        e = (y - recon).detach()
        loss = loss + case["aux_weight"] * auxiliary(case, pre, norms, dead, e, y, p)
    return loss, acts, least


def train(case, start, xs, ys):
    p = {k: v.clone().requires_grad_() for k, v in start.items()}
    adam = torch.optim.Adam(p.values(), lr=1, eps=case["epsilon"])
    since = torch.zeros(F, dtype=torch.int64)
    losses, threshold, most_dead = [], 0.0, 0
    for t in range(STEPS):
        x = xs[t % BATCHES]
        y = ys[t % BATCHES] if case["transcoder"] else x
        up = max(1, math.floor(case["warm_up"] * STEPS))
        down = max(1, math.floor(case["decay"] * STEPS))
        rate = min(1, (t + 1) / up) * min(1, (STEPS - t) / down)
        adam.param_groups[0]["lr"] = case["learning_rate"] * rate
        up = math.floor(case["sparsity_warm_up"] * STEPS)
        sparsity = case["sparsity"] * (min(1, t / up) if up else 1)
        dead = since >= case["dead_after"]
        most_dead = max(most_dead, int(dead.sum()))
        adam.zero_grad()
        loss, acts, least = loss_of(case, p, x, y, dead, sparsity)
        loss.backward()
        fired = (acts > 0).any(0)
        since = torch.where(fired, 0, since + len(x))
        if least is not None:
            threshold = 0.99 * threshold + 0.01 * least
        if case["unit_decoder"]:
            W, g = p["W_dec"].data, p["W_dec"].grad
            along = (g * W).sum(1, keepdim=True) / W.pow(2).sum(1, keepdim=True)
            g -= along * W
        if case["clip"] > 0:
            torch.nn.utils.clip_grad_norm_(p.values(), case["clip"])
        adam.step()
        if case["unit_decoder"]:
            p["W_dec"].data /= p["W_dec"].data.norm(dim=1, keepdim=True)
        if "threshold" in p:
            p["threshold"].data.clamp_(min=0)
        losses.append(loss.item())
    return losses, threshold, most_dead


PEERS = {
    "saelens": dict(loss="rows", aux="saelens", aux_weight=1.0),
    "dictionary_learning": dict(
        loss="rows", aux="dictionary_learning", aux_weight=1 / 32,
        unit_decoder=True, rank_by_norm=False, mean_over_widths=True, clip=1.0,
    ),
    "sparsify": dict(
        loss="variance", aux="sparsify", aux_weight=1 / 32, unit_decoder=True,
        rank_by_norm=False,
    ),
    "openai": dict(
        loss="variance", aux="openai", aux_weight=1 / 32, unit_decoder=True,
        rank_by_norm=False, aux_k=5, epsilon=6.25e-10,
    ),
}
DEFAULTS = dict(
    rank_by_norm=True, unit_decoder=False, mean_over_widths=False, clip=0.0,
    subtract_b_dec=True, blocks=0, transcoder=False, skip=False, k=4, sparsity=0.0,
    penalty="tanh", bandwidth=0.2, threshold=0.05, target_l0=8.0, pre_act=0.01,
    widths=[8, 24, F], dead_after=48, epsilon=1e-8, learning_rate=3e-3,
    warm_up=0.1, decay=0.2, sparsity_warm_up=0.1,
)  # fmt: skip
CASES = [
    ("relu_l1", "saelens", dict(sparsity=0.3)),
    ("relu_l1", "dictionary_learning", dict(sparsity=0.3)),
    ("gated", "saelens", dict(sparsity=0.3)),
    ("gated", "dictionary_learning", dict(sparsity=0.3)),
    ("topk", "saelens", {}),
    ("topk", "dictionary_learning", {}),
    ("topk", "sparsify", {}),
    ("topk", "openai", {}),
    ("batch_topk", "saelens", {}),
    ("batch_topk", "dictionary_learning", {}),
    ("jump_relu", "saelens", dict(sparsity=0.2, subtract_b_dec=False)),
    ("jump_relu", "saelens", dict(sparsity=0.2, penalty="step")),
    # dictionary_learning's (L0 / L0* - 1)^2, Gemma Scope 2's 2/L0* (L0 - L0*)^2
    ("jump_relu", "dictionary_learning",
     dict(sparsity=1 / 64, penalty="quadratic", subtract_b_dec=False)),
    ("jump_relu", "saelens", dict(sparsity=2 / 8 * 0.1, penalty="quadratic")),
    ("matryoshka", "saelens", {}),
    ("matryoshka", "dictionary_learning", {}),
    ("relu_l1", "saelens",
     dict(sparsity=0.3, transcoder=True, subtract_b_dec=False)),
    ("batch_topk", "saelens",
     dict(transcoder=True, skip=True, subtract_b_dec=False)),
    ("topk", "sparsify",
     dict(transcoder=True, skip=True, subtract_b_dec=False)),
    ("relu_l1", "saelens", dict(sparsity=0.2, subtract_b_dec=False, blocks=2)),
    ("jump_relu", "saelens", dict(sparsity=0.2, subtract_b_dec=False, blocks=4)),
    ("batch_topk", "saelens", dict(subtract_b_dec=False, blocks=2)),
]  # fmt: skip


def main():
    directions = torch.nn.functional.normalize(torch.randn(F, D), dim=1)
    others = torch.nn.functional.normalize(torch.randn(F, D), dim=1)
    truth = torch.nn.functional.normalize(torch.randn(40, D), dim=1)
    code = torch.rand(BATCHES, B, 40) * (torch.rand(BATCHES, B, 40) < 0.08)
    x = 2 * code @ truth + 0.05 * torch.randn(BATCHES, B, D) + 0.2
    y = (x @ torch.randn(D, D) / 4).relu()
    bias = 0.1 * torch.randn(F)
    given = {
        "x": x, "y": y, "directions": directions, "others": others, "bias": bias
    }  # fmt: skip
    given = {k: v.float().contiguous() for k, v in given.items()}
    save_file(given, FOLDER / "training.safetensors")
    given = {k: v.double() for k, v in given.items()}
    out = []
    for recipe, peer, more in CASES:
        case = {**DEFAULTS, **PEERS[peer], **more, "recipe": recipe, "peer": peer}
        length = 1.0 if case["unit_decoder"] else 0.5
        dec = (given["directions"] * length).float().double()
        enc = given["others"] if case["transcoder"] else dec
        p = {"W_enc": enc, "W_dec": dec, "b_dec": torch.zeros(D)}
        if recipe == "gated":
            p |= {"b_gate": given["bias"], "b_mag": given["bias"] / 2,
                  "r_mag": given["bias"]}  # fmt: skip
        else:
            p["b_enc"] = given["bias"]
        if recipe == "jump_relu":
            p["threshold"] = torch.full((F,), case["threshold"])
        if case["skip"]:
            p["W_skip"] = torch.zeros(D, D)
        losses, threshold, dead = train(case, p, given["x"], given["y"])
        out.append({"options": case, "losses": [float(f"{v:.8g}") for v in losses],
                    "threshold": threshold, "most_dead": dead})  # fmt: skip
        print(recipe, peer, more, losses[0], losses[-1], "dead", dead, threshold)
    path = FOLDER / "training.json"
    path.write_text(json.dumps({"steps": STEPS, "cases": out}) + "\n")


main()
