#include "io/gguf_keys.h"

#include <algorithm>

namespace mlxterp {

namespace {

using enum GgufKey::Use;

constexpr std::string_view with_windows =
    "gemma2 gemma3 gemma4 phi3 gpt-oss olmo2 exaone4 cohere2";

// Of models whose rotation io/gguf_rotation reads.
constexpr std::string_view rotating = "!";

constexpr GgufKey keys[] = {
    {"vocab_size", read},
    {"context_length", read},
    {"embedding_length", read},
    {"block_count", read},
    {"feed_forward_length", read},
    {"attention.head_count", read},
    {"attention.head_count_kv", read},
    {"attention.key_length", read},
    {"attention.value_length", read},
    {"attention.layer_norm_rms_epsilon", read},
    {"attention.layer_norm_epsilon", read, "olmo"},
    {"attention.sliding_window", read, with_windows},
    {"attention.sliding_window_pattern",
     read,
     "gemma2 gemma3 gemma4 olmo2 exaone4"},
    {"attn_logit_softcapping", read, "gemma2"},
    {"final_logit_softcapping", read, "gemma2 gemma3 gemma4"},
    {"rope.dimension_count", read, rotating},
    {"rope.freq_base", read, rotating},
    {"rope.freq_base_swa", read, "gemma3 gemma4 olmo2"},
    {"rope.scale_linear", read, rotating, 1},
    {"rope.scaling.type", read, rotating},
    {"rope.scaling.factor", read, rotating, 1},
    {"rope.scaling.original_context_length", read, rotating},
    {"rope.scaling.attn_factor", read, rotating, 1},
    {"rope.scaling.yarn_ext_factor", read, rotating},
    {"rope.scaling.yarn_attn_factor", read, rotating, 1},
    {"rope.scaling.yarn_beta_fast", read, rotating},
    {"rope.scaling.yarn_beta_slow", read, rotating},
    {"rope.scaling.yarn_log_multiplier", read, "deepseek2 mistral3"},
    {"attention.key_length_mla", read, "deepseek2"},
    {"attention.value_length_mla", read, "deepseek2"},
    {"expert_count"},
    {"expert_feed_forward_length"},
    {"expert_shared_feed_forward_length"},
    {"expert_weights_scale", refused, {}, 1},
    {"expert_weights_norm"},
    {"expert_gating_func"},

    {"rope.scaling.finetuned", harmless},
    {"tensor_data_layout", harmless},  // of converters long gone
    {"pooling_type", harmless},        // behind the last layer, of embeddings
    {"classifier.output_labels", harmless},
    {"decoder_start_token_id", harmless},
    {"features_length", harmless},  // of models that read no tokens

    // Parts that no model here has.
    {"rope.scaling.alpha"},
    {"rope.dimension_count_swa"},
    {"rope.dimension_sections"},
    {"attention.key_length_swa"},
    {"attention.value_length_swa"},
    {"attention.causal", refused, {}, 1},
    {"attention.scale"},
    {"attention.output_scale", refused, {}, 1},
    {"attention.value_scale", refused, {}, 1},
    {"attention.temperature_length"},
    {"attention.temperature_scale"},
    {"attention.clamp_kqv"},
    {"attention.max_alibi_bias"},
    {"attention.group_norm_epsilon"},
    {"attention.group_norm_groups"},
    {"attention.relative_buckets_count"},
    {"attention.q_lora_rank"},
    {"attention.kv_lora_rank"},
    {"attention.output_lora_rank"},
    {"attention.output_group_count"},
    {"attention.shared_kv_layers"},
    {"attention.recurrent_layers"},
    {"attention.indexer.head_count"},
    {"attention.indexer.key_length"},
    {"attention.indexer.top_k"},
    {"attention.compress_rope_freq_base"},
    {"attention.compress_ratios"},
    {"hyper_connection.count"},
    {"logit_scale", refused, {}, 1},
    {"residual_scale", refused, {}, 1},
    {"embedding_scale", refused, {}, 1},
    {"router_logit_softcapping"},
    {"use_parallel_residual"},
    {"norm_before_residual"},
    {"swin_norm"},
    {"hidden_activation"},
    {"swiglu_clamp_exp"},
    {"swiglu_clamp_shexp"},
    {"embedding_length_out"},
    {"embedding_length_per_layer_input"},
    {"leading_dense_block_count"},
    {"full_attention_interval"},
    {"interleave_moe_layer_step"},
    {"moe_every_n_layers"},
    {"nextn_predict_layers"},
    {"n_deepstack_layers"},
    {"deepstack_mapping"},
    {"hash_layer_count"},
    {"decoder_block_count"},
    {"expert_used_count"},
    {"expert_shared_count"},
    {"expert_group_count"},
    {"expert_group_used_count"},
    {"ssm.conv_kernel"},
    {"ssm.inner_size"},
    {"ssm.state_size"},
    {"ssm.time_step_rank"},
    {"ssm.group_count"},
    {"ssm.dt_b_c_rms"},
    {"wkv.head_size"},
    {"shortconv.l_cache"},
    {"target_layers"},
};

// Keys of the vocabulary are of no architecture; `tokenizer.ggml.` in front.
constexpr GgufKey vocabulary_keys[] = {
    {"add_sep_token"},
};

bool names(std::string_view list, const GgufArchitecture& architecture) {
  if (list.empty()) return true;
  if (list == rotating) return architecture.rotary;
  const auto name = architecture.name;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(' ', at), list.size());
    if (list.substr(at, end - at) == name) return true;
    at = end + 1;
  }
  return false;
}

