"""Writes generation.json: what transformers generates, token by token.

    oracle/bin/python tests/parity/make_generation.py

The environment is make_smollm2_fixture.py's, whose model is the demo's. Of each family of families/
that transformers has: the likeliest tokens behind one prompt, every position run
again for each. Of SmolLM2: twenty prompts, by transformers' own `generate`. `ties`
are the tokens whose second likeliest was nearer than 1e-3 in logits.
"""

import json
import warnings
from pathlib import Path

import torch

from make_smollm2_fixture import demo_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

HERE = Path(__file__).parent
TOKENS = 64
NEAR = 1e-3
OTHERS = {"internlm2", "minicpm"}  # made by mlx-lm

PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "The three laws of robotics are",
    "In 1969, the first",
    "Water boils at a temperature of",
    "My favourite recipe begins with",
    "Dear Sir or Madam,",
    "The quick brown fox jumps over",
    "2 + 2 =",
    "She opened the letter and read:",
    "import numpy as np\n\n",
    "Roses are red, violets are",
    "The president announced on Monday that",
    "Q: What is the largest planet?\nA:",
    "Les enfants jouent dans",
    "When Mary and John went to the store, John gave a drink to",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
    "1. Wash your hands.\n2.",
    "The mitochondrion is",
]


def near(logits):
    """Whether the two likeliest are closer than a rounding may move them."""
    top = logits.topk(2).values
    return bool(top[0] - top[1] < NEAR)


@torch.no_grad()
def greedy(model, ids):
    context = getattr(model.config, "max_position_embeddings", 10**9)
    context = min(context or 10**9, getattr(model.config, "n_positions", 10**9))
    out, ties = list(ids), []
    for i in range(min(TOKENS, context - len(ids) + 1)):
        try:
            logits = model(torch.tensor([out]), use_cache=False).logits[0, -1].float()
        except (RuntimeError, IndexError):  # the end of its positions
            assert i > TOKENS // 2
            break
        if near(logits):
            ties.append(i)
        out.append(int(logits.argmax()))
    return {"prompt": ids, "ids": out[len(ids):], "ties": ties}


def families():
    made = {}
    for folder in sorted((HERE / "families").iterdir()):
        config = json.loads((folder / "config.json").read_text())
        if config["model_type"] in OTHERS or folder.name == "opt-post-norm":
            continue
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager")
        except Exception as error:  # said, and seen in the count
            print(f"{folder.name}: {str(error)[:100]}", flush=True)
            continue
        ids = load_file(folder / "expected.safetensors")["ids"].flatten().tolist()
        made[folder.name] = greedy(model.eval(), ids[:6])
        print(folder.name, len(made[folder.name]["ids"]), made[folder.name]["ties"], flush=True)
    return made


@torch.no_grad()
def smollm2():
    path = demo_model()
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(**where)
    made = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        done = model.generate(
            ids, max_new_tokens=TOKENS, do_sample=False, output_logits=True,
            return_dict_in_generate=True, eos_token_id=None, pad_token_id=0)
        ties = [i for i, logits in enumerate(done.logits) if near(logits[0])]
        new = done.sequences[0, ids.shape[1]:].tolist()
        made.append({"text": prompt, "prompt": ids[0].tolist(), "ids": new, "ties": ties})
        print(repr(prompt), ties, flush=True)
    return made


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    made = {"smollm2": smollm2(), "families": families()}
    lines = [json.dumps(it) for it in made["smollm2"]]
    named = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in made["families"].items()]
    text = ('{"smollm2": [\n' + ",\n".join(lines) + '\n],\n"families": {\n'
            + ",\n".join(named) + "\n}}\n")
    json.loads(text)
    (HERE / "generation.json").write_text(text)


if __name__ == "__main__":
    main()
