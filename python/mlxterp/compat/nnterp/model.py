"""`StandardizedTransformer`: an InterpretableModel that is called as nnterp's and
nnsight's are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import mlx.core as mx

from ...analysis.unembed import output_projection
from ...core import Trace, TraceContext
from ...core.proxy import OutputProxy, read
from ...core.trace import OUTPUT
from ...errors import UsageError
from ...model import InterpretableModel
from ..transformer_lens.config import Config, config_of

_INSTEAD = {
    "generate": "an InterpretableModel of the same path generates text: "
    "InterpretableModel(path).generate(prompt, max_tokens=20), its hooks as "
    "interventions=",
    "session": "traces run here, one after the other: write them so",
    "edit": "edits that stay are a handle: edited = model.edited({'layers.3.mlp': fn})",
}


class Value(OutputProxy):
    """A value that was made of a trace's values; it can be saved, and is no site."""

    def _site(self) -> None:
        return None


class Logits(OutputProxy):
    """What the model returned, which has it as `logits` too."""

    @property
    def logits(self) -> OutputProxy:
        return self


class Tracer(Trace):
    """A trace by nnsight's words. Nothing is computed but what is saved, so
    `stop` has nothing to do."""

    def stop(self) -> None:
        """Allowed: what nobody saved above this is not computed anyhow."""

    def cache(self, modules: Any = None, **_: Any) -> dict[str, mx.array]:
        """The outputs of modules (proxies; None means all) by their names, saved."""
        names = [it._name for it in modules] if modules is not None else None
        names = [it for it in self.activations] if names is None else names
        found = {}
        for name in names:
            found[name] = self.value(name)
            self.save(name, found[name])
        return found


class Invoker:
    """`model.trace()` without inputs: each `invoke` is a pass of its own, whose
    values the next ones may use."""

    def __init__(self, model: StandardizedTransformer):
        self._model = model

    def __enter__(self) -> Invoker:
        return self

    def __exit__(self, *_) -> bool:
        return False

    def invoke(self, inputs: Any, **how) -> Tracer:
        """A pass on a prompt, to use in a `with`."""
        return self._model.trace(inputs, **how)

    def stop(self) -> None:
        """As a tracer's."""


