"""Sweeps of a wrapped model, by plain passes, are those of the native one."""

import mlx.core as mx
import mlxterp
import pytest
from compare import repeated
from families import build
from mlxterp import InterpretableModel, UnknownNameError, UsageError, metrics
from test_two_engines import FOLDERS, ROUGH, pair
from view_models import WordTokenizer, tiny_llama

CLEAN, CORRUPT = [3, 4, 5, 6, 7], [3, 9, 5, 8, 7]
FAMILIES = ["llama-gqa", "llama-tied", "gemma2", "granite", "olmo2", "phi", "gemma-mha"]
SITES = ["resid_pre", "attn_out", "mlp_out"]
DIFF = metrics.logit_diff(5, 9)


def same(ours, theirs, name=""):
    """Equal cells, runs and axes; how many cells were compared."""
    assert ours.axes == theirs.axes and ours.shape == theirs.shape
    assert ours.ids == theirs.ids
    # Of a family that mlx-lm computes a little otherwise, the least exact.
    bound = max(ROUGH.get(name, 0), 3e-5) * max(mx.abs(ours.metric).max().item(), 1)
    assert mx.abs(ours.metric - theirs.metric).max().item() < bound
    assert mx.abs(ours.spread - theirs.spread).max().item() < bound
    assert abs(ours.clean - theirs.clean) < bound
    assert not abs(ours.corrupt - theirs.corrupt) >= bound  # NaN of ablations
    return ours.metric.size


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_patching(name, direction):
    models, compared = pair(FOLDERS / name), 0
    layers = len(models[0].layers)
    for site in SITES:
        for by in (["layer"], ["layer", "pos"]):
            ours, theirs = (
                mlxterp.patch(it, CLEAN, CORRUPT, DIFF, site, by, direction)
                for it in models
            )
            assert mx.abs(ours.delta).max().item() > 1e-4
            compared += same(ours, theirs, name)
    assert compared == len(SITES) * layers * (1 + len(CLEAN))


@pytest.mark.parametrize("name", FAMILIES)
def test_ablating(name):
    models, compared = pair(FOLDERS / name), 0
    prompts = [CLEAN, CORRUPT, [8, 2, 2, 9, 1]]
    for site in SITES:
        for ablation in ("zero", "mean", "resample"):
            for by in ("layer", ["layer", "pos"]):
                ours, theirs = (
                    mlxterp.ablate(it, prompts, DIFF, site, by, ablation)
                    for it in models
                )
                assert mx.abs(ours.delta).max().item() > 1e-4
                compared += same(ours, theirs, name)
    assert compared == 3 * len(SITES) * len(models[0].layers) * (1 + len(CLEAN))


@pytest.mark.parametrize(
    ("site", "by", "more"),
    [
        ("z", ["layer", "head"], {}),
        ("z", ["head"], {"layers": [0]}),
        ("q", ["layer", "pos", "head"], {"positions": [1, -1]}),
        ("v", ["layer", "head"], {"heads": [-1]}),
        ("mlp.post", ["layer", "neuron"], {"neurons": [0, 3], "layers": 1}),
        ("resid_mid", ["pos"], {}),
    ],
)
def test_heads_neurons_and_choices(site, by, more):
    ours, theirs = (
        mlxterp.patch(it, CLEAN, CORRUPT, DIFF, site, by, **more)
        for it in pair(FOLDERS / "llama-gqa")
    )
    assert same(ours, theirs) == len(mx.flatten(ours.metric))
    assert mx.abs(ours.delta).max().item() > 1e-5


@pytest.mark.parametrize(
    "metric",
    [metrics.probability(5), metrics.rank(5), metrics.kl_divergence(), metrics.loss()]
    + ["logit(id:5)", (5, 9), lambda rows: rows[:, 5] * 2]
    + [metrics.custom_of_run("whole", lambda rows: rows[:, 5].sum())],
    ids=str,
)
def test_metrics(metric):
    models = pair(FOLDERS / "llama-gqa")
    found = [mlxterp.patch(it, CLEAN, CORRUPT, metric, by="layer") for it in models]
    assert same(*found) == 2


def test_prompts_of_different_length():
    how = dict(site="attn_out", position_map=[(0, 0), (2, 1), (4, 3)])
    found = [
        mlxterp.patch(it, CLEAN, CORRUPT[1:], DIFF, **how)
        for it in pair(FOLDERS / "llama-gqa")
    ]
    assert same(*found) == 8


def test_edits_that_stand_and_what_is_attached():
    native, wrapped = pair(FOLDERS / "llama-gqa")
    edits = {"layers.0.mlp_out": lambda x: x * 3}
    plain = mlxterp.patch(wrapped, CLEAN, CORRUPT, DIFF)
    ours, theirs = (
        mlxterp.patch(it.edited(edits), CLEAN, CORRUPT, DIFF) for it in (native, wrapped)
    )
    assert same(ours, theirs) and mx.abs(theirs.metric - plain.metric).max() > 1e-4
    attached = native.attach("layers.0.mlp_out", lambda x: x * 3, "replace")
    assert same(ours, mlxterp.patch(attached, CLEAN, CORRUPT, DIFF))


