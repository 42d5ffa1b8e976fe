"""Sparse autoencoders and transcoders: their features as sites of a model, what
these say of a prompt and a text, and how good they are."""

from __future__ import annotations

import os
from collections.abc import Sequence

import mlx.core as mx

from .. import _core
from ..errors import UsageError
from ._native import asked, inputs, native
from .metrics import as_metric
from .steering import SteeringVector


class SAE:
    """A sparse autoencoder or a transcoder in memory, whatever file it came
    from. A value; `SAE.load` reads one.

        pre = (x - mean?) W_enc + b_enc;  acts = activation(pre)
        recon = acts W_dec + b_dec (+ x W_skip)

    Scales of the activations, the decoder's norms and gates are folded in. All
    arrays are float32.

    Attributes:
        W_enc: [d_in, d_sae]; with b_enc [d_sae].
        W_dec: [d_sae, d_out]; with b_dec [d_out]. Of a cross-layer transcoder
            [d_sae, targets, d_out].
        threshold: [d_sae] of a jump ReLU, else None.
        W_skip: [d_in, d_out] of a skip transcoder, else None.
        kind: "sae", "transcoder" or "cross_layer".
        activation: "relu", "jump_relu", "topk", ...; `k` of the last.
        source: What its files say: format, architecture, file, model, hook_in,
            hook_out, site_in, site_out, layer, l0.
    """

    def __init__(self, native: _core.Sae):
        self._native = native

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        format: str = "",
        layer: int = -1,
        activation_scale: float | None = None,
        k: int | None = None,
        revision: str = "main",
    ) -> SAE:
        """From a folder, a file, or a hub id with a path in it. What it is is told
        from its contents. Nothing in a file is run. Raises UsageError,
        BadDataError for files that are no SAE or broken, IoError.

        format: the layout's name, where it cannot be told.
        layer: of a set of transcoders, which.
        activation_scale: what activations were multiplied by in training, where
            the files say that they were and not by how much.
        k: active features of a TopK SAE whose files do not say.
        """
        return cls(
            _core.Sae.load(
                os.fspath(path), format, layer, activation_scale, k, revision
            )
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
        return cls(_core.Sae.of(*given, activation, k, site, reads))

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._native, name)

    def encode(self, x: mx.array) -> mx.array:
        """[..., d_in] to the features, float32 [..., d_sae]. Lazy. Raises
        UsageError for another width."""
        return self._native.encode(x)

    def decode(self, acts: mx.array, x: mx.array | None = None) -> mx.array:
        """[..., d_sae] to float32 [..., d_out]. Needs the input `x` where there is
        a skip or a norm to undo. Lazy. Raises UsageError."""
        return self._native.decode(acts, x)

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

    def __repr__(self) -> str:
        it, source = self._native, self._native.source
        where = source["site_out"] or source["hook_out"] or "no site"
        return f"SAE({it.kind}, {it.activation}, {it.d_in} -> {it.d_sae}, {where})"


def attach_sae(
    model,
    sae: SAE,
    mode: str = "read",
    name: str = "sae",
    site: str = "",
    reads: str = "",
    check_on=None,
):
    """See `InterpretableModel.attach_sae`."""
    native(model, "attach_sae()")  # refuses others
    rows = None if check_on is None else inputs(model, check_on)
    engine = model.engine.attach_sae(
        sae._native, mode, name, site, reads, rows, model.standing
    )
    return model._handle(engine=engine, standing=[])


def features(
    model,
    prompt,
    sae: SAE,
    top: int = 5,
    *,
    features: int | Sequence[int] | None = None,
    tokens: int = 5,
    site: str = "",
    reads: str = "",
    name: str = "sae",
) -> _core.FeatureReading:
    """See `InterpretableModel.features`."""
    given = {"top": top, "features": features, "tokens": tokens}
    given |= {"site": site, "reads": reads, "name": name}
    inner = native(model, "features()")
    options = _core.FeatureOptions(
        **{key: value for key, value in given.items() if value is not None}
    )
    return _core.read_features(inner, sae._native, inputs(model, prompt), options)


def feature_contexts(
    model,
    sae: SAE,
    text: str | os.PathLike[str],
    features: int | Sequence[int],
    *,
    top: int = 5,
    before: int = 10,
    after: int = 4,
    length: int = 128,
    batch_size: int = 8,
    tokens: int = 0,
    site: str = "",
    reads: str = "",
    progress=None,
) -> _core.FeatureText:
    """Where in a text (a file or a folder of .txt and .jsonl files) features are
    most active, in one streaming pass with bounded memory: `features`, each with
    `feature`, `active` (positions where it is not 0) and `top`: `value`, `ids`
    and `at`, the token among them; `tokens` read and `windows`. The best position
    of each window of `length` tokens counts, and not its first. Raises
    UsageError, OutOfRangeError, BadDataError, IoError."""
    given = dict(locals())
    sae, text = given.pop("sae"), os.fspath(given.pop("text"))
    inner, options = asked("feature_contexts()", _core.FeatureContextOptions, given)
    return _core.feature_contexts(inner, sae._native, text, options)
