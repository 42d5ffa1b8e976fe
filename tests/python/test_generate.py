"""`model.generate`: the same as the shell's, step by step, edited and saved."""

import json
import subprocess
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxterp import InterpretableModel, PromptCache, UsageError, train_probe
from mlxterp import interventions as iv
from mlxterp.errors import UnknownNameError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/parity/families/llama-gqa"
MLXTERP = ROOT / "build/bin/mlxterp"
PROMPTS = [[3, 4, 5, 6, 7], [9, 8]]


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(str(FOLDER))


def greedy(model, ids, n, edits=None):
    """Every position again for each token, through traces."""
    ids = list(ids)
    for _ in range(n):
        with model.trace([ids], interventions=edits) as t:
            logits = model.output.save()
        ids.append(int(mx.argmax(logits[0, t.lengths[0] - 1]).item()))
    return ids


def test_greedy_is_what_traces_say(model):
    g = model.generate(PROMPTS, 6, ends=False)
    for prompt, ids in zip(PROMPTS, g.ids):
        assert prompt + ids == greedy(model, prompt, 6)
    assert g.finish == ["length", "length"]


def test_steps_and_saved_values_agree(model):
    g = model.generate(PROMPTS, 5, ends=False, save=["layers.*.resid_post", "layers.0.attn.pattern"])
    seen = []
    for step in g:
        assert step.prompts == [0, 1]
        seen.append(step["layers.1.resid_post"])
    assert [it.shape[1] for it in seen] == [5, 1, 1, 1, 1]
    whole = g.saved["layers.1.resid_post"]
    assert g.lengths == [9, 6] and whole.shape[:2] == (2, 9)
    ids = PROMPTS[0] + g.ids[0][:-1]
    with model.trace([ids]):
        wanted = model["layers.1.resid_post"].save()
        pattern = model["layers.0.attn.pattern"].save()
    np.testing.assert_allclose(whole[0], wanted[0], atol=1e-5)
    np.testing.assert_allclose(g.saved["layers.0.attn.pattern"][0], pattern[0], atol=1e-6)
    assert not np.any(np.array(whole[1, 6:]))
    step = next(iter(g2 := model.generate(PROMPTS, 6, ends=False, save="logits")))
    g2.run()
    with pytest.raises(UsageError, match="step 0 is over"):
        step["logits"]


@pytest.mark.parametrize("when", ["prompt", "generated", "all", "step:2", "steps:1..3"])
def test_when_is_the_same_with_a_cache_and_without(model, when):
    edit = {"layers.1.mlp_out": iv.compose(iv.scale(0.2), iv.noise(0.3, seed=5))}
    made = [
        model.generate(PROMPTS, 8, edit, when=when, ends=False, save="logits", cache=cache)
        for cache in (True, False)
    ]
    assert made[0].ids == made[1].ids
    a, b = (np.array(it.saved["logits"]) for it in made)
    assert a.shape == b.shape and np.abs(a - b).max() < 1e-4
    plain = model.generate(PROMPTS, 8, ends=False, save="logits")
    moved = np.abs(np.array(plain.saved["logits"])[:, :2] - a[:, :2]).max()
    assert (moved > 1e-3) == (when in ("prompt", "all"))


@pytest.mark.parametrize("when", ["prompt", "generated", "all", "step:2"])
@pytest.mark.parametrize("prompts", [[0], [1], [0, 1], None])
def test_selectors_inside_each_other_mean_the_same(model, when, prompts):
    rows = [*PROMPTS, [5, 5, 1]]
    inner = iv.at_positions([0, -1, 6], iv.compose(iv.scale(-1.5), iv.noise(0.2, seed=3)))
    edit = inner if prompts is None else iv.on_prompts(prompts, inner)
    how = {"when": when, "ends": False, "save": "logits"}
    edits = {"layers.1.mlp_out": edit}
    made = [model.generate(rows, 6, edits, cache=cache, **how) for cache in (True, False)]
    assert made[0].ids == made[1].ids
    a, b = (np.array(it.saved["logits"]) for it in made)
    assert a.shape == b.shape == (3, 10, a.shape[2]) and np.abs(a - b).max() < 1e-4
    for i, row in enumerate(rows):
        own = inner if prompts is None or i in prompts else iv.scale(1)
        alone = model.generate([row], 6, {"layers.1.mlp_out": own}, **how)
        assert alone.ids == made[0].ids[i]


