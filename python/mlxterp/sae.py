"""Sparse autoencoders by the names of mlxterp 0.1:

    from mlxterp.sae import SAEConfig, SAETrainer

They train and read as `mlxterp.train_sae` and `SAE` do. `BaseSAE` and `BatchTopKSAE`
are `SAE`, which is of any kind. Its call gives the reconstruction alone; the features
are `sae.encode(x)`.
"""

from __future__ import annotations

from .analysis.sae_training import SAEConfig, TranscoderConfig, train_sae
from .analysis.saes import SAE
from .compat.v01.sae import (
    SAETrainer,
    get_feature_activations_by_token,
    get_top_activating_tokens,
    visualize_feature_activations,
)

BaseSAE = BatchTopKSAE = SAE

__all__ = [
    "SAE",
    "BaseSAE",
    "BatchTopKSAE",
    "SAEConfig",
    "SAETrainer",
    "TranscoderConfig",
    "get_feature_activations_by_token",
    "get_top_activating_tokens",
    "train_sae",
    "visualize_feature_activations",
]


def __getattr__(name: str):
    if name == "CrosscoderConfig":
        raise ImportError(
            "mlxterp.sae.CrosscoderConfig: crosscoders, one set of features for several "
            "layers, are not trained here; TranscoderConfig is of what reads one value and "
            "predicts another"
        )
    raise AttributeError(f"module 'mlxterp.sae' has no attribute {name!r}")
