# %% [markdown]
# # 7. Training a sparse autoencoder
#
# A sparse autoencoder (SAE) learns directions by which a value of the model can be written as
# a sum of a few. Nobody tells it what they should mean: here one is trained on a layer of
# SmolLM2, and three of its features are found that a person can give a name.
#
# Real ones see millions of tokens of all kinds; `model.train_sae(layer, "book.txt")` or
# `mlxterp sae train` do that. This one sees a few thousand that talk of few things, so that it
# takes seconds.

# %%
import random
import tempfile
from collections import Counter
from pathlib import Path

import mlxterp
from mlxterp import SAE, InterpretableModel, feature_dashboards, train_sae

model = InterpretableModel("demo")
draw = random.Random(0)
months = "January February March April June July August September October November".split()
colours = "red blue green yellow black white purple orange brown grey".split()
places = "Paris London Rome Berlin Madrid Vienna Dublin Athens Oslo Prague".split()
animals = "dog cat horse cow sheep goat rabbit fox bear wolf".split()
names = "Anna Peter Maria Paul Laura Thomas Julia Martin Emma David".split()


def sentence() -> str:
    month, colour, place = draw.choice(months), draw.choice(colours), draw.choice(places)
    animal, name, year = draw.choice(animals), draw.choice(names), draw.randint(1900, 2020)
    return draw.choice([
        f"In {month} {year} {name} moved to {place} with a {colour} {animal}.",
        f"The {animal} slept under a {colour} blanket until {month}.",
        f"{name} painted the door {colour} and sold it in {place} for {year} pounds.",
        f"Every {month} the people of {place} feed a {colour} {animal}.",
        f"A {animal} from {place} won the prize in {month} {year}, said {name}.",
    ])


texts = [" ".join(sentence() for _ in range(5)) for _ in range(60)]
print(texts[0])

# %% [markdown]
# ## Rows to train on
#
# The values of one site at every position of the text, written to a folder once. `train_sae`
# takes a model and a text, too, and then stores nothing.

# %%
place = Path(tempfile.mkdtemp())
site = "layers.4.resid_post"
store = mlxterp.collect(model, texts, site, store=place / "rows")
print(store)

# %% [markdown]
# ## Training
#
# `batch_topk` keeps the largest activations of a batch, here 8 for each row in the mean, and
# learns a threshold that takes their place afterwards. The folder is what SAELens loads.

# %%
made = train_sae(
    store, place / "sae", recipe="batch_topk", features=256, k=8,
    rows_per_step=256, tokens=40_000, learning_rate=2e-3, seed=1,
)
sae = SAE.load(place / "sae")
trained = made["trained"]
print(f"explained variance {trained['explained_variance']:.2f}, "
      f"{trained['l0']:.1f} active of {made['features']}, {trained['dead_share']:.0%} dead")

# %% [markdown]
# ## What the features are
#
# One pass over the text gathers of every feature where it is strongest, how often it is active,
# what it promotes and what goes with it. What a person can name has strong examples with
# something in common: here those are listed in which a few different words come up again and
# again.

# %%
found = feature_dashboards(model, sae, prompts=texts, features="all", top=30, per_interval=4)


def word(example) -> str:
    return model.to_str_tokens([example.ids[example.at]])[0].strip()


listed = 0
for feature in found.features:
    strongest = Counter(word(it) for it in feature.top)
    if len(feature.top) == 30 and 3 <= len(strongest) <= 8 and listed < 12:
        listed += 1
        print(feature.feature, f"{feature.active / found.tokens:.1%}", dict(strongest))

# %% [markdown]
# ## Three names
#
# A name is a claim: the feature is active at these words and at no others. The strongest
# examples are easily explained; those of all intervals of activations are the test. For each
# name the feature that fits best, and the share of its examples that are one of the words.

# %%
claims = {"months": months, "colours": colours, "animals": animals, "places": places,
          "names": names, "years": [str(digit) for digit in range(10)]}


def share(examples, words) -> float:
    return sum(word(it) in words for it in examples) / max(1, len(examples))


def kinds(feature, words) -> int:
    return len({word(it) for it in feature.top} & set(words))


named = {}
for name, words in claims.items():
    several = [it for it in found.features if len(it.top) == 30 and kinds(it, words) > 2]
    if several:
        named[name] = max(several, key=lambda it: (share(it.top, words), kinds(it, words)))
order = sorted(named, key=lambda name: -share(named[name].top, claims[name]))
for name in order[:3]:
    it = named[name]
    drawn = [example for part in it.intervals for example in part.examples]
    print(f"feature {it.feature}: {name}; strongest {share(it.top, claims[name]):.0%}, "
          f"all intervals {share(drawn, claims[name]):.0%}")
    for example in it.top[:2]:
        tokens = model.to_str_tokens(example.ids)
        before, behind = "".join(tokens[: example.at]), "".join(tokens[example.at + 1 :])
        print(f"  {example.value:6.2f} {before[-48:]}[{tokens[example.at]}]{behind[:24]}")

# %% [markdown]
# `found.to_html()` is a page of all of them, `found.write_pages(model, "features")` one for each.
# In the shell: `mlxterp sae dashboards demo --sae sae --text book.txt -o features.html`.

# %%
found.write_pages(model, place / "features")
print(len(list((place / "features").iterdir())), "pages")
