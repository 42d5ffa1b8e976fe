"""`model.generate` of a wrapped module: as mlx-lm decodes it, and as the native
model of the same folder, edits, saved values and all."""

import mlx.core as mx
import numpy as np
import pytest
from families import build
from mlx_lm.generate import generate_step
from mlxterp import InterpretableModel, PromptCache, UsageError
from mlxterp import interventions as iv
from test_two_engines import FOLDERS, pair


PROMPTS = [[3, 4, 5, 6, 7], [9, 8]]
EDITS = {
    "scale": ("layers.1.resid_post", iv.scale(0.4)),
    "last": ("layers.1.mlp_out", iv.at_positions(-1, iv.scale(-2.0))),
    "heads": ("layers.0.self_attn.z", iv.on_heads([1], iv.zero_out)),
    "noise": ("layers.1.resid_post", iv.on_prompts([1], iv.noise(0.5, seed=2))),
    "own": ("layers.0.attn_out", lambda x: x * 0.5),
    "pattern": ("layers.1.self_attn.pattern", iv.scale(0.7)),
}


class Letters:
    """A tokenizer of bytes, one of whose ids ends a text. As transformers', it
    writes U+FFFD for what is not a character yet."""

    eos_token_id = 0
    vocab_size = 96

    def encode(self, text, add_special_tokens=True):
        return [ord(it) - 32 for it in text]

    def decode(self, ids, skip_special_tokens=False):
        own = {91: 0xC3, 92: 0xA9}
        return bytes(own.get(i, i + 32) for i in ids).decode(errors="replace")


@pytest.fixture(scope="module")
def models():
    return pair(FOLDERS / "llama-gqa")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "mamba2", "deepseek_v3"])
def test_greedy_is_mlx_lms(family):
    module = build(family)
    g = InterpretableModel(module).generate(PROMPTS, 12, ends=False)
    for prompt, ids in zip(PROMPTS, g.ids, strict=True):
        step = generate_step(mx.array(prompt), module, max_tokens=12)
        assert ids == [int(token) for token, _ in step]


@pytest.mark.parametrize("when", ["prompt", "generated", "all", "step:2", "steps:1..3"])
@pytest.mark.parametrize("kind", EDITS)
def test_edits_are_the_native_models(models, kind, when):
    site, edit = EDITS[kind]
    made = []
    for model in models:
        sites = ["layers.0.resid_post", "layers.1.self_attn.scores"]
        how = {"when": when, "save": sites, "ends": False}
        made.append(model.generate(PROMPTS, 6, {site: edit}, **how))
    assert made[0].ids == made[1].ids and made[0].lengths == made[1].lengths
    for site in sites:
        one, two = (
            np.array(it.saved[model.engine.resolve(site)])
            for it, model in zip(made, models, strict=True)
        )
        assert one.shape == two.shape
        seen = np.isfinite(one) & np.isfinite(two) & (two > -1e30)
        assert seen.mean() > 0.3
        assert np.abs(one[seen] - two[seen]).max() < 1e-4
    log_probs = [
        [token.log_prob for text in it.texts for token in text.tokens] for it in made
    ]
    assert len(log_probs[0]) == 12
    np.testing.assert_allclose(*log_probs, atol=1e-4)


@pytest.mark.parametrize("site", ["layers.1.mlp", "layers.1.self_attn.q_proj", "output"])
@pytest.mark.parametrize("stands", [False, True])
def test_an_edit_of_the_prompt_is_that_of_a_trace(models, site, stands):
    edit = {site: iv.noise(0.3, seed=4)}
    for model in models:
        own = model.edited(edit) if stands else model
        g = own.generate(PROMPTS[:1], 1, None if stands else edit, save="output")
        with model.trace(PROMPTS[:1], interventions=edit):
            logits = model.output.save()
        np.testing.assert_allclose(*g.saved.values(), logits, atol=1e-5)


def test_standing_edits_and_steps_and_draws(models):
    standing = {"layers.1.resid_post": iv.during("steps:1..2", iv.scale(-1.0))}
    how = {"temperature": 0.8, "seed": [1, 2], "repetition_penalty": 1.3, "ends": False}
    made = []
    for model in models:
        g = model.edited(standing).generate(PROMPTS, 5, save="layers.1.resid_post", **how)
        seen = [step["layers.1.resid_post"].shape for step in g]
        assert [shape[:2] for shape in seen] == [(2, 5)] + [(2, 1)] * 4
        made.append(g)
    assert made[0].ids == made[1].ids
    plain = models[1].generate(PROMPTS, 5, **how)
    assert plain.ids != made[1].ids


def test_a_text_ends_where_the_tokenizer_says_and_at_a_stop():
    said = [4, 91, 92, 5, 0, 7]

    def forced(logits):
        n = logits.shape[1]
        ids = mx.array([said[min(max(i - 1, 0), 5)] for i in range(n)])
        return mx.where(mx.arange(96) == ids[:, None], 50.0, 0.0)[None]

    model = InterpretableModel(build("llama"), Letters())
    site = model.engine.resolve("output")
    g = model.generate("ab", 6, {site: forced})
    assert g.ids == said[:5] and g.finish == "end_of_text"
    g = model.generate("ab", 6, {site: forced}, stop="%")
    assert g.ids == said[:4] and g.finish == "stop" and "%" not in g.text
    g = model.generate("ab", 6, {site: forced}, ends=False)
    assert g.ids == said and g.finish == "length"
    steps = [step.text[0] for step in model.generate("ab", 6, {site: forced}, ends=False)]
    assert steps[1:3] == ["", "é"]
    assert "".join(steps) == g.text


def test_what_a_wrapped_module_cannot_do_is_said(models):
    with pytest.raises(UsageError, match="keeps no cache"):
        models[1].generate(PROMPTS, 2, reuse=PromptCache())
    with pytest.raises(UsageError, match="no tokenizer"):
        models[1].generate(PROMPTS, 2, stop="a")

    class Other(type(models[1].model)):
        def __call__(self, x, cache=None):
            return super().__call__(x, cache)[:, -1]

    other = build("llama")
    other.__class__ = Other
    with pytest.raises(UsageError, match="generated from logits"):
        InterpretableModel(other).generate(PROMPTS, 2).run()
