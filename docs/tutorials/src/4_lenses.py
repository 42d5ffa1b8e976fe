# %% [markdown]
# # 4. The logit lens and the tuned lens
#
# Every layer adds to the residual stream, and the last norm and the unembedding turn
# it into logits. The *logit lens* (nostalgebraist, 2020) applies these two at every
# layer: what would the model say if it stopped here?

# %%
import os

import matplotlib.pyplot as plt
import mlx.core as mx

from mlxterp import InterpretableModel, lenses

SMALL = "MLXTERP_TUTORIAL_SMALL" in os.environ  # a part of the work, for tests
plt.rcParams["figure.dpi"] = 70

model = InterpretableModel("demo")
prompt = "The Eiffel Tower is located in the city of"

# %% [markdown]
# ## The logit lens
#
# `model.logit_lens` gives, for each layer and position, the likeliest tokens. Here is
# the last position.

# %%
found = model.logit_lens(prompt, top_k=3, position=-1)
for layer in [0, 5, 10, 15, 20, *range(23, 30)]:
    print(f"{layer:3}", [text for _, _, text in found[layer][0]])

# %% [markdown]
# Early layers say nothing readable. Only near the end a city appears. `lenses.lens`
# gives the same as arrays, and follows one token: its probability, and how many tokens
# are ahead of it.

# %%
lens = lenses.lens(model, prompt, track=" Paris")
at_end = lens.track_probabilities[:, -1]
ranks = lens.ranks[:, -1]
plt.figure(figsize=(6, 2.6))
plt.semilogy([r + 1 for r in ranks.tolist()])
plt.xlabel("layer")
plt.ylabel('rank of " Paris", 1 the best')
plt.show()
print("probability in the last layers", [round(p, 3) for p in at_end[-5:].tolist()])

# %% [markdown]
# The last row of a lens is the model itself. That is a check worth making.

# %%
last = mx.argmax(model(model.to_tokens(prompt))[0], axis=-1)
print("last layer is the model:", mx.array_equal(lens.ids[-1, :, 0], last).item())

# %% [markdown]
# ## What the logit lens gets wrong
#
# Layer 5 may know a lot and still not speak the last layer's language. The *tuned
# lens* (Belrose et al., 2023) learns for each layer an affine map into that language.
# It is trained to say what the model will say at the end, not what is true: it finds
# what can be read from a layer, and cannot make the model know more.
#
# Training here is a demonstration: ten steps on pieces of sixteen tokens. Where nothing is
# said it is 250 steps of 2,048 tokens.

# %%
text = (
    "The river rises in the hills above the town and runs south for eighty miles "
    "before it meets the sea. In spring, when the snow melts, it floods the meadows "
    "on both banks, and the farmers keep their sheep on higher ground until May. An "
    "old bridge of seven arches carries the road to the market. People say that it "
    "was built by monks, who sold fish and salt there. Today most of the traffic "
    "crosses a new bridge of steel a mile downstream, and the old one is left to "
    "walkers and to boys who fish from its walls. The mill beside it has not ground "
    "any corn for a hundred years. Its wheel was sold for iron during the war, and "
    "the building is now a small museum with a cafe on the ground floor. In summer "
    "visitors sit on the terrace, drink tea, and watch the ducks. In winter the "
    "museum is closed, the river is grey, and the only sound is the water falling "
    "over the weir. The children of the village learn to swim in the pool below it."
)
held_out = (
    "The library opened in the spring of that year. It had two rooms, one for reading "
    "and one for the books, and a clock above the door that was always late. On "
    "Saturdays the teacher came with her class, and each child was allowed to take one "
    "book home for a week."
)
steps, length = (1, 10) if SMALL else (10, 16)
losses = []
tuned = model.train_tuned_lens(
    [text],
    num_steps=steps,
    max_seq_len=length,
    learning_rate=0.3,  # less than the usual 1: the steps are few and the pieces short
    verbose=False,
    callback=lambda step, loss: losses.append(loss),
)
print("KL divergence in nats, the mean over layers, at each step:")
print([round(value, 2) for value in losses])


# %% [markdown]
# ## Is it better?
#
# On text that it was not trained on: the KL divergence from what the model says to what
# the lens says. Less is better, 0 is the model itself.

# %%
def log_softmax(x):
    return x - mx.logsumexp(x, axis=-1, keepdims=True)


layers = [5, 20] if SMALL else [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 29]
with model.trace(held_out):
    hidden = {i: model.layers[i].output.save() for i in layers}
    target = log_softmax(model.output.save())


def kl(state):
    said = log_softmax(model.model.unembed(model.model.ln_final(state)))
    return (mx.exp(target) * (target - said)).sum(axis=-1).mean().item()


plain = [kl(hidden[i]) for i in layers]
ours = [kl(tuned(hidden[i], i)) for i in layers]
plt.figure(figsize=(6, 2.8))
plt.plot(layers, plain, "o-", label="logit lens")
plt.plot(layers, ours, "o-", label="tuned lens")
plt.xlabel("layer")
plt.ylabel("KL divergence in nats")
plt.ylim(bottom=0)
plt.legend()
plt.show()
for layer, a, b in zip(layers, plain, ours):
    print(f"layer {layer:2}  logit lens {a:6.2f}  tuned lens {b:6.2f}")

# %% [markdown]
# The logit lens gets *worse* up to the middle of the model: there the stream is farthest
# from the last layer's language, and the gain of the tuned lens is largest. The last layer
# needs no translator, since its lens is the model.
#
# Several nats are still a lot. After so little training a lens has mostly learnt which tokens
# are frequent in such text. That brings it nearer to the model on average, and says nothing yet
# about one prompt:

# %%
first = model.logit_lens(prompt, layers=layers, position=-1)
second = model.tuned_lens(prompt, tuned, layers=layers, position=-1)
for layer in layers:
    print(f"{layer:3}  logit lens {first[layer][0][0][2]!r:16} tuned lens {second[layer][0][0][2]!r}")

# %% [markdown]
# Read the right column with that in mind. What the tuned lens says in the first half of
# the model is noise. Near the end it can be ahead of the logit lens: what stands there as
# a comma is nearer to the answer than it looks. To draw a conclusion from a tuned lens,
# train it for longer and look at the curve on held-out text first, as here.
