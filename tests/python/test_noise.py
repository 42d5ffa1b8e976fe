"""A seed's noise follows from a site's name, in every model that has the site."""

import re

import mlx.core as mx
import pytest
from mlxterp import UnknownNameError, UsageError
from mlxterp import interventions as iv
from mlxterp.engine.canonical import canonical_sites
from test_two_engines import BOTH, FOLDERS, pair

CLEAN, CORRUPT = [3, 4, 5, 6], [3, 9, 5, 6]


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2", "phi", "olmo2"])
def test_the_same_noise_by_both_engines(family):
    """At every site that has a name in both, and at ends of modules."""
    native, wrapped = pair(FOLDERS / family)
    edit, rows, drawn = iv.noise(0.3, seed=4), [[*CLEAN, 7], CORRUPT], {}
    ends = [
        "layers.1.mlp",
        "layers.1.self_attn.q_proj",
        "layers.1.self_attn.v_proj.input",
        "layers.0.post_attention_layernorm",
    ]
    for name, own in [*canonical_sites(wrapped).items(), *zip(ends, ends)]:
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
            if name not in ends:  # some are those sites again
                drawn[name] = a
    assert len(drawn) >= 20
    first = [it.flatten()[:8].tolist() for it in drawn.values()]
    assert len({tuple(round(x, 3) for x in it) for it in first}) == len(first)


# Where mlx-lm multiplies outside of the module, or makes two values at once.
APART = {
    ("embed.raw", "embed"),
    ("unembed.raw", "logits"),
    ("attn.q_proj.input", "attn.q_gate_proj.input"),
    ("attn.q_proj.output", "attn.q_gate_proj.output"),
}


def test_both_engines_have_one_name_for_the_ends_of_modules():
    """So that a seed's noise there is the same, in every family that has both."""
    same = apart = 0
    for family in BOTH:
        native, wrapped = pair(FOLDERS / family)
        for path, _ in wrapped.engine.named_modules():
            # Natively they are what all lies in, here what the head reads.
            if path in ("", "model", "transformer", "backbone"):
                continue
            for name in (f"{path}.input", f"{path}.output"):
                try:
                    own = native.engine.resolve(name)
                except UnknownNameError:
                    continue
                told = wrapped.engine.told(wrapped.engine.resolve(name))
                short = tuple(re.sub(r"^layers\.\d+\.", "", it) for it in (own, told))
                assert own == told or short in APART, (family, name, own, told)
                same += own == told
                apart += own != told
    assert same >= 4500
    assert apart <= 20
