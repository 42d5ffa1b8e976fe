"""The floor under torch's tools on a GPU: 512 cells of a random Llama of 1.2 B
parameters, one eager forward pass each with one patching hook.

usage: gpu_floor.py; needs torch with CUDA and transformers."""

import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS, POSITIONS = 16, 32


def main():
    torch.set_grad_enabled(False)
    config = LlamaConfig(
        hidden_size=2048, num_hidden_layers=LAYERS, intermediate_size=8192,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64,
        vocab_size=128256, tie_word_embeddings=True)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    ids = torch.randint(0, 128000, (1, POSITIONS), device="cuda")
    source = torch.randn(
        1, POSITIONS, 2048, device="cuda", dtype=torch.bfloat16)

    def cell(layer, position):
        def patch(_, args, kwargs):
            stream = args[0].clone()
            stream[:, position] = source[:, position]
            return (stream, *args[1:]), kwargs

        hook = model.model.layers[layer].register_forward_pre_hook(
            patch, with_kwargs=True)
        logits = model(ids).logits[0, -1, 0]
        hook.remove()
        return logits

    for layer in range(3):
        cell(layer, 0)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for layer in range(LAYERS):
        for position in range(POSITIONS):
            cell(layer, position)
    torch.cuda.synchronize()
    print(f"torch, one hooked pass a cell: {LAYERS * POSITIONS} cells "
          f"{time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main()
