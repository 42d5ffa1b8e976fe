"""Sparse autoencoders and transcoders that others have trained, read from their
files, with what they compute."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .. import _core
from ..errors import UsageError
from ._native import asked, inputs, native
from .metrics import as_metric
from .steering import SteeringVector


class SAE:
    """A sparse autoencoder, a transcoder or a layer of a cross-layer transcoder,
    in float32, whatever file it came from:

        pre = (norm(x) - b_dec) W_enc + b_enc
        acts = activation(pre)
        recon = undo_norm(acts W_dec + b_dec) + x W_skip

    Scales, gates and norms that a file keeps apart are folded in: activations and
    reconstructions are those of its owner's code.

    Attributes:
        W_enc: [d_in, d_sae]; b_enc: [d_sae].
        W_dec: [d_sae, d_out], of a cross-layer transcoder [d_sae, targets, d_out].
        b_dec: [d_out].
        threshold: [d_sae] of a jump ReLU, else None; W_skip: [d_in, d_out] or None.
    """

    def __init__(self, native: _core.Sae | None = None, name: str = "", **shape: Any):
        if not isinstance(native, _core.Sae) or shape:
            raise UsageError(
                "SAE(...): one of random weights is not made by itself; train one by "
                "model.train_sae or mlxterp.train_sae, load one by SAE.load, or give its "
                "arrays to SAE.from_arrays"
            )
        self._native = native
        self._name = name
        self._info: dict[str, Any] | None = None
        #: What mlxterp.train_sae says of its training, where it was trained by
        #: `model.train_sae`.
        self.training: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        format: str = "",
        layer: int = -1,
        activation_scale: float | None = None,
        k: int | None = None,
        revision: str = "main",
    ) -> SAE:
        """From a folder, a file or a hub id with the path in it
        ("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"), whose files
        are downloaded where they are missing. Pickles are read as far as tensors and
        plain values go; nothing in them runs.

        Args:
            format: A name of `SAE.formats()`, where the contents do not tell.
            layer: Of a set of transcoders, which.
            activation_scale: What activations were multiplied by in training, where
                the files do not say; 1: it is folded in already.
            k: Active features of a TopK SAE whose files do not say.
            revision: Of a hub id: a branch, a tag or a commit.

        Raises UsageError, BadDataError for what is no SAE, is broken, holds NaN or
        lacks a norm or threshold, and IoError.
        """
        name = os.fspath(path)
        return cls(
            _core.load_sae(name, format, layer, activation_scale, k, revision), name
        )

    @classmethod
    def from_arrays(
        cls,
        W_enc: mx.array,
        b_enc: mx.array,
        W_dec: mx.array,
        b_dec: mx.array,
        *,
        threshold: mx.array | None = None,
        W_skip: mx.array | None = None,
        activation: str = "",
        k: int = 0,
        site: str = "",
        reads: str = "",
    ) -> SAE:
        """One of your own, of float32 arrays of the shapes above. `activation`:
        "relu", "topk", "signed_topk", "abs_topk", "group_max" or "jump_relu"; left
        out it is jump_relu with a threshold, topk with k, else relu. `site`: where
        it belongs; `reads`: what a transcoder reads. Raises BadDataError where
        the arrays do not fit together, UsageError."""
        given = (W_enc, b_enc, W_dec, b_dec, threshold, W_skip)
        return cls(_core.sae_of(*given, activation, k, site, reads))

    @staticmethod
    def formats() -> dict[str, str]:
        """The layouts that are read, and what each is."""
        return dict(_core.sae_formats())

    W_enc = property(lambda self: self._native.W_enc)
    b_enc = property(lambda self: self._native.b_enc)
    W_dec = property(lambda self: self._native.W_dec)
    b_dec = property(lambda self: self._native.b_dec)
    threshold = property(lambda self: self._native.threshold)
    W_skip = property(lambda self: self._native.W_skip)

    @property
    def info(self) -> dict[str, Any]:
        """What `mlxterp sae info --json` says of it (docs/json.md): `kind`,
        `activation`, `d_in`, `d_sae`, `site_in`, `site_out`, `model`, `l0`, ...
        Evaluates."""
        if self._info is None:
            self._info = json.loads(self._native.info(self._name))
        return dict(self._info)

    def pre_activations(self, x: mx.array) -> mx.array:
        """[..., d_in] of any float dtype to float32 [..., d_sae], before the
        activation. Lazy. Raises UsageError for another width."""
        return self._native.pre_activations(x)

    def encode(self, x: mx.array) -> mx.array:
        """[..., d_in] to the features' activations, float32 [..., d_sae]. Lazy.
        Raises UsageError for another width."""
        return self._native.encode(x)

    def decode(self, acts: mx.array, x: mx.array | None = None) -> mx.array:
        """[..., d_sae] to float32 [..., d_out]; of a cross-layer transcoder
        [..., targets, d_out]. Needs the input `x` where there is a skip or a norm to
        undo. Lazy. Raises UsageError."""
        return self._native.decode(acts, x)

    def __call__(self, x: mx.array) -> mx.array:
        """decode(encode(x), x)"""
        return self.decode(self.encode(x), x)

    def evaluate(
        self,
        model,
        prompts=None,
        *,
        text: str | os.PathLike[str] | None = None,
        length: int | None = None,
        tokens: int | None = None,
        first: bool = False,
        site: str = "",
        reads: str = "",
        progress=None,
    ) -> _core.SaeEvaluation:
        """How good it is on prompts, a window each, or on a text (a file or a
        folder, cut into windows of `length` tokens), by SAELens' definitions:
        `explained_variance`, `fvu`, `mse`, `cosine`, `l2_ratio`, `l0`, `l1`; `ce`,
        `ce_sae` and `ce_zero`, the cross-entropy of the model, with the
        reconstruction and with zeros in the site's place, and `ce_score`; `kl_sae`,
        `kl_zero` and `kl_score`; `active` positions of each feature, `dead`
        features, and `density`, a histogram of log10 shares with `low`, `high`,
        `features`. Raises UsageError, OutOfRangeError, BadDataError, IoError.

        tokens: read so many of the text only.
        first: whether the first position of each window counts and is replaced.
        site, reads: as in `model.attach_sae`.
        """
        if (prompts is None) == (text is None):
            raise UsageError("evaluate() needs prompts or a text: give one of them")
        given = {"model": model, "length": length, "tokens": tokens, "first": first}
        given |= {"site": site, "reads": reads, "progress": progress}
        inner, options = asked("SAE.evaluate()", _core.SaeEvalOptions, given)
        rows = None if prompts is None else inputs(model, prompts)
        path = "" if text is None else os.fspath(text)
        return _core.evaluate_sae(inner, self._native, rows, path, options)

    def logits(
        self, model, features: int | Sequence[int], top: int = 10, site: str = ""
    ) -> list[_core.FeatureLogits]:
        """The tokens that features promote and suppress: decoder rows through the
        final norm's gain and the unembedding. Each has `feature`, `promoted` and
        `suppressed`, whose entries have `id` and `logit`. Raises UsageError where
        it writes no part of the residual stream, OutOfRangeError."""
        inner = native(model, "SAE.logits()")
        features = [features] if isinstance(features, int) else list(features)
        sites = _core.sae_sites(inner, self._native, site, "")
        return _core.feature_logits(inner, self._native, features, top, sites)

    def attribution(
        self, model, prompt, metric, site: str = "", reads: str = ""
    ) -> _core.FeatureAttribution:
        """Direct logit attribution by feature: `parts` with `feature`,
        `activation` and `value`, the largest first; `bias`, `error` (what the SAE
        misses) and their `total`, what the site's value adds to the metric, a
        logit or logit_diff. The final norm's divisor is that of the run. Raises
        UsageError."""
        inner, rows = native(model, "SAE.attribution()"), inputs(model, prompt)
        sites = _core.sae_sites(inner, self._native, site, reads)
        measured = as_metric(metric, inner, rows)
        return _core.feature_attribution(inner, self._native, rows, measured, sites)

    def direction(self, model, feature: int, site: str = "") -> SteeringVector:
        """A feature's decoder row as a SteeringVector. Raises UsageError where
        adding it is not adding it at a resid_post, OutOfRangeError."""
        inner = native(model, "SAE.direction()")
        sites = _core.sae_sites(inner, self._native, site, "")
        return _core.feature_direction(inner, self._native, feature, sites)

    # In mlxterp 0.1's words.
    d_model = property(lambda self: self.W_enc.shape[0])
    d_hidden = property(lambda self: self.W_enc.shape[1])
    k = property(lambda self: self.info["k"])

    @property
    def metadata(self) -> dict[str, Any]:
        """`layer`, `component`, `model_name`, as far as it is known of them."""
        info = self.info
        layer, _, component = (info.get("site_in") or "").removeprefix("layers.").partition(".")
        return {
            "layer": int(layer) if layer.isdigit() else None,
            "component": component or None,
            "model_name": info.get("model"),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """The same as `save_saelens`, over what is there."""
        self.save_saelens(path, overwrite=True)

    def is_compatible(self, model, layer: int, component: str = "mlp") -> bool:
        """Whether it fits there: its file says nothing else, and it is as wide."""
        from .sae_training import site_of

        site = site_of(layer, component)
        known = self.info.get("site_out")
        if known and known != site:
            return False
        try:
            _core.sae_sites(native(model, "is_compatible()"), self._native, site, "")
        except (UsageError, KeyError):
            return False
        return True

    def get_activation_stats(self, z: mx.array) -> dict[str, float]:
        """Of activations [..., d_sae]: `l0`, the mean number that are not 0, and its
        share `l0_sparsity`; `l1_magnitude`, the mean magnitude of all; features that
        are 0 in every row, `dead_features`, and their share. Evaluates."""
        self.in_range([z.shape[-1] - 1])
        on = (z != 0).reshape(-1, z.shape[-1])
        l0, dead = on.sum(-1).mean().item(), int((~on.any(0)).sum().item())
        return {
            "l0": l0,
            "l0_sparsity": l0 / self.d_hidden,
            "l1_magnitude": mx.abs(z).mean().item(),
            "dead_features": dead,
            "dead_fraction": dead / self.d_hidden,
        }

    def in_range(self, features: Sequence[int]) -> list[int]:
        """The same; raises OutOfRangeError for a feature that there is not."""
        return _core.parse_features([",".join(map(str, features))], self._native, 0)

    def save_saelens(
        self, path: str | os.PathLike[str], overwrite: bool = False
    ) -> None:
        """A folder that SAELens 6 loads. Raises UsageError where it is there already
        or SAELens has no class for it, IoError."""
        self._native.save_saelens(os.fspath(path), overwrite)

    def __repr__(self) -> str:
        d_in, d_sae = self.W_enc.shape
        return f"SAE({self._name!r}, {d_sae} features of {d_in} numbers)"
