// io/gguf_field_tables.h: fields of config.json, architecture by architecture.

#pragma once

#include "io/gguf_architecture.h"

namespace mlxterp {

inline constexpr GgufField experts_of_mixtral[] = {
    {"expert_count", "num_local_experts"},
    {"expert_used_count", "num_experts_per_tok"},
};

inline constexpr GgufField experts_of_qwen[] = {
    {"expert_count", "num_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"},
};

inline constexpr GgufField experts_of_olmoe[] = {
    {"expert_count", "num_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"attention.clamp_kqv", "clip_qkv"},
};

inline constexpr GgufField experts_of_gpt_oss[] = {
    {"expert_count", "num_local_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "intermediate_size"},
};

inline constexpr GgufField experts_of_deepseek[] = {
    {"expert_count", "n_routed_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_shared_count", "n_shared_experts"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_group_count", "n_group", "1"},
    {"expert_group_used_count", "topk_group", "1"},
    {"expert_weights_scale", "routed_scaling_factor", "1"},
    {"expert_weights_norm", "norm_topk_prob", "false"},
    {"leading_dense_block_count", "first_k_dense_replace", "0"},
    {"nextn_predict_layers", "num_nextn_predict_layers"},
    {"attention.q_lora_rank", "q_lora_rank", "null"},
    {"attention.kv_lora_rank", "kv_lora_rank"},
};

inline constexpr GgufField experts_of_ernie[] = {
    {"expert_count", "moe_num_experts"},
    {"expert_used_count", "moe_k"},
    {"expert_shared_count", "moe_num_shared_experts"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"interleave_moe_layer_step", "moe_layer_interval"},
    {"expert_shared_feed_forward_length", ""},  // by their number
    {"leading_dense_block_count", "moe_layer_start_index"},
};

inline constexpr GgufField granite_hybrid_fields[] = {
    {"attention.scale", "attention_multiplier"},
    {"embedding_scale", "embedding_multiplier"},
    {"residual_scale", "residual_multiplier"},
    {"logit_scale", "logits_scaling"},
    {"expert_count", "num_local_experts", "0"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_shared_feed_forward_length", ""},
    {"ssm.conv_kernel", "mamba_d_conv"},
    {"ssm.state_size", "mamba_d_state"},
    {"ssm.group_count", "mamba_n_groups"},
    {"ssm.time_step_rank", "mamba_n_heads"},
    {"ssm.inner_size", ""},
    {"rope.scaling.finetuned", ""},
};

inline constexpr GgufField delta_net_fields[] = {
    {"ssm.conv_kernel", "linear_conv_kernel_dim"},
    {"ssm.state_size", "linear_key_head_dim"},
    {"ssm.group_count", "linear_num_key_heads"},
    {"ssm.time_step_rank", "linear_num_value_heads"},
    {"ssm.inner_size", ""},
    {"attention.recurrent_layers", ""},
    {"full_attention_interval", ""},
    {"rope.dimension_sections", ""},  // of images; text turns as ever
    {"nextn_predict_layers", "num_nextn_predict_layers"},
};

inline constexpr GgufField delta_net_moe_fields[] = {
    {"ssm.conv_kernel", "linear_conv_kernel_dim"},
    {"ssm.state_size", "linear_key_head_dim"},
    {"ssm.group_count", "linear_num_key_heads"},
    {"ssm.time_step_rank", "linear_num_value_heads"},
    {"ssm.inner_size", ""},
    {"attention.recurrent_layers", ""},
    {"full_attention_interval", ""},
    {"rope.dimension_sections", ""},
    {"nextn_predict_layers", "num_nextn_predict_layers"},
    {"feed_forward_length", "intermediate_size"},  // of no layer
    {"expert_count", "num_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"},
};

inline constexpr GgufField gemma4_fields[] = {
    {"rope.freq_base", ""},
    {"rope.dimension_count", ""},
    {"attention.key_length_swa", ""},
    {"attention.value_length_swa", ""},
    {"attention.shared_kv_layers", ""},
    {"rope.dimension_count_swa", ""},
    {"embedding_length_per_layer_input", ""},
    {"expert_count", ""},
    {"expert_used_count", ""},
    {"expert_feed_forward_length", ""},
};

inline constexpr GgufField granite_fields[] = {
    {"attention.scale", "attention_multiplier"},
    {"embedding_scale", "embedding_multiplier"},
    {"residual_scale", "residual_multiplier"},
    {"logit_scale", "logits_scaling"},
    {"rope.scaling.finetuned", ""},
    // What Granite 4.0's files say of its parts where all layers attend.
    {"expert_shared_feed_forward_length", ""},
    {"ssm.conv_kernel", ""},
    {"ssm.state_size", ""},
    {"ssm.group_count", ""},
    {"ssm.time_step_rank", ""},
    {"ssm.inner_size", ""},
};

inline constexpr GgufField cohere_fields[] = {{"logit_scale", "logit_scale"}};
inline constexpr GgufField olmo_fields[] = {
    {"attention.clamp_kqv", "clip_qkv"}};
inline constexpr GgufField lfm2_fields[] = {
    {"shortconv.l_cache", "conv_L_cache"}};
inline constexpr GgufField parallel_fields[] = {
    {"use_parallel_residual", "use_parallel_residual"}};
inline constexpr GgufField ministral_fields[] = {
    {"attention.temperature_scale", ""}};  // beside the rotation
inline constexpr GgufField minicpm_fields[] = {
    {"embedding_scale", "scale_emb", "12"},
    {"residual_scale", ""},
    {"logit_scale", ""}};
inline constexpr GgufField mpt_fields[] = {
    {"attention.clamp_kqv", ""}, {"attention.max_alibi_bias", ""}};

inline constexpr GgufField layer_norm_eps = {
    "attention.layer_norm_epsilon", "layer_norm_eps"};

inline constexpr GgufField epsilon_of_gpt2 = {
    "attention.layer_norm_epsilon", "layer_norm_epsilon"};

inline constexpr GgufSizes gpt2_sizes = {
    .layers = "n_layer",
    .width = "n_embd",
    .inner = "n_inner",
    .heads = "n_head",
    .kv_heads = "",
    .head_width = "",
    .context = "n_positions"};
inline constexpr GgufSizes starcoder_sizes = {
    .layers = "n_layer",
    .width = "n_embd",
    .inner = "n_inner",
    .heads = "n_head",
    .head_width = "",
    .context = "n_positions"};
inline constexpr GgufSizes bloom_sizes = {
    .heads = "n_head",
    .kv_heads = "",
    .head_width = "",
    .context = "seq_length"};
inline constexpr GgufSizes falcon_sizes = {
    .inner = "ffn_hidden_size", .kv_heads = "num_kv_heads", .head_width = ""};
inline constexpr GgufSizes mpt_sizes = {
    .layers = "n_layers",
    .width = "d_model",
    .heads = "n_heads",
    .kv_heads = "",
    .head_width = "",
    .context = "max_seq_len"};

inline constexpr GgufFlag q_bias[] = {{"attn_q.bias", "attention_bias"}};
inline constexpr GgufFlag biases[] = {
    {"attn_q.bias", "attention_bias"}, {"ffn_up.bias", "mlp_bias"}};
inline constexpr GgufFlag seed_oss_flags[] = {
    {"attn_q.bias", "attention_bias"},
    {"ffn_up.bias", "mlp_bias"},
    {"attn_output.bias", "attention_out_bias"}};
inline constexpr GgufFlag glm_flags[] = {
    {"attn_q.bias", "attention_bias"}, {"attn_qkv.bias", "attention_bias"}};
inline constexpr GgufFlag gpt_neox_flags[] = {
    {"attn_qkv.bias", "attention_bias"}};
inline constexpr GgufFlag internlm2_flags[] = {{"attn_q.bias", "bias"}};
inline constexpr GgufFlag granite_hybrid_flags[] = {
    {"attn_q.bias", "attention_bias"},
    {"ssm_conv1d.bias", "mamba_conv_bias"},
    {"ssm_in.bias", "mamba_proj_bias"}};
inline constexpr GgufFlag cohere_flags[] = {
    {"attn_q.bias", "attention_bias"}, {"attn_q_norm.weight", "use_qk_norm"}};
inline constexpr GgufFlag stablelm_flags[] = {{"attn_q.bias", "use_qkv_bias"}};
inline constexpr GgufFlag starcoder2_flags[] = {{"attn_q.bias", "use_bias"}};
inline constexpr GgufFlag ernie_flags[] = {{"attn_q.bias", "use_bias"}};
inline constexpr GgufFlag deepseek_flags[] = {
    {"attn_kv_a_mqa.bias", "attention_bias"}};

}  // namespace mlxterp
