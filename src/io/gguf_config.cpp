#include "io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "io/gguf_hybrids.h"
#include "io/gguf_rotation.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::ordered_json;

/** Makes one file's config.json. */
class ConfigMaker {
 public:
  explicit ConfigMaker(const GgufFields& file)
      : file_(file),
        gguf_(file.gguf),
        metadata_(file.metadata),
        architecture_(file.architecture) {}

  ordered_json make() {
    config_["model_type"] = architecture_.model_type;
    const auto name = architecture_.name;
    add_sizes();
    if (const auto& eps = architecture_.eps; !eps.key.empty())
      config_[std::string(eps.field)] = metadata_.number(key(eps.key));
    if (!architecture_.activation.empty())
      config_["hidden_act"] = architecture_.activation;
    const bool gemma = name == "gemma2" || name == "gemma3";
    if (gemma) add_gemma();
    if (architecture_.rotary) add_rotation(file_, head_dim_, context_, config_);
    if (name == "phi3") add_window();
    if (architecture_.window_period > 0 && !gemma) add_windows();
    if (name == "deepseek2") add_latents();
    if (name == "olmo") check_olmo();
    if (name == "minicpm") add_minicpm();
    if (name == "mpt") add_mpt();
    if (name == "granite") check_granite();
    if (name == "granitehybrid") add_granite_hybrid(file_, config_);
    if (name == "qwen3next" || name == "qwen35" || name == "qwen35moe")
      add_delta_net(file_, config_);
    if (name == "gemma4") add_gemma4(file_, config_);
    for (const auto& field : architecture_.fields)
      add_field(field);
    for (const auto& [tensor, field] : architecture_.flags) {
      auto& flag = config_[std::string(field)];
      flag = flag == true || some_block_has(gguf_, tensor);
    }
    add_vocabulary();
    config_["tie_word_embeddings"] = !file_.has_tensor("output.weight");
    config_.update(ordered_json::parse(architecture_.constants));
    return config_;
  }

 private:
  std::string key(std::string_view field) const { return file_.key(field); }

  std::optional<int64_t> find_integer(
      std::string_view field, int64_t least, int64_t most) const {
    return file_.find_integer(field, least, most);
  }

  int64_t integer(std::string_view field, int64_t most) const {
    return file_.integer(field, most);
  }

  // As it is: the model's own reader holds it against its range.
  void add_field(const GgufField& it) {
    const auto& all = gguf_.metadata();
    const auto found = all.find(key(it.key));
    const std::string field(it.field);
    if (field.empty()) return;
    if (found == all.end()) {
      if (!it.otherwise.empty())
        config_[field] = ordered_json::parse(it.otherwise);
      return;
    }
    std::visit(
        [&](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (std::is_arithmetic_v<T>)
            config_[field] = value;
          else
            metadata_.bad(
                "{} of {} is not a number", key(it.key), metadata_.name());
        },
        found->second);
  }

  // Its norms have no number in config.json.
  void check_olmo() const {
    const auto eps = metadata_.find_number(key("attention.layer_norm_epsilon"));
    constexpr double only = 1e-5;
    if (eps && std::abs(*eps - only) > only * 1e-6)
      metadata_.bad(
          "{} of {} is {:g}; that of olmo models is {:g}",
          key("attention.layer_norm_epsilon"),
          metadata_.name(),
          *eps,
          only);
  }

  // Its positions are a part of it; those of a hybrid may be switched off.
  void check_granite() const {
    const auto* on =
        metadata_.find<bool>(key("rope.scaling.finetuned"), "a boolean");
    if (on && !*on)
      metadata_.bad(
          "{} of {} is false, which says that nothing turns; granite models "
          "turn",
          key("rope.scaling.finetuned"),
          metadata_.name());
  }

  // Heads of a layer without attention are 0 in a list; those of gemma4 differ
  // and are set later.
  int64_t key_heads(int64_t heads) {
    constexpr std::string_view field = "attention.head_count_kv";
    if (!file_.has(field)) return heads;
    int64_t some = 0;
    auto kinds = ordered_json::array();
    const bool differ = architecture_.name == "gemma4";
    for (const auto n : file_.integers(field, blocks_, 0, limits::heads)) {
      if (n > 0 && some > 0 && n != some && !differ)
        metadata_.bad(
            "{} of {} names {} and {} key heads; one number of each layer that "
            "has attention, and 0 of others, is read",
            key(field),
            metadata_.name(),
            some,
            n);
      if (n > 0) some = n;
      kinds.push_back(n > 0 ? "full_attention" : "conv");
    }
    if (some == 0)
      metadata_.bad(
          "{} of {} is 0 of every layer; some must have attention",
          key(field),
          metadata_.name());
    if (architecture_.name == "lfm2") config_["layer_types"] = kinds;
    return some;
  }

  void set(std::string_view field, int64_t value) {
    if (!field.empty()) config_[std::string(field)] = value;
  }

