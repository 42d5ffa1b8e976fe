"""Generations that an error, an interruption or a stop ends."""

import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlxterp import InterpretableModel, UsageError
from mlxterp import interventions as iv
from mlxterp.core import generation
from test_two_engines import pair

FAMILIES = Path(__file__).parents[1] / "parity" / "families"
PROMPTS = [[3, 4, 5], [9, 8, 7, 6, 2]]


@pytest.fixture(scope="module", params=["gpt2", "bloom", "lfm2", "mamba2", "qwen2-window"])
def model(request):
    return InterpretableModel(str(FAMILIES / request.param))


@pytest.fixture(scope="module")
def llama():
    return InterpretableModel(str(FAMILIES / "llama-gqa"))


def end_at(monkeypatch, token):
    """These models have no tokenizer that would say where texts end."""
    made = generation._core.Generator

    def generator(*given, end_ids, **how):
        return made(*given, end_ids=[*end_ids, token], **how)

    monkeypatch.setattr(generation._core, "Generator", generator)


@pytest.mark.parametrize("rows", [PROMPTS[:1], PROMPTS])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_nothing_goes_on_from_half_a_step(model, rows, layer, call):
    """What was generated stays and is right; another step says why it cannot be."""
    whole = model.generate(rows, 6, ends=False)
    calls = 0

    def edit(x):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return x

    site = f"layers.{layer}.resid_post"
    g = model.generate(rows, 6, ends=False, interventions={site: edit}, save=[site])
    with pytest.raises(KeyboardInterrupt):
        g.run()
    with pytest.raises(UsageError, match="an earlier step failed or was interrupted"):
        g.run()
    steps = g._generator.steps
    if steps == 0:
        with pytest.raises(UsageError, match="Generate anew"):
            g.text  # noqa: B018
        return
    wanted = whole.ids if len(rows) > 1 else [whole.ids]
    got = g.ids if len(rows) > 1 else [g.ids]
    assert [len(it) for it in got] == [steps] * len(rows)
    assert [it[:steps] for it in wanted] == got
    assert g.lengths == [len(row) + steps - 1 for row in rows]
    assert g.saved[site].shape[1] == max(g.lengths)


@pytest.mark.parametrize("cache", [True, False])
def test_an_error_comes_at_its_own_step(llama, cache, monkeypatch):
    """Tokens before it are there, whether or not steps are laid out ahead."""
    whole = llama.generate(PROMPTS[0], 6, ends=False).ids
    edits = {"layers.0.resid_post": iv.during("step:3", iv.add_vector(mx.ones(7)))}
    g, got = llama.generate(PROMPTS[0], 6, ends=False, interventions=edits, cache=cache), []
    with pytest.raises(UsageError, match="add_vector"):
        for step in g:
            got += step.ids
    assert got == whole[:3] and g.ids == whole[:3]
    # Nor is one of a step that no text reaches.
    g = llama.generate(PROMPTS[0], 3, ends=False, interventions=edits, cache=cache)
    assert g.ids == whole[:3]
    if whole[2] not in whole[:2]:
        end_at(monkeypatch, whole[2])
        g = llama.generate(PROMPTS[0], 6, interventions=edits, cache=cache)
        assert g.ids == whole[:3] and g.finish == "end_of_text"


@pytest.mark.parametrize("cache", [True, False])
def test_lengths_count_what_is_saved(model, cache, monkeypatch):
    """At every step, and where one text ends before the others."""
    site = "layers.0.resid_post"
    whole = model.generate(PROMPTS, 6, ends=False).ids
    end = next((it for it in whole[0][:5] if it not in whole[1]), None)
    end_at(monkeypatch, -1 if end is None else end)
    g = model.generate(PROMPTS, 6, save=[site], cache=cache)
    counted = 0
    for step in g:
        for row, tokens in enumerate(map(len, g.ids)):
            assert g.lengths[row] == len(PROMPTS[row]) + tokens - 1, step.number
            counted += 1
        assert g.saved[site].shape[1] == max(g.lengths)
    assert counted >= 6
    for row, length in enumerate(g.lengths):
        values = np.array(g.saved[site][row])
        assert np.abs(values[:length]).max(axis=-1).min() > 0
        assert not values[length:].any()


