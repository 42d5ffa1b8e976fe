"""What a wrapped module is given is checked: MLX would read whatever lies
behind an embedding, and padding would be attended to."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from compare import repeated
from families import FAMILIES, build
from mlxterp import InterpretableModel, OutOfRangeError, UsageError

ROWS = 97


class Net(nn.Module):
    def __init__(self, name="embed_tokens", positions=0):
        super().__init__()
        self[name] = nn.Embedding(ROWS, 24)
        self.layers = [nn.Linear(24, 24)]
        if positions:
            self.wpe = nn.Embedding(positions, 24)
        self._name = name

    def __call__(self, x):
        h = self[self._name](x)
        if "wpe" in self:
            h = h + self.wpe(mx.arange(x.shape[1]))
        return self.layers[0](h)


def tried(run):
    with pytest.raises(OutOfRangeError, match=f"not among the {ROWS}") as caught:
        run()
    return str(caught.value)


@pytest.mark.parametrize("name", ["embed_tokens", "anything"])
@pytest.mark.parametrize("bad", [150, ROWS, -1, 2_000_000_000])
@pytest.mark.parametrize(
    "made",
    [
        lambda i: [[5, i]],
        lambda i: mx.array([[5, i]]),
        lambda i: mx.array([5, i]),
        lambda i: mx.array([[5, i]], mx.int64),
        lambda i: mx.array([[5, 1]]) * mx.array([[1, i]]),  # not evaluated
        lambda i: np.array([[5, i]]),
        lambda i: [mx.array([5, i])],
    ],
)
def test_ids_beyond_the_embedding(name, bad, made):
    model = InterpretableModel(Net(name))

    def trace():
        with model.trace(made(bad)):
            model.output.save()

    if bad < 0 and not isinstance(made(bad), mx.array):
        with pytest.raises(UsageError, match="below 0"):
            trace()
        return
    assert str(bad) in tried(trace) and name in tried(trace)
    if isinstance(made(bad), mx.array):
        tried(lambda: model(made(bad)))
    with model.trace(made(ROWS - 1)):
        assert model.output.save().shape[-1] == 24


def test_ids_that_are_edited_or_computed():
    model = InterpretableModel(Net())
    for site in ("input", "embed_tokens.input"):

        def trace():
            with model.trace([[5, 6]], {site: lambda x: x + 1000}):
                model.output.save()

        assert "1005" in tried(trace) or "1006" in tried(trace)
    model = InterpretableModel(Net(positions=4))
    with model.trace([[1, 2, 3, 4]]):
        model.output.save()
    with pytest.raises(OutOfRangeError, match="4 is not among the 4 ids of 'wpe'"):
        with model.trace([[1, 2, 3, 4, 5]]):
            model.output.save()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bool_, mx.float16])
def test_ids_of_another_dtype(dtype):
    model = InterpretableModel(Net())
    x = mx.array([[1, 0]]).astype(dtype)
    for run in (lambda: model.trace(x).__enter__(), lambda: model(x)):
        with pytest.raises(UsageError, match="takes token ids, which are integers"):
            run()


def test_ids_that_are_too_long_for_any_model():
    model = InterpretableModel(nn.Linear(2, 2), layer_attr=None)
    with pytest.raises(OutOfRangeError, match="2\*\*31"):
        model.trace([[2**31]]).__enter__()


def test_checks_leave_everything_as_found():
    model = InterpretableModel(Net())
    before = vars(nn.Embedding)["__call__"]
    tried(lambda: model(mx.array([[500]])))
    assert vars(nn.Embedding)["__call__"] is before
    # Where nothing can be evaluated the plain model still runs.
    compiled = mx.compile(lambda x: model(x))
    assert compiled(mx.array([[3]])).shape == (1, 1, 24)


# Padding


class Mixing(nn.Module):
    """Embeds, mixes positions in some way, projects."""

    def __init__(self, mix):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.attention = nn.MultiHeadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self._mix = mix

    def __call__(self, x):
        return self._mix(self, self.norm(self.embed(x)))


def causal(m, h):
    mask = nn.MultiHeadAttention.create_additive_causal_mask(h.shape[1])
    return h + m.attention(h, h, h, mask)


AHEAD = {
    "bidirectional": lambda m, h: h + m.attention(h, h, h),
    "mean": lambda m, h: h + h.mean(1, keepdims=True),
    "backwards": lambda m, h: h[:, ::-1].cumsum(1)[:, ::-1],
    "shifted": lambda m, h: h + mx.roll(h, -1, 1),
    "pooled": lambda m, h: h.mean(1),
    "last": lambda m, h: h[:, -1:],
}
BEHIND = {
    "causal": causal,
    "sums": lambda m, h: h.cumsum(1),
    "alone": lambda m, h: h * 2,
}


@pytest.mark.parametrize("mix", AHEAD)
def test_padding_that_would_be_seen_is_refused(mix):
    mx.random.seed(0)
    model = InterpretableModel(Mixing(AHEAD[mix]), layer_attr=None)
    for _ in range(2):
        with pytest.raises(UsageError, match="Rows of 4, 2 tokens do not go into"):
            with model.trace([[1, 2, 3, 4], [5, 6]]):
                pass
        with pytest.raises(UsageError, match="do not go into"):
            model([[1, 2, 3, 4], [5, 6]])
    for rows in ([[1, 2, 3], [4, 5, 6]], [[5, 6]], mx.array([[1, 0], [2, 0]])):
        with model.trace(rows):
            model.output.save()


@pytest.mark.parametrize("mix", BEHIND)
@pytest.mark.parametrize("rows", [[[1, 2, 3, 4, 7], [5, 6]], [[0], [0, 0]], [[3], [3, 3]]])
def test_padding_that_is_not_seen(mix, rows):
    mx.random.seed(0)
    model = InterpretableModel(Mixing(BEHIND[mix]), layer_attr=None)
    with model.trace(rows) as trace:
        together = model.output.save()
    assert trace.lengths == [len(row) for row in rows]
    for i, row in enumerate(rows):
        with model.trace([row]):
            alone = model.output.save()
        assert mx.abs(together[i, : len(row)] - alone[0]).max() < 1e-5


def test_padding_in_training_mode_and_half_precision():
    module = build("llama")
    module.set_dtype(mx.bfloat16)
    module.model.norm = nn.Sequential(module.model.norm, nn.Dropout(0.5))
    model = InterpretableModel(module).train()
    mx.random.seed(1)
    with model.trace([[1, 2, 3], [4]]):
        out = model.output.save()
    drawn = mx.random.normal((2,))
    mx.random.seed(1)
    with model.trace([[1, 2, 3], [4]]):
        again = model.output.save()
    assert repeated(out, again)  # trying it out draws nothing
    assert mx.array_equal(drawn, mx.random.normal((2,)))
    module.eval()


def test_what_a_model_becomes_is_tried_again():
    module = Mixing(causal)
    model = InterpretableModel(module, layer_attr=None)
    with model.trace([[1, 2, 3], [4]]):
        pass
    module.extra = nn.Linear(8, 8)
    module._mix = AHEAD["mean"]
    with pytest.raises(UsageError, match="attends to later positions"):
        with model.trace([[1, 2, 3], [4]]):
            pass


def test_every_family_may_be_padded():
    assert len(FAMILIES) >= 19
    for family in FAMILIES:
        with InterpretableModel(build(family)).trace([[1, 2, 3], [4]]) as trace:
            pass
        assert trace.output.shape[:2] == (2, 3) and trace.lengths == [3, 1]
