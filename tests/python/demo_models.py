"""Models for the demos' calls: small ones of every kind, and what they say by
their own modules or sites, which is what the calls are held against."""

import mlx.core as mx
from mlxterp.compat.transformer_lens import HookedTransformer
from test_two_engines import FOLDERS
from view_models import WordTokenizer, tiny_llama

VOCAB = 97


def words(*ids):
    return " ".join(f"w{it}" for it in ids)


def tokenizer():
    made = WordTokenizer(VOCAB)
    made.bos_token_id = 1
    return made


def hooked(name):
    """By name: "gpt2" and "llama" natively, "wrapped" an mlx.nn.Module."""
    if name == "wrapped":
        return HookedTransformer(tiny_llama(), tokenizer())
    folder = FOLDERS / {"gpt2": "gpt2", "llama": "llama-gqa"}[name]
    return HookedTransformer(folder, tokenizer(), fold_ln=True)


def plain_loss(logits, tokens):
    """Cross entropy in steps of its own, [pos - 1]."""
    rows = [mx.softmax(it.astype(mx.float32)) for it in list(logits[0])]
    ids = tokens[0].tolist()
    return mx.array([-mx.log(rows[i][t]).item() for i, t in enumerate(ids[1:])])


def close(a, b, atol=2e-4):
    a, b = mx.array(a), mx.array(b)
    assert a.shape == b.shape and a.size > 0, (a.shape, b.shape)
    return bool(mx.allclose(a, b, atol=atol, rtol=1e-4))
