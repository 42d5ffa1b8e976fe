"""Activations of prompts, of different lengths too."""

import mlx.core as mx
import pytest
from compare import repeated
from mlxterp import InterpretableModel
from mlxterp.errors import OutOfRangeError, UsageError
from mlxterp.utils import batch_get_activations, get_activations
from view_models import WordTokenizer, llama_states, tiny_gpt2, tiny_llama

PROMPTS = ["w1 w2 w3 w4", "w5", "w6 w7 w8"]
TOKENS = [[1, 2, 3, 4], [5], [6, 7, 8]]


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(tiny_llama(), WordTokenizer(97))


def test_one_prompt(model):
    states = llama_states(model.model, TOKENS[0])
    found = get_activations(model, PROMPTS[0])
    assert list(found) == ["layer_0", "layer_1", "layer_2"]
    for layer, state in enumerate(states):
        assert found[f"layer_{layer}"].shape == (1, 32)
        assert repeated(found[f"layer_{layer}"], state[:, -1])


def test_each_prompt_counts_from_its_own_end(model):
    found = get_activations(model, PROMPTS, layers=[1], positions=-1)["layer_1"]
    assert found.shape == (3, 32)
    for row, tokens in enumerate(TOKENS):
        alone = llama_states(model.model, tokens)[1][0, -1]
        assert repeated(found[row], alone)


def test_several_positions(model):
    prompts, tokens = [PROMPTS[0], PROMPTS[2]], [TOKENS[0], TOKENS[2]]
    found = get_activations(model, prompts, [2], [0, -2, 2])["layer_2"]
    assert found.shape == (2, 3, 32)
    for row, ids in enumerate(tokens):
        alone = llama_states(model.model, ids)[2][0]
        for index, position in enumerate([0, len(ids) - 2, 2]):
            assert repeated(found[row, index], alone[position])


def test_indices_of_numpy(model):
    import numpy as np

    found = get_activations(model, PROMPTS, np.arange(2), np.int64(-1))
    assert list(found) == ["layer_0", "layer_1"]
    assert found["layer_0"].shape == (3, 32)


def test_a_list_of_one_position_has_no_axis_for_it(model):
    one = get_activations(model, PROMPTS, [0], [-1])["layer_0"]
    assert repeated(one, get_activations(model, PROMPTS, [0])["layer_0"])


@pytest.mark.parametrize("position", [1, -2])
def test_a_position_some_prompt_has_not(model, position):
    with pytest.raises(OutOfRangeError, match="row 1 has 1 token"):
        get_activations(model, PROMPTS, positions=[0, position])


@pytest.mark.parametrize("layer", [3, -1])
def test_a_layer_the_model_has_not(model, layer):
    with pytest.raises(OutOfRangeError, match="0 to 2"):
        get_activations(model, PROMPTS, layers=[layer])


def test_layers_called_h():
    network = tiny_gpt2()
    model = InterpretableModel(network, WordTokenizer(97))
    found = get_activations(model, PROMPTS)
    assert list(found) == ["layer_0", "layer_1"]
    last = network.model.ln_f(found["layer_1"][1])
    logits = network.model.wte.as_linear(last)
    assert mx.allclose(logits, network(mx.array([[5]]))[0, -1], atol=1e-4)


def test_nothing_asked(model):
    with pytest.raises(UsageError, match="no prompt"):
        get_activations(model, [])
    with pytest.raises(UsageError, match="no position"):
        get_activations(model, PROMPTS, positions=[])
    assert get_activations(model, PROMPTS, layers=[]) == {}


@pytest.mark.parametrize("size", [1, 2, 8])
def test_batches_are_one_result(model, size):
    whole = get_activations(model, PROMPTS, [0, 2])
    found = batch_get_activations(model, PROMPTS, [0, 2], batch_size=size)
    assert list(found) == ["layer_0", "layer_2"]
    for key, value in found.items():
        assert repeated(value, whole[key])


def test_batches_of_nothing(model):
    assert batch_get_activations(model, []) == {}
    with pytest.raises(UsageError, match="batch_size"):
        batch_get_activations(model, PROMPTS, batch_size=0)
