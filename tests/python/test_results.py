"""Every result shows itself, and is the same when pickled or copied."""

import copy
import inspect
import pickle

import mlx.core as mx
import mlxterp
import pytest
from families import build, ids
from mlxterp import InterpretableModel, _core, heads, lenses, logits, metrics, sweeps, tasks
from mlxterp import visualization as viz
from test_two_engines import FOLDERS

CLEAN, CORRUPT = [3, 4, 5, 6, 7], [3, 9, 5, 8, 7]
DIFF = metrics.logit_diff(5, 9)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One at least of each class."""
    model = InterpretableModel(FOLDERS / "llama-gqa")
    wrapped, demo = InterpretableModel(build("llama")), InterpretableModel("demo")
    task = tasks.make_task(demo, "ioi", pairs=1)
    few = dict(layers=[29], positions=[-1])
    traced = sweeps.causal_trace(demo, "John gave it", "John", samples=1, **few)
    sweep = sweeps.patch(model, CLEAN, CORRUPT, DIFF)
    guess = sweeps.attribute(model, CLEAN, CORRUPT, DIFF)["resid_pre"]
    parts = logits.logit_attribution(model, CLEAN, DIFF)
    lens = lenses.lens(model, CLEAN, track=7)
    ablation = heads.induction_ablation(model, heads=1, draws=1, sequences=1, period=9)
    return [
        sweep,
        sweep._inner,
        sweep._inner.__getstate__()[0][0],
        sweeps.patch(wrapped, CLEAN, CORRUPT, DIFF, by="layer"),
        guess,
        traced,
        sweeps.path_patch(model, CLEAN, CORRUPT, DIFF),
        sweeps.compare(sweep, guess, worst=1),
        lens,
        lens._inner,
        lenses.lens(wrapped, CLEAN),
        lenses.evaluate_lens(model, CLEAN, length=5)["logit"][0],
        mlxterp.TunedLens(2, 4),
        parts,
        parts.parts[0],
        ablation,
        ablation.best,
        task,
        task.pairs[0],
        tasks.score(demo, task),
        mlxterp.verify(model)[0],
        mlxterp.collect(model, CLEAN, "layers.1.resid_post"),
        mlxterp.collect_activations(wrapped, ids(), ["layers.1"]),
        wrapped.run_with_cache(ids(), "hook_embed")[1],
        viz.HeadScore(1, 2, 0.5, "custom"),
        DIFF,
        *of_features(model, demo, tmp_path_factory.mktemp("text")),
        *of_text_and_steering(demo),
    ]


def of_text_and_steering(demo):
    chat = demo.tokenizer.chat_prompt([{"role": "user", "content": "Hi"}])
    trained = mlxterp.steer_train(demo, ["so good", "fine"], ["so bad", "poor"], layers=[9])
    sweep = mlxterp.steer_sweep(
        demo, trained.vector, ["It was"], DIFF, layers=[9], strengths=[0, 0.1], random=1
    )
    rows = mx.random.normal((12, 4), key=mx.random.key(0))
    probe = mlxterp.train_probe(rows, [0, 1] * 6, list("abcdef") * 2, folds=3)
    return [
        chat, chat.turns[0], chat.turns[0].content,
        trained, trained.vector, trained.layers[0], sweep, sweep._inner,
        sweep.layers[0], probe.held_out,
    ]


def of_features(model, demo, folder):
    sae = mlxterp.SAE.load(FOLDERS.parents[1] / "sae" / "fixtures" / "eval")
    found = model.features(CLEAN, sae, top=2)
    sums = sae.attribution(model, CLEAN, DIFF)
    quality = sae.evaluate(model, CLEAN)
    eye = mx.eye(576)
    own = mlxterp.SAE.from_arrays(
        eye, mx.zeros(576), eye, mx.zeros(576), site="layers.0.resid_post"
    )
    (folder / "text.txt").write_text("One, two, three and four.")
    text = mlxterp.feature_contexts(demo, own, folder / "text.txt", [3, 4])
    many = mlxterp.feature_dashboards(model, sae, prompts=[list(range(30))], features=[3, 47, 8])
    one = many.features[0]
    return [
        many, many._inner, one, one.activations, one.top[0], one.intervals[0],
        one.similar[0], one.correlated[0],
        found, found.sites, found.fit, found.positions[0], found.positions[0].top[0],
        found.logits[0], found.logits[0].promoted[0], sums, sums.parts[0],
        quality, quality.density[0], text, text.features[0], text.features[0].top[0],
    ]


def told(value):
    """What a result holds, as plain values."""
    if isinstance(value, mx.array):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [told(it) for it in value]
    if hasattr(value, "items") and hasattr(value, "keys"):
        return {key: told(value[key]) for key in value.keys()}
    if value is None or isinstance(value, (int, float, str)):
        return repr(value)  # NaN is NaN
    fields = [it for it in dir(value) if not it.startswith("_")]
    held = {it: getattr(value, it, None) for it in fields}
    found = {it: told(x) for it, x in held.items() if not callable(x) and x is not value}
    return found or told(value.__getstate__())


def test_pickled_and_copied(results):
    compared = 0
    for result in results:
        if isinstance(result, mlxterp.TunedLens):
            before = result.parameters()
            for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
                assert told(again.parameters()) == told(before)
            continue
        wanted = told(result)
        assert wanted, type(result)
        for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            assert type(again) is type(result)
            assert told(again) == wanted, type(result)
            assert repr(again) == repr(result)
            compared += 1
    assert compared == 2 * (len(results) - 1)


def test_they_show_themselves(results):
    for result in results:
        shown = repr(result)
        assert " object at 0x" not in shown, shown
        assert "\n" not in shown or isinstance(result, mlxterp.TunedLens)
        assert len(shown) < 1000


def test_every_class_of_the_extension_that_is_a_result_is_here(results):
    """What can be pickled, and what an analysis returns."""
    there = {type(it) for it in results}
    classes = [it for _, it in inspect.getmembers(_core, inspect.isclass)]
    own = {it for it in classes if "__setstate__" in vars(it)}
    parts = {_core.Head}
    assert own - parts <= there
    named = {it.__name__ for it in own}
    assert named >= {"Sweep", "Lens", "Task", "TaskScores", "Check", "Metric", "Trial"}


def test_a_metric_that_is_a_function_is_not_copied():
    with pytest.raises(mlxterp.UsageError, match="'mine' is a function"):
        pickle.dumps(metrics.custom("mine", lambda rows: rows[:, 0]))
    for metric in (metrics.logit([1, " b"]), metrics.loss(), DIFF):
        metric.position = -2
        again = pickle.loads(pickle.dumps(metric))
        assert (again.name, again.position) == (metric.name, -2)


def test_drawn():
    """What can be looked at is drawn: every cell, the largest parts, one pair."""
    import matplotlib

    matplotlib.use("agg")
    model = InterpretableModel(FOLDERS / "llama-gqa")
    lens = lenses.lens(InterpretableModel("demo"), "It costs $5 or $6", layers=[3, 29])
    ax = lens.plot()
    texts = [it.get_text() for it in ax.texts]
    assert len(texts) == 2 * len(lens.positions)
    assert [it.get_text() for it in ax.get_yticklabels()] == ["3", "29"]
    assert mx.allclose(mx.array(ax.images[0].get_array()), lens.probabilities[..., 0])
    ax.figure.canvas.draw()  # a dollar is no formula
    parts = logits.logit_attribution(model, CLEAN, DIFF)
    bars = parts.plot(count=3).patches
    widths = sorted((abs(it.value) for it in parts.parts), reverse=True)[:3]
    assert [abs(it.get_width()) for it in bars[::-1]] == pytest.approx(widths)
    ax = sweeps.patch(model, CLEAN, CORRUPT, DIFF).plot()
    assert ax.images[0].get_array().size == 2 * 5
