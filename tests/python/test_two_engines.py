"""A folder has the same values by both engines, at every site that both know."""

import json
from importlib import import_module
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model
from mlxterp import InterpretableModel, UnknownNameError, UsageError

FOLDERS = Path(__file__).parents[1] / "parity" / "families"
LAYER = "resid_pre attn_out resid_mid mlp_out resid_post".split()
ATTENTION = "q k v rot_q rot_k z scores pattern".split()


def as_mlx_lm(config):
    """What mlx-lm asks for by other names than transformers 5 writes."""
    if config["model_type"] in ("internlm2", "minicpm"):  # whose names are its own
        return config
    if config["model_type"] == "gemma4_text":
        kinds = config["layer_types"]
        own = config["per_layer_config"][str(kinds.index("full_attention"))]
        config["global_head_dim"] = own["head_dim"]
        config["num_global_key_value_heads"] = own.get("num_key_value_heads")
        return config
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:
        local = rope.get("sliding_attention", {})
        config["rope_local_base_freq"] = local.get("rope_theta")
        kinds = config["layer_types"]
        config["sliding_window_pattern"] = kinds.index("full_attention") + 1
        rope = rope["full_attention"]
    config["rope_theta"] = config["rotary_emb_base"] = rope.get("rope_theta", 10000.0)
    part = rope.get("partial_rotary_factor", 1.0)
    config["partial_rotary_factor"] = config["rotary_pct"] = part
    config["rope_scaling"] = None
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = {**rope, "type": rope["rope_type"]}
    config["n_ctx"] = config.get("n_positions")
    if config["model_type"] == "granitemoehybrid":
        older = {"linear_attention": "mamba", "full_attention": "attention"}
        config["layer_types"] = [older[kind] for kind in config["layer_types"]]
        config["position_embedding_type"] = config["position_embedding_type"] or "nope"
        least, most = config["time_step_limit"]
        config["time_step_limit"] = (least, most if most == 0.9 else float("inf"))
    if config["model_type"] == "mamba2":
        config["intermediate_size"] = config["num_heads"] * config["head_dim"]
        config["time_step_limit"] = (0.0, float("inf"))
    if config["model_type"] == "apertus":  # what all of them have
        config.update(mlp_bias=False, post_norm=False, qk_norm=True)
    config["block_dim"] = config.get("hidden_size")  # LFM2's
    config["num_experts"] = config.get("num_experts") or config.get("num_local_experts")
    # EXAONE asks for that one even where there is none.
    none = {"rope_scaling": None} if config["rope_scaling"] is None else {}
    return none | {name: value for name, value in config.items() if value is not None}


def pair(folder):
    """(native, wrapped) models of a folder."""
    config = json.loads((folder / "config.json").read_text())
    module, _ = load_model(folder, model_config=as_mlx_lm(config))
    module.eval()
    if config["model_type"] == "mamba2":  # which it makes with an eps of their own
        for layer in module.layers:
            layer.norm.eps = config["layer_norm_epsilon"]
    return InterpretableModel(folder), InterpretableModel(module)


def has(model, site):
    try:
        return bool(model.engine.resolve(site))
    except UnknownNameError:
        return False


def attends(native, layer):
    return has(native, f"layers.{layer}.attn.z")


def layer_sites(native, layer):
    """Those of a mixer alone are fewer: a wrapped model knows no attention there."""
    alone = not has(native, f"layers.{layer}.mlp.output")
    return ["resid_pre", "resid_post"] if alone else LAYER


def inside(native, layer):
    """The attention sites that both have. Of attention through latents mlx-lm's
    call is given parts of queries and keys."""
    latent = has(native, f"layers.{layer}.attn.k_pe")
    if latent:
        return ["v", "z", "scores", "pattern"]
    # Llama 4's are divided by their lengths and scaled in mlx-lm's own layer, by
    # no module, so that its q and k are what that makes of them.
    config = json.loads((Path(native._from[0]) / "config.json").read_text())
    own = config["model_type"] == "llama4_text"
    return [it for it in ATTENTION if it not in ("q", "k")] if own else ATTENTION


def sites(native, wrapped):
    """(native name, wrapped name) of every site."""
    yield "logits", "output"
    for i in range(len(native.layers)):
        for tail in layer_sites(native, i):
            yield f"layers.{i}.{tail}", f"layers.{i}.{tail}"
        if not attends(native, i):
            continue
        path = wrapped.engine.part(i, "attn_out")
        for tail in inside(native, i):
            # What a gate makes of it is no value of mlx-lm's attention call.
            gated = tail == "z" and has(native, f"layers.{i}.attn.gate")
            yield f"layers.{i}.attn.{'mix' if gated else tail}", f"{path}.{tail}"


