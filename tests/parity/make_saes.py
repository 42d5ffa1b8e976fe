#!/usr/bin/env python3
"""usage: make_saes.py FOLDER: small files of SAEs in every layout that is read.

Written by the peers' own classes where there are some, with the activations
and reconstructions that these give, which tests/sae/formats_test.cpp compares:

    FOLDER/x.safetensors            x [6, d_in], the input of all
    FOLDER/<case>/...               the files as the peer writes them
    FOLDER/<case>/expected.safetensors   acts [6, d_sae], recon [6, d_out]

Needs torch, safetensors, numpy, sae-lens 6.54 (and transformer-lens 2),
dictionary-learning 0.1 and eai-sparsify 1.3. Where a peer publishes files and
no class that writes them (Gemma Scope, Llama Scope, Qwen Scope, Goodfire,
DeepSeek) the layout is that of its published files and the expectation twenty
lines of torch; OpenAI's class and circuit-tracer's stand below as their
forward and the keys of their state dicts.
"""

import importlib.util
import json
import math
import os
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
D, F, OUT, ROWS, K = 12, 32, 10, 6, 5
FOLDER = Path(sys.argv[1])
GENERATOR = torch.Generator().manual_seed(7)


def random(*shape, scale=0.5):
    return torch.randn(*shape, generator=GENERATOR) * scale


X = random(ROWS, D, scale=1.0) * 1.5 + 0.2


def case(name):
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def expect(name, acts, recon):
    """Beside the files, in a folder of its own: a case holds what the peer
    writes and nothing else."""
    acts, recon = acts.detach().float(), recon.detach().float()
    share = (acts != 0).float().mean().item()
    print(f"{name:32} {100 * share:5.1f} % active, |recon| {recon.norm():.3f}")
    assert 0.02 < share < 0.9, name
    folder = case("expected")
    save_file({"acts": acts.contiguous(), "recon": recon.contiguous()},
              folder / f"{name}.safetensors")


