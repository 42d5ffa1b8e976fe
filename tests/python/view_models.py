"""Tiny random models and a tokenizer of words, for the tests of analyses."""

import importlib

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map


class WordTokenizer:
    """`w0 w1 …`: word `w{i}` is token i."""

    bos_token_id = None

    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

    def encode(self, text):
        return [int(word[1:]) for word in text.split() if word[1:]]

    def __len__(self):
        return self.vocab_size

    def decode(self, tokens):
        return " ".join(f"w{token}" for token in tokens)


def _built(family, seed, quantised, **arguments):
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs(model_type=family, **arguments))
    # Weights larger than usual, so that the layers of a random model differ.
    model.update(
        tree_map(lambda p: p * 3 if p.ndim > 1 else p, model.parameters())
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


def llama_states(model, tokens):
    """The residual stream behind every layer and the final norm's output of a
    Llama, from its own modules: the tests' independent computation."""
    inner = model.model
    hidden = inner.embed_tokens(mx.array([tokens]))
    states = []
    for layer in inner.layers:
        hidden = layer(hidden, "causal", None)
        states.append(hidden)
    return states


def llama_patterns(model, tokens):
    """Attention patterns [head, destination, source] of every layer."""
    inner = model.model
    hidden = inner.embed_tokens(mx.array([tokens]))
    count = len(tokens)
    patterns = []
    for layer in inner.layers:
        attention = layer.self_attn
        x = layer.input_layernorm(hidden)

        def heads(projection, number, x=x):
            return projection(x).reshape(1, count, number, -1).swapaxes(1, 2)

        q = attention.rope(heads(attention.q_proj, attention.n_heads))
        k = attention.rope(heads(attention.k_proj, attention.n_kv_heads))
        k = mx.repeat(k, attention.n_heads // attention.n_kv_heads, axis=1)
        scores = q @ k.swapaxes(-1, -2) * attention.scale
        future = mx.triu(mx.ones((count, count)), k=1).astype(mx.bool_)
        scores = mx.where(future, -mx.inf, scores)
        patterns.append(mx.softmax(scores, axis=-1)[0])
        hidden = layer(hidden, "causal", None)
    return patterns