def test_text_tokens_and_reports():
    model = InterpretableModel(tiny_llama(), WordTokenizer(97))
    how = dict(site="mlp_out", by=["layer", "pos"])
    text = mlxterp.patch(model, "w3 w4 w5", "w3 w9 w5", ("w7", "w8"), **how)
    ids = mlxterp.patch(model, [3, 4, 5], [3, 9, 5], "logit_diff(w7,w8)", **how)
    assert repeated(text.metric, ids.metric)
    assert text.labels == ["w3", "w9", "w5"]
    assert '"w9"' in text.to_json() and "w9" in text.to_html()
    with pytest.raises(UnknownNameError, match="is not one token but 2"):
        mlxterp.patch(model, "w3", "w4", ("w7 w8", "w1"), **how)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("steps", [1, 3])
def test_attribution(name, steps):
    compared, sites = 0, [*SITES, "z", "pattern", "mlp.post"]
    for by in (["layer"], ["layer", "pos"]):
        ours, theirs = (
            mlxterp.attribute(it, CLEAN, CORRUPT, DIFF, sites, by, steps=steps)
            for it in pair(FOLDERS / name)
        )
        assert list(ours) == list(theirs) == sites
        for site in sites:
            assert mx.abs(ours[site].delta).max().item() > 1e-5
            compared += same(ours[site], theirs[site], name)
    layers = ours["mlp_out"].shape[0]
    assert compared == len(sites) * layers * (1 + len(CLEAN))


@pytest.mark.parametrize("metric", [metrics.kl_divergence(), metrics.loss(), (5, 9)])
def test_attribution_of_heads_by_every_metric(metric):
    how = dict(sites=["z", "q"], by=["layer", "head"], direction="noise")
    found = [
        mlxterp.attribute(it, CLEAN, CORRUPT, metric, **how)
        for it in pair(FOLDERS / "llama-gqa")
    ]
    assert sum(same(found[0][it], found[1][it]) for it in ("z", "q")) == 16
    with pytest.raises(mlxterp.UsageError, match="runs elsewhere.*not frozen"):
        mlxterp.attribute(
            pair(FOLDERS / "llama-gqa")[1], CLEAN, CORRUPT, metric, rule="frozen"
        )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("receivers", [[], [(1, 0, "q"), "1.1.q"], ["1.0.v", (1, 0, "k")]])
@pytest.mark.parametrize("through_mlps", [True, False])
def test_path_patching(name, receivers, through_mlps):
    models, compared = pair(FOLDERS / name), 0
    for senders, direction in (("z", "noise"), ("mlp_out", "denoise")):
        ours, theirs = (
            mlxterp.path_patch(
                it, CLEAN, CORRUPT, DIFF, receivers, senders,
                through_mlps=through_mlps, direction=direction,
            )
            for it in models
        )  # fmt: skip
        if not receivers:
            assert mx.abs(ours.delta).max().item() > 1e-4
        compared += same(ours, theirs, name)
    heads = models[0].run_with_cache(CLEAN, "blocks.0.attn.hook_z")[1]["z", 0].shape[2]
    assert compared == len(models[0].layers) * (heads + 1)


# Gemma multiplies its embeddings, GPT-2 adds positions to them.
@pytest.mark.parametrize(
    "name, factor", [("llama", 1), ("gemma2", 32**0.5), ("gpt2", 1)]
)
def test_causal_tracing_is_one_traced_pass_a_cell(name, factor):
    module = build(name)
    model = InterpretableModel(module, WordTokenizer(96))
    prompt, metric = "w3 w4 w5 w6", mlxterp.metrics.probability(7)
    how = dict(metric=metric, noise=2.0, samples=2, seed=3, window=4)
    found = mlxterp.sweeps.causal_trace(model, prompt, "w4 w5", site="mlp_out", **how)
    assert found.subject == [1, 2]
    layers, ids = range(len(model.layers)), [[3, 4, 5, 6]]
    inner = getattr(module, "model", module)
    embedding = (inner.wte if name == "gpt2" else inner.embed_tokens).weight
    sigma = 2.0 * factor * mx.sqrt(mx.var(embedding)).item()
    with model.trace(ids) as t:
        clean = {i: t.value(f"layers.{i}.mlp_out") for i in layers}
        for name, value in clean.items():
            t.save(str(name), value)
    where = mx.array([0.0, 1.0, 1.0, 0.0])[None, :, None]
    key, right = mx.random.key(3), mx.zeros((4, len(layers)))
    for _ in range(2):
        key, own = mx.random.split(key)
        noise = mx.random.normal((1, 4, embedding.shape[1]), key=own) * where * sigma
        rows = []
        for pos in range(4):
            for layer in layers:
                edits = {"layers.0.resid_pre": mlxterp.add_vector(noise)}
                for i in range(max(layer - 1, 0), min(layer + 3, len(layers))):
                    put = mlxterp.at_positions(pos, lambda x, i=i: clean[i][:, pos][:, None])
                    edits[f"layers.{i}.mlp_out"] = put
                with model.trace(ids, edits):
                    logits = model.output.save()
                rows.append(mx.softmax(logits[0, -1])[7].item())
        right = right + mx.array(rows).reshape(4, -1) / 2
    assert found.sweep.metric.shape == right.shape and right.size == 4 * len(layers)
    assert mx.abs(found.sweep.metric - right).max().item() < 1e-6
    assert mx.abs(found.sweep.delta).max().item() > 1e-5