def fill(module):
    """Random numbers in every parameter, with thresholds that let some pass."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            last = name.split(".")[-1]
            if last == "threshold":
                parameter.copy_(random(*parameter.shape).abs() + 0.2)
            elif last == "r_mag":
                parameter.copy_(random(*parameter.shape, scale=0.3))
            else:
                parameter.copy_(random(*parameter.shape, scale=0.4))


def bare(name):
    """A package whose __init__, which asks for much more, is not run."""
    found = importlib.util.find_spec(name)
    package = types.ModuleType(name)
    package.__path__ = list(found.submodule_search_locations)
    sys.modules[name] = package


# ---- SAELens ----


def saelens():
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    def about(hook, out=None):
        more = {"hook_name_out": out} if out else {}
        return SAEMetadata(model_name="gpt2-small", hook_name=hook, l0=7.5,
                           **more)

    def write(name, sae, x=X):
        fill(sae)
        sae.eval()
        sae.save_model(case(name))
        acts = sae.encode(x)
        expect(name, acts, sae(x))

    resid = "blocks.5.hook_resid_post"
    write("saelens_standard", sae_lens.StandardSAE(sae_lens.StandardSAEConfig(
        D, F, metadata=about(resid))))
    write("saelens_layer_norm", sae_lens.StandardSAE(
        sae_lens.StandardSAEConfig(
            D, F, normalize_activations="layer_norm", metadata=about(resid),
            apply_b_dec_to_input=False)))
    write("saelens_constant_norm", sae_lens.StandardSAE(
        sae_lens.StandardSAEConfig(
            D, F, normalize_activations="constant_norm_rescale",
            metadata=about(resid))))
    write("saelens_gated", sae_lens.GatedSAE(sae_lens.GatedSAEConfig(
        D, F, metadata=about("blocks.3.hook_mlp_out"))))
    write("saelens_jumprelu", sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(
        D, F, apply_b_dec_to_input=False,
        metadata=about("blocks.3.ln2.hook_normalized"))))
    write("saelens_topk", sae_lens.TopKSAE(sae_lens.TopKSAEConfig(
        D, F, k=K, metadata=about(resid))))
    write("saelens_topk_rescaled", sae_lens.TopKSAE(sae_lens.TopKSAEConfig(
        D, F, k=K, rescale_acts_by_decoder_norm=True, metadata=about(resid))))
    write("saelens_abstopk", sae_lens.AbsTopKSAE(sae_lens.AbsTopKSAEConfig(
        D, F, k=K, metadata=about(resid))))
    # The heads flattened, as everything here reads them.
    z = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(
        D, F, reshape_activations="hook_z",
        metadata=about("blocks.2.attn.hook_z")))
    fill(z)
    z.save_model(case("saelens_hook_z"))
    heads = X.reshape(ROWS, 3, D // 3)
    expect("saelens_hook_z", z.encode(heads), z(heads).reshape(ROWS, D))
    mlp = ("blocks.4.hook_mlp_in", "blocks.4.hook_mlp_out")
    for name, kind in (("transcoder", "Transcoder"),
                       ("skip_transcoder", "SkipTranscoder"),
                       ("jumprelu_transcoder", "JumpReLUTranscoder"),
                       ("jumprelu_skip_transcoder", "JumpReLUSkipTranscoder")):
        config = getattr(sae_lens, kind + "Config")
        write(f"saelens_{name}", getattr(sae_lens, kind)(config(
            d_in=D, d_sae=F, d_out=OUT, apply_b_dec_to_input=False,
            metadata=about(*mlp))))

    # BatchTopK, trained, saved for inference with its scale folded.
    batch = sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(
        d_in=D, d_sae=F, k=K, metadata=about(resid)))
    fill(batch)
    batch.topk_threshold = torch.tensor(0.4, dtype=torch.double)
    batch.fold_activation_norm_scaling_factor(1.7)
    batch.save_inference_model(case("saelens_batchtopk"))
    back = sae_lens.SAE.load_from_disk(case("saelens_batchtopk"))
    expect("saelens_batchtopk", back.encode(X), back(X))

    # A checkpoint of training: the scale lies beside the weights.
    scaled = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(
        D, F, normalize_activations="expected_average_only_in",
        metadata=about(resid)))
    fill(scaled)
    scaled.save_model(case("saelens_scaled"))
    from sae_lens.training.activation_scaler import ActivationScaler

    scaler = ActivationScaler(scaling_factor=0.8)
    scaler.save(str(case("saelens_scaled") / "activation_scaler.json"))
    acts = scaled.encode(scaler.scale(X))
    expect("saelens_scaled", acts, scaler.unscale(scaled.decode(acts)))

    # As version 3 wrote it.
    old = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(D, F, k=K))
    fill(old)
    old.save_model(case("saelens_old"))
    (case("saelens_old") / "cfg.json").write_text(json.dumps({
        "d_in": D, "d_sae": F, "dtype": "torch.float32",
        "model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8, "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K}, "normalize_activations": False,
        "sae_lens_version": "3.12.0"}))
    again = sae_lens.SAE.load_from_disk(case("saelens_old"))
    expect("saelens_old", again.encode(X), again(X))


# ---- sparsify ----


def sparsify():
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it needs a GPU
    bare("sparsify")
    from sparsify.sparse_coder import SparseCoder
    from sparsify.config import SparseCoderConfig

    for name, hook, more in (
            ("sparsify_topk", "layers.5", {}),
            ("sparsify_groupmax", "layers.3.mlp",
             {"activation": "groupmax", "k": 8}),
            ("sparsify_transcoder", "layers.2.mlp",
             {"transcode": True, "skip_connection": True})):
        config = SparseCoderConfig(
            **{"k": K, "num_latents": F, "expansion_factor": 3, **more})
        coder = SparseCoder(D, config)
        fill(coder)
        coder.save_to_disk(case(name) / hook)
        top, indices, _ = coder.encode(X)
        acts = torch.zeros(ROWS, F).scatter_(1, indices, top)
        expect(name, acts, coder(X).sae_out)


# ---- dictionary_learning ----


def dictionaries():
    bare("dictionary_learning")
    bare("dictionary_learning.trainers")
    from dictionary_learning.dictionary import (
        AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder)
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import (
        MatryoshkaBatchTopKSAE)
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    def write(name, sae, load=None, k=None, legacy=False):
        fill(sae)
        if hasattr(sae, "threshold") and sae.threshold.ndim == 0:
            sae.threshold.fill_(0.3)
        folder = case(name) / "trainer_0"
        folder.mkdir(exist_ok=True)
        torch.save(sae.state_dict(), folder / "ae.pt",
                   _use_new_zipfile_serialization=not legacy)
        (folder / "config.json").write_text(json.dumps({
            "trainer": {
                "dict_class": type(sae).__name__, "activation_dim": D,
                "dict_size": F, "layer": 3, "k": k,
                "lm_name": "EleutherAI/pythia-70m-deduped",
                "submodule_name": "resid_post_layer_3"},
            "buffer": {"ctx_len": 128}}))
        sae = (load or type(sae).from_pretrained)(folder / "ae.pt")
        expect(name, sae.encode(X), sae(X))

    write("dl_standard", AutoEncoder(D, F))
    write("dl_legacy", AutoEncoder(D, F), legacy=True)
    write("dl_new", AutoEncoderNew(D, F))
    write("dl_gated", GatedAutoEncoder(D, F))
    write("dl_jumprelu", JumpReluAutoEncoder(D, F))
    write("dl_topk", AutoEncoderTopK(D, F, K), k=K)
    write("dl_batchtopk", BatchTopKSAE(D, F, K), k=K)
    write("dl_matryoshka", MatryoshkaBatchTopKSAE(D, F, K, [8, 24]), k=K)


# ---- published files ----


def jump(pre, threshold):
    return torch.relu(pre) * (pre > threshold)


def parts(out=D):
    return {"w_enc": random(D, F, scale=0.4), "b_enc": random(F, scale=0.4),
            "w_dec": random(F, out, scale=0.4), "b_dec": random(out),
            "threshold": random(F).abs() + 0.2}


def gemma_scope():
    p = parts()
    folder = (case("gemma_scope") / "gemma-scope-2b-pt-res" / "layer_20" /
              "width_16k" / "average_l0_71")
    folder.mkdir(parents=True, exist_ok=True)
    # The published ones have W_enc, W_dec in this case.
    np.savez(folder / "params.npz", **{
        name.replace("w_", "W_"): value.numpy() for name, value in p.items()})
    acts = jump(X @ p["w_enc"] + p["b_enc"], p["threshold"])
    expect("gemma_scope", acts, acts @ p["w_dec"] + p["b_dec"])

    p = parts()
    folder = (case("gemma_scope_transcoder") / "gemma-scope-2b-pt-transcoders" /
              "layer_3" / "width_16k" / "average_l0_54")
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{
        name.replace("w_", "W_"): value.numpy() for name, value in p.items()})
    acts = jump(X @ p["w_enc"] + p["b_enc"], p["threshold"])
    expect("gemma_scope_transcoder", acts, acts @ p["w_dec"] + p["b_dec"])

    p = parts()
    folder = (case("gemma_scope_embedding") / "gemma-scope-2b-pt-res" /
              "embedding" / "width_4k" / "average_l0_6")
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{
        name.replace("w_", "W_"): value.numpy() for name, value in p.items()})
    acts = jump(X @ (p["w_enc"] / math.sqrt(D)) + p["b_enc"], p["threshold"])
    expect("gemma_scope_embedding", acts,
           acts @ (p["w_dec"] * math.sqrt(D)) + p["b_dec"])


def gemma_scope_2():
    p = parts()
    folder = (case("gemma_scope_2") / "gemma-scope-2-1b-pt" / "attn_out" /
              "layer_12_width_16k_l0_medium")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(p, folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "architecture": "jump_relu", "model_name": "gemma-v3-1b-pt",
        "hf_hook_point_in": "model.layers.12.self_attn.o_proj.input",
        "hf_hook_point_out": "model.layers.12.self_attn.o_proj.input",
        "width": F, "l0": 60, "affine_connection": False, "type": "sae"}))
    acts = jump(X @ p["w_enc"] + p["b_enc"], p["threshold"])
    expect("gemma_scope_2", acts, acts @ p["w_dec"] + p["b_dec"])

    # Without its config.json, as some are published.
    p = {**parts(), "affine_skip_connection": random(D, D)}
    folder = (case("gemma_scope_2_affine") / "gemma-scope-2-270m-it" /
              "transcoder_all" / "layer_7_width_16k_l0_small_affine")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(p, folder / "params.safetensors")
    acts = jump(X @ p["w_enc"] + p["b_enc"], p["threshold"])
    expect("gemma_scope_2_affine", acts,
           acts @ p["w_dec"] + p["b_dec"] + X @ p["affine_skip_connection"])

    layers = 3
    p = {**parts(), "w_dec": random(F, layers, D, scale=0.4)}
    folder = (case("gemma_scope_2_clt") / "gemma-scope-2-270m-pt" / "clt" /
              "width_262k_l0_medium")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(p, folder / "params_layer_1.safetensors")
    acts = jump(X @ p["w_enc"] + p["b_enc"], p["threshold"])
    recon = torch.einsum("nf,fld->nld", acts, p["w_dec"])
    recon[:, 1] += p["b_dec"]
    expect("gemma_scope_2_clt", acts, recon)


def llama_scope():
    weights = {"encoder.weight": random(F, D, scale=0.4),
               "encoder.bias": random(F), "decoder.bias": random(D),
               "decoder.weight": random(D, F, scale=0.4)}
    folder = case("llama_scope") / "Llama3_1-8B-Base-L15R-8x"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "checkpoints" / "final.safetensors")
    norm = 4.5
    (folder / "hyperparams.json").write_text(json.dumps({
        "d_model": D, "d_sae": F, "jump_relu_threshold": 0.35,
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post", "expansion_factor": 8,
        "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False,
        "dataset_average_activation_norm": {"in": norm, "out": norm}}))
    scale = math.sqrt(D) / norm
    pre = (X * scale) @ weights["encoder.weight"].T + weights["encoder.bias"]
    acts = jump(pre, 0.35 * scale)
    recon = (acts @ weights["decoder.weight"].T + weights["decoder.bias"])
    expect("llama_scope", acts, recon / scale)

    weights["log_jumprelu_threshold"] = (random(F).abs() + 0.2).log()
    folder = case("llama_scope_r1") / "L15R"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "d_model": D, "expansion_factor": F / D, "act_fn": "jumprelu",
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norm, "out": norm}}))
    acts = jump((X * scale) @ weights["encoder.weight"].T +
                weights["encoder.bias"],
                weights["log_jumprelu_threshold"].exp())
    recon = (acts @ weights["decoder.weight"].T + weights["decoder.bias"])
    expect("llama_scope_r1", acts, recon / scale)


def pickles():
    # Qwen Scope: both matrices the other way round; k in the repository's name.
    w = {"W_enc": random(F, D, scale=0.4), "W_dec": random(D, F, scale=0.4),
         "b_enc": random(F), "b_dec": random(D)}
    folder = case("qwen_scope") / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(w, folder / "layer7.sae.pt")
    pre = X @ w["W_enc"].T + w["b_enc"]
    top = pre.topk(5, dim=-1)
    acts = torch.zeros_like(pre).scatter_(1, top.indices, top.values.relu())
    expect("qwen_scope", acts, acts @ w["W_dec"].T + w["b_dec"])

    for name, file, prefix in (
            ("goodfire", "Llama-3.1-8B-Instruct-SAE-l19.pth", "_linear"),
            ("deepseek", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", "")):
        w = {f"encoder{prefix}.weight": random(F, D, scale=0.4),
             f"encoder{prefix}.bias": random(F),
             f"decoder{prefix}.weight": random(D, F, scale=0.4),
             f"decoder{prefix}.bias": random(D)}
        torch.save(w, case(name) / file)
        acts = torch.relu(X @ w[f"encoder{prefix}.weight"].T +
                          w[f"encoder{prefix}.bias"])
        expect(name, acts, acts @ w[f"decoder{prefix}.weight"].T +
               w[f"decoder{prefix}.bias"])

    # Connor Kissane's and Robert Krzyzanowski's attention SAEs.
    w = {"W_enc": random(D, F, scale=0.4), "W_dec": random(F, D, scale=0.4),
         "b_enc": random(F), "b_dec": random(D)}
    folder = case("connor_rob")
    torch.save(w, folder / "gpt2-small_L5_Hcat_z.pt")
    (folder / "gpt2-small_L5_Hcat_z_cfg.json").write_text(json.dumps({
        "act_name": "blocks.5.attn.hook_z", "act_size": D, "dict_size": F,
        "site": "z", "layer": 5}))
    acts = torch.relu((X - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    expect("connor_rob", acts, acts @ w["W_dec"] + w["b_dec"])


def openai():
    """github.com/openai/sparse_autoencoder: Autoencoder and its state dict."""
    for name, topk in (("openai_topk", True), ("openai_relu", False)):
        w = torch.nn.Module()
        w.pre_bias = torch.nn.Parameter(random(D))
        w.encoder = torch.nn.Linear(D, F, bias=False)
        w.latent_bias = torch.nn.Parameter(random(F))
        w.decoder = torch.nn.Linear(F, D, bias=False)
        w.register_buffer("stats_last_nonzero", torch.zeros(F).long())
        w.register_buffer("latents_activation_frequency", torch.ones(F))
        fill(w)
        state = w.state_dict()
        state["activation"] = "TopK" if topk else "ReLU"
        if topk:
            state["activation_state_dict"] = {"k": K, "postact_fn": "ReLU"}
        else:
            state["activation_state_dict"] = torch.nn.ReLU().state_dict()
        torch.save(state, case(name) / "autoencoder.pt")
        x, mean, std = X, 0, 1
        if topk:
            mean = X.mean(-1, keepdim=True)
            std = (X - mean).std(-1, keepdim=True)
            x = (X - mean) / (std + 1e-5)
        pre = (x - w.pre_bias) @ w.encoder.weight.T + w.latent_bias
        acts = torch.relu(pre)
        if topk:
            best = pre.topk(K, dim=-1)
            acts = torch.zeros_like(pre).scatter_(
                1, best.indices, best.values.relu())
        recon = acts @ w.decoder.weight.T + w.pre_bias
        expect(name, acts, recon * std + mean)


def circuit_tracer():
    """github.com/safety-research/circuit-tracer: SingleLayerTranscoder and
    CrossLayerTranscoder, as their to_safetensors writes them."""
    layers = 3
    for name, kind in (("circuit_tracer_jump", "jump"),
                       ("circuit_tracer_topk", "topk")):
        folder = case(name)
        lines = [f"model_name: meta-llama/Llama-3.2-1B",
                 "model_kind: transcoder_set",
                 "feature_input_hook: mlp.hook_in",
                 "feature_output_hook: mlp.hook_out",
                 "scan: test/set"]
        if kind == "topk":
            lines += ["activation: topk", f"k: {K}"]
        lines += ["transcoders:"]
        acts, recon = [], []
        for i in range(layers):
            w = {"W_enc": random(F, D, scale=0.4),
                 "W_dec": random(F, D, scale=0.4),
                 "b_enc": random(F), "b_dec": random(D),
                 "W_skip": random(D, D)}
            pre = X @ w["W_enc"].T + w["b_enc"]
            if kind == "jump":
                w["activation_function.threshold"] = random(F).abs() + 0.2
                a = jump(pre, w["activation_function.threshold"])
            else:
                best = pre.topk(K, dim=-1)
                a = pre * torch.zeros_like(pre).scatter_(1, best.indices, 1.0)
            save_file(w, folder / f"layer_{i}.safetensors")
            lines += [f"- layer_{i}.safetensors"]
            acts.append(a)
            recon.append(a @ w["W_dec"] + w["b_dec"] + X @ w["W_skip"].T)
        (folder / "config.yaml").write_text("\n".join(lines) + "\n")
        expect(name, torch.stack(acts), torch.stack(recon))

    folder = case("circuit_tracer_clt")
    (folder / "config.yaml").write_text(
        "model_name: google/gemma-2-2b\n"
        "model_kind: cross_layer_transcoder\n"
        "feature_input_hook: \"hook_resid_mid\"\n"
        "feature_output_hook: hook_mlp_out  # behind the norm\n"
        "scan: test/clt\n")
    acts = []
    recon = torch.zeros(layers, ROWS, D)
    for i in range(layers):
        w = {f"W_enc_{i}": random(F, D, scale=0.4), f"b_enc_{i}": random(F),
             f"b_dec_{i}": random(D), f"threshold_{i}": random(F).abs() + 0.2}
        decoders = random(F, layers - i, D, scale=0.4)
        save_file(w, folder / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": decoders}, folder / f"W_dec_{i}.safetensors")
        a = jump(X @ w[f"W_enc_{i}"].T + w[f"b_enc_{i}"], w[f"threshold_{i}"])
        acts.append(a)
        recon[i] += w[f"b_dec_{i}"]
        recon[i:] += torch.einsum("nf,fld->lnd", a, decoders)
    expect("circuit_tracer_clt", torch.stack(acts), recon)


def main():
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file({"x": X}, FOLDER / "x.safetensors")
    with torch.no_grad():
        for make in (saelens, sparsify, dictionaries, gemma_scope,
                     gemma_scope_2, llama_scope, pickles, openai,
                     circuit_tracer):
            make()


if __name__ == "__main__":
    main()