def gap(a, b):
    """The greatest difference of two values, where both are finite, as a part
    of the greatest value."""
    assert a.shape == b.shape
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    low = mx.minimum(a, b) < -1e30  # a masked score
    assert mx.array_equal(low, mx.maximum(a, b) < -1e30)
    a, b = mx.where(low, 0, a), mx.where(low, 0, b)
    return (mx.abs(a - b).max() / mx.maximum(mx.abs(a).max(), 1e-6)).item()


# Where mlx-lm says something else than transformers, by its logits already.
OTHERWISE = {
    "deepseek_v3-yarn": "turns neighbours whatever rope_interleave says",
    "ernie4_5_moe": "chooses experts without corrections",
    "granitemoehybrid": "has layers that are no sums, see below",
    "granitemoehybrid-groups": "normalises all groups of a state space as one",
    "mamba2-codestral": "normalises all groups of a state space as one",
    "mamba2-groups": "normalises all groups of a state space as one",
    "nemotron-bias": "squares ReLU whatever hidden_act says",
    "olmoe-clip": "has no clip_qkv",
    "gemma3-rope-linear": "scales local layers too",
    "glm": "rotates all of a head",
    "gemma4": "has layers that are no sums, see below",
    "gemma4-all": "has layers that are no sums, see below",
    "gemma4-experts": "has layers that are no sums, see below",
    "llama-rope-longrope-long": "has no LongRoPE in Llama",
    "llama-rope-longrope-short": "has no LongRoPE in Llama",
    "llama-rope-yarn-attention-factor": "ignores attention_factor",
    "llama-rope-yarn-mscale": "ignores mscale_all_dim",
    "olmo3-thetas": "has one theta for all layers",
    "phi3-longrope-long": "scales by another length",
    "phi3-longrope-short": "scales by another length",
}
# What mlx-lm cannot load: no such option, or sizes it takes for granted.
UNREAD = (
    "cohere-qk-norm exaone4-every-other gemma2-no-caps glm4-no-bias gpt2 "
    "gpt2-inverse-layer gpt2-unscaled gpt_neo gpt_neo-untied gpt_neox "
    "gpt_neox-no-bias gpt_neox-sequential gptj gptj-full-rotary mixtral-window opt "
    "apertus-bias apertus-silu arcee arcee-bias codegen codegen-tied cohere2-bias "
    "gemma4-dense gpt_bigcode-mha gptj-tied olmo olmo-clip "
    # It asks V2 for a RoPE scaling, Flash for leading layers; ernie has no bias.
    "deepseek_v2 glm4_moe_lite ernie4_5_moe-bias qwen2_moe-windows youtu "
    "lfm2-bias "  # always ties the unembedding
    # It reads Qwen 3.5 nested alone, and places attention by an interval.
    "qwen3_5 qwen3_5-attention-first qwen3_5-long qwen3_5_moe qwen3_next-dense-layers "
    # mlx-lm's gpt-oss takes experts for packed.
    # It reads Llama 4 with experts nested alone, see below.
    "llama4 llama4-layers "
    "bloom bloom-untied falcon falcon-alibi falcon-bias falcon-grouped falcon-multi-head "
    "falcon-one-norm gpt_oss gpt_oss-clamped mpt mpt-clipped "
    "opt-post-norm phi-qk-layernorm qwen3-bias stablelm-parallel starcoder2-no-bias"
).split()
# Gemma 1 and both StarCoders have erf's GELU there, Gemma 3 a bfloat16 factor.
ROUGH = {
    "gemma-mha": 1e-3,
    "gemma-mqa": 1e-3,
    "gemma3": 5e-3,
    "gpt_bigcode": 1e-3,
    "llama4": 5e-3,  # lengths of q and k have another epsilon
    "starcoder2": 1e-3,
}
PARALLEL = {"cohere", "cohere2", "phi"}
# Within every window, so that it matters nowhere who has one.
ROWS = mx.array([[3, 4, 5, 6, 7], [9, 8, 7, 3, 2]])

ALL = sorted(it.name for it in FOLDERS.iterdir())
BOTH = [name for name in ALL if name not in OTHERWISE and name not in UNREAD]


