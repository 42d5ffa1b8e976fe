"""Steering: directions of the residual stream that change what a model says.

    training = mlxterp.steer_train(model, positive=loved, negative=hated)
    sweep = mlxterp.steer_sweep(
        model,
        training.vector,
        ["The restaurant was", "I think this film is"],
        metric="logit_diff( good, bad)",
    )
    sweep.layers[12].slope, sweep.layers[12].low, sweep.layers[12].random
    steering = mlxterp.steer(model, training.vector, strength=0.1, layers=[12])
    with model.trace("The film was", interventions=steering.interventions):
        ...

A strength of 1 is as long as the residual stream at that layer is on average.
Everything here evaluates, and raises UsageError or OutOfRangeError before any long
work. Ctrl-C ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from .. import _core
from .._core import SteeringTraining, SteeringVector
from ._native import Report, Reported, asked, by_passes, inputs

__all__ = [
    "SteerSweep",
    "Steering",
    "SteeringTraining",
    "SteeringVector",
    "read_pairs",
    "steer",
    "steer_sweep",
    "steer_train",
    "with_norms",
]

#: A plain paragraph about nothing in particular, what `steer_sweep` measures other
#: text by.
NEUTRAL = _core.neutral_text


def read_pairs(path: str) -> tuple[list[str], list[str]]:
    """Positive and negative prompts of a JSONL file, an object with the texts
    "positive" and "negative" in each line. Raises BadDataError with the line,
    UsageError where there is none."""
    return _core.read_steering_pairs(str(path))


def steer_train(
    model,
    positive,
    negative,
    *,
    method: str = "mean",
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    operation: str = "add",
    batch_size: int = 8,
    interventions=None,
    progress=None,
) -> SteeringTraining:
    """A direction of each layer that tells positive from negative prompts, of pairs
    of them.

    Args:
        method: "mean", of positive minus negative (Rimsky et al., 2024); "pca", their
            first principal component, not centred, in the sense of most pairs; or
            "logistic", the weights of an L2-regularised logistic regression. The
            latter two have length 1.
        layers: Negative ones count from the end; all without.
        positions: Read of each prompt; the last without.
        operation: What the vector is for: "add", "project_out", "clamp" or
            "ablate".

    Returns `vector`, a SteeringVector, and `layers`, of each layer the direction's
    `norm`, the stream's `residual_norm`, the mean `cosine` of the pairs' differences
    with it (Braun et al., 2025), and how well it tells the training prompts apart,
    `auc` and `d_prime`. Raises UsageError where the pairs are not as many of each, or
    the same.
    """
    inner, chosen = asked("steer_train()", _core.SteerTrainOptions, dict(locals()))
    return _core.steer_train(inner, chosen)


def with_norms(vector: SteeringVector, model, prompts=NEUTRAL) -> SteeringVector:
    """The vector with the mean length of the residual stream over all positions of the
    prompts but the first, which strengths count in. For vectors that come without."""
    inner = by_passes(model, "with_norms()")
    return _core.with_norms(vector, inner, inputs(model, prompts))


@dataclass(frozen=True)
class Steering:
    """A vector as edits.

    Attributes:
        interventions: By site, for `trace(..., interventions=...)`,
            `model.edited(...)` and every analysis.
        told: What each does, with the strength both ways.
    """

    interventions: dict[str, Callable]
    told: list[str]

    def __str__(self) -> str:
        return "\n".join(self.told)


def steer(
    model,
    vector: SteeringVector,
    strength: float = 0.0,
    *,
    operation: str = "add",
    layers: Sequence[int] | None = None,
    any_model: bool = False,
) -> Steering:
    """The vector as edits of these layers, or of all it has.

    Args:
        strength: "add" adds so much of the residual stream's mean length there;
            "clamp" sets the coordinate along the direction to that; "project_out"
            takes all of it away, "ablate" what lies in the space of all the layers'
            directions out of every layer; both have no strength.
        operation: Has to be what the vector is meant for; "project_out" and
            "ablate" may stand for each other.
        any_model: Takes a vector of another model, if only its width fits.

    Raises UsageError for another operation, a vector of another model or width, or
    one whose residual norms are not known (`with_norms` measures them).
    """
    inner = by_passes(model, "steer()")
    edits, told = _core.steer(
        inner, vector, strength, operation, list(layers or ()), any_model
    )
    return Steering(dict(edits), told)


class SteerSweep(Reported):
    """How a metric responds to a vector, by layer and strength.

    Attributes:
        layers: Of each layer `layer`, `residual_norm` (what a strength of 1 is),
            `slope` of the metric against the strength (least squares, mean over
            prompts), its 95 % bootstrap interval `low` to `high`, `contrary`, the
            share of prompts with a slope below 0 (Tan et al., 2024), and `random`, the
            largest slope of any random direction, in either sense.
        strengths: In units of the residual stream's mean length.
        neutral_perplexity: Of the neutral text, unsteered.
    """

    def __init__(self, inner: _core.SteeringSweep, report: Report | None = None):
        self._inner, self._report = inner, report
        self.layers: list[_core.SteerResponse] = inner.layers
        self.strengths: list[float] = inner.strengths
        self.neutral_perplexity: float = inner.neutral_perplexity

    def __repr__(self) -> str:
        best = max(self.layers, key=lambda it: abs(it.slope))
        return (
            f"SteerSweep(layer {len(self.layers)}, strength {len(self.strengths)}; "
            f"steepest at layer {best.layer}: slope {best.slope:.4g})"
        )

    def _array(self, values, *last: int) -> mx.array:
        return mx.array(values, mx.float32).reshape(len(self.layers), *last)

    @property
    def unsteered(self) -> mx.array:
        """The metric of each prompt, [prompt]."""
        return mx.array(self._inner.unsteered, mx.float32)

    @property
    def metric(self) -> mx.array:
        """[layer, strength, prompt]."""
        return self._array(
            self._inner.metric, len(self.strengths), self._inner.prompts
        )

    @property
    def change(self) -> mx.array:
        """[layer, strength]: of the metric, from the unsteered run, mean over
        prompts."""
        return self._array(self._inner.change(), len(self.strengths))

    @property
    def slopes(self) -> mx.array:
        """[layer, prompt]."""
        return self._array(self._inner.slopes, self._inner.prompts)

    @property
    def random_slopes(self) -> mx.array:
        """[layer, direction]: of random directions, mean over prompts."""
        return self._array(self._inner.random_slopes, -1)

    @property
    def perplexity(self) -> mx.array | None:
        """[layer, strength]: of the neutral text; None without one."""
        return self._neutral(self._inner.perplexity)

    @property
    def kl(self) -> mx.array | None:
        """[layer, strength]: from the unsteered model's predictions of the neutral
        text, mean over positions, in nats; None without one."""
        return self._neutral(self._inner.kl)

    def _neutral(self, values) -> mx.array | None:
        return self._array(values, len(self.strengths)) if values else None


def steer_sweep(
    model,
    vector: SteeringVector,
    prompts,
    metric,
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = (-0.2, -0.1, 0.0, 0.1, 0.2),
    positions: Sequence[int] | None = None,
    neutral=NEUTRAL,
    random: int = 4,
    seed: int = 0,
    resamples: int = 2000,
    any_model: bool = False,
    one_pass_per_cell: bool = False,
    interventions=None,
    progress=None,
) -> SteerSweep:
    """Adds the vector at one layer at a time, at each strength, and measures. The runs
    of one prompt go up the layers together, each from where it begins to differ.

    Args:
        prompts: Best none that the vector was trained on.
        metric: What the vector should raise; for the log-odds of one token against
            another "logit_diff( good, bad)".
        strengths: In units of the residual stream's mean length at the layer.
        positions: That are steered, of each prompt and of the neutral text; all
            without.
        neutral: Other text, to measure what else changes; None measures nothing.
        random: Directions of each layer, drawn at random, of the same length.
        resamples: Of the bootstrap over prompts.

    Raises UsageError for a vector that is not meant to be added or is another model's,
    fewer than two strengths, or a metric that is not finite.
    """
    given = dict(locals())
    del given["vector"]
    given["strengths"] = [float(it) for it in strengths]
    if isinstance(neutral, str) and not getattr(model, "tokenizer", None):
        given["neutral"] = None
    inner, chosen = asked("steer_sweep()", _core.SteerSweepOptions, given)
    found = _core.steer_sweep(inner, vector, chosen)
    report = _core.report(inner, chosen, found)
    return SteerSweep(found, Report(report.to_json, report.to_html))