def test_intervention_tokens_are_steps(model):
    edit = {"layers.1.mlp_out": iv.scale(-1.0)}
    a = model.generate(PROMPTS, 6, edit, intervention_tokens=[1, 2], ends=False)
    b = model.generate(PROMPTS, 6, edit, when="steps:1..2", ends=False)
    assert a.ids == b.ids
    with pytest.raises(UsageError, match="say the same"):
        model.generate(PROMPTS, 2, edit, [1], when="prompt")


def test_functions_see_steps_and_offsets(model):
    seen = []

    def look(x, at):
        seen.append((at.step, at.offset, x.shape[1]))
        return x

    model.generate([PROMPTS[0]], 3, {"layers.0.mlp_out": look}, ends=False).run()
    assert seen == [(0, 0, 5), (1, 5, 1), (2, 6, 1)]


def test_the_shell_says_the_same(model):
    edit = "layers.1.mlp_out=during(steps:1..2, scale(-1))"
    args = ["generate", str(FOLDER), "--ids", "3,4,5,6,7", "--max-tokens", "6", "--json"]
    said = json.loads(
        subprocess.run(
            [MLXTERP, *args, "--edit", edit], check=True, capture_output=True
        ).stdout
    )
    g = model.generate(
        [PROMPTS[0]], 6, {"layers.1.mlp_out": iv.during("steps:1..2", iv.scale(-1))}
    )
    assert [token["id"] for token in said["tokens"]] == g.ids
    np.testing.assert_allclose(
        [token["log_prob"] for token in said["tokens"]],
        [token.log_prob for token in g.texts[0].tokens],
        atol=1e-5,
    )
    assert said["prompt_tokens"] == 5 and said["finish"] == g.finish


def test_seeds_belong_to_prompts(model):
    how = {"temperature": 1.5, "ends": False, "max_tokens": 6}
    both = model.generate(PROMPTS, seed=[4, 9], **how)
    alone = [model.generate([p], seed=s, **how).ids for p, s in zip(PROMPTS, (4, 9))]
    turned = model.generate(PROMPTS[::-1], seed=[9, 4], **how)
    assert both.ids == alone == turned.ids[::-1]
    other = [model.generate([PROMPTS[0]], seed=s, **how).ids for s in range(5)]
    assert len({tuple(ids) for ids in other}) > 1


def test_forced_tokens_are_a_trace_of_them(model):
    g = model.generate([PROMPTS[0]], forced=[[1, 2, 3]], save="logits")
    ids = [*PROMPTS[0], 1, 2]
    with model.trace([ids]):
        logits = model.output.save()
    np.testing.assert_allclose(g.saved["logits"], logits, atol=1e-4)
    log_probs = np.array(logits[0] - mx.logsumexp(logits[0], -1, keepdims=True))
    wanted = [log_probs[4, 1], log_probs[5, 2], log_probs[6, 3]]
    got = [token.log_prob for token in g.texts[0].tokens]
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert g.ids == [1, 2, 3]


def test_what_cannot_be_is_refused(model):
    with pytest.raises(UsageError, match="max_tokens"):
        model.generate([PROMPTS[0]], 0)
    with pytest.raises(UsageError, match="temperature"):
        model.generate([PROMPTS[0]], top_k=3)
    with pytest.raises(UsageError, match="2 seeds for 1"):
        model.generate([PROMPTS[0]], seed=[1, 2])
    for seed in (-1, 2**64, [-1], 0.5):
        with pytest.raises(UsageError, match="seed is"):
            model.generate([PROMPTS[0]], temperature=1, seed=seed)
    with pytest.raises(UsageError, match="no continuation"):
        model.generate([PROMPTS[0]], forced=[])
    with pytest.raises(UsageError, match="give some"):
        model.generate([PROMPTS[0]], 2, when="prompt")
    with pytest.raises(UsageError, match="not one of prompt"):
        model.generate([PROMPTS[0]], 2, {"layers.0": iv.zero_out}, when="later")
    with pytest.raises(UnknownNameError):
        model.generate([PROMPTS[0]], save="layers.0.nothing")
    with pytest.raises(UsageError, match="more than the model's context"):
        model.generate([[1] * 100_000])
    with pytest.raises(UsageError, match="this pass generates nothing"):
        model.edited({"layers.0": iv.during("generated", iv.zero_out)})([PROMPTS[0]])


