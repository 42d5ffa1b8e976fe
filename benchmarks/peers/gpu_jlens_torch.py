"""The published code's way to a Jacobian lens on a GPU: Gemma 2 2B's shape with
random weights in bfloat16, a prompt of 128 tokens repeated 8 times, and one
backward pass of the retained graph for each 8 output dimensions. Of those it
runs some and reckons up the rest.

usage: gpu_jlens_torch.py; needs torch with CUDA and transformers."""

import time

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

LENGTH, SKIP, ROWS, PASSES = 128, 16, 8, 24


def main():
    config = Gemma2Config(
        vocab_size=32768, hidden_size=2304, num_hidden_layers=26,
        intermediate_size=9216, num_attention_heads=8, num_key_value_heads=4,
        head_dim=256, query_pre_attn_scalar=256, attn_implementation="eager")
    with torch.device("cuda"):
        model = Gemma2ForCausalLM(config).to(torch.bfloat16).eval()
    model.requires_grad_(False)
    streams = []

    def keep(_, __, output):
        stream = output[0] if isinstance(output, tuple) else output
        if not streams:
            stream.requires_grad_(True)
        streams.append(stream)

    for layer in model.model.layers:
        layer.register_forward_hook(keep)
    ids = torch.randint(0, 32000, (1, LENGTH), device="cuda").expand(ROWS, -1)

    def prompt():
        streams.clear()
        model.model(ids)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for i in range(PASSES):
            cotangent = torch.zeros_like(streams[-1])
            for r in range(ROWS):
                cotangent[r, SKIP:-1, i * ROWS + r] = 1
            gradients = torch.autograd.grad(
                streams[-1], streams[:-1], cotangent, retain_graph=True)
            for gradient in gradients:
                gradient[:, SKIP:-1].float().mean(1).cpu()
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) * config.hidden_size / ROWS / PASSES

    prompt()
    best = min(prompt() for _ in range(3))
    print(f"a prompt of {LENGTH} tokens {best:.1f} s")


if __name__ == "__main__":
    main()
