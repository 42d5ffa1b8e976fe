#include "io/gguf_architecture.h"

#include <algorithm>
#include <string>

namespace mlxterp {

namespace {

// What they call the same, as Llama's checkpoints do and those after it.
constexpr GgufRenaming shared_whole[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

constexpr GgufRenaming shared_in_block[] = {
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
constexpr GgufRenaming rotary_rows[] = {
    {"attn_q", "self_attn.q_proj", Stored::query_rows},
    {"attn_k", "self_attn.k_proj", Stored::key_rows},
};

// Whose biases stay in their order.
constexpr GgufRenaming olmo_in_block[] = {
    {"attn_q.bias", "self_attn.q_proj.bias"},
    {"attn_k.bias", "self_attn.k_proj.bias"},
    {"attn_q", "self_attn.q_proj", Stored::query_rows},
    {"attn_k", "self_attn.k_proj", Stored::key_rows},
};

// Their second norm is called as Gemma calls the one behind attention.
constexpr GgufRenaming second_norm[] = {
    {"post_attention_norm", "post_attention_layernorm"},
};

constexpr GgufRenaming gpt_oss_in_block[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_gate_inp", "mlp.router"},
};

constexpr GgufRenaming qwen2_moe_in_block[] = {
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
};

constexpr GgufRenaming glm4_in_block[] = {
    {"post_attention_norm", "post_self_attn_layernorm"},
    {"ffn_up", "mlp.gate_up_proj"},
    {"post_ffw_norm", "post_mlp_layernorm"},
};

// Norms behind each part alone.
constexpr GgufRenaming post_norms_in_block[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};

constexpr GgufRenaming hunyuan_in_block[] = {
    {"attn_q_norm", "self_attn.query_layernorm"},
    {"attn_k_norm", "self_attn.key_layernorm"},
};

constexpr GgufRenaming lfm2_whole[] = {
    {"token_embd_norm", "model.embedding_norm"},
    {"output_norm", "model.embedding_norm"},  // of newer files
};

constexpr GgufRenaming lfm2_in_block[] = {
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

constexpr GgufRenaming starcoder2_in_block[] = {
    {"ffn_up", "mlp.c_fc"},
    {"ffn_down", "mlp.c_proj"},
};

// Gemma's norms and Nemotron's have one added.
constexpr GgufRenaming one_added_whole[] = {
    {"output_norm", "model.norm", Stored::one_added},
};

constexpr GgufRenaming one_added_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"ffn_norm", "post_attention_layernorm", Stored::one_added},
};

constexpr GgufRenaming gemma_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"attn_q_norm", "self_attn.q_norm", Stored::one_added},
    {"attn_k_norm", "self_attn.k_norm", Stored::one_added},
    {"post_attention_norm", "post_attention_layernorm", Stored::one_added},
    {"ffn_norm", "pre_feedforward_layernorm", Stored::one_added},
    {"post_ffw_norm", "post_feedforward_layernorm", Stored::one_added},
};

constexpr GgufRenaming phi3_in_block[] = {
    {"attn_qkv", "self_attn.qkv_proj"},
    {"ffn_up", "mlp.gate_up_proj"},
};

constexpr GgufRenaming gpt2_whole[] = {
    {"token_embd", "transformer.wte"},
    {"position_embd", "transformer.wpe"},
    {"output_norm", "transformer.ln_f"},
};

constexpr GgufRenaming gpt2_in_block[] = {
    {"attn_norm", "ln_1"},
    {"attn_qkv", "attn.c_attn", Stored::transposed},
    {"attn_output", "attn.c_proj", Stored::transposed},
    {"ffn_norm", "ln_2"},
    {"ffn_up", "mlp.c_fc", Stored::transposed},
    {"ffn_down", "mlp.c_proj", Stored::transposed},
};

constexpr GgufField experts_of_mixtral[] = {
    {"expert_count", "num_local_experts"},
    {"expert_used_count", "num_experts_per_tok"},
};

constexpr GgufField experts_of_qwen[] = {
    {"expert_count", "num_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"},
};

constexpr GgufField experts_of_olmoe[] = {
    {"expert_count", "num_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"attention.clamp_kqv", "clip_qkv"},
};

constexpr GgufField experts_of_gpt_oss[] = {
    {"expert_count", "num_local_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "intermediate_size"},
};

constexpr GgufField experts_of_deepseek[] = {
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

constexpr GgufField experts_of_ernie[] = {
    {"expert_count", "moe_num_experts"},
    {"expert_used_count", "moe_k"},
    {"expert_shared_count", "moe_num_shared_experts"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"interleave_moe_layer_step", "moe_layer_interval"},
    {"expert_shared_feed_forward_length", ""},  // by their number
    {"leading_dense_block_count", "moe_layer_start_index"},
};

constexpr GgufField granite_fields[] = {
    {"attention.scale", "attention_multiplier"},
    {"embedding_scale", "embedding_multiplier"},
    {"residual_scale", "residual_multiplier"},
    {"logit_scale", "logits_scaling"},
};

constexpr GgufField cohere_fields[] = {{"logit_scale", "logit_scale"}};
constexpr GgufField olmo_fields[] = {{"attention.clamp_kqv", "clip_qkv"}};
constexpr GgufField lfm2_fields[] = {{"shortconv.l_cache", "conv_L_cache"}};
constexpr GgufField stablelm_fields[] = {
    {"use_parallel_residual", "use_parallel_residual"}};

constexpr GgufField layer_norm_eps = {
    "attention.layer_norm_epsilon", "layer_norm_eps"};

constexpr GgufFlag q_bias[] = {{"blk.0.attn_q.bias", "attention_bias"}};
constexpr GgufFlag biases[] = {
    {"blk.0.attn_q.bias", "attention_bias"}, {"blk.0.ffn_up.bias", "mlp_bias"}};
constexpr GgufFlag seed_oss_flags[] = {
    {"blk.0.attn_q.bias", "attention_bias"},
    {"blk.0.ffn_up.bias", "mlp_bias"},
    {"blk.0.attn_output.bias", "attention_out_bias"}};
constexpr GgufFlag cohere_flags[] = {
    {"blk.0.attn_q.bias", "attention_bias"},
    {"blk.0.attn_q_norm.weight", "use_qk_norm"}};
constexpr GgufFlag stablelm_flags[] = {{"blk.0.attn_q.bias", "use_qkv_bias"}};
constexpr GgufFlag starcoder2_flags[] = {{"blk.0.attn_q.bias", "use_bias"}};
constexpr GgufFlag ernie_flags[] = {{"blk.0.attn_q.bias", "use_bias"}};
constexpr GgufFlag deepseek_flags[] = {
    {"blk.0.attn_kv_a_mqa.bias", "attention_bias"}};

// llama.cpp's architectures, several of which are one model type or several of
// one. What is not set here they do not have.
constexpr GgufArchitecture architectures[] = {
    {.name = "llama",
     .model_type = "mixtral",
     .in_block = rotary_rows,
     .only_with_tensor = "ffn_gate_inp.weight",
     .fields = experts_of_mixtral},
    {.name = "llama",
     .model_type = "llama",
     .in_block = rotary_rows,
     .flags = biases},
    {.name = "arcee",
     .model_type = "arcee",
     .in_block = rotary_rows,
     .flags = biases,
     .constants = R"({"hidden_act": "relu2"})"},
    {.name = "granite",
     .model_type = "granite",
     .in_block = rotary_rows,
     .fields = granite_fields,
     .flags = biases},
    {.name = "smollm3",
     .model_type = "smollm3",
     .in_block = rotary_rows,
     .flags = biases},
    {.name = "olmo",
     .model_type = "olmo",
     .in_block = olmo_in_block,
     .eps = {},
     .fields = olmo_fields,
     .flags = q_bias},
    {.name = "olmo2",
     .model_type = "olmo3",
     .in_block = post_norms_in_block,
     .only_with_key = "attention.sliding_window",
     .flags = q_bias,
     .window_period = 4},
    {.name = "olmo2",
     .model_type = "olmo2",
     .in_block = post_norms_in_block,
     .flags = q_bias},
    {.name = "olmoe",
     .model_type = "olmoe",
     .fields = experts_of_olmoe,
     .flags = q_bias,
     .constants = R"({"norm_topk_prob": false})"},
    {.name = "qwen2", .model_type = "qwen2"},
    {.name = "qwen2moe",
     .model_type = "qwen2_moe",
     .in_block = qwen2_moe_in_block,
     .fields = experts_of_qwen,
     .constants = R"({"norm_topk_prob": false})"},
    {.name = "qwen3", .model_type = "qwen3", .flags = q_bias},
    {.name = "qwen3moe",
     .model_type = "qwen3_moe",
     .fields = experts_of_qwen,
     .flags = q_bias,
     .constants = R"({"norm_topk_prob": true})"},
    {.name = "gemma",
     .model_type = "gemma",
     .whole = one_added_whole,
     .in_block = one_added_in_block,
     .constants = R"({"hidden_act": "gelu_pytorch_tanh"})"},
    {.name = "gemma2",
     .model_type = "gemma2",
     .whole = one_added_whole,
     .in_block = gemma_in_block,
     .window_period = 2},
    {.name = "gemma3",
     .model_type = "gemma3_text",
     .whole = one_added_whole,
     .in_block = gemma_in_block,
     .window_period = 6},
    {.name = "phi3", .model_type = "phi3", .in_block = phi3_in_block},
    {.name = "gpt2",
     .model_type = "gpt2",
     .layers = "transformer.h",
     .whole = gpt2_whole,
     .in_block = gpt2_in_block,
     .eps = {"attention.layer_norm_epsilon", "layer_norm_epsilon"}},
    {.name = "nemotron",
     .model_type = "nemotron",
     .whole = one_added_whole,
     .in_block = one_added_in_block,
     .eps = {"attention.layer_norm_epsilon", "norm_eps"},
     .flags = biases,
     .constants = R"({"hidden_act": "relu2"})"},
    {.name = "gpt-oss",
     .model_type = "gpt_oss",
     .in_block = gpt_oss_in_block,
     .fields = experts_of_gpt_oss,
     .flags = q_bias,
     .window_period = 2},
    {.name = "glm4",
     .model_type = "glm4",
     .in_block = glm4_in_block,
     .flags = q_bias},
    {.name = "glm4moe",
     .model_type = "glm4_moe",
     .in_block = second_norm,
     .fields = experts_of_deepseek,
     .flags = cohere_flags},
    {.name = "deepseek2",
     .model_type = "deepseek_v3",
     .only_with_tensor = "exp_probs_b.bias",
     .fields = experts_of_deepseek,
     .flags = deepseek_flags,
     .constants = R"({"rope_interleave": true})"},
    {.name = "deepseek2",
     .model_type = "deepseek_v2",
     .only_with_tensor = "ffn_gate_inp.weight",
     .fields = experts_of_deepseek,
     .flags = deepseek_flags},
    {.name = "deepseek2",
     .model_type = "youtu",
     .fields = experts_of_deepseek,
     .flags = deepseek_flags,
     .constants = R"({"rope_interleave": true})"},
    {.name = "dots1",
     .model_type = "dots1",
     .fields = experts_of_deepseek,
     .flags = q_bias,
     .constants = R"({"sliding_window": null})"},
    {.name = "ernie4_5", .model_type = "ernie4_5", .flags = ernie_flags},
    {.name = "ernie4_5-moe",
     .model_type = "ernie4_5_moe",
     .fields = experts_of_ernie,
     .flags = ernie_flags},
    {.name = "exaone4",
     .model_type = "exaone4",
     .in_block = post_norms_in_block,
     .window_period = 4},
    {.name = "command-r",
     .model_type = "cohere",
     .eps = layer_norm_eps,
     .fields = cohere_fields,
     .flags = cohere_flags},
    {.name = "cohere2",
     .model_type = "cohere2",
     .eps = layer_norm_eps,
     .fields = cohere_fields,
     .flags = q_bias,
     .window_period = 4},
    {.name = "hunyuan-dense",
     .model_type = "hunyuan_v1_dense",
     .in_block = hunyuan_in_block,
     .flags = q_bias},
    {.name = "seed_oss",
     .model_type = "seed_oss",
     .in_block = second_norm,
     .flags = seed_oss_flags},
    {.name = "stablelm",
     .model_type = "stablelm",
     .eps = layer_norm_eps,
     .fields = stablelm_fields,
     .flags = stablelm_flags},
    {.name = "starcoder2",
     .model_type = "starcoder2",
     .in_block = starcoder2_in_block,
     .eps = {"attention.layer_norm_epsilon", "norm_epsilon"},
     .flags = starcoder2_flags,
     .constants =
         R"({"hidden_act": "gelu_pytorch_tanh", "sliding_window": null})"},
    {.name = "lfm2",
     .model_type = "lfm2",
     .whole = lfm2_whole,
     .in_block = lfm2_in_block,
     .eps = {"attention.layer_norm_rms_epsilon", "norm_eps"},
     .fields = lfm2_fields,
     .constants = R"({"block_auto_adjust_ff_dim": false})"},
};

const GgufRenaming* named(
    std::span<const GgufRenaming> table,
    std::string_view part,
    std::string_view suffix) {
  const bool ends = suffix == ".weight" || suffix == ".bias";
  const auto whole = fmt::format("{}{}", part, suffix);
  const auto found = std::ranges::find_if(table, [&](const auto& entry) {
    return entry.gguf == whole || (ends && entry.gguf == part);
  });
  return found == table.end() ? nullptr : &*found;
}

// Whether some block has a tensor of that name.
bool some_block_has(const Gguf& gguf, std::string_view part) {
  const auto end = fmt::format(".{}", part);
  return std::ranges::any_of(gguf.tensors(), [&](const TensorInfo& tensor) {
    return tensor.name.starts_with("blk.") && tensor.name.ends_with(end);
  });
}

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() {
  return architectures;
}

const GgufRenaming* find_renaming(
    const GgufArchitecture& architecture,
    bool in_block,
    std::string_view part,
    std::string_view suffix) {
  const auto own = in_block ? architecture.in_block : architecture.whole;
  if (const auto* found = named(own, part, suffix)) return found;
  return in_block ? named(shared_in_block, part, suffix)
                  : named(shared_whole, part, suffix);
}

const GgufArchitecture& find_architecture(
    const Gguf& gguf, const GgufMetadata& metadata) {
  const std::string& name = metadata.text("general.architecture");
  std::string known;
  std::string_view before;
  for (const GgufArchitecture& architecture : architectures) {
    const auto& it = architecture;
    if (it.name == name &&
        (it.only_with_tensor.empty() ||
         some_block_has(gguf, it.only_with_tensor)) &&
        (it.only_with_key.empty() ||
         metadata.has(fmt::format("{}.{}", it.name, it.only_with_key))))
      return architecture;
    if (it.name != before)
      known += (known.empty() ? "" : ", ") + std::string(it.name);
    before = it.name;
  }
  fail(
      ErrorKind::bad_data,
      "[Checkpoint::open] {} has the architecture \"{}\"; GGUF files are read "
      "for: {}",
      metadata.name(),
      printable(name),
      known);
}

}  // namespace mlxterp
