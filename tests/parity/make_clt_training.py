"""Losses of 100 steps of cross-layer transcoders, by torch's autograd in
float64, written from CLT-Forge's formulas (LLM-Interp/CLT-Forge, dcf4cc8) and
BatchTopK over all layers together. Writes
tests/sae/fixtures/clt_training.{json,safetensors}.

    python tests/parity/make_clt_training.py    (needs torch and safetensors)
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(1)
torch.set_default_dtype(torch.float64)
FOLDER = pathlib.Path(__file__).parents[1] / "sae" / "fixtures"
L, D, E, F, B, BATCHES, STEPS = 3, 10, 12, 40, 32, 5, 100


class JumpReLU(torch.autograd.Function):
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


def loss_of(case, p, x, y, dead, sparsity):
    pre = [x[:, s] @ p[f"W_enc_{s}"].T + p[f"b_enc_{s}"] for s in range(L)]
    norms = [p[f"W_dec_{s}"].pow(2).sum((1, 2)).sqrt() for s in range(L)]
    rest, least = 0, None
    if case["recipe"] == "jump_relu":
        acts = []
        for s in range(L):
            threshold = p[f"log_threshold_{s}"].exp()
            acts.append(JumpReLU.apply(pre[s], threshold, case["bandwidth"]))
            tanh = torch.tanh(case["tanh_scale"] * acts[s] * norms[s])
            below = (threshold - pre[s]).relu() * norms[s]
            rest = rest + sparsity * tanh.sum(-1).mean()
            rest = rest + case["pre_act"] * below.sum(-1).mean()
    else:
        rank = torch.stack([a * n for a, n in zip(pre, norms)], 1)
        top = rank.relu().flatten().topk(case["k"] * len(x))
        kept = torch.zeros(rank.numel()).scatter(0, top.indices, top.values)
        kept = kept.view_as(rank)
        least = kept[kept > 0].min().item()
        acts = [kept[:, s] / norms[s] for s in range(L)]
    loss = rest
    errors = []
    for t in range(L):
        recon = p[f"b_dec_{t}"]
        for s in range(t + 1):
            recon = recon + acts[s] @ p[f"W_dec_{s}"][:, t - s]
        errors.append(y[:, t] - recon)
        loss = loss + errors[-1].pow(2).sum(-1).mean()
    # SAELens' loss of dead features, over all layers.
    if case["recipe"] == "batch_topk" and dead.any():
        n, k = int(dead.sum()), case["aux_k"]
        flat = torch.where(dead, rank, -torch.inf).flatten(1)
        top = flat.topk(min(k, n), dim=-1)
        z = torch.zeros_like(flat).scatter(-1, top.indices, top.values)
        z = z.view_as(rank)
        for t in range(L):
            e = errors[t].detach()
            for s in range(t + 1):
                e = e - (z[:, s] / norms[s]) @ p[f"W_dec_{s}"][:, t - s]
            loss = loss + min(n / k, 1.0) * e.pow(2).sum(-1).mean()
    return loss, least, torch.stack([(a > 0).any(0) for a in acts])


def train(case, start, xs, ys):
    p = {k: v.clone().requires_grad_() for k, v in start.items()}
    adam = torch.optim.Adam(p.values(), lr=1)
    losses, threshold, most_dead = [], 0.0, 0
    since = torch.zeros(L, F, dtype=torch.int64)
    for t in range(STEPS):
        x, y = xs[t % BATCHES], ys[t % BATCHES]
        up = max(1, math.floor(case["warm_up"] * STEPS))
        down = max(1, math.floor(case["decay"] * STEPS))
        rate = min(1, (t + 1) / up) * min(1, (STEPS - t) / down)
        adam.param_groups[0]["lr"] = case["learning_rate"] * rate
        up = math.floor(case["sparsity_warm_up"] * STEPS)
        sparsity = case["sparsity"] * (min(1, t / up) if up else 1)
        adam.zero_grad()
        dead = since >= case["dead_after"]
        most_dead = max(most_dead, int(dead.sum()))
        loss, least, fired = loss_of(case, p, x, y, dead, sparsity)
        since = torch.where(fired, 0, since + len(x))
        loss.backward()
        if least is not None:
            threshold = 0.99 * threshold + 0.01 * least
        if case["clip"] > 0:
            torch.nn.utils.clip_grad_norm_(p.values(), case["clip"])
        adam.step()
        losses.append(loss.item())
    return losses, threshold, most_dead


DEFAULTS = dict(
    k=6, sparsity=0.0, tanh_scale=4.0, bandwidth=0.5, threshold=0.05,
    pre_act=0.0, clip=1.0, learning_rate=3e-3, warm_up=0.1, decay=0.2,
    sparsity_warm_up=0.7, dead_after=10_000, aux_k=7,
)  # fmt: skip
CASES = [
    dict(recipe="jump_relu", sparsity=0.3, pre_act=0.02),
    dict(recipe="jump_relu", sparsity=0.1, clip=0.0, bandwidth=1.0),
    dict(recipe="batch_topk"),
    dict(recipe="batch_topk", dead_after=64),
    dict(recipe="batch_topk", dead_after=128, aux_k=40, k=3),
]


def main():
    unit = torch.nn.functional.normalize
    truth = unit(torch.randn(30, D), dim=1)
    code = torch.rand(BATCHES, B, L, 30) * (torch.rand(BATCHES, B, L, 30) < 0.1)
    x = 2 * code @ truth + 0.05 * torch.randn(BATCHES, B, L, D) + 0.1
    # Each layer's target depends on that layer and those before.
    maps = torch.randn(L, L, D, E) / 4
    y = torch.stack(
        [sum(x[:, :, s].relu() @ maps[s, t] for s in range(t + 1)) for t in range(L)],
        2,
    )
    given = {"x": x, "y": y}
    for s in range(L):
        given[f"W_enc_{s}"] = unit(torch.randn(F, D), dim=1)
        given[f"W_dec_{s}"] = 0.1 * torch.randn(F, L - s, E)
        given[f"b_enc_{s}"] = 0.1 * torch.randn(F)
        given[f"b_dec_{s}"] = 0.1 * torch.randn(E)
    given = {k: v.float().contiguous() for k, v in given.items()}
    save_file(given, FOLDER / "clt_training.safetensors")
    given = {k: v.double() for k, v in given.items()}
    out = []
    for more in CASES:
        case = {**DEFAULTS, **more}
        p = {k: v for k, v in given.items() if k not in "xy"}
        if case["recipe"] == "jump_relu":
            for s in range(L):
                p[f"log_threshold_{s}"] = torch.full((F,), math.log(case["threshold"]))
        losses, threshold, dead = train(case, p, given["x"], given["y"])
        out.append({"options": case, "losses": [float(f"{v:.8g}") for v in losses],
                    "threshold": threshold, "most_dead": dead})  # fmt: skip
        print(more, losses[0], losses[-1], "dead", dead, threshold)
    path = FOLDER / "clt_training.json"
    path.write_text(json.dumps({"steps": STEPS, "cases": out}) + "\n")


main()