  void add_sizes() {
    const auto& names = architecture_.sizes;
    blocks_ = integer("block_count", limits::layers);
    layers_ = blocks_ - draft_blocks(metadata_, architecture_);
    hidden_ = integer("embedding_length", limits::d_model);
    heads_ = integer("attention.head_count", limits::heads);
    const bool latent = architecture_.name == "deepseek2";
    const int64_t kv_heads = latent ? heads_ : key_heads(heads_);
    const auto key_length =
        find_integer("attention.key_length", 1, limits::d_model);
    if (!key_length && hidden_ % heads_ != 0)
      metadata_.bad(
          "{} has {} heads, which do not divide its width {}",
          metadata_.name(),
          heads_,
          hidden_);
    const bool apart = architecture_.name == "gemma4";
    if (names.kv_heads.empty() && kv_heads != heads_ && !apart)
      metadata_.bad("{} has fewer key heads than heads", metadata_.name());
    if (heads_ % kv_heads != 0)
      metadata_.bad(
          "{} has {} key heads, which do not divide its {} heads",
          metadata_.name(),
          kv_heads,
          heads_);
    head_dim_ = key_length.value_or(hidden_ / heads_);
    if (names.head_width.empty() && head_dim_ * heads_ != hidden_ && !apart)
      metadata_.bad(
          "{} of {} is {}, but its {} heads share its width {}",
          key("attention.key_length"),
          metadata_.name(),
          head_dim_,
          heads_,
          hidden_);
    const int64_t value_length =
        find_integer("attention.value_length", 1, limits::d_model)
            .value_or(head_dim_);
    if (value_length != head_dim_ && !latent)
      metadata_.bad(
          "{} has keys of {} and values of {} dimensions, which must be equal",
          metadata_.name(),
          head_dim_,
          value_length);
    context_ = integer("context_length", int64_t{1} << 31);
    set(names.layers, layers_);
    set(names.width, hidden_);
    if (!names.inner.empty())
      set(names.inner, integer("feed_forward_length", limits::d_mlp));
    set(names.heads, heads_);
    set(names.kv_heads, kv_heads);
    if (!latent) set(names.head_width, head_dim_);
    set(names.context, context_);
    // Every head's own key, or one for all.
    if (architecture_.name == "starcoder") {
      if (kv_heads != 1 && kv_heads != heads_)
        metadata_.bad(
            "{} has {} key heads; a starcoder model has 1 or as many as heads",
            metadata_.name(),
            kv_heads);
      config_["multi_query"] = kv_heads == 1;
    }
  }

  // Its multipliers follow from the depth and the width, as llama.cpp has them
  // for files without the keys.
  void add_minicpm() {
    const double depth = std::sqrt(static_cast<double>(layers_));
    const auto residual = metadata_.find_number(key("residual_scale"));
    config_["scale_depth"] = residual ? *residual * depth : 1.4;
    const auto divisor = metadata_.find_number(key("logit_scale"));
    config_["dim_model_base"] =
        divisor ? static_cast<double>(hidden_) / *divisor : 256.0;
  }

  void add_mpt() {
    auto attention = ordered_json::object();
    if (const auto clip = file_.number_or_none("attention.clamp_kqv"))
      attention["clip_qkv"] = *clip;
    const auto bias = file_.number_or_none("attention.max_alibi_bias");
    attention["alibi"] = bias.has_value();
    if (bias && *bias == std::floor(*bias) && *bias < 1e6)
      attention["alibi_bias_max"] = static_cast<int64_t>(*bias);
    else if (bias)
      attention["alibi_bias_max"] = *bias;
    config_["attn_config"] = attention;
  }

  // Of a head, the last rope.dimension_count turn. The lengths of older files
  // are those of whole heads, newer ones have them beside those of the latent.
  void add_latents() {
    const auto length = [&](std::string_view field) {
      const auto own =
          find_integer(fmt::format("{}_mla", field), 1, limits::d_model);
      return own ? *own : integer(field, limits::d_model);
    };
    const int64_t turned = integer("rope.dimension_count", limits::d_model);
    const int64_t whole = length("attention.key_length");
    if (turned >= whole)
      metadata_.bad(
          "{} rotates {} of {} dimensions; some must stay",
          metadata_.name(),
          turned,
          whole);
    config_["qk_rope_head_dim"] = turned;
    config_["qk_nope_head_dim"] = whole - turned;
    config_["v_head_dim"] = length("attention.value_length");
    config_["topk_method"] = "group_limited_greedy";
  }

  void add_window() {
    // llama.cpp writes 0 where there is none. It leaves Phi-3's out when it
    // runs; the model was trained with it.
    const auto window =
        find_integer("attention.sliding_window", 0, int64_t{1} << 31);
    if (window.value_or(0) > 0)
      config_["sliding_window"] = *window;
    else if (architecture_.name == "gemma3")
      config_["sliding_window"] = nullptr;  // left out it would mean 4096
  }

