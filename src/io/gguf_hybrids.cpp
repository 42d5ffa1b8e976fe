#include "io/gguf_hybrids.h"

#include <limits>

#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::ordered_json;

// Parts of a whole number of equal ones.
int64_t share(
    const GgufFields& file,
    std::string_view field,
    int64_t whole,
    int64_t count,
    std::string_view of_what) {
  if (whole % count != 0)
    file.metadata.bad(
        "{} of {} is {}, which does not divide by its {} {}",
        file.key(field),
        file.metadata.name(),
        whole,
        count,
        of_what);
  return whole / count;
}

ordered_json kinds(
    const std::vector<bool>& those, const char* yes, const char* no) {
  auto types = ordered_json::array();
  for (const bool one : those)
    types.push_back(one ? yes : no);
  return types;
}

// Files that say nothing of a switch have it on.
bool rope_switch(const GgufFields& file) {
  const auto* on =
      file.metadata.find<bool>(file.key("rope.scaling.finetuned"), "a boolean");
  return !on || *on;
}

}  // namespace

void add_granite_hybrid(const GgufFields& file, ordered_json& config) {
  const auto blocks = config["num_hidden_layers"].get<int64_t>();
  std::vector<bool> attends;
  for (const auto heads :
       file.integers("attention.head_count_kv", blocks, 0, limits::heads))
    attends.push_back(heads > 0);
  config["layer_types"] = kinds(attends, "full_attention", "linear_attention");
  config["position_embedding_type"] = rope_switch(file) ? "rope" : "nope";
  // The one MLP where there are no experts, the one beside them where there
  // are.
  const bool experts =
      file.find_integer("expert_count", 0, limits::heads).value_or(0) > 0;
  config["shared_intermediate_size"] =
      experts ? ordered_json(file.integer(
                    "expert_shared_feed_forward_length", limits::d_mlp))
              : config["intermediate_size"];
  const auto inner = file.integer("ssm.inner_size", limits::d_mlp);
  const auto heads = file.integer("ssm.time_step_rank", limits::heads);
  config["mamba_d_head"] = share(file, "ssm.inner_size", inner, heads, "heads");
  config["mamba_expand"] = share(
      file,
      "ssm.inner_size",
      inner,
      config["hidden_size"].get<int64_t>(),
      "features");
}

void add_delta_net(const GgufFields& file, ordered_json& config) {
  const auto blocks = config["num_hidden_layers"].get<int64_t>();
  auto recurrent = file.flags("attention.recurrent_layers", blocks);
  if (recurrent.empty()) {  // of older files
    const auto every =
        file.find_integer("full_attention_interval", 1, limits::layers)
            .value_or(4);
    for (int64_t i = 0; i < blocks; ++i)
      recurrent.push_back((i + 1) % every != 0);
  }
  config["layer_types"] =
      kinds(recurrent, "linear_attention", "full_attention");
  config["linear_value_head_dim"] = share(
      file,
      "ssm.inner_size",
      file.integer("ssm.inner_size", limits::d_mlp),
      file.integer("ssm.time_step_rank", limits::heads),
      "heads");
}

namespace {

// The one number of all layers of a kind.
int64_t only(
    const GgufFields& file,
    std::string_view field,
    const std::vector<int64_t>& each,
    const std::vector<bool>& kind,
    bool wanted,
    int64_t otherwise) {
  int64_t found = 0;
  for (size_t i = 0; i < each.size(); ++i) {
    if (kind[i] != wanted) continue;
    if (found > 0 && each[i] != found)
      file.metadata.bad(
          "{} of {} names {} and {} for layers of one kind",
          file.key(field),
          file.metadata.name(),
          found,
          each[i]);
    found = each[i];
  }
  return found > 0 ? found : otherwise;
}

// Those of the last layers, which keep no keys, may be twice as wide.
void set_widths(
    const GgufFields& file,
    int64_t shared,
    const std::vector<int64_t>& widths,
    ordered_json& config) {
  const auto first = static_cast<size_t>(std::ssize(widths) - shared);
  const int64_t width = widths.front();
  const bool wide = shared > 0 && widths.back() == 2 * width;
  for (size_t i = 0; i < widths.size(); ++i)
    if (widths[i] != (wide && i >= first ? 2 * width : width))
      file.metadata.bad(
          "{} of {} is {} of layer {}; all must be {}, or twice that in the "
          "last {} layers, which share keys",
          file.key("feed_forward_length"),
          file.metadata.name(),
          widths[i],
          i,
          width,
          shared);
  config["intermediate_size"] = width;
  config["use_double_wide_mlp"] = wide;
}

// Which pairs of a head turn at all: what does not is slowed down without end.
double turning_part(const GgufFields& file) {
  constexpr std::string_view tensor = "rope_freqs.weight";
  if (!file.has_tensor(tensor)) return 1;
  const auto factors = file.numbers(tensor);
  constexpr float endless = 1e20f;
  size_t turning = 0;
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] == 1 && turning == i)
      ++turning;
    else if (factors[i] < endless)
      file.metadata.bad(
          "{} of {} holds {}; 1 for pairs that turn, and then 1e30, is read",
          tensor,
          file.metadata.name(),
          factors[i]);
  }
  if (turning == 0)
    file.metadata.bad(
        "{} of {} lets no pair turn", tensor, file.metadata.name());
  return static_cast<double>(turning) / static_cast<double>(factors.size());
}

