"""Feature dashboards against a plain dense computation in NumPy."""

import gzip
import json
from pathlib import Path

import mlx.core as mx
import mlxterp
import numpy as np
import pytest
from mlxterp import SAE, InterpretableModel
from mlxterp.errors import OutOfRangeError, UsageError

SITE = "layers.0.resid_post"
TESTS = Path(__file__).parents[1]
EVAL = TESTS / "sae" / "fixtures" / "eval"
NEAR = 2e-5  # of two passes
FEATURES = [47, 3, 11, 0, 25, 8]
SHOWN = dict(top=6, intervals=7, per_interval=4, before=3, after=2, bins=20, neighbours=4)


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(str(TESTS / "parity" / "families" / "llama-gqa"))


@pytest.fixture(scope="module")
def sae():
    return SAE.load(EVAL)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 96, rng.integers(2, 24)).tolist() for _ in range(60)]


def at(model, row, site):
    with model.trace([row]) as trace:
        pass
    return trace.activations[site][0]


@pytest.fixture(scope="module")
def dense(model, sae, rows):
    """Of each prompt pre-activations and activations, [pos, d_sae]."""
    out = []
    for row in rows:
        x = at(model, row, SITE)
        out.append((np.array(sae.pre_activations(x)), np.array(sae.encode(x))))
    return out


@pytest.fixture(scope="module")
def found(model, sae, rows):
    return mlxterp.feature_dashboards(
        model, sae, prompts=rows, features=FEATURES, seed=3, **SHOWN
    )


def counted(dense, feature):
    """Pre-activations and activations of all positions that count."""
    pre = np.concatenate([p[1:, feature] for p, _ in dense])
    return pre, np.concatenate([a[1:, feature] for _, a in dense])


def test_counts_and_histograms(found, dense, rows):
    assert found.tokens == sum(len(it) - 1 for it in rows) and found.windows == len(rows)
    assert [it.feature for it in found.features] == FEATURES and found.d_sae == 52
    worst = compared = 0
    for it in found.features:
        pre, acts = counted(dense, it.feature)
        assert (pre > NEAR).sum() <= it.active <= (pre > -NEAR).sum()
        on = acts[acts > NEAR]
        assert abs(it.largest - acts.max()) < NEAR and abs(it.mean - on.mean()) < 0.01
        width = it.activations.width
        # The smallest power of two of which 20 hold the largest.
        assert width == 2.0 ** np.round(np.log2(width))
        assert 20 * width >= it.largest > 10 * width
        assert it.activations.low == 0
        assert sum(it.activations.counts) == it.active
        at = np.ceil(on / width).astype(int) - 1
        wanted = np.bincount(at, minlength=len(it.activations.counts))
        unsure = (np.abs(acts / width - np.round(acts / width)) * width < NEAR).sum()
        off = np.abs(wanted - it.activations.counts).sum()
        assert off <= 2 * unsure
        worst, compared = max(worst, off), compared + len(wanted)
    print(f"{compared} bins compared, {worst} at most on an edge")
    assert compared > 60


def test_examples(found, dense, rows):
    error = compared = 0
    for it in found.features:
        best = sorted(
            ((-a[1:, it.feature].max(), w) for w, (_, a) in enumerate(dense)),
        )
        best = [(-v, w) for v, w in best if -v > NEAR]
        assert len(it.top) == min(6, len(best))
        for example, (value, _) in zip(it.top, best, strict=False):
            assert abs(example.value - value) < NEAR
        assert len({e.window for e in it.top}) == len(it.top)
        drawn = [e for part in it.intervals for e in part.examples]
        for example in [*it.top, *drawn]:
            window, p = example.window, example.position
            acts = dense[window][1][:, it.feature].copy()
            acts[0] = 0
            begin, end = max(0, p - 3), p + 3
            assert example.ids == rows[window][begin:end] and example.at == p - begin > 0 or p < 3
            assert example.ids[example.at] == rows[window][p] and example.document == window
            assert example.acts[example.at] == example.value
            error = max(error, np.abs(np.array(example.acts) - acts[begin:end]).max())
            compared += len(example.acts)
    print(f"{compared} activations compared, largest error {error:.2e}")
    assert compared > 500 and error < NEAR


def test_intervals(found, dense):
    for it in found.features:
        _, acts = counted(dense, it.feature)
        width = it.intervals[0].high - it.intervals[0].low
        assert 7 * width >= it.largest > 3.5 * width * (1 - 1e-6)
        assert it.intervals[0].low < it.largest <= it.intervals[0].high
        assert it.intervals[-1].low == 0 and sum(p.positions for p in it.intervals) == it.active
        for part, after in zip(it.intervals, it.intervals[1:], strict=False):
            assert part.low == after.high
        for part in it.intervals:
            least = ((acts > part.low + NEAR) & (acts < part.high - NEAR)).sum()
            most = ((acts > part.low - NEAR) & (acts < part.high + NEAR)).sum()
            if part.low > 0:
                assert least <= part.positions <= most
            assert len(part.examples) == min(4, part.positions)
            assert all(part.low < e.value <= part.high for e in part.examples)
            values = [e.value for e in part.examples]
            assert values == sorted(values, reverse=True)
            assert len({(e.window, e.position) for e in part.examples}) == len(values)