def test_a_beginning_is_reused_with_its_edits_alone(model):
    cache = PromptCache()
    half, other = iv.scale(0.5), iv.scale(-1.0)
    turn = [*PROMPTS[0], 1, 2]
    for edits in ({}, {"layers.1.mlp_out": half}, {"layers.1.mlp_out": other}) * 2:
        for prompt in (PROMPTS[0], turn):
            g = model.generate([prompt], 4, edits, ends=False, reuse=cache)
            plain = model.generate([prompt], 4, edits, ends=False, cache=False)
            assert g.ids == plain.ids
    assert g.texts[0].reused == len(turn) - 1
    seen = model.generate([turn], 2, {"layers.1.mlp_out": lambda x: x}, reuse=cache)
    assert seen.texts[0].reused == 0


def test_other_weights_begin_anew():
    model, cache = InterpretableModel(str(FOLDER)), PromptCache()
    model.generate([PROMPTS[0]], 2, ends=False, reuse=cache).run()
    up = model.model.layers[0].mlp.up_proj
    up.update({"weight": -3 * up.weight})
    g = model.generate([PROMPTS[0]], 4, ends=False, reuse=cache)
    plain = model.generate([PROMPTS[0]], 4, ends=False, cache=False)
    assert g.ids == plain.ids and g.texts[0].reused == 0
    again = model.generate([PROMPTS[0]], 4, ends=False, reuse=cache)
    assert again.ids == plain.ids and again.texts[0].reused == len(PROMPTS[0]) - 1


def test_a_forced_text_runs_on_behind_its_ends():
    demo = InterpretableModel("demo")
    end = demo.tokenizer.eos_token_id
    g = demo.generate("Hello", forced=[[end, end, 504]])
    assert g.ids == [end, end, 504] and g.finish == "length"
    with pytest.raises(UsageError, match="leave `stop` out"):
        demo.generate("Hello", forced=[[504]], stop=" x")
    assert len(demo.generate("Hello", 2, forced=[[504] * 5]).ids) == 5


def test_a_forced_text_beyond_the_context_is_refused(model):
    with pytest.raises(UsageError, match="more than the model's context"):
        model.generate([PROMPTS[0]], forced=[[1] * 100_000])


def test_probes_read_what_is_generated(model):
    rng = np.random.default_rng(3)
    with model.trace([PROMPTS[0]]):
        width = model["layers.1.resid_post"].save()
    rows = mx.array(rng.normal(size=(40, width.shape[-1])).astype(np.float32))
    site = "layers.1.resid_post"
    probe = train_probe(rows, np.arange(40) % 2, folds=0, site=site).probe
    g = model.generate(PROMPTS, 5, ends=False, probes=[probe])
    steps = [step.probes[0] for step in g]
    assert [it.shape for it in steps] == [(2, 5), *[(2, 1)] * 4]
    (said,) = g.probes
    assert said.shape == (2, 9) and g.lengths == [9, 6]
    for i, prompt in enumerate(PROMPTS):
        ids = prompt + g.ids[i][:-1]
        with model.trace([ids]):
            x = model[site].save()
        np.testing.assert_allclose(said[i, : len(ids)], probe(x)[0], atol=1e-4)
    assert np.isnan(np.array(said[1, 6:])).all()
    np.testing.assert_allclose(steps[2][:, 0], [said[0, 6], said[1, 3]], atol=1e-6)
    narrow = train_probe(rows[:, :5], np.arange(40) % 2, folds=0, site=site).probe
    with pytest.raises(UsageError, match="5 numbers"):
        model.generate(PROMPTS, 5, probes=[narrow])
    nowhere = train_probe(rows, np.arange(40) % 2, folds=0).probe
    with pytest.raises(UsageError, match="site"):
        model.generate(PROMPTS, 5, probes=[nowhere])


def test_a_row_that_ends_keeps_its_own_values():
    # The next step of both is on its way by then.
    demo, site = InterpretableModel("demo"), "layers.29.resid_post"
    prompts = ["The capital of France is", "One, two, three,"]
    g = demo.generate(prompts, max_tokens=6, stop=[" Paris"], save=[site])
    assert [len(ids) for ids in g.ids] == [1, 6]
    saved, compared = np.array(g.saved[site]), 0
    for row, (prompt, ids) in enumerate(zip(prompts, g.ids)):
        whole = [*demo.encode(prompt), *ids[:-1]]
        with demo.trace([whole]):
            value = demo[site].save()
        n = len(whole)
        largest = float(mx.abs(value).max().item())
        np.testing.assert_allclose(saved[row, :n], value[0], atol=1e-5 * largest)
        assert not saved[row, n:].any()
        compared += n
    assert compared == 5 + saved.shape[1]