// How its scores are made: 1 by softmax, 2 by sigmoid.
bool chooses_so(const GgufValue& value, const GgufArchitecture& architecture) {
  const auto* function = std::get_if<int64_t>(&value);
  const auto type = architecture.model_type;
  const bool sigmoid =
      type == "deepseek_v3" || type == "glm4_moe" || type == "dots1";
  return function && *function == (sigmoid ? 2 : 1);
}

template <typename T>
bool is_neutral(const T& value, double neutral) {
  if constexpr (std::is_same_v<T, std::string>)
    return value.empty();
  else if constexpr (std::is_arithmetic_v<T>)
    // Left out and 0 are the same to llama.cpp.
    return value == T(0) ? neutral != 1 || !std::is_same_v<T, bool>
                         : static_cast<double>(value) == neutral;
  else
    return std::all_of(value.begin(), value.end(), [&](const auto& each) {
      return is_neutral<typename T::value_type>(each, neutral);
    });
}

std::string shown(const GgufValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, std::string>)
          return fmt::format("\"{}\"", printable(v, 40));
        else if constexpr (std::is_arithmetic_v<T>)
          return fmt::format("{}", v);
        else
          return fmt::format("a list of {}", v.size());
      },
      value);
}

}  // namespace

std::span<const GgufKey> gguf_keys() {
  return keys;
}

void check_keys(
    const Gguf& gguf,
    const GgufMetadata& metadata,
    const GgufArchitecture& architecture) {
  const auto check = [&](const std::string& key, const GgufKey& rule) {
    const auto found = gguf.metadata().find(key);
    if (found == gguf.metadata().end() || rule.use == harmless) return;
    if (rule.use == read && names(rule.read_by, architecture)) return;
    if (rule.field == architecture.eps.key) return;
    for (const auto& field : architecture.fields)
      if (field.key == rule.field) return;
    if (rule.field == "expert_gating_func" &&
        chooses_so(found->second, architecture))
      return;
    const bool neutral = std::visit(
        [&](const auto& value) { return is_neutral(value, rule.neutral); },
        found->second);
    if (neutral) return;
    fail(
        ErrorKind::bad_data,
        "[Checkpoint::open] {} of {} is {}, which is not read for {} models; "
        "without it the numbers would be wrong: take the safetensors",
        key,
        metadata.name(),
        shown(found->second),
        architecture.name);
  };
  for (const GgufKey& rule : keys)
    check(fmt::format("{}.{}", architecture.name, rule.field), rule);
  for (const GgufKey& rule : vocabulary_keys)
    check(fmt::format("tokenizer.ggml.{}", rule.field), rule);
}

}  // namespace mlxterp