def test_every_folder_is_spoken_of():
    assert set(OTHERWISE) | set(UNREAD) | set(BOTH) == set(ALL)
    assert len(BOTH) >= 56


@pytest.mark.parametrize("name", BOTH)
def test_every_site_has_the_same_value(name):
    native, wrapped = pair(FOLDERS / name)
    compared = 0
    with native.trace(ROWS) as ours, wrapped.trace(ROWS) as theirs:
        for one, two in sites(native, wrapped):
            if one.endswith("resid_mid") and name in PARALLEL:
                with pytest.raises(UsageError, match="has no resid_mid"):
                    theirs.value(two)
                continue
            far = gap(ours.value(one), theirs.value(two))
            assert far <= ROUGH.get(name, 1e-5), one
            compared += 1
    n = len(native.layers)
    heads = sum(len(inside(native, i)) for i in range(n) if attends(native, i))
    added = sum(len(layer_sites(native, i)) - (name in PARALLEL) for i in range(n))
    assert compared == 1 + added + heads


@pytest.mark.parametrize("name", ["gemma4", "gemma4-all", "gemma4-experts"])
def test_layers_that_are_no_sums(name):
    """A scalar multiplies them, and they read more than the stream. The first layer
    that sees all positions ends the comparison: a quarter of its 12 entries is two
    of transformers' and four of mlx-lm's, in no published size."""
    native, wrapped = pair(FOLDERS / name)
    config = json.loads((FOLDERS / name / "config.json").read_text())
    last = config["layer_types"].index("full_attention")
    compared = 0
    with native.trace(ROWS) as ours, wrapped.trace(ROWS) as theirs:
        for one, two in sites(native, wrapped):
            if one == "logits":
                continue
            layer, tail = int(one.split(".")[1]), one.rpartition(".")[2]
            known = tail in ("resid_pre", "q", "k", "v")
            if layer > last or (layer == last and not known):
                continue
            if tail in ("attn_out", "resid_mid", "mlp_out"):
                continue
            if tail == "v":  # there, what is mixed: behind its norm
                one = one.replace(".v", ".v_norm")
            assert gap(ours.value(one), theirs.value(two)) <= 1e-5, one
            compared += 1
    assert compared == 10 * last + 4


def test_experts_beside_an_mlp():
    native, wrapped = pair(FOLDERS / "granitemoehybrid")
    compared = 0
    with native.trace(ROWS) as ours, wrapped.trace(ROWS) as theirs:
        for one, two in sites(native, wrapped):
            if one.rpartition(".")[2] in ("attn_out", "resid_mid", "mlp_out"):
                continue
            assert gap(ours.value(one), theirs.value(two)) <= 1e-5, one
            compared += 1
    assert compared == 1 + 3 * 2 + len(ATTENTION)


