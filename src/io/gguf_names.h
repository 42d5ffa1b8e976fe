// io/gguf_names.h: the names of tensors, architecture by architecture.

#pragma once

#include "io/gguf_architecture.h"

namespace mlxterp {

// What they call the same, as Llama's checkpoints do and those after it.
inline constexpr GgufRenaming shared_whole[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

inline constexpr GgufRenaming shared_in_block[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_sinks.weight", "self_attn.sinks"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
    {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"},
    {"ffn_down_exps", "mlp.experts.down_proj"},
    {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
    {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
    // Through latents; the last two stacked by head.
    {"attn_q_a", "self_attn.q_a_proj"},
    {"attn_q_a_norm", "self_attn.q_a_layernorm"},
    {"attn_q_b", "self_attn.q_b_proj"},
    {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
    {"attn_kv_b", "self_attn.kv_b_proj"},
    {"attn_k_b", "self_attn.embed_q"},
    {"attn_v_b", "self_attn.unembed_out"},
};

// Their rows of q and k are those of interleaved rotary pairs.
inline constexpr GgufRenaming rotary_rows[] = {
    {"attn_q", "self_attn.q_proj", Stored::query_rows},
    {"attn_k", "self_attn.k_proj", Stored::key_rows},
};

// Whose biases stay in their order.
inline constexpr GgufRenaming olmo_in_block[] = {
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_q", "self_attn.q_proj", Stored::query_rows},
    {"attn_k", "self_attn.k_proj", Stored::key_rows},
};

// Their second norm is called as Gemma calls the one behind attention.
inline constexpr GgufRenaming second_norm[] = {
    {"post_attention_norm", "post_attention_layernorm"},
};

inline constexpr GgufRenaming gpt_oss_in_block[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_gate_inp", "mlp.router"},
};

inline constexpr GgufRenaming qwen2_moe_in_block[] = {
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
};

inline constexpr GgufRenaming glm4_in_block[] = {
    {"post_attention_norm", "post_self_attn_layernorm"},
    {"ffn_up", "mlp.gate_up_proj"},
    {"post_ffw_norm", "post_mlp_layernorm"},
};

// Norms behind each part alone.
inline constexpr GgufRenaming post_norms_in_block[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};

inline constexpr GgufRenaming hunyuan_in_block[] = {
    {"attn_q_norm", "self_attn.query_layernorm"},
    {"attn_k_norm", "self_attn.key_layernorm"},
};

inline constexpr GgufRenaming lfm2_whole[] = {
    {"token_embd_norm", "model.embedding_norm"},
    {"output_norm", "model.embedding_norm"},  // of newer files
};

inline constexpr GgufRenaming lfm2_in_block[] = {
    {"attn_norm", "operator_norm"},
    {"attn_q_norm", "self_attn.q_layernorm"},
    {"attn_k_norm", "self_attn.k_layernorm"},
    {"attn_output", "self_attn.out_proj"},
    {"shortconv.in_proj", "conv.in_proj"},
    {"shortconv.conv", "conv.conv"},
    {"shortconv.out_proj", "conv.out_proj"},
    {"ffn_norm", "ffn_norm"},
    {"ffn_gate", "feed_forward.w1"},
    {"ffn_up", "feed_forward.w3"},
    {"ffn_down", "feed_forward.w2"},
};

inline constexpr GgufRenaming starcoder2_in_block[] = {
    {"ffn_up", "mlp.c_fc"},
    {"ffn_down", "mlp.c_proj"},
};

// Gemma's norms and Nemotron's have one added.
inline constexpr GgufRenaming one_added_whole[] = {
    {"output_norm", "model.norm", Stored::one_added},
};

inline constexpr GgufRenaming one_added_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"ffn_norm", "post_attention_layernorm", Stored::one_added},
};

inline constexpr GgufRenaming gemma_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"attn_q_norm", "self_attn.q_norm", Stored::one_added},
    {"attn_k_norm", "self_attn.k_norm", Stored::one_added},
    {"post_attention_norm", "post_attention_layernorm", Stored::one_added},
    {"ffn_norm", "pre_feedforward_layernorm", Stored::one_added},
    {"post_ffw_norm", "post_feedforward_layernorm", Stored::one_added},
};

inline constexpr GgufRenaming phi3_in_block[] = {
    {"attn_qkv", "self_attn.qkv_proj"},
    {"ffn_up", "mlp.gate_up_proj"},
};

inline constexpr GgufRenaming gpt2_whole[] = {
    {"token_embd", "transformer.wte"},
    {"position_embd", "transformer.wpe"},
    {"output_norm", "transformer.ln_f"},
};

inline constexpr GgufRenaming gpt2_in_block[] = {
    {"attn_norm", "ln_1"},
    {"attn_qkv", "attn.c_attn", Stored::transposed},
    {"attn_output", "attn.c_proj", Stored::transposed},
    {"ffn_norm", "ln_2"},
    {"ffn_up", "mlp.c_fc", Stored::transposed},
    {"ffn_down", "mlp.c_proj", Stored::transposed},
};

inline constexpr GgufRenaming apertus_in_block[] = {
    {"attn_norm", "attention_layernorm"},
    {"ffn_norm", "feedforward_layernorm"},
};

inline constexpr GgufRenaming apertus_numbers[] = {
    {"xielu.alpha_n", "mlp.act_fn.alpha_n"},
    {"xielu.alpha_p", "mlp.act_fn.alpha_p"},
    {"xielu.beta", "mlp.act_fn.beta"},
    {"xielu.eps", "mlp.act_fn.eps"},
};

inline constexpr GgufRenaming bloom_whole[] = {
    {"token_embd", "transformer.word_embeddings"},
    {"token_embd_norm", "transformer.word_embeddings_layernorm"},
    {"output_norm", "transformer.ln_f"},
};

// Falcon's with one norm, too.
inline constexpr GgufRenaming bloom_in_block[] = {
    {"attn_qkv", "self_attention", Stored::q_k_v},
    {"attn_output", "self_attention.dense"},
    {"ffn_up", "mlp.dense_h_to_4h"},
    {"ffn_down", "mlp.dense_4h_to_h"},
};

inline constexpr GgufRenaming falcon_whole[] = {
    {"token_embd", "transformer.word_embeddings"},
    {"output_norm", "transformer.ln_f"},
};

// The first norm of two is the MLP's.
inline constexpr GgufRenaming falcon_two_norms_in_block[] = {
    {"attn_norm", "ln_mlp"},
    {"attn_norm_2", "ln_attn"},
    {"attn_qkv", "self_attention", Stored::q_k_v},
    {"attn_output", "self_attention.dense"},
    {"ffn_up", "mlp.dense_h_to_4h"},
    {"ffn_down", "mlp.dense_4h_to_h"},
};

inline constexpr GgufRenaming gpt_neox_whole[] = {
    {"token_embd", "gpt_neox.embed_in"},
    {"output_norm", "gpt_neox.final_layer_norm"},
    {"output", "embed_out"},
};

inline constexpr GgufRenaming gpt_neox_in_block[] = {
    {"attn_qkv", "attention", Stored::q_k_v},
    {"attn_output", "attention.dense"},
    {"ffn_up", "mlp.dense_h_to_4h"},
    {"ffn_down", "mlp.dense_4h_to_h"},
};

inline constexpr GgufRenaming mpt_whole[] = {
    {"token_embd", "transformer.wte"},
    {"output_norm", "transformer.norm_f"},
};

inline constexpr GgufRenaming mpt_in_block[] = {
    {"attn_norm", "norm_1"},
    {"attn_qkv", "attn.Wqkv"},
    {"attn_output", "attn.out_proj"},
    {"ffn_norm", "norm_2"},
    {"ffn_up", "ffn.up_proj"},
    {"ffn_down", "ffn.down_proj"},
};

inline constexpr GgufRenaming phi2_whole[] = {
    {"output_norm", "model.final_layernorm"},
};

inline constexpr GgufRenaming phi2_in_block[] = {
    {"attn_qkv", "self_attn", Stored::q_k_v},  // of older files
    {"attn_output", "self_attn.dense"},
    {"ffn_up", "mlp.fc1"},
    {"ffn_down", "mlp.fc2"},
};

inline constexpr GgufRenaming starcoder_in_block[] = {
    {"attn_norm", "ln_1"},
    {"attn_qkv", "attn.c_attn"},
    {"attn_output", "attn.c_proj"},
    {"ffn_norm", "ln_2"},
    {"ffn_up", "mlp.c_fc"},
    {"ffn_down", "mlp.c_proj"},
};

inline constexpr GgufRenaming chatglm_in_block[] = {
    {"attn_qkv", "self_attn", Stored::q_k_v},  // of ChatGLM's own checkpoints
    {"ffn_up", "mlp.gate_up_proj"},
};

inline constexpr GgufRenaming internlm2_whole[] = {
    {"token_embd", "model.tok_embeddings"},
    {"output", "output"},
};

inline constexpr GgufRenaming internlm2_in_block[] = {
    {"attn_norm", "attention_norm"},
    {"attn_q", "attention.q_proj", Stored::query_rows},
    {"attn_k", "attention.k_proj", Stored::key_rows},
    {"attn_v", "attention.v_proj"},
    {"attn_output", "attention.wo"},
    {"ffn_norm", "ffn_norm"},
    {"ffn_gate", "feed_forward.w1"},
    {"ffn_up", "feed_forward.w3"},
    {"ffn_down", "feed_forward.w2"},
};

inline constexpr GgufRenaming granite_hybrid_in_block[] = {
    {"attn_q", "self_attn.q_proj", Stored::query_rows},
    {"attn_k", "self_attn.k_proj", Stored::key_rows},
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d", "mamba.conv1d"},
    {"ssm_a", "mamba.A_log", Stored::log_of_negative},
    {"ssm_d", "mamba.D", Stored::flat},
    {"ssm_dt.bias", "mamba.dt_bias"},
    {"ssm_norm", "mamba.norm", Stored::flat},
    {"ssm_out", "mamba.out_proj"},
    {"ffn_gate_inp", "block_sparse_moe.router.layer"},
    {"ffn_gate_exps", "block_sparse_moe.experts.gate_proj"},
    {"ffn_up_exps", "block_sparse_moe.experts.up_proj"},
    {"ffn_down_exps", "block_sparse_moe.experts.down_proj"},
    {"ffn_gate_shexp", "shared_mlp.gate_proj"},
    {"ffn_up_shexp", "shared_mlp.up_proj"},
    {"ffn_down_shexp", "shared_mlp.down_proj"},
    {"ffn_gate", "shared_mlp.gate_proj"},
    {"ffn_up", "shared_mlp.up_proj"},
    {"ffn_down", "shared_mlp.output_linear"},
};

inline constexpr GgufRenaming qwen3_next_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"post_attention_norm", "post_attention_layernorm", Stored::one_added},
    {"attn_q_norm", "self_attn.q_norm", Stored::one_added},
    {"attn_k_norm", "self_attn.k_norm", Stored::one_added},
    {"attn_qkv", "linear_attn", Stored::delta_q_k_v},
    {"attn_gate", "linear_attn.in_proj_z"},
    {"ssm_in", "linear_attn.in_proj_qkvz"},  // of older files
    {"ssm_ba", "linear_attn.in_proj_ba"},
    {"ssm_conv1d", "linear_attn.conv1d"},
    {"ssm_a", "linear_attn.A_log", Stored::log_of_negative},
    {"ssm_dt.bias", "linear_attn.dt_bias"},
    {"ssm_norm", "linear_attn.norm"},
    {"ssm_out", "linear_attn.out_proj"},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
};

