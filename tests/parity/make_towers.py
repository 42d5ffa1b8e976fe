"""Writes towers/<name>/: tiny multimodal checkpoints around the language models
of families/, and what transformers computes of them.

    oracle/bin/python tests/parity/make_towers.py    # as for make_families.py

Each holds config.json and model.safetensors as transformers saves them, and
expected.safetensors with the prompt `ids` int32 [pos] and its `logits`, in
float32 with eager attention. The language model is that of a variant of
families/, tensor by tensor, so the script asserts that its logits are what
transformers computes of that variant alone. (Not of its final soft cap, which
transformers leaves out around Gemma 3 and no published one has.)
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText)
from transformers.utils import logging

HERE = Path(__file__).parent
OUT = HERE / "towers"

SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 16, "patch_size": 4, "vision_use_head": False,
}
PIXTRAL = {
    "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8,
    "image_size": 16, "patch_size": 4,
}
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1,
    "image_size": 16, "patch_size": 4, "projection_dim": 8,
}
QWEN3_VL = {
    "model_type": "qwen3_vl", "hidden_size": 8, "intermediate_size": 8,
    "depth": 1, "num_heads": 1, "patch_size": 4, "out_hidden_size": 24,
    "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
}

GEMMA4_VISION = {
    "model_type": "gemma4_vision", "hidden_size": 8, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
    "head_dim": 8, "patch_size": 4, "position_embedding_size": 16,
    "pooling_kernel_size": 1,
}

LLAMA4_VISION = {
    "hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 1, "image_size": 16, "patch_size": 4,
    "vision_output_dim": 8, "projector_input_dim": 8,
    "projector_output_dim": 8,
}

# The checkpoint's kind, the language model inside, the config around it.
TOWERS = {
    "gemma3": ("gemma3", "gemma3-rope-linear", {
        "vision_config": SIGLIP, "mm_tokens_per_image": 4}),
    "mistral3": ("mistral3", "mistral-head-dim", {
        "vision_config": PIXTRAL, "tie_word_embeddings": False}),
    "gemma4": ("gemma4", "gemma4-all", {"vision_config": GEMMA4_VISION}),
    "llava": ("llava", "llama-gqa", {"vision_config": CLIP}),
    "qwen3_5": ("qwen3_5", "qwen3_5", {
        "vision_config": QWEN3_VL | {"model_type": "qwen3_5_vision"}}),
    "llama4": ("llama4", "llama4", {"vision_config": LLAMA4_VISION}),
}


def text_fields(variant):
    fields = json.loads(
        (HERE / "families" / variant / "config.json").read_text())
    if "final_logit_softcapping" in fields:
        fields["final_logit_softcapping"] = None
    return fields


def alone(variant, ids):
    fields = text_fields(variant)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = AutoModelForCausalLM.from_pretrained(
        HERE / "families" / variant, config=config, dtype=torch.float32,
        attn_implementation="eager").eval()
    with torch.no_grad():
        return model(ids[None].long()).logits[0]


def build(kind, variant, around):
    """The model, its language model that of the variant."""
    text = text_fields(variant)
    tied = text.get("tie_word_embeddings")
    fields = {"text_config": text} | (
        {} if tied is None else {"tie_word_embeddings": tied}) | around
    config = AutoConfig.for_model(kind, **fields)
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(
        config, dtype=torch.float32, attn_implementation="eager").eval()
    weights = load_file(HERE / "families" / variant / "model.safetensors")
    own = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers())
    own |= {name: buffers[name] for name in buffers
            if name.endswith("layer_scalar")}
    filled = set()
    for name, value in weights.items():
        inner = name.removeprefix("model.")
        place = next(it for it in (
            name, f"model.language_model.{inner}", f"language_model.{name}")
            if it in own)
        with torch.no_grad():
            own[place].copy_(value)
        filled.add(place)
    filled.add("lm_head.weight")  # which may be tied
    rest = [name for name in own if "language_model" in name
            and name not in filled]
    assert not rest, rest
    return model


def logits_of(folder, ids):
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()
    if model.config.model_type == "llama4":  # whose forward asks for an image
        model = model.language_model
    with torch.no_grad():
        return model(input_ids=ids[None].long()).logits[0]


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for name, (kind, variant, around) in TOWERS.items():
        ids = load_file(
            HERE / "families" / variant / "expected.safetensors")["ids"]
        with tempfile.TemporaryDirectory() as scratch:
            build(kind, variant, around).save_pretrained(scratch)
            logits = logits_of(scratch, ids)
            error = (logits - alone(variant, ids)).abs().max().item()
            assert error < 1e-5, f"{name}: {error} from {variant} alone"
            folder = OUT / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for file in ("config.json", "model.safetensors"):
                shutil.copyfile(Path(scratch) / file, folder / file)
        save_file({"ids": ids, "logits": logits.contiguous()},
                  folder / "expected.safetensors")
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{name:12}{variant:24}{error:10.1e}{size:9} bytes")


if __name__ == "__main__":
    main()