  // Which layers have the window.
  void add_windows() {
    const auto window =
        find_integer("attention.sliding_window", 0, int64_t{1} << 31);
    if (window.value_or(0) == 0) {
      config_["sliding_window"] = nullptr;
      return;
    }
    config_["sliding_window"] = *window;
    auto types = ordered_json::array();
    for (int64_t i = 0; i < layers_; ++i)
      types.push_back(
          has_window(i, architecture_.window_period) ? "sliding_attention"
                                                     : "full_attention");
    config_["layer_types"] = types;
  }

  // What no key holds is as llama.cpp has it: the scale of the scores by the
  // size of the model, Gemma 2's caps and window where they are left out.
  void add_gemma() {
    const bool second = architecture_.name == "gemma2";
    const bool largest = layers_ == (second ? 46 : 62);
    config_["query_pre_attn_scalar"] = largest ? hidden_ / heads_ : head_dim_;
    add_window();
    if (second && !metadata_.has(key("attention.sliding_window")))
      config_["sliding_window"] = 4096;
    if (second) add_cap("attn_logit_softcapping", 50.0);
    add_cap("final_logit_softcapping", second ? 30.0 : 0);
    if (config_["sliding_window"].is_null()) return;
    auto types = ordered_json::array();
    for (int64_t i = 0; i < layers_; ++i)
      types.push_back(
          has_window(i, architecture_.window_period) ? "sliding_attention"
                                                     : "full_attention");
    config_["layer_types"] = types;
  }

  void add_cap(std::string_view field, double otherwise) {
    const double cap = metadata_.find_number(key(field)).value_or(otherwise);
    if (cap > 0) config_[std::string(field)] = cap;
  }

  /** All but each period-th layer have the window; newer files say which. */
  bool has_window(int64_t layer, int64_t otherwise) const {
    const auto field = key("attention.sliding_window_pattern");
    if (const auto* each = metadata_.find_any<std::vector<bool>>(field)) {
      const auto at = static_cast<size_t>(layer);
      if (at >= each->size())
        metadata_.bad(
            "{} of {} has {} entries, fewer than layers",
            field,
            metadata_.name(),
            each->size());
      return (*each)[at];
    }
    const int64_t period =
        metadata_.find_integer(field, 0, limits::layers).value_or(otherwise);
    return period == 0 || layer % period < period - 1;
  }

  void add_vocabulary() {
    const TensorInfo* embedding = file_.find_tensor("token_embd.weight");
    if (!embedding || embedding->shape.size() != 2)
      metadata_.bad("{} has no matrix token_embd.weight", metadata_.name());
    const int64_t rows = embedding->shape[0];
    const int64_t size =
        find_integer("vocab_size", 1, limits::vocab).value_or(rows);
    if (size != rows)
      metadata_.bad(
          "{} says vocab_size {} and has {} rows of token_embd.weight",
          metadata_.name(),
          size,
          rows);
    check_token_lists(size);
    config_["vocab_size"] = size;
    for (const std::string which : {"bos", "eos"}) {
      const auto id = metadata_.find_integer(
          "tokenizer.ggml." + which + "_token_id", 0, size - 1);
      if (id) config_[which + "_token_id"] = *id;
    }
  }

  void check_token_lists(int64_t size) const {
    const std::string lists = "tokenizer.ggml.";
    check_list(
        lists + "tokens",
        metadata_.find<std::vector<std::string>>(
            lists + "tokens", "a list of strings"),
        size);
    check_list(
        lists + "scores",
        metadata_.find<std::vector<double>>(
            lists + "scores", "a list of floats"),
        size);
    check_list(
        lists + "token_type",
        metadata_.find<std::vector<int64_t>>(
            lists + "token_type", "a list of integers"),
        size);
  }

  template <typename T>
  void check_list(
      const std::string& name, const T* values, int64_t size) const {
    if (values && values->size() != static_cast<size_t>(size))
      metadata_.bad(
          "{} of {} has {} entries, the vocabulary {}",
          name,
          metadata_.name(),
          values->size(),
          size);
  }

  const GgufFields& file_;
  const Gguf& gguf_;
  const GgufMetadata& metadata_;
  const GgufArchitecture& architecture_;
  ordered_json config_;
  int64_t hidden_ = 0, heads_ = 0, head_dim_ = 0, context_ = 0;
  int64_t blocks_ = 0, layers_ = 0;  // those that draft are no layers
};

}  // namespace

std::string make_config(
    const Gguf& gguf,
    const GgufMetadata& metadata,
    const GgufArchitecture& architecture) {
  const GgufFields file{gguf, metadata, architecture};
  return ConfigMaker(file).make().dump(2);
}

int64_t draft_blocks(
    const GgufMetadata& metadata, const GgufArchitecture& architecture) {
  constexpr std::string_view drafts = "nextn_predict_layers";
  const auto& fields = architecture.fields;
  if (std::ranges::find(fields, drafts, &GgufField::key) == fields.end())
    return 0;
  const auto key = [&](std::string_view field) {
    return fmt::format("{}.{}", architecture.name, field);
  };
  const auto blocks = metadata.integer(key("block_count"), 1, limits::layers);
  return metadata.find_integer(key(drafts), 0, blocks - 1).value_or(0);
}

}  // namespace mlxterp