void check_turning(
    const GgufFields& file, std::string_view field, int64_t width) {
  if (file.find_integer(field, 1, limits::d_model).value_or(width) != width)
    file.metadata.bad(
        "{} of {} is not the {} dimensions of a head",
        file.key(field),
        file.metadata.name(),
        width);
}

}  // namespace

void add_gemma4(const GgufFields& file, ordered_json& config) {
  const auto blocks = config["num_hidden_layers"].get<int64_t>();
  const auto windows = file.flags("attention.sliding_window_pattern", blocks);
  if (windows.empty())
    file.metadata.bad(
        "{} has no {} in its metadata",
        file.metadata.name(),
        file.key("attention.sliding_window_pattern"));
  config["layer_types"] = kinds(windows, "sliding_attention", "full_attention");
  config["sliding_window"] =
      file.integer("attention.sliding_window", int64_t{1} << 31);

  const auto wide = file.integer("attention.key_length", limits::d_model);
  const auto narrow =
      file.find_integer("attention.key_length_swa", 1, limits::d_model)
          .value_or(wide);
  if (file.find_integer("attention.value_length_swa", 1, limits::d_model)
          .value_or(narrow) != narrow)
    file.metadata.bad(
        "{} of {} is not that of keys, {}",
        file.key("attention.value_length_swa"),
        file.metadata.name(),
        narrow);
  check_turning(file, "rope.dimension_count", wide);
  check_turning(file, "rope.dimension_count_swa", narrow);
  constexpr std::string_view kv = "attention.head_count_kv";
  const auto kv_heads = file.integers(
      file.has(kv) ? kv : "attention.head_count", blocks, 1, limits::heads);
  const auto all_kv = only(file, kv, kv_heads, windows, false, kv_heads[0]);
  config["head_dim"] = narrow;
  config["num_key_value_heads"] =
      only(file, kv, kv_heads, windows, true, all_kv);
  bool keys_alone = false, values = false;
  for (size_t i = 0; i < windows.size(); ++i) {
    if (windows[i]) continue;
    config["per_layer_config"][std::to_string(i)] = {
        {"head_dim", wide}, {"num_key_value_heads", all_kv}};
    const bool v = file.has_tensor(fmt::format("blk.{}.attn_v.weight", i));
    const bool k = file.has_tensor(fmt::format("blk.{}.attn_k.weight", i));
    keys_alone |= k && !v;
    values |= v;
  }
  if (keys_alone && values)
    file.metadata.bad(
        "{} lacks attn_v in some of its layers without a window, not in all",
        file.metadata.name());
  config["attention_k_eq_v"] = keys_alone;

  const auto shared =
      file.find_integer("attention.shared_kv_layers", 0, blocks - 1)
          .value_or(0);
  config["num_kv_shared_layers"] = shared;
  set_widths(
      file,
      shared,
      file.integers("feed_forward_length", blocks, 1, limits::d_mlp),
      config);
  config["hidden_size_per_layer_input"] =
      file.find_integer("embedding_length_per_layer_input", 0, limits::d_model)
          .value_or(0);
  if (const auto* each = file.find_tensor("per_layer_token_embd.weight");
      each && each->shape.size() == 2)
    config["vocab_size_per_layer_input"] = each->shape[0];
  if (const auto cap = file.number_or_none("final_logit_softcapping"))
    config["final_logit_softcapping"] = *cap;

  const auto experts =
      file.find_integer("expert_count", 0, limits::heads).value_or(0);
  config["enable_moe_block"] = experts > 0;
  if (experts > 0) {
    config["num_experts"] = experts;
    config["top_k_experts"] = file.integer("expert_used_count", experts);
    config["moe_intermediate_size"] =
        file.integer("expert_feed_forward_length", limits::d_mlp);
  }
  const auto theta = [&](std::string_view field) {
    return file.find_number(field).value_or(10'000.0);
  };
  config["rope_parameters"] = {
      {"full_attention",
       {{"rope_type", "proportional"},
        {"partial_rotary_factor", turning_part(file)},
        {"rope_theta", theta("rope.freq_base")}}},
      {"sliding_attention",
       {{"rope_type", "default"},
        {"rope_theta", theta("rope.freq_base_swa")}}}};
}

}  // namespace mlxterp