// Whose values' heads stand in turn by the key heads that they belong to.
inline constexpr GgufRenaming qwen35_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"post_attention_norm", "post_attention_layernorm", Stored::one_added},
    {"attn_q_norm", "self_attn.q_norm", Stored::one_added},
    {"attn_k_norm", "self_attn.k_norm", Stored::one_added},
    {"attn_qkv", "linear_attn.in_proj_qkv", Stored::tiled_tail},
    {"attn_gate", "linear_attn.in_proj_z", Stored::tiled_rows},
    {"ssm_beta", "linear_attn.in_proj_b", Stored::tiled_rows},
    {"ssm_alpha", "linear_attn.in_proj_a", Stored::tiled_rows},
    {"ssm_conv1d", "linear_attn.conv1d", Stored::tiled_tail},
    {"ssm_a", "linear_attn.A_log", Stored::tiled_log_of_negative},
    {"ssm_dt.bias", "linear_attn.dt_bias", Stored::tiled_rows},
    {"ssm_norm", "linear_attn.norm"},
    {"ssm_out", "linear_attn.out_proj", Stored::tiled_columns},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
};

inline constexpr GgufRenaming gemma4_whole[] = {
    {"per_layer_token_embd", "model.embed_tokens_per_layer"},
    {"per_layer_model_proj", "model.per_layer_model_projection"},
    {"per_layer_proj_norm", "model.per_layer_projection_norm"},
};

inline constexpr GgufRenaming gemma4_in_block[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {"post_ffw_norm_1", "post_feedforward_layernorm_1"},
    {"post_ffw_norm_2", "post_feedforward_layernorm_2"},
    {"pre_ffw_norm_2", "pre_feedforward_layernorm_2"},
    {"ffn_gate_inp.scale", "router.scale"},
    {"ffn_gate_inp", "router.proj"},
    {"ffn_gate_up_exps.weight", "experts.gate_up_proj"},
    {"ffn_gate_exps", "experts.gate_proj"},
    {"ffn_up_exps", "experts.up_proj"},
    {"ffn_down_exps.scale", "router.per_expert_scale"},
    {"ffn_down_exps.weight", "experts.down_proj"},
    {"inp_gate", "per_layer_input_gate"},
    {"proj", "per_layer_projection"},
    {"post_norm", "post_per_layer_input_norm"},
    {"layer_output_scale.weight", "layer_scalar"},
};

}  // namespace mlxterp
