"""`with model.trace(...)`: one pass, open for reading and editing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mlx.core as mx

from ..engine.base import handle
from ..errors import UnknownNameError, UsageError
from .context import TraceContext
from .inputs import to_rows
from .intervention import replace_with
from .passes import Build

#: Upstream's name of the model's output.
OUTPUT = "__model_output__"


class Trace:
    """A traced pass.

        with model.trace("Hello", interventions={"layers.4": scale(0.5)}) as t:
            attn = model.layers[3].self_attn.output.save()

    The pass is built when the block begins, lazily: nothing is computed until
    it ends. Then the saved values are evaluated together and everything else
    is dropped, so that what is not saved costs neither time nor memory. Where
    the block saved nothing, or `activations` asks for it, all of it stays
    readable after it. An exception in the block or in an intervention arrives
    unchanged. A function acts once on a value.

    After the block:
        output: the model's output, mx.array, lazy unless saved.
        saved_values: saved name to mx.array, evaluated.
        activations: key of every module output to mx.array, of the pass that
            ran, computed when read. What was dropped raises UsageError.

    Args:
        model_forward: the plain forward function (kept for those who call
            this class themselves; the model's engine runs the pass).
        inputs: text, ids, or an mx.array; also a list of texts or of ids.
        tokenizer: needed for text.
        interventions: name or pattern of a site to what acts on its value.
        interpretable_model: the `InterpretableModel`.
        activations: keep every value readable after the block, at the price
            of the memory of all that was computed.
    """

    def __init__(
        self,
        model_forward: Callable | None,
        inputs: Any,
        tokenizer: Any = None,
        interventions: Mapping[str, Callable] | None = None,
        interpretable_model: Any = None,
        activations: bool = False,
    ):
        if getattr(interpretable_model, "engine", None) is None:
            raise UsageError("Trace needs interpretable_model=, an InterpretableModel.")
        self.model_forward = model_forward
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.interventions = dict(interventions or {})
        self.interpretable_model = interpretable_model

        self.output: mx.array | None = None
        self.saved_values: dict[str, mx.array] = {}
        self.activations: Mapping[str, mx.array] = {}

        # Holds no way back to this trace, so that dropping it frees the pass
        # at once.
        self._values: _Values | None = None
        self._views: list[mx.array] = []
        self._keep = activations or interpretable_model.habits.keeps_activations
        self._open = False

    def __enter__(self) -> Trace:
        model = self.interpretable_model
        rows = to_rows(self.inputs, self.tokenizer)
        edits = [*model.standing, *planned(model, self.interventions)]
        self._values = _Values(Build(model.engine, rows, edits))
        self.output = self._values.output
        self.activations = Activations(self._values)
        self._open = True
        TraceContext.push(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb) -> bool:
        TraceContext.pop(self)
        self._open = False
        kept, self._views = [*self.saved_values.values(), *self._views], []
        if exc_type is not None:
            self._values.let_go(unfinished=True)
        elif kept and not self._keep:
            self._values.let_go().finish(kept)
        else:  # the handles stay
            self._values.run.check(kept)
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
        UnknownNameError, and UsageError where the pass never reached it or
        has dropped it."""
        return self._begun().value(name)

    @property
    def is_open(self) -> bool:
        """Whether its block has begun and not ended."""
        return self._open

    @property
    def sets(self) -> int:
        """How many values have been set in it so far."""
        return self._begun().sets

    def set_since(self, name: str, sets: int) -> bool:
        """Whether that site has been set since there were so many `sets`."""
        return self._begun().last_set(name) > sets

    def save(
        self,
        name: str,
        value: mx.array,
        site: str | None = None,
        view: mx.array | None = None,
    ) -> None:
        """Keeps a value beyond the block, in `saved_values`. `site`: the name
        of the site that has this value now, so that `activations` has it too;
        `view`: what else is evaluated with it, for other threads to read.
        """
        if not self._open:
            raise UsageError(
                f"'{name}' can be saved only inside `with model.trace(...)`, the "
                "one it was read in."
            )
        self.saved_values[name] = value
        if view is not None:
            self._views.append(view)
        if site is not None:
            self._values.saved(site, value)

    def edit(self, name: str, value: mx.array | float | Callable) -> None:
        """Puts a value, or what a function makes of it, in a site's place for
        everything that is read from now on: the pass is built anew with that
        edit, lazily."""
        if not self._open:
            raise UsageError(f"'{name}' can be set only while its trace is open.")
        if value is None or isinstance(value, (bool, str)):
            raise UsageError(
                f"'{name}' is set to an array or a number, not {type(value).__name__}."
            )
        if isinstance(value, mx.array):
            value = handle(value)  # not what the user writes into it later
        self._values.set(name, value if callable(value) else replace_with(value))
        self.output = self._values.output

    def get(self, name: str) -> mx.array | None:
        """A saved value by the name it was saved under, or None."""
        return self.saved_values.get(name)

    def get_activation(self, name: str) -> mx.array | None:
        """A module's output by name, or None where nothing is called that."""
        return self.activations.get(name)

    def _begun(self) -> _Values:
        if self._values is None:
            raise UsageError("The trace has not begun: use it in a `with`.")
        return self._values

    def __repr__(self) -> str:
        saved, seen = len(self.saved_values), len(self.activations)
        return f"Trace(saved_values={saved}, activations={seen})"


def planned(model: Any, interventions: Mapping[str, Any]) -> list[tuple[str, Callable]]:
    """The interventions at resolved sites, in the order given. Raises
    UsageError and UnknownNameError, as the model's habits are."""
    plan = []
    for name, given in interventions.items():
        fn = model.habits.intervention(name, given)
        try:
            sites = model.engine.match(name)
        except UnknownNameError as error:
            sites = model.habits.sites_of_nothing(error)
        plan += [(site, fn) for site in sites]
    return plan


class _Values:
    """The values of a trace's pass: all of them while it is held, then those
    that were saved as they were at its end."""

    def __init__(self, build: Build):
        self._build: Build | None = build
        self._resolve = build.engine.resolve
        self._saved: dict[str, mx.array] = {}
        self._last_set: dict[str, int] = {}
        self.rows = build.rows
        self._learn()

    def _learn(self):
        self.output, self.lengths = self.run.output, self.run.lengths
        self.sets = self._build.sets
        self._list_keys, self._keys = self.run.keys, None

    @property
    def run(self):
        """The pass; only while it is held."""
        return self._build.held

    @property
    def keys(self) -> dict[str, None]:
        if self._keys is None:
            self._keys = dict.fromkeys([*self._list_keys(), OUTPUT])
        return self._keys

    def value(self, name: str) -> mx.array:
        site = self._resolve(name)
        if self._build is not None:
            return self.run.value(site)
        if site in self._saved:
            return self._saved[site]
        raise UsageError(
            f"'{name}' was dropped when the trace ended: save() it inside, or "
            "keep everything by model.trace(..., activations=True)."
        )

    def last_set(self, name: str) -> int:
        return self._last_set.get(self._resolve(name), 0)

    def saved(self, name: str, value: mx.array):
        self._saved[self._resolve(name)] = value

    def set(self, name: str, fn: Callable):
        site = self._resolve(name)
        self._build.set(site, fn)
        self._last_set[site] = self._build.sets
        self._saved.clear()  # these were read before
        self._learn()

    def let_go(self, unfinished: bool = False):
        run, self._build = self.run, None
        if unfinished:  # what lists its keys still knows its values
            self._list_keys = list(self.keys).__iter__
        return run


class Activations(Mapping):
    """Every module output of a trace by upstream's keys, in the order of the
    pass and `__model_output__` last. A value is looked up, and computed, when
    it is read; any other name of a site is understood too. `attention_weights`
    are float32, whatever the model's precision."""

    def __init__(self, values: _Values):
        self._values = values

    def __getitem__(self, key: str) -> mx.array:
        value = self._values.output if key == OUTPUT else self._values.value(key)
        weights = key.endswith(".attention_weights")
        return value.astype(mx.float32) if weights else value

    def __contains__(self, key) -> bool:
        return key in self._values.keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._values.keys)

    def __len__(self) -> int:
        return len(self._values.keys)

    def copy(self) -> dict[str, mx.array]:
        """A plain dict of all of them."""
        return dict(self)

    def __repr__(self) -> str:
        return f"Activations({len(self)} keys)"
