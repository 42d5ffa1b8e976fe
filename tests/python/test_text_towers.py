"""Language models inside multimodal checkpoints, as mlx-lm saves them."""

import json
from importlib import import_module
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map
from mlx_lm.utils import load_model, save_config, save_model
from mlxterp import InterpretableModel, patch
from test_two_engines import ROUGH, as_mlx_lm, gap

TOWERS = Path(__file__).parents[1] / "parity" / "towers"
WIDE = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 96, "rms_norm_eps": 1e-5, "sliding_window_pattern": 2,
}


def read_by_mlx_lm(name):
    """The module, and the config as it is on the disk."""
    config = json.loads((TOWERS / name / "config.json").read_text())
    text = config["text_config"]
    if name == "llama4":  # which asks for a number
        text["attn_temperature_tuning"] = 4
    told = config | {"vocab_size": text["vocab_size"], "text_config": as_mlx_lm(dict(text))}
    return load_model(TOWERS / name, model_config=told)[0], config


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "llama4"])
def test_both_engines_have_the_same(name):
    native = InterpretableModel(TOWERS / name)
    wrapped = InterpretableModel(read_by_mlx_lm(name)[0])
    bound = ROUGH.get(name, 1e-4)
    last = len(native.layers) - 1
    assert len(wrapped.layers) == len(native.layers)
    rows = [[5, 11, 3, 29, 7, 13, 2], [9, 4, 30]]
    for site in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
        found = []
        for model in (native, wrapped):
            with model.trace(rows):
                found.append(model[f"layers.{last}.{site}"].save())
        for row, ids in enumerate(rows):
            off = gap(*(values[row, : len(ids)] for values in found))
            assert off < bound, (site, row)
    corrupt = [5, 11, 3, 30, 7, 14, 2]
    sweeps = [patch(model, rows[0], corrupt, "logit(id:4)") for model in (native, wrapped)]
    effects = [mx.array(sweep.effect) for sweep in sweeps]
    assert mx.abs(effects[0] - effects[1]).max().item() < bound


@pytest.mark.parametrize("name", ["gemma3", "mistral3", "llama4"])
def test_as_mlx_lm_saves_it(name, tmp_path):
    module, config = read_by_mlx_lm(name)
    save_model(tmp_path, module)
    save_config(config, tmp_path / "config.json")
    names = mx.load(str(tmp_path / "model.safetensors"))
    assert all(key.startswith("language_model.") for key in names)

    expected = mx.load(str(TOWERS / name / "expected.safetensors"))
    wanted = expected["logits"]
    model = InterpretableModel(tmp_path)
    with model.trace(expected["ids"].tolist()):
        logits = model.output.save()
    assert logits.squeeze(0).shape == wanted.shape
    error = mx.abs(logits.squeeze(0) - wanted).max().item()
    print(f"{name}: off by {error} of {wanted.size} logits")
    assert error < 1e-5


# Settings of modules are under the names that the tower has.
@pytest.mark.parametrize("name, text", [("gemma3", "gemma3_text"), ("mistral3", "mistral")])
def test_packed_as_mlx_lm_packs_it(name, text, tmp_path):
    kind = import_module(f"mlx_lm.models.{name}")
    config = {
        "model_type": name,
        "vocab_size": 96,
        "text_config": {"model_type": text, **WIDE},
    }
    module = kind.Model(kind.ModelArgs.from_dict(json.loads(json.dumps(config))))
    mx.random.seed(1)
    module.update(tree_map(lambda w: 0.2 * mx.random.normal(w.shape), module.parameters()))
    own = "language_model.model.layers.1.mlp.down_proj"
    nn.quantize(
        module, 64, 4,
        class_predicate=lambda path, m: hasattr(m, "to_quantized")
        and ({"group_size": 32, "bits": 8} if path == own else True),
    )
    config["quantization"] = {"group_size": 64, "bits": 4, own: {"group_size": 32, "bits": 8}}
    save_model(tmp_path, module)
    save_config(config, tmp_path / "config.json")

    ids = [3, 1, 4, 1, 5, 9]
    wanted = module(mx.array([ids]))
    model = InterpretableModel(tmp_path)
    with model.trace(ids):
        logits = model.output.save()
    assert logits.shape == wanted.shape
    error = (mx.abs(logits - wanted).max() / mx.abs(wanted).max()).item()
    print(f"{name}: off by {error} of {wanted.size} logits")
    assert error < 1e-4
