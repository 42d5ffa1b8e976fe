"""Writes smollm2.safetensors: what transformers computes for the demo model.

    python3.11 -m venv oracle
    oracle/bin/pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 \
        accelerate==1.15.0 safetensors==0.8.0 numpy==2.4.6
    oracle/bin/python tests/parity/make_smollm2_fixture.py [MODEL.gguf]

Neither the build nor the tests need that environment (5 GB): they read the
file this writes. transformers dequantises the GGUF itself, to float32, and so
is an oracle of both the weights and the forward pass.

The file holds, for the prompt "The Eiffel Tower is located in the city of",
    ids                      int32 [10]
    resid.0 .. resid.29      [10, 576], what goes into layer i
    resid.30                 [10, 576], what leaves the last layer
    ln_final                 [10, 576], after the final norm
    logits                   [49152], at the last position
    top5.ids, top5.logits    [5], of them
    layers.I.pattern         [9, 10, 10], I = 0, 9, 29 (head, dest, src)
    layers.I.attn_out, .mlp_out          [10, 576], I = 0, 15, 29
    layers.I.q                           [10, 576], before RoPE
    layers.I.k, .v                       [10, 192], before RoPE
    layers.15.mlp_post                   [10, 1536], what goes into down_proj
and for the IOI prompt, clean and with the second John replaced by Mary,
    ioi.clean.ids, ioi.corrupt.ids               int32 [14]
    ioi.answers                                  int32 [2], " Mary", " John"
    ioi.clean.logit_diff, ioi.corrupt.logit_diff [1], " Mary" minus " John"
All values float32 where not said otherwise.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

EIFFEL = "The Eiffel Tower is located in the city of"
EIFFEL_IDS = [504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282]
IOI = "When Mary and John went to the store, John gave a drink to"
MARY, JOHN = 5099, 2322

PATTERN_LAYERS = (0, 9, 29)
SUBLAYER_LAYERS = (0, 15, 29)
MLP_POST_LAYER = 15


def demo_model():
    """The cached demo model; the same rule as scripts/fetch_demo.py."""
    cache = os.environ.get("MLXTERP_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
        "mlxterp",
    )
    return Path(cache) / "SmolLM2-135M-Instruct.Q4_1.gguf"


def record(model, ids):
    """One forward pass over `ids`; every value of the fixture, by name."""
    found = {}
    hooks = []

    def keep(name, value):
        found[name] = value[0].detach().float().numpy().copy()

    def output(module, name):
        # A module returns its value alone or first in a tuple.
        def hook(_module, _args, result):
            keep(name, result[0] if isinstance(result, tuple) else result)

        hooks.append(module.register_forward_hook(hook))

    def input(module, name):
        hooks.append(
            module.register_forward_pre_hook(
                lambda _module, args: keep(name, args[0])
            )
        )

    layers = model.model.layers
    # hidden_states' last entry is after the final norm: hooks instead.
    output(model.model.embed_tokens, "resid.0")
    for i, layer in enumerate(layers):
        output(layer, f"resid.{i + 1}")
    output(model.model.norm, "ln_final")
    for i in SUBLAYER_LAYERS:
        attention = layers[i].self_attn
        output(attention, f"layers.{i}.attn_out")
        output(layers[i].mlp, f"layers.{i}.mlp_out")
        output(attention.q_proj, f"layers.{i}.q")
        output(attention.k_proj, f"layers.{i}.k")
        output(attention.v_proj, f"layers.{i}.v")
    input(layers[MLP_POST_LAYER].mlp.down_proj,
          f"layers.{MLP_POST_LAYER}.mlp_post")

    with torch.no_grad():
        result = model(torch.tensor([ids]), output_attentions=True)
    for hook in hooks:
        hook.remove()

    for i in PATTERN_LAYERS:
        keep(f"layers.{i}.pattern", result.attentions[i])
    found["logits"] = result.logits[0, -1].numpy().copy()
    return found


def logit_diff(model, ids):
    with torch.no_grad():
        last = model(torch.tensor([ids])).logits[0, -1]
    return np.array([(last[MARY] - last[JOHN]).item()], dtype=np.float32)


def check(what, got, wanted, tolerance=1e-4):
    assert np.allclose(got, wanted, rtol=0, atol=tolerance), (
        f"{what}: got {got}, wanted {wanted}"
    )


def main():
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else demo_model()
    source = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=torch.float32, attn_implementation="eager", **source
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)

    def encode(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert encode(EIFFEL) == EIFFEL_IDS, encode(EIFFEL)
    assert encode(" Mary") == [MARY] and encode(" John") == [JOHN]

    fixture = record(model, EIFFEL_IDS)
    top = np.argsort(-fixture["logits"])[:5]
    top_logits = fixture["logits"][top]
    assert [tokenizer.decode([i]) for i in top] == [
        " Paris", " Mont", " Mar", " T", " La",
    ]
    check("top 5", top_logits, [12.8419, 9.6438, 9.6156, 9.5936, 9.5582])

    clean = encode(IOI)
    corrupt = list(clean)
    second_john = [i for i, token in enumerate(clean) if token == JOHN][1]
    corrupt[second_john] = MARY
    assert len(clean) == 14
    clean_diff = logit_diff(model, clean)
    corrupt_diff = logit_diff(model, corrupt)
    check("IOI clean", clean_diff, 6.1196)
    check("IOI corrupt", corrupt_diff, -5.4853)

    def int32(values):
        return np.array(values, dtype=np.int32)

    fixture |= {
        "ids": int32(EIFFEL_IDS),
        "top5.ids": int32(top),
        "top5.logits": top_logits,
        "ioi.clean.ids": int32(clean),
        "ioi.corrupt.ids": int32(corrupt),
        "ioi.answers": int32([MARY, JOHN]),
        "ioi.clean.logit_diff": clean_diff,
        "ioi.corrupt.logit_diff": corrupt_diff,
    }
    # The final norm is the only step between these two.
    rms = np.sqrt((fixture["resid.30"] ** 2).mean(-1, keepdims=True) + 1e-5)
    weight = model.model.norm.weight.detach().numpy()
    check("ln_final", fixture["resid.30"] / rms * weight, fixture["ln_final"],
          1e-3)

    out = Path(__file__).with_name("smollm2.safetensors")
    save_file(fixture, out, metadata={"prompt": EIFFEL, "ioi": IOI})
    print(f"{out}: {len(fixture)} tensors, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
