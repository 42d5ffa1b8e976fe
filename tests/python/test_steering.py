"""Steering vectors: training, measuring, applying and their files."""

import json
import pickle

import mlx.core as mx
import mlxterp
import pytest
from mlxterp import InterpretableModel, SteeringVector, steering

POSITIVE = ["I loved every minute of it", "The soup was delicious", "What a great day"]
NEGATIVE = ["I hated every minute of it", "The soup was disgusting", "What a bad day"]
METRIC = "logit_diff( good, bad)"


@pytest.fixture(scope="module")
def model():
    return InterpretableModel("demo")


@pytest.fixture(scope="module")
def training(model):
    return mlxterp.steer_train(model, POSITIVE, NEGATIVE, layers=[4, 12, -1])


def test_the_mean_difference_of_what_layers_leave(model, training):
    sides = []
    for prompts in (POSITIVE, NEGATIVE):
        rows = []
        for prompt in prompts:
            with model.trace(prompt) as trace:
                row = model["layers.12.resid_post"].save()
            rows.append(row[0, -1])
        sides.append(mx.stack(rows))
    wanted = sides[0].mean(0) - sides[1].mean(0)
    vector = training.vector
    assert vector.layers == [4, 12, 29] and vector.d_model == 576
    assert mx.allclose(vector[12], wanted, atol=2e-3 * mx.abs(wanted).max().item())
    lengths = mx.linalg.norm(mx.concatenate(sides), axis=-1).mean().item()
    assert vector.residual_norms[12] == pytest.approx(lengths, rel=1e-3)
    quality = training.layers[1]
    assert quality.layer == 12 and 0 < quality.cosine <= 1 and 0.5 <= quality.auc <= 1
    assert vector.pairs == 3 and vector.positions == [-1] and vector.method == "mean"
    assert vector.model_type == "llama" and len(vector.tokenizer) == 64


def test_a_sweep_is_what_edited_passes_say(model, training):
    sweep = mlxterp.steer_sweep(
        model,
        training.vector,
        ["The food was", "My week has been"],
        METRIC,
        layers=[12],
        strengths=[-0.1, 0, 0.1],
        random=1,
    )
    assert sweep.metric.shape == (1, 3, 2) and sweep.slopes.shape == (1, 2)
    assert sweep.kl.shape == sweep.perplexity.shape == (1, 3)
    good, bad = (model.encode(w)[0] for w in (" good", " bad"))
    made = mlxterp.steer(model, training.vector, 0.1, layers=[12])
    assert "0.1" in str(made) and "layers.12.resid_post" in str(made)
    for place, prompt in enumerate(("The food was", "My week has been")):
        with model.trace(prompt, interventions=made.interventions):
            logits = model.output.save()
        wanted = (logits[0, -1, good] - logits[0, -1, bad]).item()
        assert sweep.metric[0, 2, place].item() == pytest.approx(wanted, abs=5e-3)
    assert sweep.layers[0].slope > 0 and sweep.layers[0].contrary == 0
    told = json.loads(sweep.to_json())
    assert told["layers"][0]["layer"] == 12 and len(told["values"]) == 6
    assert "<html" in sweep.to_html()


def test_taking_it_away_and_setting_it(model):
    for operation, wanted in (("project_out", 0.0), ("clamp", 0.5)):
        training = mlxterp.steer_train(
            model, POSITIVE, NEGATIVE, layers=[12], operation=operation, method="pca"
        )
        vector = training.vector
        made = mlxterp.steer(model, vector, 0.5, operation=operation)
        with model.trace("The food was", interventions=made.interventions):
            stream = model["layers.12.resid_post"].save()
        coordinates = stream[0] @ (vector[12] / mx.linalg.norm(vector[12]))
        length = vector.residual_norms[12]
        assert mx.allclose(coordinates, mx.array(wanted * length), atol=1e-2 * length)
        with pytest.raises(mlxterp.UsageError, match="meant for"):
            mlxterp.steer(model, vector, 0.5)


def test_files_and_copies(training, tmp_path):
    vector = training.vector
    vector.save(str(tmp_path / "v.safetensors"))
    with pytest.raises(mlxterp.UsageError, match="exists"):
        vector.save(str(tmp_path / "v.safetensors"))
    vector.save_gguf(str(tmp_path / "v.gguf"))
    for again in (
        SteeringVector.load(str(tmp_path / "v.safetensors")),
        SteeringVector.load_gguf(str(tmp_path / "v.gguf")),
        pickle.loads(pickle.dumps(vector)),
    ):
        assert again.layers == vector.layers
        assert all(mx.array_equal(again[i], vector[i]) for i in vector.layers)
        assert again.residual_norms == vector.residual_norms
        assert again.tokenizer == vector.tokenizer
    own = SteeringVector({0: mx.ones(576), 3: mx.ones(576)}, model_type="llama")
    with pytest.warns(UserWarning, match="layer 0"):
        own.save_gguf(str(tmp_path / "own.gguf"))
    late = SteeringVector.load_gguf(str(tmp_path / "own.gguf"), "cvector-generator")
    assert late.layers == [2]
    with pytest.raises(mlxterp.BadDataError):
        SteeringVector.load(str(tmp_path / "own.gguf"))


def test_what_is_wrong_is_said(model, training, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(mlxterp.UsageError, match="holds no pairs"):
        steering.read_pairs(empty)
    with pytest.raises(mlxterp.UsageError, match="3 positive and 2 negative"):
        mlxterp.steer_train(model, POSITIVE, NEGATIVE[:2])
    narrow = SteeringVector({12: mx.ones(575)})
    with pytest.raises(mlxterp.UsageError, match="575.*576"):
        mlxterp.steer_sweep(model, narrow, "a", METRIC)
    unknown = SteeringVector({12: mx.ones(576)})
    with pytest.raises(mlxterp.UsageError, match="not known"):
        mlxterp.steer(model, unknown, 0.1)
    measured = steering.with_norms(unknown, model)
    assert mlxterp.steer(model, measured, 0.1).interventions
    with pytest.raises(mlxterp.UsageError, match="is zero"):
        SteeringVector({12: mx.zeros(576)})
    with pytest.raises(mlxterp.UsageError, match="NaN"):
        mlxterp.project_out(mx.array([float("nan")] * 4))


def test_interventions_of_directions():
    x = mx.random.normal((1, 3, 8), key=mx.random.key(0))
    basis = mx.random.normal((2, 8), key=mx.random.key(1))
    left = mlxterp.project_out(basis)(x)
    assert mx.abs(left @ basis.T).max().item() < 1e-5
    unit = basis[0] / mx.linalg.norm(basis[0])
    held = mlxterp.clamp_along(basis[0], 2.0)(x)
    assert mx.allclose(held @ unit, mx.array(2.0), atol=1e-5)
