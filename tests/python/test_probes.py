"""Probes from Python."""

import mlx.core as mx
import mlxterp
import numpy as np
import pytest
from mlxterp import InterpretableModel, Probe, train_probe
from mlxterp.errors import BadDataError, UsageError
from view_models import WordTokenizer, tiny_llama


@pytest.fixture(scope="module")
def rows():
    """200 rows of which coordinate 5 tells the class, in 40 groups."""
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 2
    x = rng.normal(size=(200, 24)).astype(np.float32)
    x[:, 5] += 4 * labels
    return mx.array(x), ["cat" if it else "bat" for it in labels], np.arange(200) // 5


def test_a_probe_learns_what_is_there_and_controls_do_not(rows):
    x, labels, groups = rows
    found = train_probe(x, labels, groups, k=1, site="layers.1.resid_post")
    assert found.probe.classes == ["bat", "cat"] and found.probe.coordinates == [5]
    assert found.held_out.mean > 0.9 and found.held_out.auc > 0.95
    assert len(found.held_out.folds) == 5 and found.groups == 40
    assert found.shuffled_labels.mean < 0.7 and found.random_coordinates.mean < 0.75
    said = found.probe(x)
    right = (np.array(said) > 0) == np.array([it == "cat" for it in labels])
    assert right.mean() > 0.9
    assert found.probe(x[0][None, None]).shape == (1, 1)
    assert "held out" in repr(found) and "layers.1.resid_post" in repr(found)


def test_ridge_of_numbers(rows):
    x, _, groups = rows
    target = np.array(x) @ np.arange(24) + 3
    found = train_probe(x, target, groups, kind="ridge", l2=1e-3)
    assert found.held_out.mean > 0.999 and found.shuffled_labels.mean < 0.2
    assert np.allclose(np.array(found.probe.weight), np.arange(24), atol=1e-2)
    assert found.probe.bias == pytest.approx(3, abs=0.05)


def test_its_file_and_its_direction_steer(rows, tmp_path):
    x, labels, groups = rows
    found = train_probe(x, labels, groups, folds=0, site="layers.1.resid_post")
    assert found.held_out is None
    found.probe.save(tmp_path / "p.safetensors")
    back = Probe.load(tmp_path / "p.safetensors")
    assert mx.array_equal(back.weight, found.probe.weight)
    assert (back.bias, back.site, back.classes) == (
        found.probe.bias, found.probe.site, found.probe.classes)
    along = (found.probe(x + found.probe.direction()) - found.probe(x)).mean().item()
    assert along == pytest.approx(np.array(found.probe(x)).std(), rel=1e-3)


def test_a_probe_steers_a_model():
    model = InterpretableModel(tiny_llama(), WordTokenizer(97))
    texts = [f"w{i} w{90 + i % 2}" for i in range(80)]
    site = "layers.0.resid_pre"
    kept = mlxterp.collect(model, texts, site, "last").values[site]
    found = train_probe(kept, [i % 2 for i in range(80)], site=site)
    assert found.held_out.mean > 0.95
    steer = {site: mlxterp.add_vector(10 * found.probe.direction())}
    moved = mlxterp.collect(model, texts, site, "last", interventions=steer)
    said = np.array(found.probe(moved.values[site]))
    assert (said > np.array(found.probe(kept))).all()


def test_what_is_wrong_is_said(rows, tmp_path):
    x, labels, groups = rows
    with pytest.raises(UsageError, match="all 200 labels are"):
        train_probe(x, ["cat"] * 200)
    for kind in ("logistic", "ridge"):
        with pytest.raises(UsageError, match="row 1 is NaN"):
            train_probe(x, [0.0, float("nan")] * 100, kind=kind)
    with pytest.raises(UsageError, match="3 classes"):
        train_probe(x, [i % 3 for i in range(200)])
    with pytest.raises(UsageError, match="200 rows, 7 labels"):
        train_probe(x, [0, 1, 0, 1, 0, 1, 0])
    with pytest.raises(UsageError, match="2 groups cannot make 5 folds"):
        train_probe(x, labels, [i % 2 for i in range(200)])
    with pytest.raises(UsageError, match="numbers"):
        train_probe(x, labels, kind="ridge")
    with pytest.raises(UsageError, match="'svm' is not one of logistic, ridge"):
        train_probe(x, labels, kind="svm")
    with pytest.raises(BadDataError, match="NaN"):
        train_probe(x / 0, labels)
    probe = train_probe(x, labels, folds=0).probe
    with pytest.raises(UsageError, match="24 numbers"):
        probe(x[:, :20])
    (tmp_path / "x.safetensors").write_bytes(b"none")
    with pytest.raises(BadDataError):
        Probe.load(tmp_path / "x.safetensors")
