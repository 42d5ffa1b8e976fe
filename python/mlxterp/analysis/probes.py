"""Linear probes: trained on activations, tested on groups that were held out
whole, with controls."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .. import _core
from ..errors import UsageError
from ._native import Bar, native


class Probe:
    """A linear function of a site's value: the log-odds of `classes[1]` against
    `classes[0]`, or of "ridge" a number.

    Attributes:
        kind: "logistic" or "ridge".
        weight: [d], in the units of the site; bias: a number.
        classes: Two labels, as texts; of "ridge" none.
        coordinates: Those whose weight is not 0, of a sparse probe.
        site: Where it was trained; facts: what else its file says.
    """

    def __init__(self, native: _core.Probe):
        self._native = native

    def __call__(self, x: mx.array) -> mx.array:
        """[..., d] to float32 [...]. Raises UsageError for another width."""
        return self._native(x)

    kind = property(lambda self: self._native.kind)
    weight = property(lambda self: mx.array(self._native.weight))
    bias = property(lambda self: self._native.bias)
    classes = property(lambda self: list(self._native.classes))
    coordinates = property(lambda self: list(self._native.coordinates))
    site = property(lambda self: self._native.site)
    facts = property(lambda self: dict(self._native.facts))

    def check_fits(self, model) -> None:
        """Raises UsageError where it names no site, or reads another number of
        values there than the model has; UnknownNameError. Warns where it was
        trained on another model."""
        self._native.check_fits(
            native(model, "check_fits()"), lambda text: warnings.warn(text, stacklevel=3)
        )

    def direction(self) -> mx.array:
        """A steering vector, float32 [d]: along `weight`, as long as one standard
        deviation of the training rows along it (Li et al., 2023,
        arXiv:2306.03341), for `iv.add_vector`. Raises UsageError where every
        weight is 0."""
        return self._native.direction()

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """A safetensors file of `weight`, `bias` and `direction`, which the
        command's `probe apply` and `--edit 'SITE=add_vector(FILE:direction)'`
        read. Raises UsageError where it exists, IoError."""
        self._native.save(os.fspath(path), overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Probe:
        """One that `save` or the command wrote. Raises BadDataError, IoError."""
        return cls(_core.Probe.load(os.fspath(path)))

    def __repr__(self) -> str:
        what = [self.kind]
        if self.classes:
            what.append("of {1!r} against {0!r}".format(*self.classes))
        if self.site:
            what.append(f"at {self.site}")
        return f"Probe({' '.join(what)}, {len(self._native.weight)} coordinates)"


@dataclass
class ProbeResult:
    """A probe trained on all rows, and how well such probes do.

    Attributes:
        probe: Trained on all rows.
        rows, groups: How many there are.
        baseline: The share of the larger class; of "ridge" 0.
        held_out: `mean` and `folds`: accuracy, or R^2 of "ridge", on rows that
            were held out; `auc` over all of them. None without folds.
        shuffled_labels: The same with labels in random order, of whole groups
            where each has one label.
        random_coordinates: The same on `random_k` random coordinates (k, or 16).
    """

    probe: Probe
    rows: int
    groups: int
    baseline: float
    held_out: Any
    shuffled_labels: Any
    random_coordinates: Any
    random_k: int

    def __repr__(self) -> str:
        held = f", held out {self.held_out.mean:.3f}" if self.held_out else ""
        return f"ProbeResult({self.probe!r}{held}, {self.rows} rows)"


def train_probe(
    rows: mx.array,
    labels: Sequence[Any],
    groups: Sequence[Any] | None = None,
    kind: str = "logistic",
    l2: float = 1.0,
    standardize: bool = True,
    k: int = 0,
    folds: int = 5,
    controls: bool = True,
    seed: int = 0,
    site: str = "",
    progress=None,
) -> ProbeResult:
    """Trains a probe on rows [n, d], as `collect` or an ActivationStore gives
    them, and cross-validates it. Evaluates. Newton's method in float64.

    Args:
        labels: Of each row; of "logistic" two different values of any kind, the
            greater of which is `classes[1]`, of "ridge" numbers.
        groups: Of each row: rows of one group (a text, a subject) are never both
            trained on and held out. None: each row is its own.
        l2: Minimises the sum of log losses, or half of squared errors, +
            l2 / 2 |w|^2 over standardised coordinates; the bias is free
            (scikit-learn's C is 1 / l2, its Ridge's alpha is l2).
        standardize: Scale coordinates by their standard deviations.
        k: Only so many coordinates, the most telling ones of the training rows
            (Gurnee et al., 2023, arXiv:2305.01610). 0: all.
        folds: Of cross-validation; 0: none.
        controls: Shuffled labels and random coordinates.
        seed: Of folds and controls.
        site: Kept in the probe.

    Raises UsageError: labels of one class, also of a fold; fewer groups than
    folds; rows and labels that are not as many. BadDataError: NaN or infinity.
    """
    labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    for row, label in enumerate(labels):
        if isinstance(label, float) and label != label:
            raise UsageError(f"the label of row {row} is NaN; leave such rows out")
    classes = []
    if kind == "logistic":
        try:
            classes = sorted(set(labels))
        except TypeError:
            raise UsageError("labels of different kinds cannot be ordered") from None
        if len(classes) > 2:
            raise UsageError(
                f"there are {len(classes)} classes; a probe tells two apart: train "
                "one for each against the rest"
            )
        if len(classes) == 2:
            labels = [float(it == classes[1]) for it in labels]
        else:
            labels = [1.0] * len(labels)
    groups = groups.tolist() if hasattr(groups, "tolist") else groups
    numbers: dict = {}
    of_rows = [numbers.setdefault(it, len(numbers)) for it in groups or ()]
    options = _core.ProbeOptions(
        kind=kind,
        l2=l2,
        standardize=standardize,
        k=k,
        folds=folds,
        controls=controls,
        seed=seed,
        progress=progress or Bar(),
    )
    try:
        numeric = [float(it) for it in labels]
    except (TypeError, ValueError):
        raise UsageError("the labels of a ridge probe are numbers") from None
    found = _core.train_probe(mx.array(rows), numeric, of_rows, options)
    native = found.probe
    native = native.named(site, [str(it) for it in classes])
    return ProbeResult(
        Probe(native),
        found.rows,
        found.groups,
        found.baseline,
        found.held_out,
        found.shuffled_labels,
        found.random_coordinates,
        found.random_k,
    )
