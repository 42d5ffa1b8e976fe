"""`with model.trace(...)`: one pass, open for reading and editing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx

from ..engine._random import random_state, random_state_kept
from ..errors import UnknownNameError, UsageError
from ..inputs import to_rows
from .context import TraceContext
from .intervention import for_site, replace_with

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
            raise UsageError(
                "Trace needs interpretable_model=, an InterpretableModel."
            )
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

        self._engine = interpretable_model.engine
        self._rows = None  # the inputs as the engine takes them
        self._edits: list[tuple[str, Callable]] = []
        self._random_start: mx.array | None = None
        self._pass = None
        self._open = False

    def __enter__(self) -> Trace:
        self.context = TraceContext(self)
        self.context.interventions.update(self.interventions)
        self._rows = to_rows(self.inputs, self.tokenizer)
        self._edits = self._planned()
        self._random_start = random_state()
        self._pass = self._engine.run(self._rows, self._edits)
        self.output = self._pass.output
        self.saved_values = self.context.saved_values
        self.activations = self.context.activations = Activations(self)
        self._open = True
        TraceContext.push(self.context)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb) -> bool:
        TraceContext.pop()
        self._open = False
        if exc_type is not None:
            self._pass = None
            return False
        if self.saved_values:
            run, self._pass = self._pass, None
            run.finish(list(self.saved_values.values()))
        else:  # the handles stay
            self._pass.check()
        return False

    @property
    def lengths(self) -> list[int]:
        """Real positions of each row; behind them is padding."""
        return self.reading().lengths

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the model's input, padding included."""
        if isinstance(self._rows, mx.array):
            return tuple(self._rows.shape)
        return len(self._rows), max(map(len, self._rows))

    def value(self, name: str) -> mx.array:
        """The lazy value of any site of the pass by name. Raises
        UnknownNameError, and UsageError where the pass never reached it."""
        return self.reading().value(self._engine.resolve(name))

    def edit(self, name: str, value: mx.array | float) -> None:
        """Puts a value in a site's place for everything that is read from now
        on: the pass is built anew with that edit, lazily."""
        if not self._open:
            raise UsageError(f"'{name}' can be set only while its trace is open.")
        site = self._engine.resolve(name)
        edits = [*self._edits, (site, replace_with(value, align="strict"))]
        self._pass = self._rerun(edits)
        self._edits = edits
        self.output = self._pass.output

    def get(self, name: str) -> mx.array | None:
        """A saved value by the name it was saved under, or None."""
        return self.saved_values.get(name)

    def get_activation(self, name: str) -> mx.array | None:
        """A module's output by name, or None where nothing is called that."""
        return self.activations.get(name)

    def reading(self):
        """The pass, built once more where it has been let go."""
        if self._rows is None:
            raise UsageError("The trace has not begun: use it in a `with`.")
        if self._pass is None:
            self._pass = self._rerun()
        return self._pass

    def _rerun(self, edits=None):
        with random_state_kept(start=self._random_start):
            return self._engine.run(
                self._rows, self._edits if edits is None else edits
            )

    def _planned(self) -> list[tuple[str, Callable]]:
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
                sites = self._engine.match(name)
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

    def __init__(self, trace: Trace):
        self._trace = trace
        self._keys = dict.fromkeys([*trace.reading().keys(), OUTPUT])

    def __getitem__(self, key: str) -> mx.array:
        if key == OUTPUT:
            return self._trace.output
        return self._trace.value(key)

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
