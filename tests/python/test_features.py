"""Features of sparse autoencoders from Python: the same numbers as by hand."""

from pathlib import Path

import mlx.core as mx
import mlxterp
import pytest
from mlxterp import SAE, InterpretableModel
from mlxterp import interventions as iv
from mlxterp.errors import BadDataError, IoError, OutOfRangeError, UsageError

SITE = "layers.0.resid_post"
IDS = [[5, 11, 3, 29, 7, 13, 2]]
TESTS = Path(__file__).parents[1]
EVAL = TESTS / "sae" / "fixtures" / "eval"


@pytest.fixture(scope="module")
def model():
    return InterpretableModel(str(TESTS / "parity" / "families" / "llama-gqa"))


@pytest.fixture(scope="module")
def sae():
    return SAE.load(EVAL)


def test_an_sae_in_memory(sae):
    assert sae.info["kind"] == "sae" and sae.info["site_in"] == SITE
    x = mx.random.normal((2, 3, 24), key=mx.random.key(1))
    acts = sae.encode(x)
    wanted = mx.maximum((x - sae.b_dec) @ sae.W_enc + sae.b_enc, 0)
    assert acts.shape == (2, 3, 52) and mx.allclose(acts, wanted, atol=1e-5)
    assert mx.allclose(sae.decode(acts), acts @ sae.W_dec + sae.b_dec, atol=1e-5)
    with pytest.raises(UsageError):
        sae.encode(mx.zeros((1, 23)))
    with pytest.raises((IoError, BadDataError)):
        SAE.load(EVAL / "nothing.safetensors")
    own = SAE.from_arrays(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, k=4, site=SITE)
    assert own.info["activation"] == "topk" and int((own.encode(x) != 0).sum(-1).max()) <= 4
    with pytest.raises(BadDataError):
        SAE.from_arrays(sae.W_enc, sae.b_dec, sae.W_dec, sae.b_dec)
    with pytest.raises(UsageError):
        SAE.from_arrays(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, activation="gelu")


def test_features_are_sites(model, sae):
    exact = model.attach_sae(sae, mode="replace_with_error")
    acts = f"{SITE}.sae.acts"
    plain, same = model(IDS), exact(IDS)
    assert mx.allclose(plain, same, atol=1e-5)
    cut = exact.edited({acts: iv.on_neurons([47], iv.zero_out)})
    assert not mx.allclose(plain, cut(IDS), atol=1e-4)
    reading = model.features(IDS, sae, top=2)
    assert [len(it.top) for it in reading.positions] == [2] * 7
    assert reading.ids == IDS[0] and reading.sites.writes == SITE
    assert 0.5 < reading.fit.explained_variance < 1
    named = model.features(IDS, sae, features=[3, 47], tokens=0)
    assert [it.feature for it in named.positions[0].top] == [3, 47]
    assert not named.logits and named.fit is None
    left = cut.features(IDS, sae, features=47)
    assert all(it.top[0].value == 0 for it in left.positions)
    with pytest.raises(OutOfRangeError):
        model.features(IDS, sae, features=52)
    with pytest.raises(UsageError):
        model.attach_sae(sae, mode="add")
    with pytest.raises(UsageError, match="has 24|reads"):
        narrow = SAE.from_arrays(
            mx.ones((6, 8)), mx.zeros(8), mx.ones((8, 6)), mx.zeros(6), site=SITE
        )
        model.attach_sae(narrow)


def test_what_does_not_fit_is_refused(model, sae):
    ids = [[5, 11, 3, 29, 7, 13, 2, 44, 61, 90, 8, 9]]
    model.attach_sae(sae, check_on=ids)
    huge = SAE.from_arrays(sae.W_enc, sae.b_enc, sae.W_dec * 50, sae.b_dec, site=SITE)
    with pytest.raises(UsageError, match="explains"):
        model.attach_sae(huge, check_on=ids)


def test_logits_directions_and_sums(model, sae):
    logits = sae.logits(model, [3, 47], top=4)
    assert [it.feature for it in logits] == [3, 47]
    assert logits[0].promoted[0].logit > logits[0].suppressed[0].logit
    found = sae.attribution(model, IDS, mlxterp.metrics.logit(4))
    assert found.parts and abs(
        sum(it.value for it in found.parts) + found.bias + found.error - found.total
    ) < 1e-3
    vector = sae.direction(model, 47)
    assert mx.allclose(vector[0], sae.W_dec[47], atol=1e-6)
    it = sae.evaluate(model, IDS * 2)
    assert it.windows == 2 and it.tokens == 12 and 0.5 < it.explained_variance < 1
    with pytest.raises(UsageError):
        sae.evaluate(model)
