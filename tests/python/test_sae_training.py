"""Training SAEs from Python: from a store, from texts, and in 0.1's words."""

import json

import mlx.core as mx
import mlxterp
import pytest
from mlxterp import SAE, InterpretableModel, SAEConfig, train_sae
from mlxterp.errors import OutOfRangeError, UsageError
from mlxterp.sae import (
    BatchTopKSAE,
    SAETrainer,
    TranscoderConfig,
    get_feature_activations_by_token,
    get_top_activating_tokens,
    visualize_feature_activations,
)

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
    # Products of bfloat16 learn nearly the same, and are another training.
    half = train_sae(
        store, tmp_path / "half", recipe="batch_topk", bfloat16=True, **options
    )
    now, before = (it["trained"]["explained_variance"] for it in (half, made))
    assert now != before and abs(now - before) < 0.05
    with pytest.raises(UsageError, match="bfloat16"):
        train_sae(
            store, tmp_path / "half", recipe="batch_topk", resume=True, **options
        )


def test_a_transcoder_across_layers(demo, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS))
    options = {"features": 32, "k": 8, "rows_per_step": 32, "tokens": 320, "length": 32}
    made = train_sae(
        demo, tmp_path / "clt", text=text, layers=2, recipe="batch_topk", **options
    )
    assert made["complete"] and made["layers"] == [0, 1] and made["steps"] == 10
    assert len(made["trained"]["layers"]) == 2
    weights = mx.load(str(tmp_path / "clt" / "W_dec_0.safetensors"))
    assert weights["W_dec_0"].shape == (32, 2, 576)
    sae = SAE.load(tmp_path / "clt", layer=1)
    assert sae.info["kind"] == "cross_layer"
    with pytest.raises(UsageError, match="two or more"):
        train_sae(demo, tmp_path / "one", text=text, layers=[1], **options)
    with pytest.raises(UsageError, match="not by topk"):
        train_sae(demo, tmp_path / "k", text=text, layers=2, recipe="topk", **options)
    with pytest.raises(UsageError, match="one preset"):
        train_sae(demo, tmp_path / "p", text=text, layers=2, preset="saelens", **options)


def test_a_crosscoder(demo, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS))
    options = {"features": 32, "k": 8, "rows_per_step": 32, "tokens": 320, "length": 32}
    made = train_sae(
        demo, tmp_path / "cross", text=text, layers=[0, 2], crosscoder=True, **options
    )
    assert made["layers"] == [0, 2] and made["recipe"] == "topk" and made["k"] == 8
    sae = SAE.load(tmp_path / "cross")
    acts = sae.encode(mx.ones((3, 2 * 576)))
    assert acts.shape == (3, 32) and sae.decode(acts).shape == (3, 2 * 576)
    with pytest.raises(UsageError, match="of layers"):
        train_sae(demo, tmp_path / "none", text=text, crosscoder=True, **options)


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


