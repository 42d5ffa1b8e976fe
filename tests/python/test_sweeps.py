"""The C++ analyses from Python: the numbers of their own tests, shapes, axes,
errors, Ctrl-C."""

import copy
import inspect
import json
import os
import pickle
import re
import signal
import subprocess
import threading
import time
import warnings
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlxterp
import pytest
from compare import repeated
from families import build
from mlxterp import InterpretableModel, UsageError, heads, lenses, logits, metrics, sweeps, tasks

MLXTERP = Path(__file__).parents[2] / "build/bin/mlxterp"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
MARY_JOHN = metrics.logit_diff(" Mary", " John")


@pytest.fixture(scope="module")
def model():
    return InterpretableModel("demo")


def test_patch_is_one_traced_pass_a_cell(model):
    sweep = sweeps.patch(model, CLEAN, CORRUPT, MARY_JOHN)
    assert sweep.shape == (30, 14)
    assert [name for name, _ in sweep.axes] == ["layer", "pos"]
    assert sweep.clean == pytest.approx(6.1196, abs=1e-3)
    assert sweep.corrupt == pytest.approx(-5.4853, abs=1e-3)
    mary, john = model.encode(" Mary")[0], model.encode(" John")[0]
    with model.trace(CLEAN):
        clean = {i: model.layers[i].input.save() for i in (0, 9, 20)}
    compared = 0
    for layer, value in clean.items():
        for pos in (0, 9, 13):
            put = (
                lambda x, v=value, p=pos: mx.concatenate(  # noqa: E731
                    [x[:, :p], v[:, p : p + 1], x[:, p + 1 :]], axis=1
                )
            )
            with model.trace(CORRUPT, interventions={f"layers.{layer}.resid_pre": put}):
                out = model.output.save()
            wanted = (out[0, -1, mary] - out[0, -1, john]).item()
            assert sweep.metric[layer, pos].item() == pytest.approx(wanted, abs=1e-3)
            compared += 1
    assert compared == 9


def test_axes_sites_and_directions(model):
    by_head = sweeps.patch(
        model, CLEAN, CORRUPT, MARY_JOHN, site="z", by=("layer", "head"), layers=[3, -1]
    )
    assert by_head.axes[0] == ("layer", [3, 29]) and by_head.shape == (2, 9)
    noise = sweeps.patch(
        model, CLEAN, CORRUPT, MARY_JOHN, direction="noise", layers=5, positions=-1
    )
    assert noise.shape == (1, 1)
    assert noise.delta.item() == pytest.approx(
        noise.metric.item() - noise.clean, abs=1e-4
    )
    frame = by_head.to_pandas()
    assert list(frame.columns) == ["layer", "head", "metric", "delta", "effect"]
    assert len(frame) == 18 and frame.layer.iloc[-1] == 29
    assert "iframe" in by_head._repr_html_()
    figure = by_head.plot(backend="plotly")
    assert len(figure.data[0].z) == 2
    with pytest.raises(mlxterp.UsageError, match="plotly"):
        by_head.plot(backend="ink")


