"""Sparse autoencoders and transcoders that others have trained, read from their
files, with what they compute."""

from __future__ import annotations

import json
import os
from typing import Any

import mlx.core as mx

from .. import _core


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

    def __init__(self, native: _core.Sae, name: str = ""):
        self._native = native
        self._name = name
        self._info: dict[str, Any] | None = None

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

    def save_saelens(
        self, path: str | os.PathLike[str], overwrite: bool = False
    ) -> None:
        """A folder that SAELens 6 loads. Raises UsageError where it is there already
        or SAELens has no class for it, IoError."""
        self._native.save_saelens(os.fspath(path), overwrite)

    def __repr__(self) -> str:
        d_in, d_sae = self.W_enc.shape
        return f"SAE({self._name!r}, {d_sae} features of {d_in} numbers)"
