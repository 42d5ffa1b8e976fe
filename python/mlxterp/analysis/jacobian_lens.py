"""The Jacobian lens: what the residual stream of a layer will have become behind
the last layer, to first order and on average over a corpus.

    lens = JacobianLens.fit(model, text, prompts=100)
    lens.readout(model, "The Eiffel Tower is in").top(-1)
    vectors = lens.directions(model, [" Paris", " Rome"], layer=20)
    with model.trace(prompt, interventions=lens.swap(model, " Paris", " Rome", [20])):
        ...

J_l is the mean of d h_last[t'] / d h_l[t], summed over later positions t', averaged
over t; row i is output dimension i. Everything here evaluates but the edits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .. import _core
from ._native import Report, asked, inputs, native
from .collecting import collect
from .lenses import Lens

__all__ = [
    "JacobianLens",
    "JacobianSpace",
    "LocalLens",
    "jacobian_space",
    "lens_directions",
    "local_lens",
]


def _ids(inner: _core.Model, tokens: Sequence[int | str]) -> list[int]:
    return [inner.single_token(it) if isinstance(it, str) else it for it in tokens]


def _corpus(model, inner, corpus, length: int, skip: int, prompts) -> list[list[int]]:
    if isinstance(corpus, str):
        rows = _core.lens_prompts(inner, corpus, length, skip + 2)
    else:
        rows = [list(inputs(model, it)[0]) if isinstance(it, str) else list(it) for it in corpus]
    return rows[:prompts]


class JacobianLens:
    """Mean Jacobians of the last layer's output by those of earlier layers.

    Attributes:
        layers: Those it has, ascending.
        d_model: The width of the residual stream.
        source: What it was fitted on: `model`, `weights`, `corpus`, `prompts`,
            `skip`, `length`, `rule`, `target_layer`, `converged`.
        changes: Of a lens just fitted: how far each prompt from the second on
            moved it, relative to it.
    """

    def __init__(self, native: _core.JacobianLens, changes: Sequence[float] = ()):
        self._native = native
        self.changes = list(changes)

    layers = property(lambda self: list(self._native.layers))
    d_model = property(lambda self: self._native.d_model)
    source = property(lambda self: self._native.source)

    def __getitem__(self, layer: int) -> mx.array:
        """J of a layer, float32 [d_model, d_model]. Raises OutOfRangeError."""
        return self._native.at(layer)

    def __call__(self, h: mx.array, layer: int) -> mx.array:
        """h [..., d_model] of a layer as the last layer's, in h's dtype. Raises
        OutOfRangeError, UsageError."""
        return self._native(h, layer)

    def decompose(
        self, model: Any, h: mx.array, layer: int, *, k: int = 16, method: str = "pursuit"
    ) -> list[_core.SparseCode]:
        """Activations [row, d_model] of a layer as sparse sums of its token
        directions, as `jacobian_space` has them. Raises UsageError, OutOfRangeError."""
        inner = native(model, "decompose()")
        return _core.sparse_codes(inner, self._native, layer, h, k, method)

    @classmethod
    def fit(
        cls,
        model: Any,
        corpus: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        prompts: int | None = None,
        length: int = 128,
        skip: int = 16,
        layers: Sequence[int] | None = None,
        rule: str = "full",
        tolerance: float = 2e-3,
        least: int = 100,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress=None,
    ) -> JacobianLens:
        """Fits one, exactly.

        Args:
            corpus: One text, cut into prompts of `length` tokens; or texts, or
                rows of token ids, each a prompt as it is.
            prompts: At most so many.
            skip: Leading positions that are left out.
            layers: From the end below 0; all but the last without.
            rule: "full", the gradient; "relevance" holds norms' scales and
                activations; "frozen" holds norms' scales and patterns;
                "hold(SITE, ...)" these sites of every layer that has them, such
                as "hold(attn.pattern, ln1.scale)".
            tolerance: It stops where ten prompts change it by less on average, but
                not before `least` prompts; 0: never.
            checkpoint: A file of running sums, from which `resume` goes on.

        Raises UsageError where a prompt has fewer than skip + 2 tokens or the model
        runs elsewhere; OutOfRangeError.
        """
        given = {
            "model": model,
            "layers": layers,
            "skip": skip,
            "rule": rule,
            "tolerance": tolerance,
            "least": least,
            "checkpoint": None if checkpoint is None else os.fspath(checkpoint),
            "resume": resume,
            "progress": progress,
        }
        inner, chosen = asked("JacobianLens.fit()", _core.JacobianOptions, given)
        rows = _corpus(model, inner, corpus, length, skip, prompts)
        return cls(*_core.fit_jacobian_lens(inner, rows, chosen))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> JacobianLens:
        """From safetensors, a published .pt, or the running sums of a fit that was
        ended. Of a pickle nothing but tensors and plain values is taken. Raises
        BadDataError, IoError."""
        return cls(_core.JacobianLens.load(os.fspath(path)))

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """As .pt in float16, as torch has it; with any other suffix safetensors in
        float32. Whole or not at all. Raises IoError, UsageError."""
        self._native.save(os.fspath(path), overwrite)

    @classmethod
    def merge(cls, lenses: Sequence[JacobianLens]) -> JacobianLens:
        """One lens of all their prompts. Raises UsageError where they are of
        different models, layers or estimators."""
        return cls(_core.merge_jacobian_lenses([it._native for it in lenses]))

    def check_fits(self, model: Any, any_model: bool = False) -> None:
        """Raises UsageError where it is of another width, depth, target layer,
        weights or tokenizer; of the last two not with `any_model`."""
        self._native.check_fits(native(model, "check_fits()"), any_model)

    def readout(
        self,
        model: Any,
        prompt,
        *,
        layers: Sequence[int] | None = None,
        positions: Sequence[int] | None = None,
        top_k: int = 5,
        track: int | str | None = None,
        interventions: dict | None = None,
        any_model: bool = False,
        progress=None,
    ) -> Lens:
        """`lens` through it: W_U norm(J h) with the model's own norm, scale and
        cap; the last layer is the model itself. Raises UsageError where it does
        not fit the model, OutOfRangeError."""
        given = dict(locals())
        for name in ("self", "prompt", "any_model"):
            del given[name]
        inner, chosen = asked("readout()", _core.LensOptions, given)
        self._native.check_fits(native(model, "readout()"), any_model)
        found = _core.jacobian_readout(inner, inputs(model, prompt), chosen, self._native)
        seen = {*found.ids, *found.top_ids} - {-1}
        report = Report(
            lambda: _core.lens_json(inner, found), lambda: _core.lens_page(inner, found)
        )
        return Lens(found, {i: inner.labels([i])[0] for i in seen}, report)

    def directions(self, model: Any, tokens: Sequence[int | str], layer: int) -> mx.array:
        """The vectors along which tokens' logits grow, float32 [token, d_model]:
        rows of W_U times J. Raises UsageError for a text of several tokens."""
        inner = native(model, "directions()")
        return self._native.directions(inner, _ids(inner, tokens), layer)

    def steer(self, model, token: int | str, layers: Sequence[int], strength: float = 4.0) -> dict:
        """Interventions that add `strength` times the residual's median length
        along a token's vector, {site: edit}."""
        return self._edits(
            model, [token], layers, lambda v: _core.lens_steer(v[0], strength)
        )

    def ablate(self, model, tokens: Sequence[int | str], layers: Sequence[int]) -> dict:
        """Interventions that take away what lies in the space of the tokens'
        vectors, {site: edit}."""
        return self._edits(model, tokens, layers, _core.lens_ablate)

    def swap(
        self,
        model,
        source: int | str,
        target: int | str,
        layers: Sequence[int],
        strength: float = 1.0,
    ) -> dict:
        """Interventions that exchange the coordinates along two tokens' vectors,
        {site: edit}; 2 goes as far again. Of an even number of layers each undoes
        the one before: clamp there. Raises UsageError where the vectors are nearly
        parallel."""
        return self._edits(
            model,
            [source, target],
            layers,
            lambda v: _core.lens_swap(v[0], v[1], strength),
        )

    def clamp(
        self,
        model,
        source: int | str,
        target: int | str,
        layers: Sequence[int],
        prompt,
        strength: float = 1.0,
    ) -> dict:
        """As `swap`, but to the exchanged coordinates of a run on `prompt`, which
        holds in any number of layers."""
        sites = [f"layers.{it}.resid_post" for it in layers]
        values = collect(model, [prompt], sites).values
        out = {}
        for layer, site in zip(layers, sites):
            v = self.directions(model, [source, target], layer)
            out[site] = _core.lens_clamp(v[0], v[1], values[site], strength)
        return out

    def _edits(self, model, tokens, layers, make) -> dict:
        return {
            f"layers.{layer}.resid_post": make(self.directions(model, tokens, layer))
            for layer in layers
        }

    def __repr__(self) -> str:
        source = self.source
        return (
            f"JacobianLens(layers={len(self.layers)}, d_model={self.d_model}, "
            f"prompts={source.prompts}, rule={source.rule!r})"
        )


