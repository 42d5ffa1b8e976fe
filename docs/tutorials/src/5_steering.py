# %% [markdown]
# # 5. Steering
#
# Add a vector to the residual stream and the model says something else (Turner et al.,
# 2023). The vector here is the difference between the mean activations on happy and on
# sad sentences. Three questions matter: does more of it do more, does a random vector of the
# same length do the same, and what does it cost?

# %%
import os

import matplotlib.pyplot as plt
import mlx.core as mx

from mlxterp import InterpretableModel, get_activations

SMALL = "MLXTERP_TUTORIAL_SMALL" in os.environ  # a part of the work, for tests
plt.rcParams["figure.dpi"] = 70

model = InterpretableModel("demo")

# %% [markdown]
# ## The vector
#
# Pairs of sentences that differ in mood and in little else, so that all else
# cancels out of the difference.

# %%
happy = [
    "I love this film. It was a wonderful evening",
    "What a great day. Everything went well",
    "The food was delicious and the staff were kind",
    "She smiled because the news was good",
    "This is the best book I have ever read",
    "We are so happy with our new house",
]
sad = [
    "I hate this film. It was a terrible evening",
    "What an awful day. Everything went wrong",
    "The food was disgusting and the staff were rude",
    "She cried because the news was bad",
    "This is the worst book I have ever read",
    "We are so unhappy with our new house",
]
layer = 12
up = get_activations(model, happy, layers=[layer])[f"layer_{layer}"]
down = get_activations(model, sad, layers=[layer])[f"layer_{layer}"]
vector = up.mean(axis=0) - down.mean(axis=0)
print(f"length of the vector {mx.linalg.norm(vector).item():.1f}, "
      f"of the activations {mx.linalg.norm(up, axis=-1).mean().item():.1f}")

# %% [markdown]
# ## Does more do more?
#
# The measure is the mean logit of some good words less that of some bad ones, after
# beginnings that say nothing about either. None of these words or beginnings was used for
# the vector.

# %%
good = [model.encode(w)[0] for w in (" amazing", " beautiful", " perfect", " excellent", " fun")]
bad = [model.encode(w)[0] for w in (" boring", " ugly", " poor", " dreadful", " sick")]
beginnings = ["The concert last night was", "I think that the hotel is", "My new neighbour is"]


def mood(vector=None, factor=1.0):
    """Good words' logits less bad ones', the mean over the beginnings."""
    edits = {} if vector is None else model.steer(layer, vector, factor)
    with model.trace(beginnings, interventions=edits) as trace:
        out = model.output.save()
    ends = mx.stack([out[i, n - 1] for i, n in enumerate(trace.lengths)])
    return (ends[:, good].mean() - ends[:, bad].mean()).item()


noise = [mx.random.normal(vector.shape, key=mx.random.key(seed)) for seed in range(1 if SMALL else 3)]
noise = [it * (mx.linalg.norm(vector) / mx.linalg.norm(it)) for it in noise]
factors = [-2, 0, 2] if SMALL else [-8, -4, -2, -1, 0, 1, 2, 4, 8]
steered = [mood(vector, f) for f in factors]
random = [[mood(it, f) for f in factors] for it in noise]

plt.figure(figsize=(6, 3))
plt.plot(factors, steered, "o-", label="happy less sad")
for i, line in enumerate(random):
    plt.plot(factors, line, color="grey", lw=1, label="random, same length" if i == 0 else None)
plt.xlabel("factor")
plt.ylabel("good words less bad words (logit)")
plt.legend()
plt.show()
for f, value, *others in zip(factors, steered, *random):
    print(f"factor {f:3}   vector {value:6.2f}   random", [round(v, 2) for v in others])

# %% [markdown]
# ## What does it cost?
#
# A vector large enough to change every answer also breaks the language. The loss on
# a plain text tells how much.

# %%
plain_text = (
    "The train leaves the station at nine and reaches the coast two hours later. "
    "There is a short walk from there to the harbour, where the boats are."
)
ids = mx.array(model.encode(plain_text))


def loss(factor):
    with model.trace(plain_text, interventions=model.steer(layer, vector, factor)):
        out = model.output.save()
    logp = out[0] - mx.logsumexp(out[0], axis=-1, keepdims=True)
    return -mx.take_along_axis(logp[:-1], ids[1:, None], axis=-1).mean().item()


for f in factors:
    print(f"factor {f:3}   loss {loss(f):.2f} nats")


# %% [markdown]
# ## What does it write?
#
# The likeliest token, again and again, with the vector at every step.

# %%
def continued(prompt, factor, tokens=2 if SMALL else 10):
    ids = model.encode(prompt)
    for _ in range(tokens):
        with model.trace(ids, interventions=model.steer(layer, vector, factor)):
            out = model.output.save()
        ids.append(mx.argmax(out[0, -1]).item())
    return model.decode(ids)


for f in [2] if SMALL else [-4, -1, 0, 1, 2, 4]:
    print(f"{f:3}  {continued('I went to the concert and', f)!r}")

# %% [markdown]
# Read the three results together.
#
# - Between -1 and 2 a larger factor does more, in the direction of its sign. The random
#   vectors all lower the measure, whatever their sign. So the direction means something.
# - Beyond that the curve turns back. More is not more: the stream is pushed to where the
#   rest of the model has never been.
# - The loss says so, too. A factor of 1 costs little, 2 costs more than a nat, and at 4
#   the text is broken. Out there the random vectors move the measure as much, in both
#   directions, and no number says anything about mood.
# - The negative side is not the mirror of the positive one. The words written there are
#   not sad.
#
# Six pairs of sentences are few, the layer was picked by hand, and a 135M-parameter model
# has a coarse idea of mood. A claim about steering needs more sentences, a sweep over
# layers, and test sentences that nobody chose the layer on.
