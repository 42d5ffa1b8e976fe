"""Tiny random models and a tokenizer of words, for the tests of analyses."""

import importlib

import mlx.core as mx
import mlx.nn as nn


class WordTokenizer:
    """`w0 w1 …`: word `w{i}` is token i."""

    bos_token_id = None

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def encode(self, text):
        return [int(word[1:]) for word in text.split()]

    def decode(self, tokens):
        return " ".join(f"w{token}" for token in tokens)


def _built(family, seed, quantised, **arguments):
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs(model_type=family, **arguments))
    # Random models barely differ by layer; larger weights make them.
    model.update(
        {
            key: value
            for key, value in nn.utils.tree_map(
                lambda p: p * 3 if p.ndim > 1 else p, model.parameters()
            ).items()
        }
    )
    if quantised:
        nn.quantize(model, group_size=32, bits=4)
    mx.eval(model.parameters())
    return model


def tiny_llama(tie=True, quantised=False, layers=3, seed=0, vocab=97):
    return _built(
        "llama",
        seed,
        quantised,
        hidden_size=32,
        num_hidden_layers=layers,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=vocab,
        tie_word_embeddings=tie,
    )


def tiny_gpt2(seed=0, layers=2):
    return _built(
        "gpt2",
        seed,
        False,
        n_ctx=64,
        n_embd=32,
        n_head=4,
        n_layer=layers,
        n_positions=64,
        layer_norm_epsilon=1e-5,
        vocab_size=97,
    )
