"""The C++ Decoder as an engine: loads a checkpoint, names every site of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from .. import _core
from ..errors import OutOfRangeError, UnknownNameError, UsageError
from ._chat import ChatMethods
from ._names import is_pattern
from ._threads import leave_clean
from .attached import Run, engine_of
from .base import Intervention

# mlx-lm's attention has a module for the rotation; upstream keeps what its
# last call, that of the keys, returned: [batch, kv_head, pos, d_head].
_ROPE = ".rope"


class NativeTokenizer(ChatMethods):
    """The checkpoint's own tokenizer, with the names transformers gives."""

    def __init__(self, model: _core.Model, parse_special: bool = True):
        self.model, self._parse_special = model, parse_special

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        parse_special: bool | None = None,
    ) -> list[int]:
        """Token ids. `parse_special`: whether control tokens in `text` are what
        they are called, the model's setting where nothing is said."""
        if parse_special is None:
            parse_special = self._parse_special
        return self.model.encode(text, add_special_tokens, parse_special)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD."""
        text = self.model.decode(list(ids), not skip_special_tokens)
        return text.decode("utf-8", "replace")

    def labels(self, ids: Sequence[int]) -> list[str]:
        """One string a token, whole characters only."""
        return self.model.labels(list(ids))

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def bos_token_id(self) -> int | None:
        return self.model.bos

    @property
    def eos_token_id(self) -> int | None:
        return self.model.eos


class NativeModule:
    """A part of the model by its path: `part(x)` runs it alone, parts and
    parameters are attributes (`model.layers[3].mlp.up_proj.weight`)."""

    def __init__(self, model: _core.Model, path: str):
        self.model, self._path = model, path

    def __call__(self, x: mx.array) -> mx.array:
        return self.model.call(self._path, x)

    def as_linear(self, x: mx.array) -> mx.array:
        """Of the embedding: x [..., d_model] as logits [..., vocab]."""
        if self._path != "embed":
            raise UsageError(f"'{self._path}' is no embedding")
        return self.model.call("unembed", x)

    def parameters(self) -> dict:
        """The parameters below, a tree by their names in the module."""
        start = f"{self._path}." if self._path else ""
        below = [
            (path[len(start) :], value)
            for path, value in self.model.parameters()
            if path.startswith(start)
        ]
        return tree_unflatten(below)

    def trainable_parameters(self) -> dict:
        """The same: none is frozen."""
        return self.parameters()

    def update(self, parameters: dict) -> NativeModule:
        """Sets parameters below, a tree as `parameters()` gives or a part of
        it. For `mlx.nn.value_and_grad` and `mlx.optimizers`; never while a
        pass runs on another thread. Raises UnknownNameError, and UsageError for
        values of another shape or dtype, NaN or infinite; then none is set."""
        start = f"{self._path}." if self._path else ""
        self.model.update([(start + p, v) for p, v in tree_flatten(parameters)])
        return self

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        path = f"{self._path}.{name}" if self._path else name
        paths = self.model.paths
        if path in paths:
            return NativeModule(self.model, path)
        if any(it.startswith(f"{path}.") for it in paths):
            return NativeList(self.model, path)
        parameters = dict(self.model.parameters())
        if path in parameters:
            return parameters[path]
        raise UnknownNameError(f"'{self._path}' has no '{name}'")

    def __repr__(self) -> str:
        return f"NativeModule({self._path!r})"


class NativeList:
    """Numbered parts: the layers."""

    def __init__(self, model: _core.Model, path: str):
        self.model, self._path = model, path
        self._n = sum(it.rpartition(".")[0] == path for it in model.paths)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> NativeModule:
        if not -self._n <= i < self._n:
            raise OutOfRangeError(f"there are {self._n} of '{self._path}', no {i}")
        return NativeModule(self.model, f"{self._path}.{i % self._n}")


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

    def check(self, kept: Sequence[mx.array] = ()) -> None:
        self._pass.check()
        mx.eval(*kept)

    def finish(self, kept: Sequence[mx.array]) -> None:
        self._pass.finish(list(kept))


class NativeEngine:
    """See `engine.base.Engine`.

    `model`: a .gguf file, a Hugging Face folder or id, "demo", or what another
    NativeEngine has loaded. `dtype` of the weights: float32 on a CPU and the
    file's own on a GPU where nothing is said. `packed`: whether matrices that the
    file keeps packed stay so in memory; None: on a GPU, or where they would not fit
    unpacked. `half`: leave matrices in the half precision that the file has them in
    and compute with them in float32. `progress(what, done)` is called while it loads, `warn(sentence)` with warnings about the checkpoint.
    Raises IoError, BadDataError.
    """

    def __init__(
        self,
        model: str | os.PathLike | _core.Model,
        dtype: mx.Dtype | None = None,
        progress: Callable[[str, float], None] | None = None,
        warn: Callable[[str], None] | None = None,
        parse_special: bool = True,
        revision: str | None = None,
        packed: bool | None = None,
        half: bool = False,
    ):
        if not isinstance(model, _core.Model):
            model = _core.Model.load(
                os.fspath(model),
                dtype,
                packed,
                half,
                progress,
                warn,
                revision=revision or "main",
            )
        self.model = model
        self.module = NativeModule(model, "")
        self.n_layers: int = model.n_layers
        self.config: dict = model.config
        own = NativeTokenizer(model, parse_special) if model.has_tokenizer else None
        self.tokenizer = own
        self.resolve = lru_cache(maxsize=4096)(self._resolve)
        self.sites_of_keys = dict(model.keys)  # of every module output

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
        return self.model.find(name)

    def match(self, pattern: str) -> list[str]:
        if not is_pattern(pattern):
            return [self.resolve(pattern)]
        return self.model.match(pattern)

    def part(self, layer: int, out: str) -> str:
        path = f"layers.{layer}.{out.removesuffix('_out')}"
        if path not in self.model.paths:
            raise UnknownNameError(
                f"layer {layer} has no attention; layers.{layer}.{out} is what "
                "stands in its place"
            )
        return path

    def run(
        self,
        inputs: list[list[int]] | mx.array,
        interventions: Sequence[tuple[str, Intervention]] = (),
    ) -> NativePass:
        leave_clean()
        for site, _ in interventions:
            if site.endswith(_ROPE):
                at = site.removesuffix(_ROPE)
                raise UsageError(
                    f"'{site}' means two calls; intervene on {at}.rot_q "
                    f"or {at}.rot_k"
                )
        return NativePass(self, inputs, interventions)

    def forward(self, ids: list[list[int]] | mx.array) -> mx.array:
        """Logits [batch, pos, vocab], lazy."""
        leave_clean()
        return self.model.forward(ids)

    def attach(self, site, module, mode, name, by_position, standing=()):
        """As the contract says: C++ runs it, so that every analysis does."""
        run = Run(engine_of(module, mode))
        model = self.model.edited(list(standing)) if standing else self.model
        other = copy(self)
        other.model = model.attach(
            self.resolve(site), run, run.parts, mode, name, by_position
        )
        other.resolve = lru_cache(maxsize=4096)(other._resolve)
        return other

    def attach_sae(self, sae, mode, name, site, reads, check_on, standing=()):
        """The same with a `_core.Sae`, which C++ runs by itself."""
        model = self.model.edited(list(standing)) if standing else self.model
        other = copy(self)
        other.model = _core.attach_sae(model, sae, mode, name, site, reads, check_on)
        other.resolve = lru_cache(maxsize=4096)(other._resolve)
        return other

    def named_modules(self) -> list[tuple[str, object]]:
        return [(path, NativeModule(self.model, path)) for path in self.model.paths]

    def parameters(self) -> dict:
        return self.module.parameters()