def test_a_metric_of_ones_own(model):
    mary, john = model.encode(" Mary")[0], model.encode(" John")[0]
    own = lambda x: x[:, mary] - x[:, john]  # noqa: E731
    kept = dict(layers=[3, 9], positions=[9])
    ours = sweeps.patch(model, CLEAN, CORRUPT, own, **kept)
    theirs = sweeps.patch(model, CLEAN, CORRUPT, (" Mary", " John"), **kept)
    assert mx.allclose(ours.metric, theirs.metric, atol=1e-4)

    def raises(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sweeps.patch(model, CLEAN, CORRUPT, raises, **kept)


def test_ablate_trace_paths_and_gradients(model):
    zero = sweeps.ablate(model, CLEAN, MARY_JOHN, ablation="zero", layers=[20, 21])
    with model.trace(
        CLEAN,
        interventions={
            "layers.20.attn.z": mlxterp.interventions.on_heads(
                [4], mlxterp.interventions.zero_out
            )
        },
    ):
        out = model.output.save()
    wanted = (out[0, -1, 5099] - out[0, -1, 2322]).item()
    assert zero.metric[0, 4].item() == pytest.approx(wanted, abs=1e-3)

    traced = sweeps.causal_trace(
        model, "The Eiffel Tower is located in the city of", "Eiffel Tower", samples=2
    )
    assert traced.subject == [1, 2, 3]
    assert [name for name, _ in traced.sweep.axes] == ["pos", "layer"]

    paths = sweeps.path_patch(
        model, CLEAN, CORRUPT, MARY_JOHN, receivers=[(24, 6, "q")], layers=[20]
    )
    assert paths.shape == (1, 9)

    exact = sweeps.patch(model, CLEAN, CORRUPT, MARY_JOHN)
    guess = sweeps.attribute(model, CLEAN, CORRUPT, MARY_JOHN, ["resid_pre", "z"])
    assert list(guess) == ["resid_pre", "z"]
    agreement = sweeps.compare(exact, guess["resid_pre"])
    assert agreement.pearson > 0.8 and len(agreement.worst) == 5


def test_attribution_by_the_whole_softmax_and_without_layers(model):
    how = {"by": ("layer", "head"), "layers": [26, 29]}
    exact = sweeps.patch(model, CLEAN, CORRUPT, MARY_JOHN, site="q", **how)
    found = {
        method: sweeps.attribute(
            model, CLEAN, CORRUPT, MARY_JOHN, "q", method=method, **how
        )["q"]
        for method in ("atp", "qk-fix", "grad-drop", "atp-star")
    }
    assert all(guess.shape == (2, 9) for guess in found.values())
    for method in ("grad-drop", "atp-star"):
        assert mx.min(found[method].effect).item() >= 0
        sizes = sweeps.compare(exact, found[method], sizes=True)
        assert sizes.pearson > sweeps.compare(exact, found[method]).pearson
    near = sweeps.compare(exact, found["qk-fix"]).pearson
    assert near > max(0.9, sweeps.compare(exact, found["atp"]).pearson)
    with pytest.raises(mlxterp.UsageError, match="qk-fix"):
        sweeps.attribute(model, CLEAN, CORRUPT, MARY_JOHN, method="atp*")


def test_attribution_by_rules_is_the_shells(model):
    how = {"by": ("layer",), "layers": [3, 20]}
    full = sweeps.attribute(model, CLEAN, CORRUPT, MARY_JOHN, "mlp_out", **how)
    for rule in ("relevance", "frozen", "relevance+hold(attn.pattern)"):
        found = sweeps.attribute(
            model, CLEAN, CORRUPT, MARY_JOHN, ["mlp_out", "pattern"], rule=rule, **how
        )
        done = subprocess.run(
            [MLXTERP, "attribute", "demo", "--clean", CLEAN, "--corrupt", CORRUPT]
            + ["--metric", "logit_diff( Mary, John)", "--site", "mlp_out,pattern"]
            + ["--by", "layer", "--layers", "3,20", "--rule", rule, "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        out = json.loads(done.stdout)
        assert out["rule"] == rule
        for site in out["sites"]:
            ours = found[site["site"]].effect
            assert mx.allclose(ours, mx.array(site["effect"]), rtol=1e-4, atol=1e-6)
        assert not mx.allclose(
            found["mlp_out"].effect, full["mlp_out"].effect, rtol=1e-2
        )
    for wrong, said in (
        ({"rule": "half"}, "there is no rule 'half'"),
        ({"rule": "frozen", "sites": "q"}, "nothing of 'q' reaches the metric"),
        ({"rule": "hold(attn.z)", "sites": "q", "method": "qk-fix"}, "another site"),
    ):
        with pytest.raises(mlxterp.UsageError, match=re.escape(said)):
            sweeps.attribute(model, CLEAN, CORRUPT, MARY_JOHN, **wrong)


def test_logit_attribution_sums_to_the_logit(model):
    for unit in ("component", "head"):
        found = logits.logit_attribution(model, CLEAN, MARY_JOHN, unit)
        total = sum(p.value for p in found.parts)
        assert total == pytest.approx(found.model, abs=1e-3)
        assert found.accumulated[-1].item() == pytest.approx(found.model, abs=1e-3)
    assert len(found.to_pandas()) == len(found.parts)


def test_lens(model):
    found = lenses.lens(model, CLEAN, track=" Mary", top_k=3)
    assert found.ids.shape == (30, 14, 3) and found.ranks.shape == (30, 14)
    with model.trace(CLEAN):
        out = model.output.save()
    assert mx.array_equal(found.ids[-1, :, 0], mx.argmax(out[0], -1).astype(mx.int32))
    assert found.tokens()[-1][-1] == " Mary"
    assert found.to_pandas().shape == (420, 6)
    assert "iframe" in found._repr_html_()
    assert found.labels()[:2] == ["When", " Mary"]
    edited = lenses.lens(model, CLEAN, interventions={"layers.20": lambda x: x * 0})
    assert not mx.array_equal(edited.ids[-1], found.ids[-1, :, :])


def test_heads_are_named_as_in_the_shell(model):
    def of(**chosen):
        return sweeps.ablate(model, CLEAN, MARY_JOHN, ablation="zero", **chosen)

    by_number = of(layers=[3], heads=[0, 4]).delta
    assert by_number.shape == (1, 2)
    for heads in (["L3H0", "L3H4"], ["3.0", "3.4"]):
        assert mx.array_equal(of(heads=heads).delta, by_number)
    assert of(heads="0..2").shape == (30, 3)
    assert mx.array_equal(of(layers=[3], heads=["0", "4"]).delta, by_number)
    with pytest.raises(UsageError, match="leave one of them out"):
        of(layers=[3], heads=["L3H0"])
    with pytest.raises(UsageError, match="one layer at a time"):
        of(heads=["L3H0", "L4H1"])


def test_heads_and_tasks(model):
    scores = heads.head_scores(model, heads.repeated_tokens(model, period=25)[:1])
    assert {s.shape for s in scores.values()} == {(30, 9)}
    assert scores["induction"].max().item() > 0.8
    weights = heads.head_circuits(model)
    assert mx.abs(weights["copying"]).max().item() <= 1.0001
    assert set(tasks.task_list()) >= {"ioi", "greater-than", "induction"}
    task = tasks.make_task(model, "ioi", pairs=2)
    assert tasks.score(model, task).accuracy == 1.0
    swept = sweeps.patch(model, task.clean, task.corrupt, task.metric, layers=[0, 9])
    assert swept.shape == (2, 14)


@pytest.mark.parametrize(
    "change, error",
    [
        ({"site": "nothing"}, mlxterp.UnknownNameError),
        ({"by": "head"}, mlxterp.UsageError),
        ({"by": "columns"}, mlxterp.UsageError),
        ({"direction": "up"}, mlxterp.UsageError),
        ({"layers": 30}, mlxterp.OutOfRangeError),
        ({"corrupt": "Too short"}, mlxterp.UsageError),
        ({"metric": (" Mary", " Johnathan Smith")}, mlxterp.UnknownNameError),
        ({"metric": 5}, mlxterp.UsageError),
        ({"memory": 1}, mlxterp.UsageError),
    ],
)
def test_what_makes_no_sense_is_an_error(model, change, error):
    given = dict(clean=CLEAN, corrupt=CORRUPT, metric=MARY_JOHN) | change
    with pytest.raises(error):
        sweeps.patch(model, **given)


def test_ctrl_c_ends_a_sweep(model):
    ended = []

    def press():
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    # A process in the background of a script ignores it.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=press).start()
        with pytest.raises(KeyboardInterrupt):
            # 420 passes: no machine is through with them by then.
            sweeps.patch(model, CLEAN, CORRUPT, MARY_JOHN, one_pass_per_cell=True)
            ended.append(True)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert not ended
    # And the model is as before.
    assert sweeps.patch(model, CLEAN, CORRUPT, MARY_JOHN, layers=0, positions=0)


@pytest.mark.parametrize("engine", ["native", "wrapped"])
def test_ctrl_c_ends_an_evaluation(model, engine):
    traced = model if engine == "native" else wrapped_chain()
    ids = [[5 + i % 40 for i in range(400)]]

    # In time of the processor, which other programs do not take.
    def run():
        begin = time.process_time()
        try:
            with traced.trace(ids):
                traced.output.save()
        finally:
            seconds.append(time.process_time() - begin)

    seconds = []
    run()
    previous = signal.signal(signal.SIGPROF, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds[0] / 5)
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    assert seconds[1] < 0.7 * seconds[0], seconds
    run()  # and the model is as before


def wrapped_chain():
    """A module of much work in few steps."""

    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(64, 64)
            self.layers = [nn.Linear(64, 64) for _ in range(4)]
            self.wide = [nn.Linear(64, 65536) for _ in range(8)]

        def __call__(self, ids):
            x = self.embed(ids)
            for layer in self.layers:
                x = nn.relu(layer(x))
            return sum(mx.mean(wide(x), axis=-1) for wide in self.wide)

    return InterpretableModel(Chain())


def test_ablating_induction_heads(model):
    found = heads.induction_ablation(model, draws=1, sequences=1)
    assert found.repeated < found.first
    assert found.best.removed > 0.5 and len(found.best.heads) == 5
    assert max(trial.removed for trial in found.random) < 0.2


def test_collect(model):
    texts = ["Hello world", "The Eiffel Tower", "a"]
    kept = mlxterp.collect(model, texts, "layers.{3,7}.resid_post", batch_size=2)
    assert kept.lengths == [len(model.encode(t)) for t in texts]
    assert set(kept.values) == {"layers.3.resid_post", "layers.7.resid_post"}
    with model.trace(texts[1]):
        alone = model.layers[3].output.save()
    begin = kept.lengths[0]
    ours = kept.values["layers.3.resid_post"][begin : begin + kept.lengths[1]]
    assert mx.allclose(ours, alone[0], atol=1e-3)
    last = mlxterp.collect(model, texts, ["layers.3.resid_post"], "last")
    assert last.values["layers.3.resid_post"].shape == (3, 576)
    with pytest.raises(mlxterp.UsageError):
        mlxterp.collect(model, texts, "layers.3.attn.pattern")


def test_a_tuned_lens_by_the_engine(model, tmp_path):
    ids = heads.repeated_tokens(model, period=16)[0][:32]
    losses = []
    tuned = lenses.train(
        model,
        ids[:16],  # each step the same stretch
        steps=3,
        length=16,
        learning_rate=0.2,
        on_step=lambda _, loss: losses.append(loss),
    )
    assert len(losses) == 3 and losses[-1] < losses[0]
    tuned.save(tmp_path / "lens", overwrite=False)
    with pytest.raises(mlxterp.UsageError, match="exists"):
        tuned.save(tmp_path / "lens", overwrite=False)
    again = lenses.TunedLens.load(tmp_path / "lens")
    assert mx.array_equal(again.translators[3].weight, tuned.translators[3].weight)
    assert again.num_layers == 30 and again.hidden_dim == 576
    read = lenses.lens(model, CLEAN, tuned=tuned)
    assert read.ids.shape == (30, 14, 5)
    quality = lenses.evaluate_lens(model, ids, tuned, length=16)
    assert len(quality["tuned"]) == 30


FIELDS = {
    "PatchOptions": sweeps.patch,
    "AblateOptions": sweeps.ablate,
    "CausalTraceOptions": sweeps.causal_trace,
    "PathPatchOptions": sweeps.path_patch,
    "AttributeOptions": sweeps.attribute,
    "LensOptions": lenses.lens,
    "TunedLensOptions": lenses.train,
    "HeadOptions": heads.head_scores,
    "AblationOptions": heads.induction_ablation,
    "LogitAttributionOptions": logits.logit_attribution,
    "CollectOptions": mlxterp.collect,
}
#: Which have another name or shape in Python.
OTHERS = {"edits": "interventions", "tokens": None}


def plain(value):
    """An enumeration's member by its name, lists as tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    return getattr(value, "name", value)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_the_options_has_an_argument_and_its_default(name):
    """C++ decides the defaults; what Python's signatures show is the same."""
    kind = getattr(mlxterp._core, name)
    arguments = inspect.signature(FIELDS[name]).parameters
    made, compared = kind(), 0
    for field in dir(made):
        argument = OTHERS.get(field, field)
        if argument is None:
            continue
        assert argument in arguments, f"{name}.{field}"
        default = arguments[argument].default
        try:
            wanted = getattr(made, field)
        except AttributeError:  # can only be set
            continue
        if default is inspect.Parameter.empty or field == "metric":
            continue
        if wanted in ([], None) and default in (None, ()):
            continue
        if isinstance(wanted, float):
            wanted = pytest.approx(wanted)
        assert plain(default) == plain(wanted), f"{name}.{field}"
        compared += 1
    assert compared >= 1


def test_each_argument_reaches_its_field(monkeypatch, model):
    """What C++ is given, field by field, when every argument is another."""
    given = dict(
        layers=[1, 2], positions=[3], heads=[4, 5], neurons=[6], memory=7, samples=8
    )
    given |= dict(seed=9, steps=10, window=11, noise=1.5, one_pass_per_cell=True, senders="mlp_out")
    given |= dict(site="z", sites=["z", "q"], by=["head", "neuron"], position_map=[(0, 1)])
    given |= dict(direction="noise", ablation="resample", through_mlps=False)
    given |= dict(subject="it", receivers=["24.6.q"])
    compared = 0
    for name in ("patch", "ablate", "causal_trace", "path_patch", "attribute"):
        seen = []

        def stop(inner, chosen, seen=seen):
            seen.append(chosen)
            raise StopIteration

        monkeypatch.setattr(mlxterp._core, name, stop)
        function = getattr(sweeps, name)
        own = {k: given[k] for k in inspect.signature(function).parameters if k in given}
        prompts = {
            k: "some text"
            for k in ("clean", "corrupt", "prompt", "prompts", "metric")
            if k in inspect.signature(function).parameters
        } | {"metric": MARY_JOHN}
        with pytest.raises(StopIteration):
            function(model, **prompts, **own)
        for field, value in own.items():
            got = getattr(seen[0], field)
            if field == "receivers":
                value = ["L24H6.q"]
            assert plain(got) == plain(value), f"{name}: {field}"
            compared += 1
    assert compared > 35
    with pytest.raises(mlxterp.UsageError, match=r"24\.6"):
        sweeps.path_patch(model, CLEAN, CORRUPT, MARY_JOHN, receivers=["24.6"])


def test_layers_positions_heads_and_neurons_are_what_they_are_called(model):
    """By what C++ makes of each field of each kind of options."""
    both = dict(model=model, clean=CLEAN, corrupt=CORRUPT, metric=MARY_JOHN)
    one = dict(model=model, prompts=CLEAN, metric=MARY_JOHN, ablation="zero")
    for sweep in (
        lambda site, **how: sweeps.patch(**both, site=site, **how),
        lambda site, **how: sweeps.ablate(**one, site=site, **how),
        lambda site, **how: sweeps.attribute(**both, sites=site, **how)[site],
    ):
        found = sweep("z", by=("layer", "pos", "head"), layers=3, positions=9, heads=5)
        assert found.axes == [("layer", [3]), ("pos", [9]), ("head", [5])]
        found = sweep("mlp.post", by=("layer", "neuron"), layers=[4], neurons=[7, 8])
        assert found.axes == [("layer", [4]), ("neuron", [7, 8])]
    found = sweeps.path_patch(**both, layers=[3], heads=[2])
    assert found.axes == [("layer", [3]), ("head", [2])]
    found = sweeps.causal_trace(
        model, CLEAN, "John", samples=1, layers=[3], positions=[9]
    ).sweep
    assert found.axes == [("pos", [9]), ("layer", [3])]


def test_results_are_pickled_and_copied(model):
    prompt = "Mary and John went to the"
    sweep = sweeps.ablate(model, prompt, (" Mary", " John"), ablation="zero", layers=[3])
    lens = lenses.lens(model, prompt, track=" Mary")
    parts = logits.logit_attribution(model, prompt, (" Mary", " John"))
    gradients = sweeps.attribute(
        model, CLEAN, CORRUPT, MARY_JOHN, layers=[20], positions=[9]
    )
    tuned = mlxterp.TunedLens(2, 4)
    for again in (lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy):
        assert mx.array_equal(again(sweep).metric, sweep.metric)
        assert again(sweep).axes == sweep.axes and again(sweep).labels == sweep.labels
        assert mx.array_equal(again(lens).ids, lens.ids)
        assert again(lens).tokens() == lens.tokens()
        assert [p.name for p in again(parts).parts] == [p.name for p in parts.parts]
        assert again(parts).sum == parts.sum
        cells = again(gradients)["resid_pre"].delta
        assert mx.array_equal(cells, gradients["resid_pre"].delta)
        assert again(tuned).num_layers == 2
    loaded = copy.deepcopy(model)
    assert repeated(loaded([1, 2]), model([1, 2]))
    with pytest.raises(mlxterp.UsageError, match="wraps Model"):
        pickle.dumps(InterpretableModel(build("llama")))


def test_a_tuned_lens_is_one_class(model, tmp_path):
    lens = mlxterp.TunedLens(30, 576)
    lens.translators[3].bias = mx.ones((576,))
    lens.save(tmp_path / "lens")
    again = model.load_tuned_lens(tmp_path / "lens")
    assert type(again) is mlxterp.TunedLens
    plain = mlxterp.lens(model, CLEAN)
    tuned = mlxterp.lens(model, CLEAN, tuned=again)
    assert not repeated(tuned.logits[3], plain.logits[3])
    assert mx.allclose(tuned.logits[5], plain.logits[5], atol=1e-3)
    rows = model.tuned_lens(CLEAN, again, top_k=5)
    assert rows[3][2][1][0] == tuned.ids[3, 2, 1].item()
    assert model.logit_lens([1, 2, 3], layers=[29])[29][0][0][0] >= 0


def test_what_has_no_token_is_shown_by_its_number():
    folder = Path(__file__).parents[1] / "parity" / "families" / "llama-gqa"
    bare = InterpretableModel(folder)  # without a tokenizer
    found = lenses.lens(bare, [3, 9, 41])
    assert found.labels() == ["#3", "#9", "#41"]
    assert found.tokens()[-1][-1] == f"#{found.ids[-1, -1, 0].item()}"
    assert bare.logit_lens([3, 9, 41])[1][2][0][0] == found.ids[-1, -1, 0].item()
    sweep = sweeps.ablate(bare, [3, 9, 41], (5, 9), ablation="zero", layers=[0])
    assert sweep.labels == ["#3", "#9", "#41"]


def test_texts_are_read_as_the_shell_reads_them(model):
    how = dict(layers=[20], heads=[4, 5])
    receivers = [[(24, 6, "q")], ["24.6.q"], ["L24H6.q"]]
    found = [
        sweeps.path_patch(model, CLEAN, CORRUPT, MARY_JOHN, receivers=r, **how)
        for r in receivers
    ]
    assert all(repeated(found[0].metric, it.metric) for it in found[1:])
    text = sweeps.path_patch(
        model, CLEAN, CORRUPT, "logit_diff( Mary, John)", receivers=["24.6.q"], **how
    )
    assert repeated(text.metric, found[0].metric)
    with pytest.raises(mlxterp.UsageError, match="logit_diff"):
        sweeps.ablate(model, CLEAN, "logits( Mary)", **how)


def test_an_answer_without_its_space_is_warned_of(model):
    how = dict(ablation="zero", layers=[20], heads=[4])
    for metric in (("Mary", "John"), "logit_diff(Mary,John)"):
        with pytest.warns(UserWarning, match="' Mary'"):
            sweeps.ablate(model, CLEAN, metric, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweeps.ablate(model, CLEAN, (" Mary", " John"), **how)


def test_behind_a_space_the_bare_word_is_right(model):
    how = dict(ablation="zero", layers=[20], heads=[4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweeps.ablate(model, CLEAN + " ", "prob(Mary)", **how)
    with pytest.warns(UserWarning, match="ends in a space"):
        sweeps.ablate(model, CLEAN + " ", "prob( Mary)", **how)


def test_runs_that_do_not_do_the_task_are_warned_of(model):
    how = dict(layers=[28])
    for swept in (sweeps.patch, sweeps.path_patch, sweeps.attribute):
        with pytest.warns(UserWarning, match="swapped"):
            swept(model, CORRUPT, CLEAN, MARY_JOHN, **how)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            swept(model, CLEAN, CORRUPT, MARY_JOHN, **how)


def test_a_task_from_a_file(model, tmp_path):
    pair = {"clean": CLEAN, "corrupt": CORRUPT, "answers": [" Mary"]}
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"pairs": [pair | {"foils": [" John"]}]}))
    task = mlxterp.tasks.read_task(model, path)
    found = sweeps.patch(model, task.clean, task.corrupt, task.metric, layers=[20])
    plain = sweeps.patch(model, CLEAN, CORRUPT, MARY_JOHN, layers=[20])
    assert mx.array_equal(found.metric, plain.metric) and found.metric.size == 14
    path.write_text(json.dumps({"pairs": [pair]}))
    with pytest.raises(mlxterp.BadDataError, match="task.json pair 0 has no 'foils'"):
        mlxterp.tasks.read_task(model, path)
    path.write_text(json.dumps({"pairs": [pair | {"foils": ["John"]}]}))
    with pytest.warns(UserWarning, match="' John'"):
        mlxterp.tasks.read_task(model, path)


def test_results_are_told_as_the_shell_tells_them(model):
    how = dict(layers=[20], positions=[9, 10])
    sweep = sweeps.patch(model, CLEAN, CORRUPT, MARY_JOHN, **how)
    told = json.loads(sweep.to_json())
    assert told["site"] == "resid_pre" and len(told["tokens"]) == 14
    assert "Activation patching" in sweep.to_html()
    lens = lenses.lens(model, CLEAN, layers=[3, 29])
    assert "<table" in lens.to_html() or "<!doctype" in lens.to_html().lower()
    assert len(json.loads(lens.to_json())["tokens"]) == 14
    traced = sweeps.causal_trace(model, CLEAN, "John", samples=1, **how).sweep
    one = sweeps.ablate(model, CLEAN, MARY_JOHN, ablation="zero", layers=[20])
    for found in (sweep, lens, traced, one):
        again = pickle.loads(pickle.dumps(found))
        assert again.to_json() == found.to_json()
        assert again.to_html() == found.to_html()
    estimate = sweeps.attribute(model, CLEAN, CORRUPT, MARY_JOHN, **how)["resid_pre"]
    with pytest.raises(mlxterp.UsageError, match="estimate"):
        estimate.to_json()