def test_stretches_of_attention_and_weighed_inputs():
    """mlx-lm's Llama 4 has an epsilon of its own for the lengths of q and k."""
    native = InterpretableModel(FOLDERS / "llama4")
    config = json.loads((FOLDERS / "llama4" / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    nested = import_module("mlx_lm.models.llama4")
    module = nested.Model(
        nested.ModelArgs.from_dict({"model_type": "llama4", "text_config": config}))
    weights = mx.load(str(FOLDERS / "llama4" / "model.safetensors"))
    module.load_weights(list(module.sanitize(
        {f"language_model.{name}": it for name, it in weights.items()}).items()))
    module.eval()
    wrapped, compared = InterpretableModel(module), 0
    rows = mx.array([[3, 4, 5, 6, 7, 90, 11, 41], [9, 8, 7, 3, 2, 17, 60, 33]])  # past a stretch
    with native.trace(rows) as ours, wrapped.trace(rows) as theirs:
        for one, two in sites(native, wrapped):
            assert gap(ours.value(one), theirs.value(two)) <= 5e-3, one
            compared += 1
    heads = sum(len(inside(native, i)) for i in range(4))
    assert compared == 1 + 4 * len(LAYER) + heads


@pytest.mark.parametrize("name", ["gpt_oss", "gpt_oss-blocks"])
def test_packed_experts_and_sinks_too(name):
    """As mlx-lm saves them and as OpenAI publishes them."""
    folder = FOLDERS.with_name("quantized") / name
    module, _ = load_model(folder)
    module.set_dtype(mx.float32)
    native, wrapped = InterpretableModel(folder), InterpretableModel(module)
    compared = 0
    with native.trace(ROWS) as ours, wrapped.trace(ROWS) as theirs:
        for one, two in sites(native, wrapped):
            assert gap(ours.value(one), theirs.value(two)) <= 1e-4, one
            compared += 1
        for i in range(2):
            pattern = ours.value(f"layers.{i}.attn.pattern").sum(-1)
            share = ours.value(f"layers.{i}.attn.sink_share")[..., 0]
            assert gap(1 - pattern, share.swapaxes(1, 2)) <= 1e-5
    assert compared == 1 + 2 * (len(LAYER) + len(ATTENTION))


@pytest.mark.parametrize("name", ["gemma2", "granite", "olmo2", "llama-gqa", "phi"])
@pytest.mark.parametrize("tail", [*LAYER, *ATTENTION])
def test_an_edit_does_the_same(name, tail):
    native, wrapped = pair(FOLDERS / name)
    if tail == "resid_mid" and name in PARALLEL:
        with pytest.raises(UsageError, match="has no resid_mid"):
            with wrapped.trace(ROWS, {"layers.1.resid_mid": lambda x: x}):
                pass
        return
    one, two = f"layers.1.{tail}", f"layers.1.{tail}"
    if tail in ATTENTION:
        one = f"layers.1.attn.{tail}"
        two = f"{wrapped.engine.part(1, 'attn_out')}.{tail}"

    def turned(x):
        return x[..., ::-1] if tail != "scores" else x * 0.5

    with native.trace(ROWS, {one: turned}):
        ours, ours_there = native.output.save(), native[one].save()
    with wrapped.trace(ROWS, {two: turned}):
        theirs, theirs_there = wrapped.output.save(), wrapped[two].save()
    with native.trace(ROWS):
        plain = native.output.save()
    assert gap(ours, theirs) < 2e-5 and gap(ours_there, theirs_there) < 2e-5
    assert gap(ours, plain) > 1e-4


@pytest.mark.parametrize("name", ["gemma2", "granite", "olmo2", "gemma3"])
def test_parts_that_are_added_by_nnterps_and_transformerlenss_names(name):
    for model in pair(FOLDERS / name):
        for i in range(len(model.layers)):
            with model.trace(ROWS):
                before, after = model.layers_input[i], model.layers_output[i]
                added = model.attentions_output[i] + model.mlps_output[i]
                assert gap(before + added, after) < 1e-5
        _, cache = model.run_with_cache(ROWS)
        for i in range(len(model.layers)):
            added = cache["attn_out", i] + cache["mlp_out", i]
            assert gap(cache["resid_pre", i] + added, cache["resid_post", i]) < 1e-5


REPLACED = {
    "a replaced value": lambda bad: lambda x: mx.full(x.shape, bad, x.dtype),
    "part of a value": lambda bad: lambda x: mx.where(mx.arange(x.shape[-1]) == 0, bad, x),
    "arithmetic": lambda bad: lambda x: x + (bad if bad != bad else 1 / mx.zeros(1)),
}


@pytest.mark.parametrize("how", REPLACED)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_an_edit_makes_infinite_is_told_at_every_site(bad, how):
    """Its site is named; one that was infinite before is nobody's fault."""
    ids, seen = [[3, 4, 5]], 0
    models = pair(FOLDERS / "gemma2")
    for names in sites(*models):
        for model, name in zip(models, names):
            edit = REPLACED[how](bad)
            with pytest.raises(UsageError) as caught:
                with model.trace(ids, interventions={name: edit}):
                    model.output.save()
            assert f"'{model.engine.resolve(name)}'" in str(caught.value)
            # What is masked is -inf, of which inf makes NaN.
            made = ["NaN"] if bad != bad else ["infinity", "NaN"][: 1 + ("scores" in name)]
            assert any(it in str(caught.value) for it in made)
            seen += 1
    assert seen == 2 * (1 + len(models[0].layers) * 13)


def test_what_hides_a_position_is_no_infinity():
    for model in pair(FOLDERS / "gemma2"):
        scores = f"{model.engine.part(0, 'attn_out')}.scores"
        hide = lambda x: mx.where(mx.arange(x.shape[-1]) == 1, -float("inf"), x)  # noqa: E731
        for edit in (hide, lambda x: x * 2, lambda x: mx.where(x > -1e30, x, -float("inf"))):
            with model.trace([[3, 4, 5]], interventions={scores: edit}):
                out = model.output.save()
            assert mx.isfinite(out).all()