class StandardizedTransformer(InterpretableModel):
    """nnterp's model, native or wrapped: its names, mx.arrays in place of tensors.
    Reading is in any order, rows of unequal prompts end at their own last token,
    and everything that an InterpretableModel has is there too.

    Args:
        enable_attention_probs, check_renaming, ...: what nnterp takes besides is
            accepted where it changes nothing, else UsageError.
    """

    def __init__(self, model: Any, tokenizer: Any = None, **kwargs):
        free = ("enable_attention_probs", "check_renaming", "device_map", "dispatch")
        for name in (*free, "check_attn_probs_with_trace", "allow_dispatch"):
            kwargs.pop(name, None)
        if "rename_config" in kwargs:
            raise UsageError(
                "rename_config: names are the same in every model here; where a wrapped "
                "module's list of layers or its ends are not found, give layer_attr=, "
                "embedding_path=, norm_path= or lm_head_path="
            )
        super().__init__(model, tokenizer, **kwargs)

    def trace(
        self,
        inputs: Any = None,
        interventions: Mapping[str, Callable] | None = None,
        activations: bool = False,
        remote: bool = False,
    ) -> Tracer | Invoker:
        """A pass on `inputs`, or without them a block of `invoke`s."""
        if remote:
            raise UsageError("remote: a model runs on this machine")
        if inputs is None:
            return Invoker(self)
        return Tracer(
            self._forward,
            inputs,
            tokenizer=self.tokenizer,
            interventions=interventions,
            interpretable_model=self,
            activations=activations,
        )

    def scan(self, inputs: Any, **how) -> Tracer:
        """A trace, for shapes: nothing of it is computed unless it is saved."""
        return self.trace(inputs, **how)

    def dispatch(self) -> StandardizedTransformer:
        """Itself: weights are loaded."""
        return self

    @property
    def output(self) -> OutputProxy:
        """What the model returned, in a trace; `output.logits` is the same."""
        return self._read(OUTPUT, Logits)

    @output.setter
    def output(self, value: Any) -> None:
        self[OUTPUT] = value

    @property
    def logits(self) -> OutputProxy:
        """[batch, pos, vocab], in a trace."""
        return self._read(OUTPUT, Logits)

    @logits.setter
    def logits(self, value: Any) -> None:
        self[OUTPUT] = value

    @property
    def input_ids(self) -> OutputProxy:
        """[batch, pos], in a trace; behind a row's last token is padding."""
        return read(self, "input")

    @property
    def input_size(self) -> tuple[int, int]:
        """(batch, pos) of the open trace."""
        return self._open().input_shape

    @property
    def attention_mask(self) -> mx.array:
        """1 where the open trace's ids are tokens, 0 where padding, [batch, pos]."""
        trace = self._open()
        lengths = mx.array(trace.lengths)[:, None]
        return (mx.arange(trace.input_shape[1])[None] < lengths).astype(mx.int32)

    @property
    def next_token_probs(self) -> OutputProxy:
        """Of each row's own last token, [batch, vocab], in a trace."""
        logits = self._read(OUTPUT, Logits)
        last = last_of(logits.value, self._open().lengths)
        return Value(mx.softmax(last, axis=-1), "next_token_probs", self._open())

    def project_on_vocab(self, hidden_state: mx.array) -> mx.array:
        """Hidden states [..., d_model] through the last norm and the unembedding,
        [..., vocab]; in a trace a value that can be saved."""
        norm = self._module_resolver.get_final_norm()
        plain = getattr(hidden_state, "value", hidden_state)
        rows = plain.reshape(-1, plain.shape[-1])
        logits = output_projection(self)(norm(rows) if norm is not None else rows)
        logits = logits.reshape(*plain.shape[:-1], -1)
        trace = TraceContext.current(self)
        return logits if trace is None else Value(logits, "project_on_vocab", trace)

    def get_topk_closest_tokens(
        self, hidden_state: mx.array, k: int = 5
    ) -> dict[str, float] | list[dict[str, float]]:
        """The `k` likeliest tokens of hidden states [d_model] or [n, d_model], by
        their text."""
        if hidden_state.ndim not in (1, 2) or hidden_state.shape[-1] != self.hidden_size:
            raise UsageError(
                f"a hidden state is [{self.hidden_size}] or [n, {self.hidden_size}], not "
                f"{tuple(hidden_state.shape)}"
            )
        rows = hidden_state.reshape(-1, hidden_state.shape[-1])
        probs = mx.softmax(self.project_on_vocab(rows).astype(mx.float32), axis=-1)
        best = mx.argsort(-probs, axis=-1)[:, :k]
        each = [
            self.probs_to_dict(ids, row[ids]) for ids, row in zip(list(best), list(probs))
        ]
        return each if hidden_state.ndim == 2 else each[0]

    def probs_to_dict(self, tokens: mx.array, probs: mx.array) -> dict[str, float]:
        """Ids and their probabilities as text and numbers."""
        ids, values = mx.array(tokens).tolist(), mx.array(probs).tolist()
        return {self.token_to_str(i): p for i, p in zip(ids, values)}

    def steer(
        self,
        layers: int | Sequence[int],
        steering_vector: mx.array,
        factor: float = 1.0,
        positions: int | Sequence[int] | None = None,
        token_positions: int | Sequence[int] | None = None,
        batch_index: int | Sequence[int] | None = None,
    ) -> dict[str, Callable]:
        """`InterpretableModel.steer`, with nnterp's `token_positions`."""
        if batch_index is not None:
            raise UsageError(
                "batch_index: edit those rows, model.layers_output[3][rows] += vector"
            )
        if positions is not None and token_positions is not None:
            raise UsageError("positions and token_positions are the same: give one")
        at = positions if token_positions is None else token_positions
        return super().steer(layers, steering_vector, factor, at)

    @cached_property
    def _config(self) -> Config:
        return config_of(self, False)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_heads(self) -> int | None:
        return self._config.n_heads

    @property
    def hidden_size(self) -> int:
        return self._config.d_model

    @property
    def attn_probs_available(self) -> bool:
        """Patterns are always there."""
        return True

    supports_attention_probabilities = attn_probs_available

    def _read(self, name: str, kind: type[OutputProxy]) -> OutputProxy:
        found = read(self, name)
        trace = TraceContext.current(self)
        return found if trace is None else kind(found.value, name, trace)

    def _open(self) -> Tracer:
        trace = TraceContext.current(self)
        if trace is None:
            raise UsageError("there is an input only inside `with model.trace(...)`")
        return trace

    @property
    def generate(self):
        """Not here, where other arguments and kept hooks would have to mean what
        they mean elsewhere. Raises UsageError, which says what to write."""
        return self.__getattr__("generate")

    def __getattr__(self, name: str):
        if name in _INSTEAD:
            raise UsageError(f"StandardizedTransformer.{name}: {_INSTEAD[name]}")
        return super().__getattr__(name)


def last_of(x: mx.array, lengths: Sequence[int]) -> mx.array:
    """[batch, pos, ...] at each row's own last position, [batch, ...]."""
    return mx.stack([x[row, n - 1] for row, n in enumerate(lengths)])
