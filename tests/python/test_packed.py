"""Models that stay packed, beside the same unpacked and beside mlx-lm's own."""

import pickle
import shutil
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model
from mlxterp import InterpretableModel, UsageError, patch, scale
from test_one_meaning import SHELL
from test_two_engines import gap

FOLDERS = Path(__file__).parents[1] / "parity" / "quantized"
# gpt_oss-blocks is as transformers saves it; mlx-lm gathers nvfp4 with a global
# scale on a GPU only.
BY_MLX_LM = sorted(
    path.name
    for path in FOLDERS.iterdir()
    if path.name not in ("gpt_oss-blocks", "nvfp4-experts")
)
ROWS = [[3, 14, 15, 92, 65, 35, 89, 7], [9, 4, 30]]


@pytest.mark.parametrize("name", BY_MLX_LM)
def test_is_what_mlx_lm_computes(name):
    packed = InterpretableModel(FOLDERS / name, packed=True)
    module, _ = load_model(FOLDERS / name)
    module.set_dtype(mx.float32)
    wrapped = InterpretableModel(module)
    # mlx-lm's packed products round otherwise than unpacking does.
    bound = 1e-3
    for edit in (None, scale(0.5)):
        found = []
        for model in (packed, wrapped):
            with model.trace(ROWS, interventions=edit and {"layers.0.mlp_out": edit}):
                found.append(model["layers.0.resid_post"].save())
                found.append(model.output.save())
        for a, b in zip(found[:2], found[2:]):
            for row, ids in enumerate(ROWS):
                x, y = a[row, : len(ids)], b[row, : len(ids)]
                assert gap(x, y) < bound, row


def test_sweeps_like_the_unpacked_one():
    models = [InterpretableModel(FOLDERS / "mixed", packed=p) for p in (True, False)]
    corrupt = [3, 14, 21, 92, 65, 35, 89, 7]
    sweeps = [patch(model, ROWS[0], corrupt, "logit(id:4)") for model in models]
    effects = [mx.array(sweep.effect) for sweep in sweeps]
    assert effects[0].size == 8
    assert gap(*effects) < 1e-4
    assert gap(models[0].W_Q[0], models[1].W_Q[0]) < 1e-6


def test_half_precision_may_stay_in_memory(tmp_path):
    source = FOLDERS.parent / "families" / "llama-gqa"
    shutil.copy(source / "config.json", tmp_path)
    tensors = mx.load(str(source / "model.safetensors"))
    halves = {name: tensor.astype(mx.bfloat16) for name, tensor in tensors.items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), halves)
    kept, wide = (InterpretableModel(tmp_path, half=half) for half in (True, False))
    kept = pickle.loads(pickle.dumps(kept))
    name = "layers.0.mlp.up_proj.weight"
    dtypes = [dict(m.engine.model.parameters())[name].dtype for m in (kept, wide)]
    assert dtypes == [mx.bfloat16, mx.float32]
    logits = []
    for model in (kept, wide):
        with model.trace(ROWS[0]):
            logits.append(model.output.save())
    assert logits[0].dtype == mx.float32
    assert gap(*logits) < 1e-5


def test_parts_are_parameters():
    engine = InterpretableModel(FOLDERS / "bits4-group64", packed=True).engine
    names = dict(engine.model.parameters())
    stem = "layers.0.mlp.up_proj."
    assert names[stem + "weight"].dtype == mx.uint32
    assert names[stem + "scales"].shape == names[stem + "biases"].shape
    plain = InterpretableModel(FOLDERS / "bits4-group64", packed=False).engine
    assert stem + "scales" not in dict(plain.model.parameters())


def test_a_packed_weight_can_be_changed():
    model = InterpretableModel(FOLDERS / "bits4-group64", packed=True)
    before = model.engine.model.parameters()
    name = "layers.0.mlp.up_proj.scales"
    scales = dict(before)[name]
    with model.trace(ROWS[0]):
        pre = model["layers.0.mlp.up_proj"].output.save()
    model.engine.model.update([(name, scales * 0)])
    with model.trace(ROWS[0]):
        post = model["layers.0.mlp.up_proj"].output.save()
    assert gap(pre, post) > 1e-2
    with pytest.raises(UsageError):
        model.engine.model.update([(name, scales[:1])])


def test_a_copy_is_packed_too():
    model = InterpretableModel(FOLDERS / "mxfp4", packed=True)
    again = pickle.loads(pickle.dumps(model))
    names = dict(again.engine.model.parameters())
    assert names["layers.0.mlp.up_proj.weight"].dtype == mx.uint32


def test_the_shell_has_the_same(tmp_path):
    found = []
    for how in ("packed", "unpacked"):
        out = tmp_path / f"{how}.safetensors"
        command = [SHELL, "trace", FOLDERS / "mixed", "--ids", "3,14,15", "--save", "logits"]
        subprocess.run([*command, "--weights", how, "-o", out], check=True)
        found.append(mx.load(str(out))["logits"])
    assert gap(*found) < 1e-4
