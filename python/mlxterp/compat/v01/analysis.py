"""What a model predicts before its last layer: lenses and activation patching."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from ... import _core
from ...analysis.layer_sites import (
    absolute,
    checked_layers,
    layer_site,
    traced_layers,
)
from ...analysis.lenses import lens
from ...analysis.tuned_lens import TunedLens, train_tuned_lens
from ...analysis.unembed import final_norm as models_norm
from ...analysis.unembed import output_projection, top_tokens
from ...core.inputs import to_rows
from ...core.optional import require
from ...errors import BadDataError, UsageError
from . import replace_with
from .distances import DISTANCES

Prediction = tuple[int, float, str]  #: Token id, logit, and the token's text.


class AnalysisMixin:
    """The analyses of an InterpretableModel, which has `trace`, `layers`,
    `encode`, `token_to_str` and `_module_resolver`."""

    def get_token_predictions(
        self,
        hidden_state: mx.array,
        top_k: int = 10,
        return_scores: bool = False,
        embedding_layer: Any | None = None,
        lm_head: Any | None = None,
    ) -> list:
        """The `top_k` tokens a hidden state predicts, the likeliest first.

        The state goes straight to the output projection: a state from inside
        the model wants the final norm first, as `logit_lens` applies it.

        Args:
            hidden_state: [d_model], [batch, d_model] or [batch, pos, d_model].
            top_k: How many; more than the vocabulary has means all.
            return_scores: (token id, logit) instead of token ids.
            embedding_layer: An embedding whose rows project instead of the
                model's own projection; it may be quantised.
            lm_head: A module that projects, before `embedding_layer`.

        Returns:
            One list for a [d_model], a list of them for each further axis.

        Raises:
            UsageError: a shape with no or more than three axes.
            UnknownNameError: the model has no output projection.
            BadDataError: a logit is NaN.
        """
        if not 1 <= hidden_state.ndim <= 3:
            raise UsageError(
                "hidden_state must be [d_model], [batch, d_model] or "
                "[batch, pos, d_model], but has shape "
                f"{tuple(hidden_state.shape)}"
            )
        rows = hidden_state.reshape(-1, hidden_state.shape[-1])
        project = output_projection(self, embedding_layer, lm_head)
        found: list = top_tokens(rows, project, top_k)
        if not return_scores:
            found = [[token for token, _ in row] for row in found]
        if hidden_state.ndim == 1:
            return found[0]
        if hidden_state.ndim == 2:
            return found
        batch, width = hidden_state.shape[:2]
        return [found[row * width : (row + 1) * width] for row in range(batch)]

    def logit_lens(
        self,
        text: str | Sequence[int] | mx.array,
        top_k: int = 1,
        layers: Sequence[int] | None = None,
        position: int | None = None,
        plot: bool = False,
        max_display_tokens: int = 15,
        figsize: tuple[float, float] = (16, 10),
        cmap: str = "viridis",
        font_family: str | None = None,
        final_norm: Callable[[mx.array], mx.array] | None = None,
        skip_norm: bool = False,
    ) -> dict[int, list[list[Prediction]]]:
        """What every layer would predict were it the last (nostalgebraist,
        "Interpreting GPT: the logit lens", 2020).

        Args:
            text: The input: text, or token ids.
            top_k: How many tokens for each position.
            layers: Indices of layers; None means all.
            position: One position, negative from the end; None means all.
            plot: Show a heatmap of the likeliest tokens with matplotlib.
            max_display_tokens: The plot shows the last so many positions.
            figsize: Width and height of the plot in inches.
            cmap: A matplotlib colour map.
            font_family: The plot's font, for scripts its usual ones lack.
            final_norm: A norm instead of the model's final one.
            skip_norm: Project without any norm.

        Returns:
            `{layer: [position][rank] -> (token id, logit, token text)}`; with
            `position` given, each layer's list has that position alone.

        Raises:
            OutOfRangeError: a layer or position beyond what there is.
            UnknownNameError: the model has no output projection.
            BadDataError: a logit is NaN.
            ImportError: `plot` without matplotlib.
        """
        drawn = "Logit Lens", text, max_display_tokens, figsize, cmap, font_family
        return self._lens(
            text, None, top_k, layers, position, final_norm, skip_norm, plot and drawn
        )

    def tuned_lens(
        self,
        text: str,
        tuned_lens: Callable[[mx.array, int], mx.array],
        top_k: int = 1,
        layers: Sequence[int] | None = None,
        position: int | None = None,
        plot: bool = False,
        max_display_tokens: int = 15,
        figsize: tuple[float, float] = (16, 10),
        cmap: str = "viridis",
        font_family: str | None = None,
        final_norm: Callable[[mx.array], mx.array] | None = None,
        skip_norm: bool = False,
    ) -> dict[int, list[list[Prediction]]]:
        """`logit_lens` behind a translator learned for each layer (Belrose et
        al., "Eliciting Latent Predictions from Transformers with the Tuned
        Lens", 2023, arXiv:2303.08112).

        Args:
            tuned_lens: A TunedLens, or any function of hidden states
                [pos, d_model] and the layer they come from.

        The other arguments, the result and the errors are those of
        `logit_lens`; UsageError also where the lens fits another model.
        """
        drawn = "Tuned Lens", text, max_display_tokens, figsize, cmap, font_family
        return self._lens(
            text,
            tuned_lens,
            top_k,
            layers,
            position,
            final_norm,
            skip_norm,
            plot and drawn,
        )

    def _lens(
        self,
        text: str,
        translate: Callable[[mx.array, int], mx.array] | None,
        top_k: int,
        layers: Sequence[int] | None,
        position: int | None,
        final_norm: Callable[[mx.array], mx.array] | None,
        skip_norm: bool,
        drawn: tuple | bool,
    ) -> dict[int, list[list[Prediction]]]:
        """A lens's result; drawn with these arguments, if any."""
        if drawn:
            require("matplotlib.pyplot")  # before the work, not behind it
        layers = checked_layers(self, layers)
        if not layers:
            return {}
        core = getattr(self.engine, "model", None)
        own = translate is None or isinstance(translate, TunedLens)
        if own and isinstance(core, _core.Model) and not (final_norm or skip_norm):
            ids, positions, found = self._native_lens(
                text, translate, top_k, layers, position
            )
        else:
            ids, positions, found = self._traced_lens(
                text, translate, top_k, layers, position, final_norm, skip_norm
            )
        tokens = {token for row in found for token, _ in row}
        known = {t: self._text(t) for t in tokens}
        named = [[(token, score, known[token]) for token, score in r] for r in found]
        width = len(positions)
        results = {
            layer: named[index * width : (index + 1) * width]
            for index, layer in enumerate(layers)
        }
        if drawn:
            from ...visualization.lens_plots import plot_token_predictions

            labels = [self._text(ids[at]) for at in positions]
            title, *how = drawn
            plot_token_predictions(results, labels, title, *how)
        return results

    def _text(self, token: int) -> str:
        return str(token) if self.tokenizer is None else self.token_to_str(token)

    def _native_lens(self, text, tuned, top_k, layers, position):
        """(ids, positions, rows of (id, logit)), by C++."""
        at = None if position is None else [position]
        vocabulary = self.engine.config["vocab"]
        if not 0 < top_k:
            raise UsageError(f"top_k must be positive, but is {top_k}")
        found = lens(
            self,
            text,
            layers=layers,
            positions=at,
            top_k=min(top_k, vocabulary),
            tuned=tuned,
        )
        ids, scores = found.ids.tolist(), found.logits.tolist()
        if any(it[0] < 0 for row in ids for it in row):
            raise BadDataError(
                "a logit is NaN, so no token is the most likely; look for the first "
                "layer whose output has a NaN"
            )
        at = [found.layers.index(layer) for layer in layers]
        rows = [[*zip(*cell)] for i in at for cell in zip(ids[i], scores[i])]
        return found.prompt, found.positions, rows

    def _traced_lens(
        self, text, translate, top_k, layers, position, final_norm, skip_norm
    ):
        """The same by any engine."""
        project = output_projection(self)
        norm = self._lens_norm(final_norm, skip_norm)
        rows = to_rows(text, self.tokenizer)
        hidden = traced_layers(self, rows, layers).hidden
        batch, length = hidden[0].shape[:2]
        if batch != 1:
            raise UsageError(f"a lens reads one text at a time, not {batch}")
        positions: Sequence[int] = range(length)
        if position is not None:
            positions = [absolute(position, length)]
        first, last = positions[0], positions[-1] + 1
        states = [value[0, first:last] for value in hidden]
        if translate is not None:
            end = None
            if isinstance(translate, TunedLens):
                end = len(self.layers) - 1  # what the model says, as it is
                translate(hidden[-1][:, :1], end)  # raises for another model's
            states = [
                h if i == end else translate(h, i) for h, i in zip(states, layers)
            ]
        # Every layer and position is a row of one batch: one norm, and one
        # product with the unembedding for as many rows as fit.
        found = top_tokens(norm(mx.concatenate(states)), project, top_k)
        ids = rows.tolist() if isinstance(rows, mx.array) else rows
        return ids[0], positions, found

    def _lens_norm(
        self, final_norm: Callable[[mx.array], mx.array] | None, skip_norm: bool
    ) -> Callable[[mx.array], mx.array]:
        """The norm in front of the projection, or none."""
        if skip_norm:
            return lambda hidden: hidden
        norm = models_norm(self) if final_norm is None else final_norm
        if norm is None:
            warnings.warn(
                "the model's final norm was not found (looked for "
                f"{', '.join(self._module_resolver.NORM_PATHS)}), so the lens "
                "uses none; pass final_norm, or skip_norm=True to say so",
                stacklevel=4,
            )
            return lambda hidden: hidden
        return norm

    def activation_patching(
        self,
        clean_text: str,
        corrupted_text: str,
        component: str = "mlp",
        layers: Sequence[int] | None = None,
        metric: str = "l2",
        plot: bool = False,
        figsize: tuple[float, float] = (12, 8),
        cmap: str = "RdBu_r",
    ) -> dict[int, float]:
        """How much of the clean output each layer's activations bring back to
        a corrupted run (causal tracing: Meng et al., "Locating and Editing
        Factual Associations in GPT", 2022, arXiv:2202.05262).

        One clean run gives every activation; then each layer has a corrupted
        run of its own, where its activation is the clean one at all positions.
        Texts of different lengths are aligned at their ends. Patching
        `component="output"` replaces everything the rest of the model reads,
        so it recovers 100 % at every layer by construction.

        Args:
            clean_text: The text whose output is to come back.
            corrupted_text: The text that is run with patches.
            component: A part of a layer: "mlp", "self_attn" (or "attn"), a
                path such as "mlp.gate_proj", or "output" for the layer itself.
            layers: Indices of layers; None means all.
            metric: How far two outputs' logits at the last position are apart:
                "l2", "cosine" or "mse".
            plot: Show a bar for each layer with matplotlib.
            figsize: Width and height of the plot in inches.
            cmap: The matplotlib colour map whose ends colour the bars.

        Returns:
            {layer: recovery in percent}: 100 where the patch restores the
            clean output, 0 where it changes nothing, negative where it leads
            away; 0 everywhere when the two texts give the same output.

        Raises:
            UsageError: an unknown metric.
            OutOfRangeError: a layer beyond what there is.
            UnknownNameError: a component the layers have not.
            ImportError: `plot` without matplotlib.
        """
        if plot:
            require("matplotlib.pyplot")
        if metric not in DISTANCES:
            raise UsageError(
                f"unknown metric {metric!r}; there are {', '.join(DISTANCES)}"
            )
        distance = DISTANCES[metric]
        layers = checked_layers(self, layers)
        part = "" if component == "output" else component

        sites = [layer_site(self, layer, part) for layer in layers]
        clean, target = self._clean_run(clean_text, sites)
        with self.trace(corrupted_text):
            logits = self.output.save()
        baseline = distance(logits[0, -1], target)

        results: dict[int, float] = {}
        for layer, site, value in zip(layers, sites, clean):
            patch = {site: replace_with(value)}
            with self.trace(corrupted_text, interventions=patch):
                logits = self.output.save()
            left = distance(logits[0, -1], target)
            recovered = (baseline - left) / baseline if baseline > 1e-10 else 0.0
            results[layer] = recovered * 100
        if plot:
            from ...visualization.lens_plots import plot_recovery

            plot_recovery(results, component, clean_text, corrupted_text, figsize, cmap)
        return results

    def _clean_run(
        self, text: str, sites: Sequence[str]
    ) -> tuple[list[mx.array], mx.array]:
        """Values at sites and the logits at the last position, evaluated."""
        with self.trace(text) as trace:
            values = [trace.value(site) for site in sites]
            last = trace.output[0, -1]
        del trace  # or all else of the pass would stay in memory too
        mx.eval(last, values)
        return values, last

    def train_tuned_lens(self, dataset: Sequence[str], *args, **kwargs) -> TunedLens:
        """A tuned lens for this model: `mlxterp.train_tuned_lens`, with all its
        arguments."""
        return train_tuned_lens(self, dataset, *args, **kwargs)

    def load_tuned_lens(self, path: str | os.PathLike[str]) -> TunedLens:
        """A tuned lens from the files `path` names: `TunedLens.load`."""
        return TunedLens.load(path)