def test_however_small_a_temperature_is(llama):
    greedy = llama.generate(PROMPTS, 6, ends=False).ids
    for temperature in (1e-3, 1e-20, 1e-37, 1e-38, 1e-44):
        drawn = llama.generate(PROMPTS, 6, ends=False, temperature=temperature, seed=3)
        assert drawn.ids == greedy, temperature


@pytest.mark.parametrize(
    "options",
    [
        {"when": ""},
        {"intervention_tokens": "12"},
        {"intervention_tokens": [1.7]},
        {"intervention_tokens": []},
        {"intervention_tokens": 1},
        {"forced": [[1.5, 2]]},
        {"forced": "text"},
        {"seed": []},
        {"seed": "12"},
        {"seed": [1.5]},
        {"seed": 2**64},
        {"seed": -1},
    ],
)
def test_what_says_nothing_is_refused(llama, options):
    edits = {"layers.0.resid_post": iv.scale(2.0)}
    how = {} if "forced" in options else {"max_tokens": 3}
    with pytest.raises(UsageError, match=next(iter(options))):
        llama.generate(PROMPTS[0], interventions=edits, **how, **options).run()


SITE = "layers.0.resid_post"


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    ("when", "edit", "acts"),
    [
        ("prompt", iv.at_positions(4, iv.scale(0.0)), False),
        ("generated", iv.at_positions(-1, iv.scale(0.0)), False),
        ("generated", iv.during("prompt", iv.scale(0.0)), False),
        ("step:9", iv.scale(0.0), False),
        ("steps:3..7", iv.scale(0.0), False),
        ("prompt", iv.at_positions(2, iv.scale(0.0)), True),
        ("steps:2..7", iv.scale(0.0), True),
        ("generated", iv.at_positions(3, iv.scale(1.0)), True),
        (None, iv.on_prompts([0], iv.scale(0.0)), True),
    ],
)
def test_edits_that_never_act_are_named(llama, when, edit, acts, cache):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        given = {SITE: edit, "layers.*.mlp_out": iv.scale(0.5)}
        for _ in llama.generate(
            PROMPTS[0], 3, ends=False, interventions=given, when=when, cache=cache
        ):
            pass
    texts = [str(it.message) for it in told]
    idle = [f"'{SITE}' changed nothing" in it for it in texts]
    assert any(idle) != acts, texts
    mlps = [it for it in texts if "mlp_out" in it]
    assert len(mlps) == (0 if when in (None, "prompt", "generated", "steps:2..7") else 2)


@pytest.mark.parametrize("family", ["gemma2", "phi", "mixtral"])
@pytest.mark.parametrize("standing", [True, False])
def test_idle_edits_are_named_by_every_way_of_making_them(family, standing):
    """Natively and wrapped, of a batch, at the last layer."""
    for model in pair(FAMILIES / family):
        site = f"layers.{len(model.layers) - 1}.resid_post"
        for edit, acts in (
            (iv.during("step:9", iv.scale(0.0)), False),
            (iv.during("prompt", iv.at_positions(-1, iv.scale(2.0))), True),
            (iv.on_prompts([1], iv.during("step:2", iv.scale(2.0))), True),
        ):
            # Another before it, which always acts.
            handle = model.edited({site: iv.scale(1.5)})
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                if standing:
                    handle.edited({site: edit}).generate(PROMPTS, 4, ends=False).run()
                else:
                    handle.generate(
                        PROMPTS, 4, ends=False, interventions={site: edit}
                    ).run()
            named = sum("changed nothing" in str(it.message) for it in told)
            assert named == (0 if acts else 1), (type(model.engine), acts)


def test_whole_numbers_of_other_libraries_are_numbers(llama):
    edits = {"layers.0.resid_post": iv.scale(2.0)}
    plain = llama.generate(PROMPTS[0], 3, ends=False, temperature=1.0, seed=4).ids
    for seed in (np.int64(4), [np.uint32(4)], np.array([4])):
        again = llama.generate(PROMPTS[0], 3, ends=False, temperature=1.0, seed=seed).ids
        assert again == plain
    a, b = (
        llama.generate(
            PROMPTS[0], 3, ends=False, interventions=edits, intervention_tokens=steps
        ).ids
        for steps in ([1, 2], np.array([1, 2]))
    )
    assert a == b
    for forced in ([5, 6], np.array([5, 6]), mx.array([[5, 6]])):
        assert llama.generate(PROMPTS[0], forced=forced).ids == [5, 6]