def test_01s_trainer_and_what_it_made(demo, tmp_path, capsys):
    config = SAEConfig(
        expansion_factor=1, k=4, batch_size=64, num_epochs=1, validation_split=0.1,
        lr_scheduler="constant", sae_type="batchtopk",
    )  # fmt: skip
    sae = SAETrainer(config).train(
        demo, layer=1, component="mlp", dataset=TEXTS[:20], save_path=tmp_path / "sae", verbose=False
    )
    # As the same of model.train_sae, but that nothing is kept.
    same = demo.train_sae(1, TEXTS[:20], config=config, verbose=False)
    assert mx.array_equal(sae.W_enc, same.W_enc) and same.training["complete"]
    assert sae.training["validation"]["l0"] > 0
    assert (sae.d_model, sae.d_hidden) == (576, 576)
    assert sae.metadata["layer"] == 1 and sae.metadata["component"] == "mlp_out"
    assert sae.is_compatible(demo, layer=1, component="mlp")
    assert not sae.is_compatible(demo, layer=2) and not sae.is_compatible(demo, 1, "attn")
    sae.save(tmp_path / "again")
    again = BatchTopKSAE.load(tmp_path / "again")
    x = mx.random.normal((2, 5, 576), key=mx.random.key(0))
    z = sae.encode(x)
    assert mx.array_equal(again.encode(x), z)
    stats = sae.get_activation_stats(z)
    assert stats["l0"] == pytest.approx((z != 0).sum(-1).mean().item())
    assert stats["dead_features"] == 576 - len({f for r in z.reshape(-1, 576).tolist() for f, v in enumerate(r) if v})

    text = TEXTS[7]
    tokens, acts, chosen = get_feature_activations_by_token(
        demo, text, sae, 1, top_k_features=3
    )
    with demo.trace(text):
        value = demo["layers.1.mlp_out"].save()
    wanted = sae.encode(value)[0]
    assert tokens == demo.to_str_tokens(text) and acts.shape == (len(tokens), 3)
    assert mx.allclose(acts, wanted[:, mx.array(chosen)], atol=1e-5)
    most = mx.abs(wanted).max(axis=0)
    top = demo.get_top_features_for_text(text, sae, layer=1, top_k=3)
    assert [f for f, _ in top] == chosen
    assert all(abs(v - most[f].item()) < 1e-4 for f, v in top)
    feature = chosen[0]
    found = get_top_activating_tokens(demo, text, sae, 1, feature, top_k=2)
    assert found[0][1] == pytest.approx(most[feature].item(), abs=1e-4)
    assert found[0][0] == tokens[found[0][2]]
    texts = demo.get_top_texts_for_feature(feature, tmp_path / "sae", TEXTS[:9], 1, top_k=4)
    assert len(texts) <= 4 and texts[0][1] >= texts[-1][1] >= 0
    visualize_feature_activations(demo, text, sae, 1, feature_ids=[feature], show_values=True)
    assert str(feature) in capsys.readouterr().out
    with pytest.raises(OutOfRangeError, match="576"):
        get_top_activating_tokens(demo, text, sae, 1, 576)
    with pytest.raises(UsageError):
        get_top_activating_tokens(demo, text, sae, 1, 3, component="mlp.pre")


def test_01s_transcoder(demo):
    config = TranscoderConfig(expansion_factor=1, k=4, batch_size=64, num_epochs=1)
    made = demo.train_transcoder(
        1, 1, TEXTS[:20], from_component="ln2", to_component="mlp", config=config, verbose=False
    )
    assert made.info["kind"] == "transcoder" and made.training["complete"]
    assert (made.info["site_in"], made.info["site_out"]) == (
        "layers.1.ln2.output",
        "layers.1.mlp_out",
    )
    with pytest.raises(UsageError, match="crosscoders"):
        demo.train_crosscoder(layers=[1, 2], dataset=TEXTS)


def test_01s_options_are_read_or_refused():
    import mlxterp.sae

    for wrong in (
        dict(k=0), dict(learning_rate=0), dict(validation_split=1), dict(lambda_sparse=0.1),
        dict(tied_weights=True), dict(use_wandb=True), dict(lr_scheduler="step"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=next(iter(wrong))):
            SAEConfig(**wrong)
    with pytest.raises(ImportError, match="crosscoders"):
        mlxterp.sae.CrosscoderConfig  # noqa: B018
    with pytest.raises(UsageError, match="train_sae"):
        mlxterp.sae.SAE(d_model=64, d_hidden=128, k=4)


def test_what_cannot_be_is_refused(demo, store, tmp_path):
    with pytest.raises(UsageError, match="there is no recipe"):
        train_sae(store, tmp_path / "a", recipe="topq")
    with pytest.raises(UsageError, match="k is 700 of 64"):
        train_sae(store, tmp_path / "b", features=64, k=700, rows_per_step=32)
    with pytest.raises(UsageError, match="give the text"):
        train_sae(demo, tmp_path / "c")
    with pytest.raises(UsageError, match="nonsense"):
        train_sae(store, tmp_path / "d", nonsense=1)