def test_what_is_drawn_depends_on_the_seed_alone(model, sae, rows, found):
    def drawn(it):
        return [(e.window, e.position) for part in it.intervals for e in part.examples]

    again = mlxterp.feature_dashboards(
        model, sae, prompts=rows, features=[3, 47], seed=3, batch_size=1, **SHOWN
    )
    assert drawn(again.features[1]) == drawn(found.features[0])
    assert drawn(again.features[0]) == drawn(found.features[1])
    other = mlxterp.feature_dashboards(model, sae, prompts=rows, features=[47], seed=4, **SHOWN)
    assert drawn(other.features[0]) != drawn(found.features[0])


def test_logits_and_neighbours(model, sae, dense, found):
    vocab = len(sae.logits(model, 3, top=10**6)[0].promoted)
    rows = np.array(sae.W_dec)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    acts = np.concatenate([a[1:] for _, a in dense]).astype(np.float64)
    compared = 0
    for it in found.features:
        full = sae.logits(model, it.feature, top=vocab)[0].promoted
        values = np.array([t.logit for t in full])
        assert [t.id for t in it.promoted] == [t.id for t in full[:10]]
        assert [t.id for t in it.suppressed] == [t.id for t in full[::-1][:10]]
        wanted, edges = np.histogram(values, bins=20)
        assert sum(it.logits.counts) == vocab and abs(it.logits.low - edges[0]) < 1e-5
        assert np.abs(np.array(it.logits.counts) - wanted).sum() <= 2
        order = [f for f in np.argsort(-cosines[it.feature]) if f != it.feature]
        assert [s.feature for s in it.similar] == order[:4]
        for near in it.similar:
            assert abs(near.cosine - cosines[it.feature, near.feature]) < 1e-5
        x = acts[:, it.feature]
        pearson = {f: np.corrcoef(x, acts[:, f])[0, 1] for f in FEATURES if f != it.feature}
        assert [c.feature for c in it.correlated] == sorted(pearson, key=lambda f: -pearson[f])[:4]
        for near in it.correlated:
            y = acts[:, near.feature]
            assert abs(near.pearson - pearson[near.feature]) < 1e-4
            assert abs(near.cosine - x @ y / np.sqrt(x @ x * (y @ y))) < 1e-4
            assert abs(near.both - ((x > 0) & (y > 0)).sum()) <= 1
            compared += 1
    assert compared == 24


def test_a_planted_feature_is_found(model, tmp_path):
    """Active at one token alone, whatever stands before it."""
    tokens = list(range(5, 21))
    x = np.array(at(model, tokens, "layers.0.resid_pre")).astype(np.float64)
    W_enc = mx.array(np.linalg.pinv(x)[:, [8]] * 4)  # 4 at token 13, 0 at the others
    planted = SAE.from_arrays(
        mx.concatenate([W_enc, W_enc * 0], axis=1),
        mx.array([-3.0, -1.0]),
        mx.ones((2, 24)),
        mx.zeros(24),
        site="layers.0.resid_pre",
    )
    rng = np.random.default_rng(0)
    rows = rng.choice(tokens, (20, 12)).tolist()
    found = mlxterp.feature_dashboards(model, planted, prompts=rows, features="all")
    it, dead = found.features
    assert it.active == sum(row[1:].count(13) for row in rows) > 5
    examples = [*it.top, *(e for part in it.intervals for e in part.examples)]
    assert examples and all(e.ids[e.at] == 13 and abs(e.value - 1) < 1e-3 for e in examples)
    assert dead.active == 0 and not dead.top and not dead.intervals and not dead.correlated
    page = found.to_html()
    assert "Never active" in page and "default-src 'none'" in page
    found.write_pages(model, tmp_path / "pages")
    assert {it.name for it in (tmp_path / "pages").iterdir()} == {
        "index.html", "feature-0.html", "feature-1.html",
    }  # fmt: skip
    told = json.loads(found.to_json())
    assert [f["feature"] for f in told["features"]] == [0, 1]


def lines(path):
    return [json.loads(it) for it in gzip.open(path, "rt", encoding="utf-8")]


