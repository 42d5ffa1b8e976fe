"""`with model.trace(...)`: one pass, open for reading and editing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx

from ..errors import UnknownNameError, UsageError
from ..inputs import to_rows
from .context import TraceContext
from .intervention import for_site, replace_with
from .passes import Repeatable

#: Upstream's name of the model's output.
OUTPUT = "__model_output__"


class Trace:
    """A traced pass.

        with model.trace("Hello", interventions={"layers.4": scale(0.5)}) as t:
            attn = model.layers[3].self_attn.output.save()

    The pass is built when the block begins, lazily: nothing is computed until
    it ends. Then the saved values are evaluated together and everything else
    is let go, so that what is not saved costs neither time nor memory. Where
    the block saved nothing, all of it stays readable after it. An exception
    in the block or in an intervention arrives unchanged.

    After the block:
        output: the model's output, mx.array, lazy unless saved.
        saved_values: saved name to mx.array, evaluated.
        activations: key of every module output to mx.array, computed when
            read. Reading one after a block that saved others runs the pass
            once more, with the same inputs, interventions and random numbers
            (and with the weights the model has by then).

    Args:
        model_forward: the plain forward function (kept for those who call
            this class themselves; the model's engine runs the pass).
        inputs: text, ids, or an mx.array; also a list of texts or of ids.
        tokenizer: needed for text.
        interventions: name or pattern of a site to what acts on its value.
        interpretable_model: the `InterpretableModel`.
        strict: raise on interventions whose name means nothing, instead of
            ignoring them.
    """

    def __init__(
        self,
        model_forward: Callable | None,
        inputs: Any,
        tokenizer: Any = None,
        interventions: Mapping[str, Callable] | None = None,
        interpretable_model: Any = None,
        strict: bool = True,
    ):
        if getattr(interpretable_model, "engine", None) is None:
            raise UsageError("Trace needs interpretable_model=, an InterpretableModel.")
        self.model_forward = model_forward
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.interventions = dict(interventions or {})
        self.interpretable_model = interpretable_model
        self.strict = strict

        self.context: TraceContext | None = None
        self.output: mx.array | None = None
        self.saved_values: dict[str, mx.array] = {}
        self.activations: Mapping[str, mx.array] = {}

        # Holds no way back to this trace, so that dropping it frees the pass
        # at once.
        self._run: Repeatable | None = None
        self._open = False

    def __enter__(self) -> Trace:
        model = self.interpretable_model
        rows = to_rows(self.inputs, self.tokenizer)
        self._run = Repeatable(model.engine, rows, self._planned(model.engine))
        self.context = TraceContext(self)
        self.context.interventions.update(self.interventions)
        self.output = self._run.output
        self.saved_values = self.context.saved_values
        self.activations = self.context.activations = Activations(self._run)
        self._open = True
        TraceContext.push(self.context)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb) -> bool:
        TraceContext.pop()
        self._open, self.context.trace = False, None
        if exc_type is not None:
            self._run.drop()
        elif self.saved_values:
            self._run.take().finish(list(self.saved_values.values()))
        else:  # the handles stay
            self._run.get().check()
        return False

    @property
    def lengths(self) -> list[int]:
        """Real positions of each row; behind them is padding."""
        return self._begun().lengths

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the model's input, padding included."""
        rows = self._begun().rows
        if isinstance(rows, mx.array):
            return tuple(rows.shape)
        return len(rows), max(map(len, rows))

    def value(self, name: str) -> mx.array:
        """The lazy value of any site of the pass by name. Raises
        UnknownNameError, and UsageError where the pass never reached it."""
        return self._begun().value(name)

    def edit(self, name: str, value: mx.array | float) -> None:
        """Puts a value in a site's place for everything that is read from now
        on: the pass is built anew with that edit, lazily."""
        if not self._open:
            raise UsageError(f"'{name}' can be set only while its trace is open.")
        site = self._run.engine.resolve(name)
        self._run.edit(site, replace_with(value, align="strict"))
        self.output = self._run.output

    def get(self, name: str) -> mx.array | None:
        """A saved value by the name it was saved under, or None."""
        return self.saved_values.get(name)

    def get_activation(self, name: str) -> mx.array | None:
        """A module's output by name, or None where nothing is called that."""
        return self.activations.get(name)

    def _begun(self) -> Repeatable:
        if self._run is None:
            raise UsageError("The trace has not begun: use it in a `with`.")
        return self._run

    def _planned(self, engine) -> list[tuple[str, Callable]]:
        """The interventions at resolved sites, in the order given."""
        plan = []
        for name, fn in self.interventions.items():
            if not callable(fn):
                raise UsageError(
                    f"The intervention on '{name}' must be a function of an "
                    f"mx.array, not {type(fn).__name__}; replace_with(value) "
                    "makes one of a value."
                )
            try:
                sites = engine.match(name)
            except UnknownNameError:
                if self.strict:
                    raise
                continue
            plan += [(site, for_site(fn, site)) for site in sites]
        return plan

    def __repr__(self) -> str:
        return (
            f"Trace(saved_values={len(self.saved_values)}, "
            f"activations={len(self.activations)})"
        )


class Activations(Mapping):
    """Every module output of a trace by upstream's keys, in the order of the
    pass and `__model_output__` last. A value is looked up, and computed, when
    it is read; any other name of a site is understood too."""

    def __init__(self, run: Repeatable):
        self._run = run
        self._known: dict[str, None] | None = None

    @property
    def _keys(self) -> dict[str, None]:
        if self._known is None:
            self._known = dict.fromkeys([*self._run.keys(), OUTPUT])
        return self._known

    def __getitem__(self, key: str) -> mx.array:
        return self._run.output if key == OUTPUT else self._run.value(key)

    def __contains__(self, key) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> dict[str, mx.array]:
        """A plain dict of all of them."""
        return dict(self)

    def __repr__(self) -> str:
        return f"Activations({len(self)} keys)"
