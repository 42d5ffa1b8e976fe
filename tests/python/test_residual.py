"""resid_post = resid_pre + attn_out + mlp_out, or there are no such names."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from families import FAMILIES, NO_ATTENTION, build, ids
from mlxterp import InterpretableModel, UsageError, zero_out

PARALLEL = {"cohere", "gpt_neox", "phi"}


def near(a, b):
    return mx.abs(a - b).max().item() <= 1e-5 * max(1, mx.abs(b).max().item())


@pytest.mark.parametrize("family", [it for it in FAMILIES if it not in NO_ATTENTION])
def test_the_sum_in_every_family(family):
    model = InterpretableModel(build(family))
    for i in range(len(model.layers)):
        at = f"layers.{i}."
        with model.trace(ids(5, 2)) as trace:
            before, after = trace.value(at + "resid_pre"), trace.value(at + "resid_post")
            added, more = trace.value(at + "attn_out"), trace.value(at + "mlp_out")
            assert near(before + added + more, after)
            if family in PARALLEL:
                with pytest.raises(UsageError, match="has no resid_mid"):
                    trace.value(at + "resid_mid")
                continue
            assert near(trace.value(at + "resid_mid"), before + added)
        with model.trace(ids(5, 2), {at + "attn_out": zero_out}) as trace:
            assert near(trace.value(at + "resid_mid"), before)
        with model.trace(ids(5, 2), {at + "resid_mid": lambda x: x * 2}) as trace:
            middle = trace.value(at + "resid_mid")
            assert near(middle, (before + added) * 2)
            more = trace.value(at + "mlp_out")
            assert near(trace.value(at + "resid_post"), middle + more)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("granite", {"residual_multiplier": 0.22}),
        ("granite", {"residual_multiplier": 0.999}),
        ("minicpm", {}),
        ("glm4", {}),
    ],
)
def test_factors_and_norms_behind_the_parts(family, changes):
    model = InterpretableModel(build(family, **changes))
    with model.trace(ids(5, 2)) as trace:
        for i in range(len(model.layers)):
            at = f"layers.{i}."
            total = trace.value(at + "attn_out") + trace.value(at + "mlp_out")
            total = trace.value(at + "resid_pre") + total
            assert near(total, trace.value(at + "resid_post"))
            own = trace.value(model.engine.part(i, "attn_out") + ".output")
            assert not near(own, trace.value(at + "attn_out"))


class Layer(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.attn, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self._mix = mix

    def __call__(self, x):
        return self._mix(self, x)


class Net(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.layers = [Layer(mix), Layer(mix)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize(
    "mix",
    [
        lambda m, x: m.norm(x + m.attn(x)),  # normalised behind the sum
        lambda m, x: x + m.attn(x) * m.mlp(x),
        lambda m, x: x * 2 + m.attn(x) + m.mlp(x),
        lambda m, x: m.mlp(m.attn(x)),
    ],
)
def test_a_layer_that_is_no_such_sum_says_so(mix):
    model = InterpretableModel(Net(mix))
    x = mx.random.normal((2, 3, 8), key=mx.random.key(1))
    for name in ("attn_out", "mlp_out", "resid_mid"):
        with pytest.raises(UsageError, match=f"has no {name}"):
            with model.trace(x, {f"layers.1.{name}": zero_out}):
                pass
        with model.trace(x), pytest.raises(UsageError, match="not resid_pre"):
            model[f"layers.1.{name}"]
