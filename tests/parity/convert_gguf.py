"""Makes more of tests/parity/gguf, with llama.cpp's own converter.

    python tests/parity/convert_gguf.py LLAMA_CPP [VARIANT...]

LLAMA_CPP is the folder of that name inside the source distribution of
llama-cpp-python 0.3.36 (PyPI), vendor/llama.cpp, whose conversion/ and gguf-py/
are used. Each tiny checkpoint of families/ is converted as it is, in float32
and without a vocabulary, which it has none of. GGUF has no key for some fields;
where they are changed, what transformers computes with the changed ones is kept
beside the file. Needs torch, transformers, safetensors and numpy, as
make_families.py does.
"""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent

# Fields that change; those that only the converter reads, in HINTS.
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
        "original_max_position_embeddings": 16, "mscale": 0.9,
        "mscale_all_dim": 0.9}
VARIANTS = {
    "arcee": {},
    "arcee-bias": {"hidden_act": "relu2"},
    "cohere": {},
    "cohere2": {},
    "deepseek_v2-groups": {"rope_parameters": YARN},
    "deepseek_v3": {"norm_topk_prob": False},  # no key then
    "dots1": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {},
    "exaone4-every-other": {},
    "gemma-mha": {},
    "gemma-mqa": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe-plain": {},
    "gpt_oss": {},
    "granite": {},
    "granite-bias": {},
    "hunyuan-bias": {},
    "lfm2": {},
    "llama-bias": {},
    "mistral-head-dim": {},
    "mixtral": {},
    "olmo": {},
    "olmo-clip": {},
    "olmo2": {},
    "olmo2-gqa": {},
    "olmo3": {},
    "olmo3-thetas": {},
    "olmoe": {"rms_norm_eps": 1e-5},  # what it writes whatever is said
    "olmoe-gqa": {"rms_norm_eps": 1e-5, "norm_topk_prob": False},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "seed_oss": {},
    "seed_oss-out-bias": {},
    "smollm3": {"no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0]},
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
    "starcoder2-no-bias": {"hidden_act": "gelu_pytorch_tanh"},
    "youtu": {},
}
HINTS = {"cohere2": {"rotary_pct": 1.0}}


def converter(llama_cpp):
    """A function that converts a folder into a file."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, get_model_architecture

    def convert(folder, path):
        fields = ModelBase.load_hparams(folder, False)
        kind = get_model_class(
            get_model_architecture(fields, ModelType.TEXT), mmproj=False)
        bare = type(kind.__name__, (kind,), {
            "set_vocab": lambda self: None, "model_arch": kind.model_arch})
        with torch.inference_mode():
            bare(folder, gguf.LlamaFileType.ALL_F32, path, eager=True,
                 model_name="tiny").write()

    return convert


def save_expected(path, folder, changes):
    config = AutoConfig.from_pretrained(folder, **changes)
    model = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32,
        attn_implementation="eager", experts_implementation="eager").eval()
    with safe_open(folder / "expected.safetensors", "numpy") as file:
        ids = file.get_tensor("ids")
        before = file.get_tensor("logits")
    with torch.no_grad():
        logits = model(torch.tensor(ids[None])).logits[0]
    assert np.abs(logits.numpy() - before).max() > 1e-5, path.name
    save_file({"ids": torch.tensor(ids), "logits": logits.contiguous()},
              path.with_suffix(".safetensors"))


def main():
    convert = converter(Path(sys.argv[1]).resolve())
    logging.disable(logging.WARNING)
    for name in sys.argv[2:] or VARIANTS:
        changes = VARIANTS[name]
        folder, path = HERE / "families" / name, HERE / "gguf" / f"{name}.gguf"
        with tempfile.TemporaryDirectory() as scratch:
            config = json.loads((folder / "config.json").read_text())
            config |= changes | HINTS.get(name, {})
            Path(scratch, "config.json").write_text(json.dumps(config))
            shutil.copy(folder / "model.safetensors", scratch)
            convert(Path(scratch), path)
        if changes:
            save_expected(path, folder, changes)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
