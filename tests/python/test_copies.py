"""A copy of a model is that model, or it is refused."""

import copy
import pickle
import shutil

import mlx.core as mx
import mlxterp
import pytest
from compare import repeated
from mlx.utils import tree_map
from mlxterp import InterpretableModel, UsageError, metrics
from mlxterp import interventions as iv
from mlxterp.engine.native import NativeEngine
from test_two_engines import FOLDERS

FOLDER = FOLDERS / "llama-gqa"
ROW = [3, 4, 5]


class Words:
    def encode(self, text):
        return ROW

    def decode(self, ids):
        return "x"


def copies(model):
    return copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))


def test_what_it_was_made_with():
    given = dict(tokenizer=Words(), strict=False, parse_special=False, norm_path="ln_final")
    model = InterpretableModel(FOLDER, **given)
    for again in copies(model):
        assert repeated(again(ROW), model(ROW))
        assert again.encode("hi") == ROW and not again.strict
    model = InterpretableModel("demo", parse_special=False)
    text = "<|im_start|>"
    assert len(model.encode(text)) > 1
    for again in copies(model):
        assert again.encode(text) == model.encode(text)


def test_parameters_that_were_set():
    model = InterpretableModel(FOLDER)
    before = model(ROW)
    handle = model.edited({"layers.0": iv.scale(1.0)})
    handle.model.update(tree_map(lambda x: x * 1.1, handle.model.parameters()))
    assert not mx.allclose(model(ROW), before)
    assert repeated(copy.copy(model)(ROW), model(ROW))
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match="were set since"):
            copied(model)


def test_what_cannot_be_copied():
    half = NativeEngine(FOLDER, dtype=mx.bfloat16)
    for model in (
        InterpretableModel(FOLDER, engine=half),
        InterpretableModel("a name", engine=half),
        InterpretableModel(half.model),
    ):
        assert copy.copy(model)(ROW).dtype == mx.bfloat16
        for copied in (copy.deepcopy, pickle.dumps):
            with pytest.raises(UsageError, match="engine that was given"):
                copied(model)
    edited = InterpretableModel(FOLDER).edited({"layers.0": iv.scale(2.0)})
    assert repeated(copy.copy(edited)(ROW), edited(ROW))
    with pytest.raises(UsageError, match="plain model"):
        pickle.dumps(edited)


def test_a_copy_traces_by_itself():
    model = InterpretableModel(FOLDER)
    again = copy.copy(model)
    with model.trace(ROW):
        with pytest.raises(UsageError, match="only inside"):
            again.layers[0].output
        kept = model.layers[0].output.save()
    with again.trace(ROW):
        assert repeated(mx.array(again.layers[0].output), kept)


def test_a_relative_path(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    model = InterpretableModel("here")
    stored = pickle.dumps(model)
    monkeypatch.chdir("/")
    assert repeated(pickle.loads(stored)(ROW), model(ROW))


def test_metrics_and_interventions():
    for metric in (metrics.logit(5), metrics.logit_diff([1, 2], [3, 4])):
        for again in copies(metric):
            assert again.name == metric.name
    with pytest.raises(UsageError, match="is a function"):
        pickle.dumps(metrics.custom("own", lambda rows: rows[:, 0]))
    double = iv.scale(2.0)
    for again in (copy.copy(double), copy.deepcopy({"layers.0": double})["layers.0"]):
        assert again(mx.ones((1,))).item() == 2
    with pytest.raises(UsageError, match="not pickled"):
        pickle.dumps(double)
    steps = iv.compose(double)
    more = copy.deepcopy(steps).add(double)
    assert more(mx.ones((1,))).item() == 4 and steps(mx.ones((1,))).item() == 2


def test_a_cache_holds_what_it_gives():
    model = InterpretableModel(FOLDER)
    _, cache = model.run_with_cache(ROW, lambda name: "resid" in name)
    for key in (("resid_pre", 0), ("resid_pre", -1), "blocks.0.hook_resid_pre"):
        assert key in cache and cache[key] is not None
    for key in (("resid_pre", 9), ("nothing", 0), "nothing", ("resid_pre",), 3, None):
        assert key not in cache
    found = mlxterp.collect_activations(model, ROW, layers=["layers.0"])
    assert "layers.0" in found and "layers.1" not in found
