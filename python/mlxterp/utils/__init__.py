"""Collecting activations of many prompts."""

from .activations import batch_get_activations, get_activations

__all__ = ["get_activations", "batch_get_activations"]
