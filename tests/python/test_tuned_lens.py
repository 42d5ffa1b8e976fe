"""The tuned lens: its arithmetic, its training and its files."""

import json

import mlx.core as mx
import numpy as np
import pytest
from compare import repeated
from mlxterp import InterpretableModel
from mlxterp.errors import (
    BadDataError,
    IoError,
    OutOfRangeError,
    UsageError,
)
from mlxterp.tuned_lens import (
    TunedLens,
    kl_divergence,
    log_softmax,
    train,
    train_tuned_lens,
)
from view_models import WordTokenizer, llama_states, tiny_llama

VOCAB = 97
TOKENS = [(7 * i * i + 3 * i) % VOCAB for i in range(80)]
DATASET = [" ".join(f"w{token}" for token in TOKENS)]


@pytest.fixture
def model():
    return InterpretableModel(tiny_llama(), WordTokenizer(VOCAB))


def test_a_new_lens_changes_nothing():
    lens = TunedLens(num_layers=2, hidden_dim=5)
    assert (lens.num_layers, lens.hidden_dim, len(lens.translators)) == (2, 5, 2)
    states = mx.random.normal((1, 3, 5), key=mx.random.key(0))
    assert mx.array_equal(lens(states, 1), states)
    assert lens(states[0, 0], layer_idx=0).shape == (5,)


def test_a_translator_is_affine():
    lens = TunedLens(2, 2)
    lens.translators[0].weight = mx.array([[1.0, 2.0], [3.0, 4.0]])
    lens.translators[0].bias = mx.array([10.0, 20.0])
    assert lens(mx.array([1.0, -1.0]), 0).tolist() == [9.0, 19.0]


def test_the_last_layer_is_the_model(model):
    """Whatever stands in its translator."""
    lens = TunedLens(3, 32)
    for translator in lens.translators:
        translator.bias = mx.arange(32.0)
    states = mx.random.normal((4, 32), key=mx.random.key(0))
    assert mx.array_equal(lens(states, 2), states)
    assert mx.array_equal(lens(states, 1), states + mx.arange(32.0))
    through, plain = model.tuned_lens("w1 w2 w3", lens), model.logit_lens("w1 w2 w3")
    assert repeated(through[2], plain[2]) and not repeated(through[1], plain[1])


def test_training_to_a_clock_and_until_it_is_stopped(model):
    losses = []
    how = dict(length=16, on_step=lambda step, loss: losses.append(loss))
    ids = TOKENS * 2
    trained = train(model, ids, minutes=1e-9, **how)
    assert len(losses) == 1  # one at least
    once = train(model, ids, steps=1, **how)
    first, second = trained.translators[0], once.translators[0]
    assert mx.allclose(first.weight, second.weight, atol=1e-6)
    losses.clear()
    stopped = train(model, ids, steps=50, stop=lambda: len(losses) == 3, **how)
    assert len(losses) == 3
    assert not mx.array_equal(stopped.translators[0].weight, mx.eye(32))
    with pytest.raises(UsageError, match="minutes"):
        train(model, ids, minutes=-1.0, **how)


@pytest.mark.parametrize("layer", [2, -1])
def test_a_layer_the_lens_has_not(layer):
    with pytest.raises(OutOfRangeError, match="there are 2") as error:
        TunedLens(2, 4)(mx.zeros((4,)), layer)
    assert isinstance(error.value, ValueError)


def test_a_lens_of_another_model(model):
    for lens in (TunedLens(3, 8), TunedLens(2, 32)):
        with pytest.raises(UsageError, match="trained on this model"):
            model.tuned_lens("w1 w2", lens)
    with pytest.raises(UsageError, match="this lens reads 8"):
        TunedLens(3, 8)(mx.zeros((4,)), 0)


def test_log_softmax_and_divergence():
    x = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]], np.float32)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    assert np.allclose(log_softmax(mx.array(x)), np.log(p), atol=1e-6)
    along = np.exp(np.array(log_softmax(mx.array(x), axis=0)))
    assert np.allclose(along.sum(0), 1)
    q = p[::-1]
    expected = (p * np.log(p / q)).sum(1).mean()
    found = kl_divergence(mx.array(np.log(p)), mx.array(np.log(q)))
    assert found.shape == () and float(found) == pytest.approx(expected, abs=1e-6)


# Training


