"""TransformerLens' hooks of an InterpretableModel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import mlx.core as mx

from ...core import InterventionComposer
from ...errors import UsageError
from .cache import HookCache
from .names import hook_site, hook_sites
from .weights import WeightMixin

Names = str | Sequence[str] | Callable[[str], bool]
HookFunction = Callable[..., "mx.array | None"]


class HookPoint:
    """Where a hook function acts.

    Attributes:
        name: As the hook was asked for.
        ctx: A dict for whatever hook functions keep.
    """

    def __init__(self, name: str):
        self.name, self.ctx = name, {}

    def clear_context(self) -> None:
        """Empties `ctx`."""
        self.ctx.clear()

    def layer(self) -> int:
        """The layer in the name. Raises UsageError where there is none."""
        for part in self.name.split("."):
            if part.isdigit():
                return int(part)
        raise UsageError(f"'{self.name}' belongs to no layer")

    def __repr__(self) -> str:
        return f"HookPoint({self.name})"


class HookMixin(WeightMixin):
    """TransformerLens' hooks of an InterpretableModel. What takes `inputs` takes
    them as `trace` does; names that mean nothing raise UnknownNameError or
    OutOfRangeError, a function of names that chose none UsageError."""

    def hook_names(self) -> list[str]:
        """Every hook point (`blocks.0.attn.hook_q`), in the order of the
        pass."""
        return list(hook_sites(self))

    def run_with_cache(
        self, inputs: Any, names_filter: Names | None = None
    ) -> tuple[mx.array, HookCache]:
        """One pass, and the values at hook points.

        names_filter: A hook point or any other name of a site, several, or a
            function of hook points' names; None means all hook points but
            `hook_result`, which is wide. Keep what you need: nothing else is
            computed or held.

        Returns logits [batch, pos, vocab] and the cache, evaluated. Of hook
        points nobody named those that the pass has not are left out; one that was
        named raises UsageError.
        """
        sites, named = self._hooks_meant(names_filter)
        values: dict[str, mx.array] = {}
        with self.trace(inputs) as trace:
            logits = self.output.save()
            for name, site in sites.items():
                with nullcontext() if named else suppress(UsageError):
                    values[name] = trace.value(site)
                    trace.save(name, values[name])
            if not values:
                raise UsageError("the pass has none of the hook points chosen")
        return logits, HookCache(values, self, inputs=inputs)

    def run_with_hooks(
        self,
        inputs: Any,
        fwd_hooks: Sequence[tuple[Names, HookFunction]] = (),
    ) -> mx.array:
        """One pass with functions at hook points.

        fwd_hooks: (name, function) pairs, applied in order; the name as
            `names_filter` of `run_with_cache`. The function is called as
            `function(value, hook=HookPoint)` and gives the new value, of the
            same shape and type, or changes the value in place and gives None.

        Returns logits [batch, pos, vocab], evaluated. Raises UsageError for a
        hook that never acted or gave another shape or type, and whatever a hook
        raises.
        """
        at_sites: dict[str, InterventionComposer] = {}
        for names, function in fwd_hooks:
            for name, site in self._hooks_meant(names)[0].items():
                composer = at_sites.setdefault(site, InterventionComposer())
                composer.add(as_intervention(function, HookPoint(name)))
        with self.trace(inputs, interventions=at_sites):
            return self.output.save()

    def _hooks_meant(self, names: Names | None) -> tuple[dict[str, str], bool]:
        """Names and their sites, and whether the user wrote them out."""
        hooks = hook_sites(self)
        if names is None or callable(names):
            chosen = {n: hooks[n] for n in hooks if (names or self._in_full_cache)(n)}
            if not chosen:
                raise UsageError("the function of hook names chose none of them")
            return chosen, False
        names = [names] if isinstance(names, str) else names
        return {name: hook_site(self, name, hooks) for name in names}, True

    def _in_full_cache(self, name: str) -> bool:
        return not name.endswith("hook_result")

    def to_tokens(
        self, input: str | Sequence[str], prepend_bos: bool = False
    ) -> mx.array:
        """Token ids [batch, pos] of one text or of several with as many tokens.
        Raises UsageError for texts of different lengths, since an array cannot
        tell which of its tokens are padding: give those to `trace` as they are.
        """
        texts = [input] if isinstance(input, str) else input
        rows = [self._encoded(text, prepend_bos) for text in texts]
        if prepend_bos and getattr(self.tokenizer, "bos_token_id", None) is None:
            raise UsageError("the tokenizer has no bos_token_id to prepend")
        lengths = [len(row) for row in rows]
        if len(set(lengths)) != 1 or 0 in lengths:
            raise UsageError(
                f"the texts have {', '.join(map(str, lengths)) or 'no'} "
                "tokens; those of different lengths go to trace as a list"
            )
        return mx.array(rows)


def as_intervention(
    function: HookFunction, hook: HookPoint
) -> Callable[[mx.array], mx.array]:
    """A hook function as a function of the value alone."""

    def acting(value: mx.array) -> mx.array:
        own = mx.array(value)  # which it may change in place
        result = function(own, hook=hook)
        return own if result is None else result

    return acting
