"""`model.generate(...)`: text step by step, with every value open."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .. import _core
from ..errors import UsageError


class Step:
    """One step of a generation: step 0 ran the prompts, step k the k-th token of
    each.

    number: of the step.
    prompts: which of them took part; others have ended.
    ids: the token each of them got, int.
    text: what those tokens complete, str; a token may complete nothing yet.
    """

    def __init__(self, generation: Generation, number: int):
        self._generation = generation
        self.number = number
        self.prompts: list[int] = []
        self.ids: list[int] = []
        self.text: list[str] = []

    def __getitem__(self, site: str) -> mx.array:
        """A saved site's value at the positions that this step ran:
        [prompt, pos, ...], of the prompts that took part. Raises
        UnknownNameError where it is not saved, UsageError once a later step
        ran."""
        return self._generation._value(self, site)

    @property
    def probes(self) -> list[mx.array]:
        """What each probe says at those positions, float32 [prompt, pos]."""
        return [probe(self[probe.site]) for probe in self._generation._probes]

    def __repr__(self) -> str:
        return f"Step({self.number}, ids={self.ids}, text={self.text})"


class Generation:
    """Text that is generated when it is asked for.

        print(model.generate("The capital of France is", max_tokens=8).text)

        with model.generate("Once", 20, save=["layers.3.resid_post"]) as g:
            for step in g:
                print(step.text[0], step["layers.3.resid_post"].shape)
        g.saved["layers.3.resid_post"].shape  # [prompt, pos, d_model]

    Iterating runs a step at a time, and what was generated so far can be read in
    between. At the end a warning names edits that never changed a value. Whoever
    reads a result before any step runs all of them; so does the end of a `with`,
    unless it is left by an exception.
    """

    def __init__(
        self,
        generator: _core.Generator,
        resolve: Callable[[str], str],
        names: Mapping[str, str],
        probes: Sequence[Any] = (),
        edits: Sequence[tuple[str, Callable]] = (),
    ):
        self._generator = generator
        self._edits = list(edits)  # standing ones and its own, in order
        self._resolve = resolve
        self._names = names  # of the model's sites in the generator
        self._probes = list(probes)
        self._last: Step | None = None

    def step(self) -> Step | None:
        """Runs one; None where every text has ended."""
        before = self._lengths()
        number = self._generator.steps
        if not self._generator.step():
            self._tell_idle()
            return None
        made = Step(self, number)
        for i, text in enumerate(self._generator.texts):
            tokens, length = before[i] if before else (0, 0)
            if len(text.tokens) == tokens:
                continue
            made.prompts.append(i)
            made.ids.append(text.tokens[-1].id)
            made.text.append(text.text[length:])
        self._last = made
        return made

    def run(self) -> Generation:
        """Runs what is left."""
        while self._generator.step():
            pass
        self._tell_idle()
        self._last = None
        return self

    def _tell_idle(self) -> None:
        """Warns once of edits that changed nothing; a function of Python's may
        only have looked."""
        sites = [self._names.get(site, site) for site, _ in self._edits]
        for i in self._generator.idle(sites) if sites else ():
            site, edit = self._edits[i]
            if isinstance(edit, _core.Intervention):
                warnings.warn(
                    f"the edit at '{site}' changed nothing: no position or step that "
                    "it is for was run",
                    stacklevel=3,
                )
        self._edits = []

    def __iter__(self) -> Iterator[Step]:
        while (step := self.step()) is not None:
            yield step

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind, value, traceback) -> bool:
        if kind is None:
            self.run()
        return False

    @property
    def texts(self) -> list[_core.GeneratedText]:
        """What each prompt was continued with: `prompt`, `tokens` (`id`,
        `log_prob`), `ids`, `text`, `finish`."""
        return self._begun().texts

    @property
    def text(self) -> str | list[str]:
        """The text, of several prompts a list."""
        return _one([it.text for it in self.texts])

    @property
    def ids(self) -> list[int] | list[list[int]]:
        """Ids of what was generated, of several prompts a list of lists."""
        return _one([it.ids for it in self.texts])

    @property
    def finish(self) -> str | list[str]:
        """Why it ended: 'length', 'stop', 'end_of_text', or 'unfinished'."""
        return _one([it.finish for it in self.texts])

    @property
    def saved(self) -> dict[str, mx.array]:
        """Every saved site's value, [prompt, pos, ...], of all positions that
        ran, shorter prompts padded with zeros behind their end (`lengths`). The
        last token of a text was not run."""
        return self._saved()[0]

    @property
    def probes(self) -> list[mx.array]:
        """What each probe of `probes` says at each position that ran, float32
        [prompt, pos]: NaN behind the end of shorter prompts (`lengths`)."""
        saved, lengths = self._saved()
        out = []
        for probe in self._probes:
            said = probe(saved[self._resolve(probe.site)])
            behind = mx.arange(said.shape[1]) >= mx.array(lengths)[:, None]
            out.append(mx.where(behind, mx.nan, said))
        return out

    @property
    def lengths(self) -> list[int]:
        """How many positions of each prompt ran."""
        return self._begun().saved()[1]

    @property
    def seconds(self) -> dict[str, float]:
        """`prefill`, of the first step, and `decode`, of the others."""
        made = self._begun()
        return {"prefill": made.prefill_seconds, "decode": made.decode_seconds}

    def _saved(self) -> tuple[dict[str, mx.array], list[int]]:
        values, lengths = self._begun().saved()
        own = {name: site for site, name in self._names.items()}
        return {own.get(name, name): it for name, it in values.items()}, lengths

    def _begun(self) -> _core.Generator:
        if self._generator.steps == 0:
            self.run()
        return self._generator

    def _lengths(self) -> list[tuple[int, int]]:
        return [(len(it.tokens), len(it.text)) for it in self._generator.texts]

    def _value(self, step: Step, site: str) -> mx.array:
        if step is not self._last:
            raise UsageError(
                f"step {step.number} is over; read its values before the next one "
                "runs, or all of them in `saved`"
            )
        own = self._resolve(site)
        return self._generator.value(self._names.get(own, own))

    def __str__(self) -> str:
        text = self.text
        return text if isinstance(text, str) else "\n".join(text)

    def __repr__(self) -> str:
        texts = self._generator.texts
        return f"Generation({[it.text for it in texts]}, steps={self._generator.steps})"


def _one(values: list) -> Any:
    return values[0] if len(values) == 1 else values


def timed(
    edits: Sequence[tuple[str, Callable]],
    when: _core.When | str | None,
    steps: Sequence[int] | None,
) -> list[tuple[str, Callable]]:
    """The edits at their steps. Raises UsageError where both are given, or
    there are none."""
    if not edits and (when is not None or steps is not None):
        raise UsageError("when= says when interventions act; give some")
    if steps is None:
        if when is None:
            return list(edits)
        return [(s, _core.during(when, f)) for s, f in edits]
    if when is not None:
        raise UsageError("when= and intervention_tokens= say the same; give one")
    numbers = _whole(steps, "intervention_tokens")
    if edits and not numbers:
        raise UsageError("intervention_tokens is empty; give steps, or leave it out")
    return [(s, _core.during(f"step:{k}", f)) for s, f in edits for k in numbers]


def _whole(values: Any, what: str) -> list[int]:
    """A list of whole numbers, of NumPy or MLX too."""
    if isinstance(values, (mx.array, np.ndarray)):
        values = values.tolist()
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UsageError(f"{what} is {values!r}; give a list of whole numbers")
    try:
        return [operator.index(it) for it in values]
    except TypeError as error:
        raise UsageError(f"{what} is {values!r}; give whole numbers") from error


def generation(
    model,
    generating: Callable,
    rows,
    edits: Sequence[tuple[str, Callable]],
    save: str | Sequence[str],
    stop: str | Sequence[str],
    seed: int | Sequence[int] | None,
    probes: Sequence[Any] = (),
    **options: Any,
) -> Generation:
    """With the edits at resolved sites. `generating` gives what generates of a
    model, given the sites that it is asked for."""
    patterns = [save] if isinstance(save, str) else list(save)
    for probe in probes:
        probe.check_fits(generating(model, ())[0])
        patterns.append(probe.site)
    sites = [site for pattern in patterns for site in model.engine.match(pattern)]
    inner, names, ends = generating(model, [*sites, *(site for site, _ in edits)])
    how = {name: value for name, value in options.items() if value is not None}
    if seed is not None:
        many = not hasattr(seed, "__index__") or getattr(seed, "ndim", 0) > 0
        seeds = _whole(seed if many else [seed], "seed")
        for it in seeds:
            if not 0 <= it < 2**64:
                raise UsageError(f"seed is {it!r}; give an int from 0 to 2**64 - 1")
        if many and not seeds:
            raise UsageError("seed is empty; give one for each prompt, or leave it out")
        how |= {"seeds": seeds} if many else {"seed": seeds[0]}
    generator = _core.Generator(
        inner,
        rows,
        end_ids=ends,
        edits=[(names[site], fn) for site, fn in edits],
        save=[names[site] for site in sites],
        stop=[stop] if isinstance(stop, str) else list(stop),
        **how,
    )
    made = [*model.standing, *edits]
    return Generation(generator, model.engine.resolve, names, probes, made)


def forced_rows(forced, tokenizer) -> list[list[int]]:
    """Continuations as rows of ids: texts as they stand, or ids."""
    if isinstance(forced, (mx.array, np.ndarray)):
        forced = forced.tolist()
    if isinstance(forced, str):
        forced = [forced]
    elif not len(forced):
        raise UsageError("forced has no continuation; give one for each prompt")
    elif not isinstance(forced[0], (str, Iterable)):
        forced = [forced]
    if tokenizer is None and any(isinstance(it, str) for it in forced):
        raise UsageError("forced is text, and this model has no tokenizer; give ids")
    return [
        list(tokenizer.encode(it, add_special_tokens=False))
        if isinstance(it, str)
        else _whole(it, "forced")
        for it in forced
    ]
