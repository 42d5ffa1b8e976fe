"""Sparse autoencoders by the names of mlxterp 0.1, over the trainer and the readers
of today: see `mlxterp.sae`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ...analysis.sae_training import (
    SAEConfig,
    TranscoderConfig,
    site_of,
    train_on_dataset,
)
from ...analysis.saes import SAE
from ...errors import UsageError


class SAETrainer:
    """`SAETrainer(config).train(model, layer, component, dataset)`."""

    def __init__(self, config: SAEConfig | None = None):
        self.config = config or SAEConfig()

    def train(
        self,
        model,
        layer: int,
        component: str,
        dataset: Sequence[str] | str | os.PathLike[str],
        save_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
    ) -> SAE:
        """The same as `model.train_sae` with this config."""
        return train_on_dataset(
            model, layer, dataset, component, save_path, self.config, verbose=verbose
        )


class SAEMixin:
    """What a model does with autoencoders in 0.1's words."""

    def train_sae(
        self,
        layer: int,
        dataset,
        component: str = "mlp",
        save_path=None,
        config: SAEConfig | None = None,
        verbose: bool = True,
        **options,
    ) -> SAE:
        """Trains a sparse autoencoder on this model's activations; with `save_path`
        it stands in that folder, which SAELens loads, too. What was measured is the
        `training` of the SAE that comes back; options are those of
        mlxterp.train_sae. Raises what that raises.

        layer, component: "mlp", "attn" or "residual" of a layer; or the last part
            of a site's name, "resid_mid".
        dataset: texts, or a path: a text file, JSONL or a folder of them.
        config: an SAEConfig; without one give `tokens` and other options, or get
            SAEConfig().
        verbose: whether a bar shows how far it is.
        """
        if config is None and "tokens" not in options:
            config = SAEConfig()
        return train_on_dataset(
            self, layer, dataset, component, save_path, config, verbose=verbose, **options
        )

    def load_sae(self, path) -> SAE:
        """The same as SAE.load(path)."""
        return SAE.load(os.fspath(path))

    def train_transcoder(
        self,
        from_layer: int,
        to_layer: int,
        dataset,
        component: str = "mlp",
        from_component: str | None = None,
        to_component: str | None = None,
        save_path=None,
        config: TranscoderConfig | None = None,
        verbose: bool = True,
        **options,
    ) -> SAE:
        """A transcoder that reads one layer's component and predicts another's, as
        0.1 planned it. Else as `train_sae`."""
        if config is None and "tokens" not in options:
            config = TranscoderConfig()
        options["site"] = site_of(from_layer, from_component or component)
        options["site_out"] = site_of(to_layer, to_component or component)
        return train_on_dataset(
            self, to_layer, dataset, component, save_path, config, verbose=verbose, **options
        )

    def train_crosscoder(self, *args: Any, **kwargs: Any):
        """Refused, as in 0.1."""
        raise UsageError(
            "train_crosscoder: crosscoders, one set of features for several layers, are "
            "not trained here; train_transcoder reads one value and predicts another"
        )

    def get_top_features_for_text(
        self, text: str, sae, layer: int, component: str = "mlp", top_k: int = 10
    ) -> list[tuple[int, float]]:
        """(feature, its largest magnitude in the text), the largest first; those
        that are active."""
        _, acts, _ = get_feature_activations_by_token(self, text, sae, layer, component)
        most = mx.abs(acts).max(axis=0)
        order = mx.argsort(-most)[:top_k].tolist()
        return [(f, most[f].item()) for f in order if most[f].item() > 0]

    def get_top_texts_for_feature(
        self,
        feature_id: int,
        sae,
        texts: Sequence[str],
        layer: int,
        component: str = "mlp",
        top_k: int = 10,
    ) -> list[tuple[str, float, int]]:
        """(text, the feature's largest magnitude in it, its position), the largest
        first; texts in which it is active. `mlxterp.feature_contexts` and
        `feature_dashboards` read a text of any length once."""
        found = []
        for text in texts:
            _, acts, _ = get_feature_activations_by_token(
                self, text, sae, layer, component, [feature_id]
            )
            sizes = mx.abs(acts[:, 0])
            at = int(mx.argmax(sizes).item())
            if sizes[at].item() > 0:
                found.append((text, sizes[at].item(), at))
        return sorted(found, key=lambda it: -it[1])[:top_k]


def get_feature_activations_by_token(
    model,
    text: str,
    sae: SAE | str | os.PathLike[str],
    layer: int,
    component: str = "mlp",
    feature_ids: Sequence[int] | None = None,
    top_k_features: int | None = None,
) -> tuple[list[str], mx.array, list[int]]:
    """The tokens of a text, the activations [token, feature] of these features, of
    the `top_k_features` that get largest in it, or of all, and their numbers. Raises
    UsageError where the SAE is of another width, OutOfRangeError."""
    sae = sae if isinstance(sae, SAE) else SAE.load(sae)
    site = site_of(layer, component)
    with model.trace(text):
        value = model[site].save()
    acts = sae.encode(value)[0]
    if feature_ids is None:
        feature_ids = list(range(sae.d_hidden))
        if top_k_features is not None:
            most = mx.abs(acts).max(axis=0)
            feature_ids = mx.argsort(-most)[:top_k_features].tolist()
    chosen = sae.in_range(feature_ids)
    return model.to_str_tokens(text), acts[:, mx.array(chosen)], chosen


def get_top_activating_tokens(
    model,
    text: str,
    sae,
    layer: int,
    feature_id: int,
    component: str = "mlp",
    top_k: int = 10,
) -> list[tuple[str, float, int]]:
    """(token, activation, position) where a feature is above 0, the largest first."""
    tokens, acts, _ = get_feature_activations_by_token(
        model, text, sae, layer, component, [feature_id]
    )
    values = acts[:, 0].tolist()
    order = sorted(range(len(values)), key=lambda p: -values[p])[:top_k]
    return [(tokens[p], values[p], p) for p in order if values[p] > 0]


def visualize_feature_activations(
    model,
    text: str,
    sae,
    layer: int,
    component: str = "mlp",
    feature_ids: Sequence[int] | None = None,
    top_k_features: int = 5,
    show_values: bool = False,
    mode: str = "auto",
) -> None:
    """Prints a line for each feature and the tokens where it is active, with their
    activations where `show_values` asks for them. `mlxterp.feature_dashboards` makes
    pages."""
    if mode not in ("auto", "html", "terminal"):
        raise UsageError(f"mode is 'auto', 'html' or 'terminal', not {mode!r}")
    tokens, acts, chosen = get_feature_activations_by_token(
        model,
        text,
        sae,
        layer,
        component,
        feature_ids,
        None if feature_ids is not None else top_k_features,
    )
    print(f"Features of {site_of(layer, component)}: {text!r}")
    for column, feature in enumerate(chosen):
        values = acts[:, column].tolist()
        shown = [
            f"{token!r} {value:.3f}" if show_values else repr(token)
            for token, value in zip(tokens, values, strict=True)
            if value != 0
        ]
        print(f"{feature:>7}  {' '.join(shown) or '-'}")

