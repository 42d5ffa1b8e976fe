# %% [markdown]
# # 3. Induction heads
#
# Show a model random tokens, then the same tokens again. Nothing can be known about
# the first half. The second half can be read off the first: find where the current
# token was last time and copy what followed. Heads that do this are *induction
# heads* (Olsson et al., 2022).

# %%
import os

import matplotlib.pyplot as plt
import mlx.core as mx

from mlxterp import InterpretableModel, heads
from mlxterp import interventions as iv

SMALL = "MLXTERP_TUTORIAL_SMALL" in os.environ  # a part of the work, for tests
plt.rcParams["figure.dpi"] = 70

model = InterpretableModel("demo")
period = 20 if SMALL else 50
ids = heads.repeated_tokens(model, period=period, repeats=2, sequences=1 if SMALL else 4)
print(len(ids), "sequences of", len(ids[0]), "tokens, for example", model.to_str_tokens(ids[0])[:6])


# %% [markdown]
# ## The behaviour
#
# The loss at each position, with and without edits.

# %%
def losses(interventions=None):
    """Cross-entropy of each next token in nats, [pos], the mean of sequences."""
    with model.trace(ids, interventions=interventions):
        out = model.output.save()
    rows = mx.array(ids)
    logp = out - mx.logsumexp(out, axis=-1, keepdims=True)
    return -mx.take_along_axis(logp[:, :-1], rows[:, 1:, None], axis=-1)[..., 0].mean(axis=0)


def halves(interventions=None):
    loss = losses(interventions)
    # The first token of the second half is not foreseeable: it is left out.
    return loss[: period - 1].mean().item(), loss[period:].mean().item()


plain = losses()
plt.figure(figsize=(6, 2.6))
plt.plot(plain.tolist())
plt.axvline(period - 1, color="grey", lw=1)
plt.xlabel("position")
plt.ylabel("loss in nats")
plt.show()
first, second = halves()
print(f"first half {first:.2f}, second half {second:.2f} nats")

# %% [markdown]
# Guessing among all 49,152 tokens alike would cost 10.8 nats. The first half costs
# even more, since these tokens are less likely than most in running text. In the
# second half the loss falls: the model uses its context.
#
# ## The heads
#
# An induction head attends from a token to the one that followed its previous copy.
# The score is that attention, averaged over the second half.

# %%
scores = heads.head_scores(model, ids)
induction = scores["induction"]
plt.figure(figsize=(3.2, 5.5))
plt.imshow(induction.tolist(), aspect="auto", vmin=0, vmax=1)
plt.xticks(range(9))
plt.xlabel("head")
plt.ylabel("layer")
plt.colorbar(label="induction score")
plt.show()

order = mx.argsort(-induction.reshape(-1)).tolist()
top = [divmod(i, 9) for i in order[:5]]
for layer, head in top:
    print(f"{layer}.{head}  {induction[layer, head].item():.2f}")

# %% [markdown]
# A few heads stand out, the best ones in the second half of the model. That fits the
# mechanism: an induction head looks for a position whose *previous* token is the current
# one, so some earlier head has to write down what the previous token was.

# %%
previous = scores["previous_token"]
best = [divmod(i, 9) for i in mx.argsort(-previous.reshape(-1))[:5].tolist()]
print("look at the previous token:", [(f"{a}.{b}", round(previous[a, b].item(), 2)) for a, b in best])

# %% [markdown]
# There are such heads, in earlier layers too. (That 16.0 feeds the induction heads is not
# shown by this. Path patching could.)
#
# The picture of one head, over the first sequence: the stripe lies `period - 1`
# positions behind the diagonal.

# %%
layer, head = top[0]
with model.trace(ids[0]):
    pattern = model.layers[layer].self_attn.pattern.save()
plt.figure(figsize=(3.5, 3))
plt.imshow(pattern[0, head].tolist(), cmap="Blues")
plt.title(f"head {layer}.{head}")
plt.xlabel("source")
plt.ylabel("destination")
plt.show()


# %% [markdown]
# ## Do they do it?
#
# Attention is not use. Silence the five heads, and, as a control, five random heads of
# the same layers.

# %%
def silenced(which):
    by_layer = {}
    for layer, head in which:
        by_layer.setdefault(layer, []).append(head)
    return {f"layers.{a}.attn.z": iv.on_heads(b, iv.zero_out) for a, b in by_layer.items()}


def others(seed):
    """As many heads of the same layers that are not among the top."""
    keys = mx.random.split(mx.random.key(seed), len(top))
    drawn = []
    for (layer, _), key in zip(top, keys):
        free = [h for h in range(9) if (layer, h) not in top + drawn]
        drawn.append((layer, free[mx.random.randint(0, len(free), key=key).item()]))
    return drawn


print("                          first half  second half")
print(f"nothing silenced              {first:6.2f}       {second:6.2f}")
a, b = halves(silenced(top))
print(f"five induction heads          {a:6.2f}       {b:6.2f}")
for seed in range(1 if SMALL else 3):
    a, b = halves(silenced(others(seed)))
    print(f"five others, same layers      {a:6.2f}       {b:6.2f}")

# %% [markdown]
# The first half, which cannot use them, hardly changes. The second half loses most of what
# it gained where the five go, and little where five others go. So these heads do it, on
# random tokens. They do not do all of it: even without them the second half is easier
# than the first, because weaker heads do the same. A score ranks heads. It does not draw a
# line between those that matter and those that do not. And random tokens are no
# language: what the heads do in a sentence is another question.
