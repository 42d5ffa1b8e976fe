"""A torch peer's patching sweeps on the IOI pair.

usage: torch_sweep.py transformerlens|nnsight FOLDER OUT.npz

Prints a line "NAME SECONDS" for each sweep and for one plain forward pass, and
writes the grids: ioi and other [layer, pos], heads [layer, head] where the peer
has the sweep. FOLDER is a float32 Hugging Face folder (to_hf_folder.py).
"""

import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch

CLEAN = "When Mary and John went to the store, John gave a drink to"
IOI = "When Mary and John went to the store, Mary gave a drink to"
OTHER = "As Anna and Tom left for the shop, Tom gave some food to"
ANSWERS = (" Mary", " John")


def timed(name, run):
    begin = time.perf_counter()
    result = run()
    print(name, time.perf_counter() - begin, flush=True)
    return result


def forward(run):
    run()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    print("forward", sorted(times)[2], flush=True)


def transformerlens(folder):
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = TransformerBridge.boot_transformers(
        folder, dtype=torch.float32, device="cpu")
    model.enable_compatibility_mode()

    def ids(text):
        return tokenizer(text, return_tensors="pt").input_ids

    mary, john = (tokenizer(name).input_ids[0] for name in ANSWERS)

    def metric(logits):
        return logits[0, -1, mary] - logits[0, -1, john]

    _, cache = model.run_with_cache(ids(CLEAN))
    forward(lambda: model(ids(CLEAN)))
    return {
        name: timed(name, lambda: sweep(model, ids(corrupt), cache, metric))
        .detach().numpy()
        for name, sweep, corrupt in (
            ("ioi", patching.get_act_patch_resid_pre, IOI),
            ("other", patching.get_act_patch_resid_pre, OTHER),
            ("heads", patching.get_act_patch_attn_head_out_all_pos, IOI))}


def nnsight(folder):
    from nnsight import LanguageModel

    model = LanguageModel(
        folder, device_map="cpu", dtype=torch.float32, dispatch=True)
    tokenizer = model.tokenizer
    layers = model.config.num_hidden_layers

    def ids(text):
        return tokenizer(text, return_tensors="pt").input_ids

    def whole(output):
        return output[0] if isinstance(output, tuple) else output

    mary, john = (tokenizer(name).input_ids[0] for name in ANSWERS)

    def plain():
        with model.trace(ids(CLEAN)):
            logits = model.lm_head.output.save()
        return logits

    def sweep():
        # What leaves a layer enters the next: layer 0 is read by its embedding.
        sources = []
        with model.trace(ids(CLEAN)):
            first = model.model.embed_tokens.output.save()
        sources.append(first)
        for layer in range(layers - 1):
            with model.trace(ids(CLEAN)):
                value = model.model.layers[layer].output.save()
            sources.append(whole(value))
        grid = np.zeros((layers, ids(CLEAN).shape[1]), np.float32)
        for layer in range(layers):
            for position in range(grid.shape[1]):
                with model.trace(ids(IOI)):
                    part = (model.model.embed_tokens if layer == 0
                            else model.model.layers[layer - 1])
                    out = whole(part.output)
                    out[:, position, :] = sources[layer][:, position, :]
                    logits = model.lm_head.output.save()
                grid[layer, position] = (
                    logits[0, -1, mary] - logits[0, -1, john]).item()
        return grid

    forward(plain)
    return {"ioi": timed("ioi", sweep)}


def main():
    peer, folder, out = sys.argv[1:4]
    torch.set_grad_enabled(False)
    grids = {"transformerlens": transformerlens, "nnsight": nnsight}[peer](folder)
    np.savez(out, **grids)


if __name__ == "__main__":
    main()
