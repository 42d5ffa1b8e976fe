"""SAEs of others in Python: what C++ computes, and its errors."""

from pathlib import Path

import mlx.core as mx
import pytest

from mlxterp import SAE, BadDataError, UsageError

FIXTURES = Path(__file__).parents[1] / "sae" / "fixtures"
X = mx.load(str(FIXTURES / "x.safetensors"))["x"]


@pytest.mark.parametrize(
    "place",
    ["saelens_gated", "openai_topk", "dl_matryoshka/trainer_0", "goodfire"],
)
def test_what_its_owner_computes(place):
    sae = SAE.load(FIXTURES / place)
    expected = mx.load(
        str(FIXTURES / "expected" / (place.split("/")[0] + ".safetensors"))
    )
    acts = sae.encode(X)
    assert acts.shape == expected["acts"].shape == (6, sae.info["d_sae"])
    assert mx.abs(acts - expected["acts"]).max().item() <= 1e-5
    assert mx.abs(sae.decode(acts, X) - expected["recon"]).max().item() <= 1e-5
    assert mx.abs(sae(X) - expected["recon"]).max().item() <= 1e-5


def test_what_it_says():
    sae = SAE.load(FIXTURES / "saelens_jumprelu")
    info = sae.info
    assert info["site_in"] == info["site_out"] == "layers.3.ln2.normalized"
    assert info["activation"] == "jump_relu" and info["format"] == "saelens"
    assert sae.threshold.shape == (32,) and sae.W_skip is None
    assert sae.W_enc.shape == (12, 32) and sae.W_dec.shape == (32, 12)
    assert "32 features" in repr(sae) and "saelens" in SAE.formats()
    layer = SAE.load(FIXTURES / "circuit_tracer_clt", layer=1)
    assert layer.info["kind"] == "cross_layer" and layer.info["targets"] == 2
    assert layer(X).shape == (6, 2, 12)


def test_errors(tmp_path):
    sae = SAE.load(FIXTURES / "openai_topk")
    with pytest.raises(UsageError, match="12 wide"):
        sae.encode(mx.zeros((2, 11)))
    with pytest.raises(UsageError, match="give the input"):
        sae.decode(sae.encode(X))
    with pytest.raises(UsageError, match="no format 'x'"):
        SAE.load(FIXTURES / "openai_topk", format="x")
    (tmp_path / "x.pt").write_bytes(b"no pickle")
    with pytest.raises(BadDataError):
        SAE.load(tmp_path / "x.pt")
    sae.save_saelens(tmp_path / "saelens")
    again = SAE.load(tmp_path / "saelens")
    assert mx.abs(again(X) - sae(X)).max().item() <= 1e-5
