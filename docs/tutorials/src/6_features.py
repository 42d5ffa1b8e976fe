# %% [markdown]
# # 6. Reading a published SAE
#
# A sparse autoencoder (SAE) writes a value of the model as a sum of a few of many
# directions, its features. Published ones are read from a folder, a file or a hub id with a
# path in it, in whatever layout they have:
#
#     sae = SAE.load("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
#
# Nothing has to be downloaded here: a small one in SAELens' layout takes its place, whose
# five features are the directions that the names of five cities are read from. A trained one
# has thousands that nobody has named; all that follows is the same.

# %%
import json
import tempfile
from pathlib import Path

import mlx.core as mx

from mlxterp import SAE, InterpretableModel, UsageError, lens, metrics, sweeps
from mlxterp import interventions as iv

model = InterpretableModel("demo")
cities = [" Paris", " Rome", " London", " Berlin", " Madrid"]
layer = 25

ids = mx.array([model.encode(city)[0] for city in cities])
rows = model.model.embed.weight[ids].astype(mx.float32)  # tied to the unembedding
rows = rows - rows.mean(axis=0)
rows = rows / mx.linalg.norm(rows, axis=1, keepdims=True)
folder = Path(tempfile.mkdtemp()) / "cities"
folder.mkdir()
mx.save_safetensors(
    str(folder / "sae_weights.safetensors"),
    {"W_enc": mx.contiguous(rows.T), "b_enc": mx.zeros(5), "W_dec": rows, "b_dec": mx.zeros(576)},
)
(folder / "cfg.json").write_text(json.dumps({
    "architecture": "standard", "d_in": 576, "d_sae": 5, "dtype": "float32",
    "apply_b_dec_to_input": False, "normalize_activations": "none",
    "metadata": {"model_name": "demo", "hook_name": f"blocks.{layer}.hook_resid_post"},
}))

sae = SAE.load(folder)
print(sae)
print(sae.info["hook_in"], "is", sae.info["site_in"], "here")

# %% [markdown]
# ## What is active
#
# At the end of a prompt, and what each feature promotes: its decoder row through the final
# norm's gain and the unembedding. `features=` reads some features only; where they do not
# compete with each other the rest costs nothing.

# %%
for prompt in ("The capital of France is", "The capital of Italy is"):
    found = model.features(prompt, sae, top=2)
    for it in found.positions[-1].top:
        print(f"{prompt}: feature {it.feature} ({cities[it.feature].strip()}) {it.value:.1f}")
for it in sae.logits(model, [0, 1], top=4):
    print(it.feature, [model.tokenizer.decode([token.id]) for token in it.promoted])

# %% [markdown]
# ## Does it fit?
#
# The commonest mistake with an SAE is to read it where it was not trained: a layer off by one,
# another site, another model. Its features then look like features and mean nothing. `check_on`
# asks first how much of the value's variance it explains, and how many of its features are
# active; an SAE that explains less than nothing is refused with the likely cause. A dictionary
# of everything, both sides of each coordinate, fits; made fifty times too large it does not.

# %%
eye = mx.eye(576)
both = mx.concatenate([eye, -eye])
site = f"layers.{layer}.resid_post"
text = "The harbour lies at the mouth of the river, where two roads meet."
for factor in (1, 50):
    everything = SAE.from_arrays(
        mx.contiguous(both.T), mx.zeros(1152), factor * both, mx.zeros(576), site=site
    )
    try:
        model.attach_sae(everything, check_on=text)
        print(factor, "fits")
    except UsageError as error:
        print(factor, str(error)[:150])

# %% [markdown]
# ## Features as sites
#
# Attached, the features are a site like all others: `<site>.sae.acts`. With what the SAE
# misses added (`replace_with_error`) the model stays what it is, bit by bit, until a feature is
# edited. Here the feature of Paris is taken out.

# %%
exact = model.attach_sae(sae, mode="replace_with_error")
acts = f"{site}.sae.acts"
without = exact.edited({acts: iv.on_neurons([0], iv.zero_out)})
for name, handle in (("as it is", exact), ("without Paris", without)):
    found = lens(handle, "The capital of France is", layers=[29], positions=[-1], track=" Paris")
    print(f"{name:14} P( Paris) {found.track_probabilities[0, 0].item():.3f}")

# %% [markdown]
# Patching asks which feature makes the difference between two prompts. `attribution` says what
# each one adds to a logit directly, beside the bias and what the SAE misses.

# %%
sweep = sweeps.patch(
    exact, "The capital of France is", "The capital of Italy is", "logit_diff( Paris, Rome)",
    site="resid_post.sae.acts", by="neuron", layers=[layer],
)
for city, effect in zip(cities, sweep.effect.tolist()):
    print(f"{city:8} {effect:+.3f}")
parts = sae.attribution(model, "The capital of France is", metrics.logit(" Paris"))
for it in parts.parts:
    print(f"{cities[it.feature]:8} adds {it.value:+.2f} to the logit of Paris")
print(f"error {parts.error:+.2f}, all {parts.total:+.2f}")

# %% [markdown]
# ## How good is it?
#
# By SAELens' definitions: how much of the variance it explains, and how much of the loss that
# zeros in the site's place would cost its reconstruction recovers. Five directions cannot
# stand for the whole stream: less than nothing is explained, and zeros would do better.

# %%
texts = [text, "In the morning fishermen mend their nets, and boats bring timber and salt."]
everything = SAE.from_arrays(
    mx.contiguous(both.T), mx.full(1152, -0.5), both, mx.zeros(576), site=site
)
for name, it in (("five cities", sae), ("everything", everything)):
    score = it.evaluate(model, texts)
    print(f"{name:12} EV {score.explained_variance:.3f}  L0 {score.l0:.0f}  "
          f"cross-entropy {score.ce:.2f} -> {score.ce_sae:.2f}  recovered {score.ce_score:.2f}")