class JacobianSpace:
    """A prompt's activations as sparse sums of a lens' token directions.

    Attributes:
        ids: The prompt's.
        layers, positions: Of the cells, ascending.
        controls: By layer, the mean share explained of random directions with 1 to
            k tokens; empty without.
    """

    def __init__(self, native: _core.JacobianSpace):
        self.ids, self.layers = list(native.ids), list(native.layers)
        self.positions = list(native.positions)
        self.controls = dict(zip(self.layers, native.controls))
        cells = [(layer, pos) for layer in self.layers for pos in self.positions]
        self._codes = dict(zip(cells, native.codes))
        self._occupancy = dict(zip(cells, native.occupancy))

    def __getitem__(self, cell: tuple[int, int]) -> _core.SparseCode:
        """Of a layer and position `tokens` as chosen, their `coefficients` along
        unit directions, and `explained`, the share of the squared length with 1 to
        k of them. Raises KeyError."""
        return self._codes[cell]

    def occupancy(self, layer: int, position: int) -> int:
        """The number of tokens with which the share explained is furthest ahead of
        the controls'; 0 where it never is. Raises KeyError, without controls, too."""
        return self._occupancy[layer, position]


def jacobian_space(
    model: Any,
    prompt,
    jacobian: JacobianLens,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    k: int = 16,
    method: str = "pursuit",
    controls: int = 32,
    seed: int = 0,
    interventions: dict | None = None,
) -> JacobianSpace:
    """Each activation h of the residual stream as sum of c_i v_i / |v_i| with c_i >=
    0 and v_i the lens' direction of token i, greedily, k tokens at most. The
    dictionary of all of them is never held.

    Args:
        layers, positions: From the end below 0; all without.
        method: "pursuit", one line search with each token (Blumensath & Davies,
            2008); "nnls", the best coefficients with each.
        controls: Random directions that are decomposed as well; 0: none.

    Raises UsageError, OutOfRangeError.
    """
    inner = native(model, "jacobian_space()", interventions)
    found = _core.jacobian_space(
        inner,
        jacobian._native,
        inputs(model, prompt),
        list(layers or []),
        list(positions or []),
        k,
        method,
        controls,
        seed,
    )
    return JacobianSpace(found)


