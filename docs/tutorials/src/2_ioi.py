# %% [markdown]
# # 2. Who gets the drink: patching
#
# "When Mary and John went to the store, John gave a drink to" ends with " Mary": the
# name that came once. Wang et al. (2022) took this task apart in GPT-2 small. Here
# the same methods look at SmolLM2-135M. Its heads are others, and nothing below
# claims the same circuit.

# %%
import os

import matplotlib.pyplot as plt
import mlx.core as mx

from mlxterp import InterpretableModel, logits, metrics, sweeps, tasks
from mlxterp import interventions as iv

SMALL = "MLXTERP_TUTORIAL_SMALL" in os.environ  # a part of the work, for tests
plt.rcParams["figure.dpi"] = 70

model = InterpretableModel("demo")

# %% [markdown]
# ## Does the model do the task?
#
# First of all. A task is pairs of prompts: in the corrupted one the other name is
# repeated, so the other answer is right. The metric is the logit of the right name
# less that of the wrong one. It is above zero where the model prefers the right one.

# %%
task = tasks.make_task(model, "ioi", pairs=2 if SMALL else 8)
for pair in task.pairs[:3]:
    print(repr(pair.clean))
found = tasks.score(model, task)
print(f"right in {found.accuracy:.0%} of {len(task.pairs)} prompts")
print("logit differences", [round(v, 2) for v in found.clean])

# %% [markdown]
# ## Where is the answer, layer by layer?
#
# Take one pair. Run the corrupted prompt, but put the residual stream of the clean
# one back at one layer and position, and measure. `effect` is 0 where that changes
# nothing, 1 where it brings back all of the difference. Every cell is what a whole
# pass with that one change would say.

# %%
clean = "When Mary and John went to the store, John gave a drink to"
corrupt = "When Mary and John went to the store, Mary gave a drink to"
metric = metrics.logit_diff(" Mary", " John")

sweep = sweeps.patch(
    model, clean, corrupt, metric, layers=range(0, 30, 10) if SMALL else None
)
print(sweep)
sweep.plot()
plt.show()

# %% [markdown]
# The picture has two parts. In most layers all of the difference is at the one
# token in which the prompts differ, the name that comes twice. In the last layers
# it is at the last token. Between them something carries it from one position to the
# other, and only attention moves information between positions.
#
# Where does the one give way to the other?

# %%
layers = sweep.axes[0][1]
differing = [i for i, (a, b) in enumerate(zip(model.encode(clean), model.encode(corrupt))) if a != b][0]
print("layer  at the name        at the last token")
for row, layer in enumerate(layers):
    if layer % 3 == 0 or SMALL:
        at_name, at_end = sweep.effect[row, differing].item(), sweep.effect[row, -1].item()
        print(f"{layer:5}  {at_name:18.2f}  {at_end:17.2f}")

# %% [markdown]
# ## Which heads?
#
# Patching every one of the 270 heads' outputs (`z`) is exact. Attribution patching
# estimates the same to first order, in one pass forward and one back (Nanda, 2023).
# So: estimate all of them, and check the strongest exactly.

# %%
guess = sweeps.attribute(model, clean, corrupt, metric, "z", by=("layer", "head"))["z"]
order = mx.argsort(-mx.abs(guess.delta).reshape(-1))[:8].tolist()
strongest = [divmod(i, 9) for i in order]
if SMALL:
    strongest = strongest[:2]

print("head    estimated  exact   (change of the logit difference)")
for layer, head in strongest:
    exact = sweeps.patch(
        model, clean, corrupt, metric, site="z", by=("layer", "head"), layers=layer, heads=head
    )
    print(f"{layer:2}.{head}  {guess.delta[layer, head].item():10.2f}  {exact.delta.item():6.2f}")

# %% [markdown]
# Estimate and truth agree in sign, and well for the strongest heads. Further down the
# estimate can be half of the truth: it is a straight line through a curve. Trust the
# exact column. Note also that a patch brings back what *differs* between the prompts, so a
# head that does the same on both has no effect here, however much it does.
#
# ## What do they write?
#
# A head can matter because it writes the name, or because another one reads it.
# Direct logit attribution counts only the first: what each part adds to the logit
# difference with its own output. The parts sum to the model's own number.

# %%
parts = logits.logit_attribution(model, clean, metric, "head")
print(f"sum of the parts {parts.sum:.3f}, the model {parts.model:.3f}")
for part in sorted(parts.parts, key=lambda part: -abs(part.value))[:8]:
    print(f"{part.name:20} {part.value:6.2f}")

# %% [markdown]
# Some heads stand in both lists: they bring the name to the end and write it there, like
# the *name movers* of the paper. Some of them write against the answer, which the paper
# found as well. A head that stands only in the first list works through others: 17.4, for
# one, is an induction head by the next tutorial's measure. And the last MLPs, which see
# one position only, write a good part of the answer from what the heads brought.
#
# ## Is it these heads, or any heads?
#
# A control. Over all prompts of the task, replace the outputs of the strongest heads by
# their mean over the task, and do the same with as many random heads.

# %%
ids = task.clean
targets = [(p.answers[0], p.foils[0]) for p in task.pairs]


def mean_logit_diff(heads):
    """Of the task's prompts, with these heads' outputs at their mean."""
    by_layer = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def to_mean(x):
        return mx.broadcast_to(x.mean(axis=(0, 1), keepdims=True), x.shape)

    edits = {
        f"layers.{layer}.attn.z": iv.on_heads(which, to_mean)
        for layer, which in by_layer.items()
    }
    with model.trace(ids, interventions=edits) as trace:
        out = model.output.save()
    ends = [(out[i, n - 1, a] - out[i, n - 1, b]).item()
            for i, (n, (a, b)) in enumerate(zip(trace.lengths, targets))]
    return sum(ends) / len(ends)


positive = [(layer, head) for layer, head in strongest if guess.delta[layer, head].item() > 0]
print(f"all heads                {mean_logit_diff([]):6.2f}")
print(f"without the {len(positive)} strongest  {mean_logit_diff(positive):6.2f}")
for seed in range(1 if SMALL else 4):
    drawn = mx.random.randint(0, 270, (len(positive),), key=mx.random.key(seed)).tolist()
    others = [divmod(i, 9) for i in drawn]
    print(f"without {len(positive)} random ones   {mean_logit_diff(others):6.2f}   {others}")

# %% [markdown]
# The heads were chosen on one pair and tested on prompts they were not chosen on. What
# this does not show: that they are all there is to it, or that they do the same on other
# sentences. For that, sweep over more pairs (`patch` takes lists) and over other
# tasks (`tasks.task_list()`), and follow the paths between heads with
# `sweeps.path_patch`.
