"""The C++ Decoder as an engine: loads a checkpoint, names every site of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from .. import _core
from ..errors import UnknownNameError, UsageError
from .base import Intervention

# mlx-lm's attention has a module for the rotation; upstream keeps what its
# last call, that of the keys, returned: [batch, kv_head, pos, d_head].
_ROPE = ".rope"


class NativeTokenizer:
    """The checkpoint's own tokenizer, with the names transformers gives."""

    def __init__(self, model: _core.Model):
        self._model = model

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids. Control tokens in `text` stay plain text."""
        return self._model.encode(text, add_special_tokens)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD."""
        text = self._model.decode(list(ids), not skip_special_tokens)
        return text.decode("utf-8", "replace")

    def labels(self, ids: Sequence[int]) -> list[str]:
        """One string a token, whole characters only."""
        return self._model.labels(list(ids))

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def bos_token_id(self) -> int | None:
        return self._model.bos

    @property
    def eos_token_id(self) -> int | None:
        return self._model.eos


class NativePass:
    """See `engine.base.Pass`."""

    def __init__(self, engine: NativeEngine, inputs, interventions):
        self._engine = engine
        self._pass = _core.Pass(engine.model, inputs, list(interventions))
        self.output = self._pass.output
        self.lengths = self._pass.lengths

    def value(self, site: str) -> mx.array:
        if site.endswith(_ROPE):
            return self._pass.value(f"{site.removesuffix(_ROPE)}.rot_k").swapaxes(1, 2)
        return self._pass.value(site)

    def keys(self) -> list[str]:
        return list(self._engine.sites_of_keys)

    def finish(self, kept: Sequence[mx.array]) -> None:
        self._pass.finish(list(kept))


class NativeEngine:
    """See `engine.base.Engine`.

    `model`: a .gguf file, a Hugging Face folder or id, "demo", or what another
    NativeEngine has loaded. `dtype` of the weights: float32 on a CPU and the
    file's own on a GPU where nothing is said. `progress(what, done)` is called
    while it loads, `warn(sentence)` with what is odd about the checkpoint.
    Raises IoError, BadDataError.
    """

    def __init__(
        self,
        model: str | os.PathLike | _core.Model,
        dtype: mx.Dtype | None = None,
        progress: Callable[[str, float], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ):
        if not isinstance(model, _core.Model):
            model = _core.Model.load(os.fspath(model), dtype, progress, warn)
        self.model = model
        self.n_layers: int = model.n_layers
        self.config: dict = model.config
        self.tokenizer = NativeTokenizer(model) if model.has_tokenizer else None
        self.resolve = lru_cache(maxsize=4096)(self._resolve)
        self.sites_of_keys = self._keys()

    def _keys(self) -> dict[str, str]:
        """Upstream's key of every module output, and the site it means."""
        config, keys, last = self.config, {}, None
        for path, words in self.model.modules:
            if path == "unembed" and config["tied"]:
                continue
            attention = path.endswith(".attn")
            if path.endswith(".attn.o_proj"):
                keys[f"model.{words.rpartition('.')[0]}{_ROPE}"] = (
                    path.rpartition(".")[0] + _ROPE
                )
            keys[f"model.{words}"] = self.model.find(f"{path}.output")
            if attention:
                keys[f"model.{words}.attention_weights"] = self.model.find(
                    f"{path}.pattern"
                )
            if path == "ln_final":
                # The inner model of mlx-lm, everything but the unembedding.
                last = words.rpartition(".")[0]
                if last:
                    keys[f"model.{last}"] = keys[f"model.{words}"]
        return keys

    def _resolve(self, name: str) -> str:
        if name in ("output", "__model_output__"):
            return self.model.find("logits")
        if name in self.sites_of_keys:
            return self.sites_of_keys[name]
        if name.endswith(_ROPE):
            keys = self._resolve(f"{name.removesuffix(_ROPE)}.rot_k")
            return keys.removesuffix(".rot_k") + _ROPE
        if name.endswith(".attention_weights"):
            name = name.removesuffix("attention_weights") + "pattern"
        try:
            return self.model.find(name)
        except UnknownNameError:
            # `model.` stands before every key, and once more in mlx-lm's.
            short = name
            while short.startswith("model."):
                short = short.removeprefix("model.")
                try:
                    return self.model.find(short)
                except UnknownNameError:
                    pass
            raise

    def match(self, pattern: str) -> list[str]:
        if not any(c in pattern for c in "*{"):
            return [self.resolve(pattern)]
        return self.model.match(pattern)

    def run(
        self,
        inputs: list[list[int]] | mx.array,
        interventions: Sequence[tuple[str, Intervention]] = (),
    ) -> NativePass:
        for site, _ in interventions:
            if site.endswith(_ROPE):
                at = site.removesuffix(_ROPE)
                raise UsageError(
                    f"'{site}' stands for two calls; intervene on {at}.rot_q "
                    f"or {at}.rot_k"
                )
        return NativePass(self, inputs, interventions)

    def forward(self, ids: list[list[int]] | mx.array) -> mx.array:
        """Logits [batch, pos, vocab], lazy."""
        return self.model.forward(ids)

    def named_modules(self) -> list[tuple[str, object]]:
        return [("", self)] + [(path, None) for path, _ in self.model.modules]

    def parameters(self) -> dict:
        return tree_unflatten(self.model.parameters())

    def trainable_parameters(self) -> dict:
        return self.parameters()

    def update(self, parameters: dict) -> NativeEngine:
        """Sets parameters, a tree as `parameters()` gives or a part of it."""
        self.model.update(tree_flatten(parameters))
        return self
