"""Feature dashboards: what there is to know of an SAE's features, gathered in one
pass over a text, as pages and as Neuronpedia's import files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .. import _core
from ..errors import UsageError
from ._native import Report, Reported, asked, inputs, native
from .saes import SAE


class FeatureDashboards(Reported):
    """`features`, as they were asked for, each with

    * `feature`, `active` (positions where it is not 0), `largest` and the `mean` of
      the activations that are not 0;
    * `activations`, a histogram of these: `counts` of bins `width` wide from `low`;
      the width is a power of two;
    * `top`, the strongest examples: `value`, `ids`, `acts` of each of these, `at`, the
      token among them, `document`, `window` and `position`;
    * `intervals`, from the largest activations down: `low`, `high`, `positions` and
      `examples` drawn at random;
    * `promoted`, `suppressed` (`id`, `logit`) and `logits`, the histogram over the
      vocabulary; empty where the SAE writes no part of the residual stream;
    * `similar` (`feature`, `cosine` of the decoder rows), `correlated` (`feature`,
      `pearson`, `cosine`, `both`: positions where both are active).

    `sites`, `d_sae`; `tokens` read, but for the first of each window, and `windows`.
    `to_json()` is what `mlxterp sae dashboards --json` answers, `to_html()` its page.
    """

    def __init__(self, inner: _core.FeatureDashboards, sae: str, text: str, report: Report):
        self._inner, self._sae, self._text, self._report = inner, sae, text, report
        self.features: list[_core.FeatureDashboard] = inner.features
        self.sites: _core.SaeSites = inner.sites
        self.d_sae: int = inner.d_sae
        self.tokens: int = inner.tokens
        self.windows: int = inner.windows

    def __repr__(self) -> str:
        return (
            f"FeatureDashboards({len(self.features)} of {self.d_sae} features of "
            f"{self.sites.writes}, {self.tokens} tokens)"
        )

    def _of(self, model, what: str) -> tuple:
        return native(model, what), self._inner, self._sae, self._text

    def write_pages(self, model, folder: str | os.PathLike[str]) -> None:
        """index.html and a page of each feature. `model` names tokens. Raises
        IoError."""
        pages = _core.dashboards_pages(*self._of(model, "write_pages()"))
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, page in pages:
            _core.write_file(os.path.join(folder, name), page)

    def write_neuronpedia(
        self,
        model,
        folder: str | os.PathLike[str],
        *,
        name: str = "",
        source_set: str = "",
        release: str = "",
        creator: str = "",
        creator_id: str = "",
        overwrite: bool = False,
    ) -> Path:
        """FOLDER/<model>/<layer>-<source set>/ with what Neuronpedia imports:
        release, model, sourceset and source.jsonl, features/ and activations/, and
        SAEDashboard's batches in saedashboard/. Returns that folder.

        Args:
            name: Of the model there ("gemma-2-2b"); left out, made of its own.
            source_set: Of the SAEs there ("res-16k").
            creator, creator_id: Who made it, and the user of the importing instance
                to whom it belongs.
            overwrite: Whether files may be replaced.

        Raises UsageError for a name that is none and a folder that exists, IoError.
        """
        names = {"model": name, "source_set": source_set, "release": release}
        names |= {"creator": creator, "creator_id": creator_id}
        of = self._of(model, "write_neuronpedia()")
        return Path(_core.write_neuronpedia(*of, os.fspath(folder), names, overwrite))


def feature_dashboards(
    model,
    sae: SAE,
    text: str | os.PathLike[str] | None = None,
    features: int | str | Sequence[int] = "random:20",
    *,
    prompts=None,
    top: int | None = None,
    intervals: int | None = None,
    per_interval: int | None = None,
    before: int | None = None,
    after: int | None = None,
    bins: int | None = None,
    tokens_shown: int | None = None,
    neighbours: int | None = None,
    length: int | None = None,
    batch_size: int | None = None,
    tokens: int | None = None,
    seed: int = 0,
    site: str = "",
    reads: str = "",
    progress=None,
) -> FeatureDashboards:
    """Reads a text (a file or a folder of .txt and .jsonl files), or prompts, a window
    each, once, and keeps of each feature its strongest examples, some of every
    interval of activations, histograms, the tokens it promotes and suppresses, and
    features like it. Memory is a few batches and the examples.

    Args:
        features: Which: numbers, "all", "random:20" or "3,17,40..49".
        top: Strongest examples, each of another window (20).
        intervals: At most so many (10), with `per_interval` (5) examples each.
        before, after: Tokens of an example around its own (25, 10).
        bins: At most so many of a histogram (50).
        tokens_shown: Promoted and suppressed (10); 0: no logits.
        neighbours: Features of each kind (5).
        length: Tokens of a window (128); `batch_size` windows in one pass.
        tokens: Read so many only.
        seed: Of what is drawn at random.
        site, reads: As in `model.attach_sae`.

    Raises UsageError, OutOfRangeError for a feature that there is not, BadDataError,
    IoError.
    """
    given = dict(locals())
    for name in ("sae", "text", "features", "prompts"):
        given.pop(name)
    if (prompts is None) == (text is None):
        raise UsageError(
            "feature_dashboards() needs a text or prompts: give one of them"
        )
    if isinstance(features, str):
        features = _core.parse_features([features], sae._native, seed)
    given["features"] = [features] if isinstance(features, int) else list(features)
    inner, options = asked("feature_dashboards()", _core.DashboardOptions, given)
    rows = None if prompts is None else inputs(model, prompts)
    path = "" if text is None else os.fspath(text)
    found = _core.feature_dashboards(inner, sae._native, rows, path, options)
    of = (inner, found, sae._name, path)
    report = Report(lambda: _core.dashboards_json(*of), lambda: _core.dashboards_page(*of))
    return FeatureDashboards(found, sae._name, path, report)