def reference_training(network, steps, size, rate=1.0, momentum=0.9, clip=1.0):
    """Losses and translators by plain arithmetic: Nesterov SGD by hand."""
    layers, width = len(network.model.layers), 32
    parameters = [[mx.eye(width), mx.zeros((width,))] for _ in range(layers)]
    velocity = [[mx.zeros_like(p) for p in pair] for pair in parameters]
    losses, at = [], 0

    def loss_of(flat, states, target):
        total = 0.0
        for index, state in enumerate(states[:-1]):  # the last is the model
            weight, bias = flat[2 * index], flat[2 * index + 1]
            normed = network.model.norm(state @ weight.T + bias)
            logits = network.model.embed_tokens.as_linear(normed)
            log_q = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            total = total + (mx.exp(target) * (target - log_q)).sum(-1).mean()
        return total / (layers - 1)

    for step in range(steps):
        chunk = TOKENS[at : at + size]
        at += size
        if at >= len(TOKENS) - size:
            at = 0
        logits = network(mx.array([chunk]))
        target = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        states = llama_states(network, chunk)
        flat = [p for pair in parameters for p in pair]
        loss, gradients = mx.value_and_grad(loss_of)(flat, states, target)
        norm = float(mx.sqrt(sum((g * g).sum() for g in gradients)))
        if norm > clip:
            gradients = [g * (clip / norm) for g in gradients]
        losses.append(float(loss))
        now = rate * (1 - step / steps)
        for index, pair in enumerate(parameters):
            for part in (0, 1):
                g = gradients[2 * index + part]
                v = momentum * velocity[index][part] + g
                velocity[index][part] = v
                pair[part] = pair[part] - now * (g + momentum * v)
        mx.eval(parameters, velocity)
    return losses, parameters


def test_training_is_clipped_nesterov_descent(model):
    seen = []
    lens = train_tuned_lens(
        model,
        DATASET,
        num_steps=7,
        max_seq_len=24,
        verbose=False,
        callback=lambda step, loss: seen.append((step, loss)),
    )
    losses, parameters = reference_training(model.model, 7, 24)
    assert [step for step, _ in seen] == list(range(7))
    assert [loss for _, loss in seen] == pytest.approx(losses, abs=1e-4)
    for translator, (weight, bias) in zip(lens.translators, parameters):
        assert mx.allclose(translator.weight, weight, atol=1e-4)
        assert mx.allclose(translator.bias, bias, atol=1e-4)


