# %% [markdown]
# # 1. Tracing and editing
#
# A forward pass computes many values on its way to the logits. A *trace* is one
# pass with every such value under a name. Inside the `with` you say which values
# to keep; they are computed together when the block ends.
#
# The model is SmolLM2-135M-Instruct: 30 layers, 9 heads in each, small enough for
# a laptop's CPU and weak enough to be wrong now and then.

# %%
import matplotlib.pyplot as plt
import mlx.core as mx

from mlxterp import InterpretableModel
from mlxterp import interventions as iv

plt.rcParams["figure.dpi"] = 70

model = InterpretableModel("demo")
prompt = "The Eiffel Tower is located in the city of"
model.to_str_tokens(prompt)

# %% [markdown]
# ## Read
#
# `.save()` keeps a value. What is not saved costs neither time nor memory.

# %%
with model.trace(prompt):
    resid = model.layers[3].output.save()
    pattern = model.layers[9].self_attn.pattern.save()
    logits = model.output.save()

print("residual stream behind layer 3", resid.shape)
print("attention pattern of layer 9  ", pattern.shape)
print("logits                        ", logits.shape)


# %%
def top(logits, k=5):
    """The k likeliest next tokens of the first row, with probabilities."""
    p = mx.softmax(logits[0, -1])
    best = mx.argsort(-p)[:k].tolist()
    return [(model.token_to_str(i), round(p[i].item(), 3)) for i in best]


top(logits)

# %% [markdown]
# The right answer leads by far. What follows it are pieces of other names, which is the
# right kind of word at least.
#
# Axes are `[batch, pos, d_model]` for the residual stream and
# `[batch, head, dest, src]` for patterns. A row of a pattern says where one position
# looks, and sums to 1.

# %%
rows = pattern.sum(axis=-1)
print("rows sum to 1:", mx.allclose(rows, mx.ones_like(rows), atol=1e-4).item())
print("looks ahead:  ", mx.abs(mx.triu(pattern[0], k=1)).max().item())

# %% [markdown]
# ## Names
#
# A site has several names: the checkpoint's own path, a short canonical one and
# TransformerLens'. They mean the same value. A name that means nothing is an error
# with the nearest names.

# %%
for name in ("layers.3.self_attn", "layers.3.attn_out", "blocks.3.hook_attn_out"):
    print(f"{name:24} is {model.engine.resolve(name)}")

try:
    model.engine.resolve("layers.3.attnn")
except KeyError as error:
    print(error)

# %% [markdown]
# ## Edit
#
# An intervention is a function from a value to its replacement, at a name. Here one
# MLP at a time is silenced: how likely is " Paris" without it?

# %%
paris = model.encode(" Paris")[0]


def p_paris(interventions=None):
    with model.trace(prompt, interventions=interventions):
        logits = model.output.save()
    return mx.softmax(logits[0, -1])[paris].item()


plain = p_paris()
layers = range(0, 30, 3)
without = [p_paris({f"layers.{i}.mlp": iv.zero_out}) for i in layers]

plt.figure(figsize=(6, 2.6))
plt.bar([str(i) for i in layers], without)
plt.axhline(plain, color="black", lw=1, label="unedited")
plt.xlabel("layer whose MLP is silenced")
plt.ylabel('probability of " Paris"')
plt.legend()
plt.show()
print("unedited", round(plain, 3), dict(zip(layers, [round(p, 3) for p in without])))

# %% [markdown]
# A bar far below the line says that the answer depends on that MLP *in this run*. It
# does not say that the fact is stored there: the first layer's MLP matters for nearly
# everything this model does. Bars above the line are no mistake either. Some
# parts speak against the answer.
#
# Interventions can be narrowed to positions, heads or neurons, and combined.

# %%
edits = {
    "layers.10.attn.z": iv.on_heads([7], iv.zero_out),
    "layers.{3..5}.mlp": iv.at_positions([-1], iv.scale(0.5)),
    "layers.12": iv.compose(iv.scale(0.9), iv.noise(0.1, seed=0)),
}
print("unedited", round(plain, 3), " edited", round(p_paris(edits), 3))

# %% [markdown]
# Or set a value inside the trace. What is read afterwards is behind the edit. This
# makes every head of layer 9 look at the first token only.

# %%
with model.trace(prompt):
    first = mx.zeros((1, 9, 10, 10))
    first[..., 0] = 1.0
    model.layers[9].self_attn.pattern = first
    edited = model.output.save()
top(edited, 3)

# %% [markdown]
# The answer is still there, even a little likelier. This layer's attention to other
# tokens is not what it hangs on.

# %% [markdown]
# ## Batches
#
# Prompts of different lengths share a batch. Shorter ones are padded behind their
# end, which no real position can see, so each row gives what it gives alone.

# %%
prompts = [prompt, "Two plus two is"]
with model.trace(prompts) as trace:
    logits = model.output.save()
with model.trace(prompts[1]):
    alone = model.output.save()
print("real positions of each row", trace.lengths)
n = trace.lengths[1]
print("same as alone:", mx.allclose(logits[1, :n], alone[0], atol=1e-2).item())

# %% [markdown]
# ## Gradients
#
# Values are `mx.array`s, so MLX differentiates through a pass. How does the logit of
# " Paris" change as one MLP's output is scaled, and does the slope hold for a small
# finite step?

# %%
def logit_of_paris(factor):
    with model.trace(prompt, interventions={"layers.20.mlp": lambda x: x * factor}) as t:
        pass
    return t.output[0, -1, paris]


slope = mx.grad(logit_of_paris)(mx.array(1.0)).item()
step = 0.01
up, down = logit_of_paris(mx.array(1 + step)), logit_of_paris(mx.array(1 - step))
print(f"gradient {slope:.3f}, finite difference {((up - down) / (2 * step)).item():.3f}")

# %% [markdown]
# ## When something is wrong
#
# An intervention that changes a shape, returns no array or makes a NaN is an error
# that names its site. Nothing is ignored in silence.

# %%
for edit in (lambda x: x[:, :1], lambda x: None, lambda x: x * mx.nan):
    try:
        with model.trace(prompt, interventions={"layers.4": edit}):
            model.output.save()
    except ValueError as error:
        print(type(error).__name__, "-", error)