#: The columns of Neuronpedia's own exports, and of SAEDashboard's batches.
FEATURE = """modelId layer index creatorId createdAt maxActApprox hasVector vector
vectorLabel vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues
neuron_alignment_indices neuron_alignment_values neuron_alignment_l1
correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1
correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str
neg_values pos_str pos_values frac_nonzero freq_hist_data_bar_heights
freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values
decoder_weights_dist sourceSetName""".split()
ACTIVATION = """id tokens index layer modelId maxValue maxValueTokenIndex minValue values
creatorId dataSource dataIndex dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues
logitContributions binMin binMax binContains qualifyingTokenIndex""".split()
BATCHED = """feature_index n_prompts_total n_tokens_in_prompt dataset activations
vector""".split()


def test_neuronpedia_files(model, found, tmp_path):
    folder = found.write_neuronpedia(model, tmp_path, name="tiny-1", source_set="res-52")
    assert folder == tmp_path / "tiny-1" / "0-res-52"
    features = lines(folder / "features" / "batch-0.jsonl.gz")
    activations = lines(folder / "activations" / "batch-0.jsonl.gz")
    assert [it["index"] for it in features] == [str(it) for it in FEATURES]
    assert all(set(it) == set(FEATURE) for it in features)
    assert all(set(it) == set(ACTIVATION) for it in activations)
    assert len({it["id"] for it in activations}) == len(activations)
    assert {it["layer"] for it in features + activations} == {"0-res-52"}
    batch = json.loads((folder / "saedashboard" / "batch-0.json").read_text())
    assert batch["model_id"] == "tiny-1" and batch["layer"] == 0
    for it, feature, told in zip(found.features, features, batch["features"], strict=True):
        shared = set(FEATURE[FEATURE.index("neuron_alignment_indices") : -1])
        assert set(told) == shared | set(BATCHED)
        assert all(told[key] == feature[key] for key in shared)
        mine = [a for a in activations if a["index"] == str(it.feature)]
        assert len(mine) == len(told["activations"])
        assert sum(a["binContains"] == -1 for a in mine) == len(it.top)
        for a, one in zip(mine, told["activations"], strict=True):
            assert a["values"] == one["values"] and a["tokens"] == one["tokens"]
            assert a["maxValue"] == max(a["values"]) == a["values"][a["maxValueTokenIndex"]]
            assert len(a["tokens"]) == len(a["values"]) > a["qualifyingTokenIndex"]
        assert feature["frac_nonzero"] == pytest.approx(it.active / found.tokens)
        assert feature["maxActApprox"] == pytest.approx(it.largest)
        assert len(feature["pos_str"]) == 10
    parts = {
        it: json.loads((folder / f"{it}.jsonl").read_text())
        for it in ("release", "model", "sourceset", "source")
    }
    assert parts["source"]["setName"] == parts["sourceset"]["name"] == "res-52"
    assert parts["sourceset"]["releaseName"] == parts["release"]["name"]
    assert parts["model"]["id"] == parts["source"]["modelId"] == "tiny-1"
    with pytest.raises(UsageError, match="exists"):
        found.write_neuronpedia(model, tmp_path, name="tiny-1", source_set="res-52")
    found.write_neuronpedia(model, tmp_path, name="tiny-1", source_set="res-52", overwrite=True)
    with pytest.raises(UsageError, match="no model id"):
        found.write_neuronpedia(model, tmp_path, name="../up")


def test_bad_input(model, sae, tmp_path):
    def asked(features=(3,), prompts=((1, 2, 3),), of=sae, **options):
        rows = [list(it) for it in prompts]
        return mlxterp.feature_dashboards(model, of, prompts=rows, features=features, **options)

    assert asked().tokens == 2
    with pytest.raises(OutOfRangeError, match="52"):
        asked([52])
    with pytest.raises(OutOfRangeError, match="-1"):
        asked([-1])
    for features in ([3, 3], [], "random:0", "many"):
        with pytest.raises(UsageError):
            asked(features)
    for options in (dict(top=0), dict(bins=0), dict(intervals=5000), dict(before=-1)):
        with pytest.raises(UsageError):
            asked(**options)
    with pytest.raises(UsageError, match="too short"):
        asked(prompts=[[4], [5]])
    with pytest.raises(UsageError, match="more than memory"):
        asked("all", before=10**6)
    with pytest.raises(UsageError, match="a text or prompts"):
        mlxterp.feature_dashboards(model, sae)
    eye = mx.eye(6)
    narrow = SAE.from_arrays(eye, mx.zeros(6), eye, mx.zeros(6), site=SITE)
    with pytest.raises(UsageError, match="24"):
        asked(of=narrow)
    signed = SAE.from_arrays(
        sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec,
        activation="signed_topk", k=40, site=SITE,
    )  # fmt: skip
    both = mlxterp.feature_dashboards(
        model, signed, prompts=[list(range(40))], features="all", bins=10
    )
    below = [it for it in both.features if it.activations.low < 0]
    assert below
    for it in below:
        assert sum(it.activations.counts) == it.active
        assert any(e.value < 0 for part in it.intervals for e in part.examples)
