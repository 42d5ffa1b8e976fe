# %% [markdown]
# # 8. The Jacobian lens
#
# The logit lens reads an inner layer as if it were the last one. The Jacobian lens first asks what
# the layers in between make of it: to first order, and on average over a text, a change h of layer
# l becomes J h behind the last layer. Each token then has a *direction* in every layer, the row of
# W_U J along which its logit grows.
#
# mlxterp computes J exactly, with one walk down the model for all rows.

# %%
import os
import tempfile
from pathlib import Path

import mlx.core as mx

from mlxterp import InterpretableModel, JacobianLens, jacobian_space, lens_directions, local_lens

SMALL = "MLXTERP_TUTORIAL_SMALL" in os.environ  # a part of the work, for tests

model = InterpretableModel("demo")
last = len(model.layers) - 1
prompt = "The Eiffel Tower is located in the city of"

# What it is averaged over: in earnest some hundred passages of 128 tokens.
texts = [
    "Paris is the capital of France, and Rome is the capital of Italy. Both cities lie on a river.",
    "The train from Berlin arrived an hour late, so we missed the last boat and slept at the port.",
    "Water boils at a lower temperature in the mountains, because the air above it weighs less.",
    "She opened the letter, read it twice, and put it back into the drawer without saying a word.",
][: 1 if SMALL else 4]

# %% [markdown]
# ## Directions of two tokens
#
# A whole J takes as many rows as the model is wide. Whoever wants the directions of two tokens
# walks down with two.

# %%
found = lens_directions(model, [" Paris", " Rome"], texts, skip=4)
for layer in (5, 15, 25):
    paris, rome = found[layer]
    cosine = (paris @ rome / mx.linalg.norm(paris) / mx.linalg.norm(rome)).item()
    print(f"layer {layer}: cosine of the two directions {cosine:.2f}")

# %% [markdown]
# ## This prompt's own directions
#
# J is a mean over texts. `local_lens` has the exact directions of one prompt at each of its
# positions: the cosine between the two says how far the mean can be trusted here.

# %%
own = local_lens(model, prompt, [" Paris"], layers=[5, 15, 25])
for layer in own.layers:
    mean = found[layer][0]
    cosines = [
        (it @ mean / mx.linalg.norm(it) / mx.linalg.norm(mean)).item()
        for it in own.directions[layer][0]
    ]
    print(f"layer {layer}: " + " ".join(f"{c:5.2f}" for c in cosines))

# %% [markdown]
# ## A whole lens
#
# With J itself any value can be read, not only by tokens chosen before. Here of two late layers,
# which few texts and seconds are enough for; `checkpoint=` and `resume=` are for long fits, and
# published lenses load by `JacobianLens.load("lens.pt")`.

# %%
layers = [last - 2] if SMALL else [last - 6, last - 3]
lens = JacobianLens.fit(model, texts[:2], skip=4, layers=layers)
through = lens.readout(model, prompt, layers=layers, positions=[-1], top_k=3)
plain = model.logit_lens(prompt, top_k=3, position=-1)
for row, layer in enumerate(layers):
    print(f"layer {layer}")
    print("  logit lens   ", [text for _, _, text in plain[layer][0]])
    print("  Jacobian lens", [model.to_str_tokens([i])[0] for i in through.ids[row, 0].tolist()])

# %% [markdown]
# ## Editing along directions
#
# A swap exchanges a value's coordinates along two directions and leaves everything else as it is.
# If they are what the model goes by, ' Rome' takes the place of ' Paris'.

# %%
tokens = {name: model.encode(name)[0] for name in (" Paris", " Rome")}


def log_probs(edits=None):
    with model.trace(prompt, interventions=edits or {}):
        logits = model.output.save()
    values = logits[0, -1] - mx.logsumexp(logits[0, -1])
    return {name: round(values[i].item(), 2) for name, i in tokens.items()}


print("as it is       ", log_probs())
for layer in layers:
    print(f"swapped at {layer:3} ", log_probs(lens.swap(model, " Paris", " Rome", [layer])))

# %% [markdown]
# ## What is in a value
#
# J-space: each position's value as a sum of few directions with coefficients of at least 0. They
# say what a value speaks for; most of its length lies elsewhere, and the share they explain means
# something only beside that of random directions, which `controls=` decomposes as well.

# %%
layer = layers[-1]
space = jacobian_space(model, prompt, lens, layers=[layer], k=4, controls=0)
for position, token in enumerate(model.to_str_tokens(prompt)):
    code = space[layer, position]
    words = [model.to_str_tokens([i])[0] for i in code.tokens]
    print(f"{token!r:10} {code.explained[-1]:5.1%}  {words}")

# %%
here = Path(tempfile.mkdtemp()) / "lens.safetensors"
lens.save(here)
print(JacobianLens.load(here))