def test_training_brings_the_lens_nearer_to_the_model(model):
    losses = []
    train_tuned_lens(
        model,
        DATASET,
        num_steps=40,
        max_seq_len=40,
        verbose=False,
        callback=lambda step, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("tie", [True, False])
def test_training_on_quantised_models(tie):
    network = tiny_llama(tie=tie, quantised=True)
    model = InterpretableModel(network, WordTokenizer(VOCAB))
    losses = []
    train_tuned_lens(
        model,
        DATASET,
        20,
        max_seq_len=40,
        verbose=False,
        callback=lambda step, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0]


def test_training_without_momentum(model):
    lens = train_tuned_lens(
        model, DATASET, 2, momentum=0.0, max_seq_len=24, verbose=False
    )
    _, parameters = reference_training(model.model, 2, 24, momentum=0.0)
    assert mx.allclose(lens.translators[0].weight, parameters[0][0], atol=1e-4)


def test_training_tells_of_itself_only_when_asked(model, capsys, tmp_path):
    options = {"num_steps": 11, "max_seq_len": 24}
    train_tuned_lens(model, DATASET, verbose=False, **options)
    assert capsys.readouterr().out == ""
    train_tuned_lens(model, DATASET, save_path=tmp_path / "lens", **options)
    told = capsys.readouterr().out
    assert "3 layers" in told and "step 0 " in told and "step 10 " in told
    assert "step 5 " not in told and "lens.npz" in told
    assert TunedLens.load(tmp_path / "lens").num_layers == 3


def test_the_model_s_own_methods(model, tmp_path):
    lens = model.train_tuned_lens(
        DATASET,
        num_steps=1,
        max_seq_len=24,
        verbose=False,
        save_path=str(tmp_path / "lens"),
    )
    again = model.load_tuned_lens(str(tmp_path / "lens"))
    assert repeated(model.tuned_lens("w1 w2", again), model.tuned_lens("w1 w2", lens))


@pytest.mark.parametrize(
    ("dataset", "size", "match"),
    [
        ([], 24, "no texts"),
        (["", " \n"], 24, "empty or whitespace"),
        (DATASET, 81, "80 tokens"),
        (DATASET, 9, "at least 10"),
    ],
)
def test_datasets_that_cannot_train(model, dataset, size, match):
    with pytest.raises(ValueError, match=match):
        train_tuned_lens(model, dataset, max_seq_len=size, verbose=False)


def test_a_folder_to_save_in_is_missed_before_training(model, tmp_path):
    steps = []
    with pytest.raises(IoError, match="no folder"):
        train_tuned_lens(
            model,
            DATASET,
            max_seq_len=24,
            save_path=tmp_path / "none" / "lens",
            verbose=False,
            callback=lambda step, loss: steps.append(step),
        )
    assert steps == []


def test_a_loss_that_is_nan_ends_the_training(model):
    model.model.model.norm.weight = mx.full((32,), float("nan"))
    with pytest.raises(BadDataError, match="NaN"):
        train_tuned_lens(model, DATASET, 2, max_seq_len=24, verbose=False)


# Files


def test_files_come_back_as_they_went(tmp_path):
    lens = TunedLens(2, 3)
    lens.translators[0].weight = mx.arange(9.0).reshape(3, 3)
    lens.translators[0].bias = mx.array([1.0, 2.0, 3.0])
    lens.save(str(tmp_path / "lens"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lens.json", "lens.npz"]
    text = (tmp_path / "lens.json").read_text()
    assert text == '{\n  "num_layers": 2,\n  "hidden_dim": 3\n}'
    arrays = np.load(tmp_path / "lens.npz")
    assert sorted(arrays.files) == [
        "translators_0_bias",
        "translators_0_weight",
        "translators_1_bias",
        "translators_1_weight",
    ]
    assert arrays["translators_0_weight"].tolist() == np.arange(9.0).reshape(
        3, 3
    ).tolist()
    again = TunedLens.load(str(tmp_path / "lens"))
    assert (again.num_layers, again.hidden_dim) == (2, 3)
    states = mx.random.normal((4, 3), key=mx.random.key(0))
    for layer in (0, 1):
        assert repeated(again(states, layer), lens(states, layer))


def write_as_mlxterp_0_1(path, layers=2, width=3, **config):
    """The files mlxterp 0.1 writes."""
    arrays = {}
    for i in range(layers):
        arrays[f"translators_{i}_weight"] = mx.eye(width) * (i + 2)
        arrays[f"translators_{i}_bias"] = mx.ones((width,)) * i
    mx.savez(str(path) + ".npz", **arrays)
    config = {"num_layers": layers, "hidden_dim": width, **config}
    with open(str(path) + ".json", "w") as file:
        json.dump(config, file, indent=2)


def test_files_of_mlxterp_0_1_are_read(tmp_path):
    write_as_mlxterp_0_1(tmp_path / "old")
    with pytest.warns(UserWarning, match="for layer 1, the last one"):
        lens = TunedLens.load(tmp_path / "old")
    assert lens(mx.array([1.0, 2.0, 3.0]), 0).tolist() == [2.0, 4.0, 6.0]
    # It trained the last layer too, which is the model.
    assert lens(mx.array([1.0, 2.0, 3.0]), 1).tolist() == [1.0, 2.0, 3.0]
    # Any suffix stands for both files.
    with pytest.warns(UserWarning):
        assert TunedLens.load(tmp_path / "old.npz").num_layers == 2


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lens\.json") as error:
        TunedLens.load(tmp_path / "lens")
    assert isinstance(error.value, IoError)
    (tmp_path / "lens.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"lens\.npz"):
        TunedLens.load(tmp_path / "lens")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("{", "not valid JSON"),
        ("[]", "hidden_dim"),
        ('{"num_layers": 2}', "hidden_dim"),
        ('{"num_layers": "2", "hidden_dim": 3}', "num_layers"),
        ('{"num_layers": 0, "hidden_dim": 3}', "num_layers"),
        ('{"num_layers": 3, "hidden_dim": 3}', "translators_2_weight"),
        ('{"num_layers": 99999999999, "hidden_dim": 3}', "num_layers from 1"),
        ('{"num_layers": 2, "hidden_dim": 4}', "says 4 features"),
    ],
)
def test_damaged_configs(tmp_path, config, match):
    write_as_mlxterp_0_1(tmp_path / "lens")
    (tmp_path / "lens.json").write_text(config)
    with pytest.raises(BadDataError, match=match):
        TunedLens.load(tmp_path / "lens")


def test_damaged_arrays(tmp_path):
    write_as_mlxterp_0_1(tmp_path / "lens")
    whole = (tmp_path / "lens.npz").read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        (tmp_path / "lens.npz").write_bytes(content)
        with pytest.raises(BadDataError):
            TunedLens.load(tmp_path / "lens")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(IoError, match="cannot write"):
        TunedLens(1, 2).save(tmp_path / "none" / "lens")
