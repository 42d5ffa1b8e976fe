"""A seed's noise follows from a site's name, in every model that has the site."""

import mlx.core as mx
import pytest
from mlxterp import UnknownNameError, UsageError
from mlxterp import interventions as iv
from mlxterp.engine.canonical import canonical_sites
from test_two_engines import FOLDERS, pair

CLEAN, CORRUPT = [3, 4, 5, 6], [3, 9, 5, 6]


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2", "phi", "olmo2"])
def test_the_same_noise_by_both_engines(family):
    """At every site that has a name in both."""
    native, wrapped = pair(FOLDERS / family)
    edit, rows, drawn = iv.noise(0.3, seed=4), [[*CLEAN, 7], CORRUPT], {}
    for name, own in canonical_sites(wrapped).items():
        added = []
        for model, site in ((native, name), (wrapped, own)):

            def seen(x, at):
                y = edit(x, at)
                added.append((y - x).astype(mx.float32))
                return y

            try:
                with model.trace(rows, interventions={site: seen}):
                    model.output.save()
            except (UsageError, UnknownNameError):  # one of them has not got it
                break
        else:
            a, b = added
            finite = mx.isfinite(a) & mx.isfinite(b)
            gap = mx.where(finite, mx.abs(a - b), 0).max().item()
            assert gap < 1e-3, name
            drawn[name] = a
    assert len(drawn) >= 20
    first = [it.flatten()[:8].tolist() for it in drawn.values()]
    assert len({tuple(round(x, 3) for x in it) for it in first}) == len(first)
