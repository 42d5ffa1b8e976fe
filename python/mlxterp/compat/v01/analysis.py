"""What a model predicts before its last layer: lenses and activation patching."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from ...analysis.layer_sites import (
    absolute,
    checked_layers,
    layer_site,
    traced_layers,
    vocabulary,
)
from ...analysis.lenses import lens
from ...analysis.metrics import custom
from ...analysis.sweeps import patch
from ...analysis.tuned_lens import TunedLens, train_tuned_lens
from ...analysis.unembed import NO_WINNER, output_projection, top_tokens
from ...core.inputs import to_rows
from ...core.optional import require
from ...errors import BadDataError, UsageError
from .distances import DISTANCES

Prediction = tuple[int, float, str]  #: Token id, logit, and the token's text.


def _split(rows: list, width: int) -> list[list]:
    return [rows[at : at + width] for at in range(0, len(rows), width)]


class AnalysisMixin:
    """The analyses of an InterpretableModel, which has `trace`, `layers`,
    `encode`, `token_to_str` and `_module_resolver`.

    In all of them `layers` are indices, None means all; `plot` shows the result
    with matplotlib, `figsize` inches wide and high, in the colours of its map
    `cmap`. They raise OutOfRangeError for a layer or position beyond what there
    is, UnknownNameError where the model has not what is asked for, and
    ImportError for a plot without matplotlib.
    """

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
            hidden_state: [d_model], [batch, d_model] or [batch, pos, d_model];
                else UsageError.
            top_k: How many; more than the vocabulary has means all.
            return_scores: (token id, logit) instead of token ids.
            embedding_layer: An embedding whose rows project instead of the
                model's own projection; it may be quantised.
            lm_head: A module that projects, before `embedding_layer`.

        Returns:
            One list for a [d_model], a list of them for each further axis.
            Raises BadDataError where a logit is NaN.
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
        if hidden_state.ndim < 3:
            return found if hidden_state.ndim == 2 else found[0]
        return _split(found, hidden_state.shape[1])

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
            position: One position, negative from the end; None means all.
            max_display_tokens: The plot shows the last so many positions.
            font_family: The plot's font, for scripts its usual ones lack.
            final_norm: A norm instead of the model's final one.
            skip_norm: Project without any norm.

        Returns:
            `{layer: [position][rank] -> (token id, logit, token text)}`; with
            `position` given, each layer's list has that position alone. Raises
            BadDataError where a logit is NaN.
        """
        return self._lens("Logit Lens", None, locals())

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
        return self._lens("Tuned Lens", tuned_lens, locals())

    def _lens(
        self, title: str, translate: Callable | None, given: dict[str, Any]
    ) -> dict[int, list[list[Prediction]]]:
        """A lens's result, drawn if that was asked for; `given`: the arguments."""
        if given["plot"]:
            require("matplotlib.pyplot")  # before the work, not behind it
        layers = checked_layers(self, given["layers"])
        if not layers:
            return {}
        top_k, at = given["top_k"], given["position"]
        if top_k < 1:
            raise UsageError(f"top_k must be positive, but is {top_k}")
        norms = given["final_norm"], given["skip_norm"]
        if any(it is not None and it is not False for it in norms) or not (
            translate is None or isinstance(translate, TunedLens)
        ):
            states, ids, positions = self._states(given["text"], layers, at)
            if translate is not None:
                states = [translate(h, i) for h, i in zip(states, layers)]
            # Every layer and position is a row of one batch: one norm, and one
            # product with the unembedding for as many rows as fit.
            rows = self._lens_norm(*norms)(mx.concatenate(states))
            found = top_tokens(rows, output_projection(self), top_k)
        else:
            ids, positions, found = self._read(
                given["text"], translate, top_k, layers, at
            )
        known = {t: self._text(t) for t in {token for row in found for token, _ in row}}
        named = [[(token, score, known[token]) for token, score in r] for r in found]
        results = dict(zip(layers, _split(named, len(positions))))
        if given["plot"]:
            from ...visualization.lens_plots import plot_token_predictions

            labels = [self._text(ids[at]) for at in positions]
            how = ("text", "max_display_tokens", "figsize", "cmap", "font_family")
            plot_token_predictions(results, labels, title, **{it: given[it] for it in how})
        return results

    def _text(self, token: int) -> str:
        return str(token) if self.tokenizer is None else self.token_to_str(token)

    def _read(self, text, tuned, top_k, layers, position):
        """(ids, positions, rows of (id, logit)) of a lens."""
        at = None if position is None else [position]
        top_k = min(top_k, vocabulary(self))
        how = dict(layers=layers, positions=at, top_k=top_k, tuned=tuned)
        found = lens(self, text, **how)
        ids, scores = found.ids.tolist(), found.logits.tolist()
        if any(it[0] < 0 for row in ids for it in row):
            raise BadDataError(NO_WINNER)
        at = [found.layers.index(layer) for layer in layers]
        rows = [[*zip(*cell)] for i in at for cell in zip(ids[i], scores[i])]
        return found.prompt, found.positions, rows

    def _states(self, text, layers, position):
        """What layers leave at the positions, the prompt's ids, the positions."""
        rows = to_rows(text, self.tokenizer)
        hidden = traced_layers(self, rows, layers).hidden
        batch, length = hidden[0].shape[:2]
        if batch != 1:
            raise UsageError(f"a lens reads one text at a time, not {batch}")
        positions: Sequence[int] = range(length)
        if position is not None:
            positions = [absolute(position, length)]
        first, last = positions[0], positions[-1] + 1
        ids = rows.tolist() if isinstance(rows, mx.array) else rows
        return [value[0, first:last] for value in hidden], ids[0], positions

    def _lens_norm(
        self, final_norm: Callable[[mx.array], mx.array] | None, skip_norm: bool
    ) -> Callable[[mx.array], mx.array]:
        """The norm in front of the projection, or none."""
        norm = final_norm
        if norm is None:
            norm = self._module_resolver.get_final_norm()
        if norm is None and not skip_norm:
            warnings.warn(
                "the model's final norm was not found (looked for "
                f"{', '.join(self._module_resolver.NORM_PATHS)}), so the lens "
                "uses none; pass final_norm, or skip_norm=True to say so",
                stacklevel=4,
            )
        return (lambda hidden: hidden) if skip_norm or norm is None else norm

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
            metric: How far two outputs' logits at the last position are apart:
                "l2", "cosine" or "mse"; else UsageError.

        Returns:
            {layer: recovery in percent}: 100 where the patch restores the
            clean output, 0 where it changes nothing, negative where it leads
            away; 0 everywhere when the two texts give the same output.
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
        if not layers:
            return {}

        for layer in layers:
            layer_site(self, layer, part)  # raises where there is none
        clean, corrupted = (
            to_rows(it, self.tokenizer)[0] for it in (clean_text, corrupted_text)
        )
        with self.trace([clean]):
            target = self.output[0, -1].save()
        far = custom(metric, lambda rows: mx.array([distance(it, target) for it in rows]))
        width = min(len(clean), len(corrupted))
        at_ends = [(len(clean) - i, len(corrupted) - i) for i in range(width, 0, -1)]
        found = patch(
            self,
            [clean],
            [corrupted],
            far,
            part or "resid_post",
            by="layer",
            layers=layers,
            position_map=at_ends,
        )
        with self.trace([corrupted]):
            other = self.output[0, -1].save()
        # Apart by more than the last bits, which a product need not give twice.
        differ = mx.abs(other - target).max() > 1e-5 * mx.abs(target).max()
        effects = found.effect.tolist() if differ else [0.0] * len(layers)
        results = {layer: it * 100 for layer, it in zip(layers, effects)}
        if plot:
            from ...visualization.lens_plots import plot_recovery

            plot_recovery(results, component, clean_text, corrupted_text, figsize, cmap)
        return results

    def train_tuned_lens(self, dataset: Sequence[str], *args, **kwargs) -> TunedLens:
        """A tuned lens for this model: `mlxterp.train_tuned_lens`, with all its
        arguments."""
        return train_tuned_lens(self, dataset, *args, **kwargs)

    def load_tuned_lens(self, path: str | os.PathLike[str]) -> TunedLens:
        """A tuned lens from the files `path` names: `TunedLens.load`."""
        return TunedLens.load(path)
