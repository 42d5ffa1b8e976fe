"""What an analysis is made of, and of what measure: empty, misspelt, uncalled."""

import json

import mlx.core as mx
import mlxterp
import numpy as np
import pytest
from compare import repeated
from mlxterp import InterpretableModel, UsageError, metrics
from test_two_engines import FOLDERS, pair

CLEAN, CORRUPT = [3, 4, 5, 6], [3, 9, 5, 6]


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(FOLDERS / "llama-gqa")


@pytest.mark.parametrize("none", [[], (), range(0), np.array([], int)])
def test_nothing_chosen(model, none):
    metric, pair = metrics.logit(5), (CLEAN, CORRUPT)
    asked = 0
    for name in ("layers", "positions", "heads", "neurons"):
        chosen = {name: none}
        runs = [lambda: mlxterp.patch(model, *pair, metric, **chosen)]
        runs += [lambda: mlxterp.ablate(model, CLEAN, metric, **chosen)]
        runs += [lambda: mlxterp.attribute(model, *pair, metric, **chosen)]
        if name in ("layers", "heads"):
            runs += [lambda: mlxterp.path_patch(model, *pair, metric, **chosen)]
        if name in ("layers", "positions"):
            runs += [lambda: mlxterp.lens(model, CLEAN, **chosen)]
        for run in runs:
            with pytest.raises(UsageError, match=f"{name}=.* chooses none"):
                run()
            asked += 1
    assert asked == 16
    assert model.logit_lens(CLEAN, layers=none) == {}
    assert mlxterp.get_activations(model, [CLEAN], layers=none) == {}
    assert len(mlxterp.collect_activations(model, CLEAN, layers=none)) == 0


def test_a_metric_that_is_not_called(model):
    for name in ("loss", "kl_divergence", "logit", "probability", "custom"):
        with pytest.raises(UsageError, match=rf"metrics\.{name}\("):
            mlxterp.patch(model, CLEAN, CORRUPT, getattr(metrics, name))
    found = mlxterp.patch(model, CLEAN, CORRUPT, lambda logits: logits[:, 5])
    assert abs(found.clean - model(CLEAN)[0, -1, 5].item()) < 1e-5


@pytest.mark.parametrize(
    "made, text",
    [
        (metrics.logit(5), "logit(id:5)"),
        (metrics.logit_diff(5, 7), "logit_diff(id:5,id:7)"),
        (metrics.probability(5), "prob(id:5)"),
        (metrics.log_probability(5), "log_prob(id:5)"),
        (metrics.rank(5), "rank(id:5)"),
        (metrics.kl_divergence(), "kl"),
        (metrics.loss(), "loss"),
    ],
)
def test_a_metric_has_the_name_of_its_text(model, made, text):
    told = [
        json.loads(mlxterp.patch(model, CLEAN, CORRUPT, it, by="layer").to_json())
        for it in (made, text)
    ]
    assert told[0]["metric"]["name"] == told[1]["metric"]["name"] == text


def test_names_of_metrics_of_texts_and_of_several():
    assert metrics.logit(" Mary").name == "logit( Mary)"
    assert metrics.logit([5, 5]).name == "logit(id:5)"
    both = "logit_diff(id:1,id:3); logit_diff(id:2,id:3)"
    assert metrics.logit_diff([1, 2], 3).name == both
    some = "rank(id:1); rank(id:2); rank(id:3); ... (4 in all)"
    assert metrics.rank([1, 2, 3, 4]).name == some
    assert metrics.logit([]).name == ""


def test_ids_of_one_axis(model):
    _, wrapped = pair(FOLDERS / "llama-gqa")
    for it in (model, wrapped):
        assert repeated(it(mx.array(CLEAN)), it([CLEAN]))