def test_what_heads_do_and_tasks():
    native, wrapped = pair(FOLDERS / "llama-gqa")
    how = dict(period=5, repeats=3, sequences=2)
    rows = mlxterp.heads.repeated_tokens(wrapped, **how)
    assert rows == mlxterp.heads.repeated_tokens(native, **how)
    ours, theirs = (mlxterp.heads.head_scores(it, rows) for it in (native, wrapped))
    assert list(ours) == list(theirs) and len(ours) == 5
    for kind, grid in ours.items():
        assert grid.shape == theirs[kind].shape == (2, 4)
        assert mx.abs(grid - theirs[kind]).max().item() < 1e-5
    found = [
        mlxterp.heads.induction_ablation(it, 2, "mean", 2, **how)
        for it in (native, wrapped)
    ]
    assert found[0].best.heads == found[1].best.heads
    assert found[0].repeated == pytest.approx(found[1].repeated, abs=1e-4)
    assert found[0].best.loss == pytest.approx(found[1].best.loss, abs=1e-4)


@pytest.mark.parametrize("positions", ["all", "last"])
def test_collecting(positions):
    native, wrapped = pair(FOLDERS / "llama-gqa")
    prompts = [CLEAN, CORRUPT[:3], [8, 2, 2, 9]]
    sites = ["layers.*.resid_post", "layers.1.attn.z", "layers.0.mlp.post"]
    ours, theirs = (
        mlxterp.collect(it, prompts, sites, positions, 2) for it in (native, wrapped)
    )
    assert ours.values.keys() == theirs.values.keys()
    assert ours.lengths == theirs.lengths
    compared = 0
    for name, value in ours.values.items():
        assert value.shape == theirs.values[name].shape
        assert mx.abs(value - theirs.values[name]).max().item() < 1e-5
        compared += value.size
    widths = [value.size // value.shape[0] for value in ours.values.values()]
    assert compared == sum(ours.lengths) * sum(widths) > 0
    own = mlxterp.collect(wrapped, prompts, "layers.*.mlp.up_proj", positions)
    assert len(own.values) == 2


def test_any_architecture_and_any_site():
    model = InterpretableModel(build("mamba2"))
    by_layer = mlxterp.ablate(model, [CLEAN], DIFF, "mixer", "layer", "zero")
    for layer, value in enumerate(by_layer.metric.tolist()):
        with model.trace([CLEAN], {f"layers.{layer}.mixer": mlxterp.zero_out}):
            logits = model.output.save()[0, -1].astype(mx.float32)
        assert value == pytest.approx((logits[5] - logits[9]).item(), abs=1e-5)
    assert by_layer.shape == (3,)


def test_what_makes_no_sense():
    model = InterpretableModel(build("llama"))
    with pytest.raises(UnknownNameError, match="nothing"):
        mlxterp.patch(model, CLEAN, CORRUPT, DIFF, "nothing")
    with pytest.raises(UsageError, match="has no heads"):
        mlxterp.patch(model, CLEAN, CORRUPT, DIFF, "mlp_out", "head")
    with pytest.raises(mlxterp.OutOfRangeError, match="vocabulary has 96"):
        mlxterp.patch(model, CLEAN, CORRUPT, metrics.logit(96))
    with pytest.raises(mlxterp.OutOfRangeError, match="layer 3"):
        mlxterp.ablate(model, CLEAN, DIFF, "mlp_out", "layer", "zero", layers=3)
    with pytest.raises(UsageError, match="no usable tokenizer"):
        mlxterp.patch(model, CLEAN, CORRUPT, (" a", " b"))
    with pytest.raises(UsageError, match="loaded itself"):
        mlxterp.logit_attribution(model, CLEAN, 5)
    with pytest.raises(UsageError, match="loaded itself"):
        mlxterp.heads.head_circuits(model)

    def broken(rows):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        mlxterp.patch(model, CLEAN, CORRUPT, broken)
