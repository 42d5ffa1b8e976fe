"""Training SAEs from Python: from a store, from texts, and in 0.1's words."""

import json

import mlx.core as mx
import mlxterp
import pytest
from mlxterp import InterpretableModel, SAEConfig, train_sae
from mlxterp.errors import UsageError

TEXTS = [f"The number {i} follows the number {i - 1}." for i in range(40)]


@pytest.fixture(scope="module")
def demo():
    return InterpretableModel("demo")


@pytest.fixture(scope="module")
def store(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "store"
    return mlxterp.collect(demo, TEXTS, "layers.2.resid_post", store=folder)


def test_a_store_becomes_an_sae(store, tmp_path):
    options = {"features": 64, "k": 8, "rows_per_step": 32, "tokens": 3200}
    made = train_sae(store, tmp_path / "sae", recipe="batch_topk", **options)
    assert made["complete"] and made["steps"] == 100
    assert made["trained"]["explained_variance"] > 0.3
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    assert config["metadata"]["hook_name"] == "blocks.2.hook_resid_post"
    weights = mx.load(str(tmp_path / "sae" / "sae_weights.safetensors"))
    assert weights["W_enc"].shape == (576, 64)
    # Once more: refused, and with `resume` all done.
    with pytest.raises(UsageError, match="holds a training"):
        train_sae(store, tmp_path / "sae", recipe="batch_topk", **options)
    again = train_sae(
        store.folder, tmp_path / "sae", recipe="batch_topk", resume=True, **options
    )
    assert again["kept"] == 100 and again["trained"] == made["trained"]


def test_texts_in_01s_words(demo, tmp_path):
    config = SAEConfig(expansion_factor=1, k=4, batch_size=64, num_epochs=2)
    made = demo.train_sae(
        layer=1,
        dataset=TEXTS,
        component="mlp",
        save_path=tmp_path / "sae",
        config=config,
    )
    assert made.training["site"] == "layers.1.mlp_out"
    assert made.training["features"] == 576 and made.training["k"] == 4
    assert made.training["complete"]
    x = mx.random.normal((3, 576))
    assert demo.load_sae(tmp_path / "sae").encode(x).tolist() == made.encode(x).tolist()


def test_what_cannot_be_is_refused(demo, store, tmp_path):
    with pytest.raises(UsageError, match="there is no recipe"):
        train_sae(store, tmp_path / "a", recipe="topq")
    with pytest.raises(UsageError, match="k is 700 of 64"):
        train_sae(store, tmp_path / "b", features=64, k=700, rows_per_step=32)
    with pytest.raises(UsageError, match="give the text"):
        train_sae(demo, tmp_path / "c")
    with pytest.raises(UsageError, match="nonsense"):
        train_sae(store, tmp_path / "d", nonsense=1)