class LocalLens:
    """Vectors of some tokens at each cell of a prompt.

    Attributes:
        layers, tokens, ids: Ascending; the ids of the rows, and of the prompt.
        positions: Those of the prompt that have a vector.
        directions: By layer, [token, position, d_model] float32.
        cosines: By layer, [token, position]: to the corpus lens' direction; empty
            without a lens, NaN where it lacks the layer.
    """

    def __init__(self, native: _core.LocalLens):
        self._native = native
        self.layers, self.tokens = list(native.layers), list(native.tokens)
        self.ids = list(native.ids)
        self.positions = list(range(native.skip, len(self.ids)))
        self.directions = dict(zip(self.layers, native.directions))
        self.cosines = dict(zip(self.layers, native.cosines))

    def save(self, path: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Safetensors with local.0, ... and cosine.0, .... Raises IoError."""
        self._native.save(os.fspath(path), overwrite)


def local_lens(
    model: Any,
    prompt,
    tokens: Sequence[int | str],
    *,
    jacobian: JacobianLens | None = None,
    layers: Sequence[int] | None = None,
    skip: int = 0,
    rule: str = "full",
    interventions: dict | None = None,
) -> LocalLens:
    """A prompt's own Jacobian lens for some tokens at each layer and position:
    sum over later t' of (d h_last[t'] / d h_l[t])^T W_U[token], exactly, by one
    walk down. With `jacobian` also how far that lens' directions hold here, as
    cosines. Raises UsageError, OutOfRangeError."""
    given = {"model": model, "layers": layers, "skip": skip, "rule": rule}
    given["interventions"] = interventions
    inner, chosen = asked("local_lens()", _core.JacobianOptions, given)
    lens = None if jacobian is None else jacobian._native
    return LocalLens(
        _core.local_lens(inner, inputs(model, prompt), _ids(inner, tokens), chosen, lens)
    )


def lens_directions(
    model: Any,
    tokens: Sequence[int | str],
    corpus: str | Sequence[str] | Sequence[Sequence[int]],
    *,
    prompts: int | None = None,
    length: int = 128,
    skip: int = 16,
    layers: Sequence[int] | None = None,
    rule: str = "full",
    progress=None,
) -> dict[int, mx.array]:
    """What `JacobianLens.directions` gives of a lens that would be fitted on this
    corpus, by layer, exactly and without a fit: a row for each token walks down in
    place of d_model. Arguments as `JacobianLens.fit` has them."""
    given = {"model": model, "layers": layers, "skip": skip, "rule": rule}
    given["progress"] = progress
    inner, chosen = asked("lens_directions()", _core.JacobianOptions, given)
    rows = _corpus(model, inner, corpus, length, skip, prompts)
    return dict(
        zip(*_core.lens_directions(inner, _ids(inner, tokens), rows, chosen))
    )
