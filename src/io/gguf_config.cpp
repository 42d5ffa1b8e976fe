#include "io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::ordered_json;

constexpr std::string_view rope_freqs = "rope_freqs.weight";
constexpr std::string_view rope_long = "rope_factors_long.weight";
constexpr std::string_view rope_short = "rope_factors_short.weight";

/** Makes one file's config.json. */
class ConfigMaker {
 public:
  ConfigMaker(
      const Gguf& gguf,
      const GgufMetadata& metadata,
      const GgufArchitecture& architecture)
      : gguf_(gguf), metadata_(metadata), architecture_(architecture) {}

  ordered_json make() {
    config_["model_type"] = architecture_.model_type;
    const auto name = architecture_.name;
    if (name == "gpt2") {
      add_gpt2();
    } else {
      add_sizes();
      if (const auto& eps = architecture_.eps; !eps.key.empty())
        config_[std::string(eps.field)] = metadata_.number(key(eps.key));
      if (name == "gemma2" || name == "gemma3")
        add_gemma();
      else
        config_["hidden_act"] = "silu";
      if (name == "gemma3" || architecture_.model_type == "olmo3")
        add_two_rotaries();
      else
        add_rotary();
      if (name == "phi3") add_window();
      if (architecture_.window_period > 0 && name != "gemma2" &&
          name != "gemma3")
        add_windows();
      if (name == "deepseek2") add_latents();
      if (name == "olmo") check_olmo();
      for (const auto& field : architecture_.fields)
        add_field(field);
      for (const auto& [tensor, field] : architecture_.flags)
        config_[std::string(field)] = has_tensor(tensor);
      if (config_.contains("num_nextn_predict_layers")) drop_drafts();
    }
    add_vocabulary();
    config_["tie_word_embeddings"] = !has_tensor("output.weight");
    config_.update(ordered_json::parse(architecture_.constants));
    return config_;
  }

 private:
  std::string key(std::string_view field) const {
    return fmt::format("{}.{}", architecture_.name, field);
  }

  std::optional<int64_t> find_integer(
      std::string_view field, int64_t least, int64_t most) const {
    return metadata_.find_integer(key(field), least, most);
  }

  int64_t integer(std::string_view field, int64_t most) const {
    return metadata_.integer(key(field), 1, most);
  }

  const TensorInfo* find_tensor(std::string_view name) const {
    const auto& tensors = gguf_.tensors();
    const auto found = std::find_if(
        tensors.begin(), tensors.end(), [&](const TensorInfo& tensor) {
          return tensor.name == name;
        });
    return found == tensors.end() ? nullptr : &*found;
  }

  bool has_tensor(std::string_view name) const { return find_tensor(name); }

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

  // Layers that predict further tokens count as blocks.
  void drop_drafts() {
    const auto blocks = config_["num_hidden_layers"].get<int64_t>();
    const auto drafts =
        find_integer("nextn_predict_layers", 0, blocks - 1).value_or(0);
    config_["num_hidden_layers"] = blocks - drafts;
  }

  // Heads of a layer without attention are 0 in a list.
  int64_t key_heads(int64_t heads) {
    const auto field = key("attention.head_count_kv");
    const auto& all = gguf_.metadata();
    const auto found = all.find(field);
    const auto* each = found == all.end()
                           ? nullptr
                           : std::get_if<std::vector<int64_t>>(&found->second);
    if (!each)
      return find_integer("attention.head_count_kv", 1, limits::heads)
          .value_or(heads);
    auto kinds = ordered_json::array();
    int64_t some = 0;
    for (const auto n : *each) {
      if (n < 0 || n > limits::heads || (n > 0 && some > 0 && n != some))
        metadata_.bad(
            "{} of {} names {} and {} key heads; one number of each layer that "
            "has attention, and 0 of others, is read",
            field,
            metadata_.name(),
            some,
            n);
      if (n > 0) some = n;
      kinds.push_back(n > 0 ? "full_attention" : "conv");
    }
    if (some == 0)
      metadata_.bad("{} of {} names no head", field, metadata_.name());
    if (architecture_.name == "lfm2") config_["layer_types"] = kinds;
    return some;
  }

  void add_sizes() {
    const int64_t hidden = integer("embedding_length", limits::d_model);
    const int64_t heads = integer("attention.head_count", limits::heads);
    const bool latent = architecture_.name == "deepseek2";
    const int64_t kv_heads = latent ? heads : key_heads(heads);
    const auto key_length =
        find_integer("attention.key_length", 1, limits::d_model);
    if (!key_length && hidden % heads != 0)
      metadata_.bad(
          "{} has {} heads, which do not divide its width {}",
          metadata_.name(),
          heads,
          hidden);
    if (heads % kv_heads != 0)
      metadata_.bad(
          "{} has {} key heads, which do not divide its {} heads",
          metadata_.name(),
          kv_heads,
          heads);
    head_dim_ = key_length.value_or(hidden / heads);
    const int64_t value_length =
        find_integer("attention.value_length", 1, limits::d_model)
            .value_or(head_dim_);
    if (value_length != head_dim_ && !latent)
      metadata_.bad(
          "{} has keys of {} and values of {} dimensions, which must be equal",
          metadata_.name(),
          head_dim_,
          value_length);
    config_["num_hidden_layers"] = integer("block_count", limits::layers);
    config_["hidden_size"] = hidden;
    config_["intermediate_size"] =
        integer("feed_forward_length", limits::d_mlp);
    config_["num_attention_heads"] = heads;
    config_["num_key_value_heads"] = kv_heads;
    if (!latent) config_["head_dim"] = head_dim_;
    config_["max_position_embeddings"] =
        integer("context_length", int64_t{1} << 31);
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
    // A tenth of the multiplier of all dimensions, which that of the rotated
    // ones equals.
    const auto all =
        metadata_.find_number(key("rope.scaling.yarn_log_multiplier"));
    if (all && config_.contains("rope_scaling"))
      config_["rope_scaling"]["mscale"] =
          config_["rope_scaling"]["mscale_all_dim"] = *all * 10;
  }

  void add_rotary() {
    config_["rope_theta"] = theta(10000.0);
    if (architecture_.name == "deepseek2") {
      if (const auto scaling = rope_scaling())
        config_["rope_scaling"] = *scaling;
      return;
    }
    const int64_t turned =
        find_integer("rope.dimension_count", 1, limits::d_model)
            .value_or(head_dim_);
    // Left out, theirs is a part.
    const auto name = architecture_.name;
    if (turned != head_dim_ || name == "nemotron" || name == "glm4" ||
        name == "glm4moe" || name == "stablelm")
      config_["partial_rotary_factor"] =
          static_cast<double>(turned) / static_cast<double>(head_dim_);
    auto scaling = rope_scaling();
    if (const auto factors = rope_factors(scaling)) {
      scaling = factors;
      // Where transformers looks first.
      config_["original_max_position_embeddings"] =
          factors->at("original_max_position_embeddings");
    }
    if (scaling) config_["rope_scaling"] = *scaling;
    // Its ramp was made without rounding, which no key says.
    if (scaling && name == "gpt-oss")
      config_["rope_scaling"]["truncate"] = false;
  }

  double theta(double otherwise) const {
    return metadata_.find_number(key("rope.freq_base")).value_or(otherwise);
  }

  /** The stretch of each turning pair where tensors hold it: Phi-3's two,
   * or Llama 3's one, which does not depend on the length. */
  std::optional<ordered_json> rope_factors(
      const std::optional<ordered_json>& stated) const {
    const bool same = has_tensor(rope_freqs);
    if (!has_factors()) return std::nullopt;
    if (stated && stated->contains("factor"))
      metadata_.bad(
          "{} scales RoPE twice, by a factor and by a tensor",
          metadata_.name());
    ordered_json scaling;
    scaling["rope_type"] = "longrope";
    scaling["original_max_position_embeddings"] =
        find_integer(
            "rope.scaling.original_context_length", 1, int64_t{1} << 31)
            .value_or(config_["max_position_embeddings"].get<int64_t>());
    scaling["attention_factor"] = attn_factor();
    scaling["short_factor"] = numbers(same ? rope_freqs : rope_short);
    scaling["long_factor"] = numbers(same ? rope_freqs : rope_long);
    return scaling;
  }

  bool has_factors() const {
    return has_tensor(rope_freqs) || has_tensor(rope_long) ||
           has_tensor(rope_short);
  }

  ordered_json numbers(std::string_view name) const {
    const TensorInfo* tensor = find_tensor(name);
    if (!tensor) metadata_.bad("{} lacks {}", metadata_.name(), name);
    if (tensor->type != "F32" || tensor->shape.size() != 1)
      metadata_.bad("{} of {} is not an F32 vector", name, metadata_.name());
    const auto values = gguf_.read(*tensor, mlx::core::float32);
    const auto* data = values.data<float>();
    auto list = ordered_json::array();
    for (size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(data[i]) || data[i] <= 0)
        metadata_.bad(
            "{} of {} holds {}, not a positive number",
            name,
            metadata_.name(),
            data[i]);
      list.push_back(data[i]);
    }
    return list;
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
    const auto layers = config_["num_hidden_layers"].get<int64_t>();
    for (int64_t i = 0; i < layers; ++i)
      types.push_back(
          has_window(i, architecture_.window_period) ? "sliding_attention"
                                                     : "full_attention");
    config_["layer_types"] = types;
  }

  // What no key holds is as llama.cpp has it: the scale of the scores by the
  // size of the model, Gemma 2's caps and window where they are left out.
  void add_gemma() {
    const bool second = architecture_.name == "gemma2";
    const auto layers = config_["num_hidden_layers"].get<int64_t>();
    const bool largest = layers == (second ? 46 : 62);
    config_["query_pre_attn_scalar"] =
        largest ? config_["hidden_size"].get<int64_t>() /
                      config_["num_attention_heads"].get<int64_t>()
                : head_dim_;
    add_window();
    if (second && !metadata_.has(key("attention.sliding_window")))
      config_["sliding_window"] = 4096;
    if (second) add_cap("attn_logit_softcapping", 50.0);
    add_cap("final_logit_softcapping", second ? 30.0 : 0);
    if (config_["sliding_window"].is_null()) return;
    auto types = ordered_json::array();
    for (int64_t i = 0; i < layers; ++i)
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
    const auto& all = gguf_.metadata();
    if (const auto found = all.find(field); found != all.end())
      if (const auto* each = std::get_if<std::vector<bool>>(&found->second)) {
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

  // Layers with a window turn by a theta of their own, never stretched.
  void add_two_rotaries() {
    const auto turned =
        find_integer("rope.dimension_count", 1, limits::d_model);
    if (turned.value_or(head_dim_) != head_dim_)
      metadata_.bad(
          "{} rotates {} of {} dimensions; {} models rotate all",
          metadata_.name(),
          *turned,
          head_dim_,
          architecture_.model_type);
    ordered_json full, sliding;
    if (const auto scaling = rope_scaling())
      full = *scaling;
    else
      full["rope_type"] = "default";
    full["rope_theta"] = theta(10000.0);
    sliding["rope_type"] = "default";
    sliding["rope_theta"] =
        metadata_.find_number(key("rope.freq_base_swa"))
            .value_or(
                architecture_.name == "gemma3" ? 10000.0 : theta(10000.0));
    config_["rope_parameters"] = {
        {"full_attention", full}, {"sliding_attention", sliding}};
  }

  void add_gpt2() {
    config_["n_layer"] = integer("block_count", limits::layers);
    config_["n_embd"] = integer("embedding_length", limits::d_model);
    config_["n_inner"] = integer("feed_forward_length", limits::d_mlp);
    const int64_t heads = integer("attention.head_count", limits::heads);
    if (find_integer("attention.head_count_kv", 1, limits::heads)
            .value_or(heads) != heads)
      metadata_.bad("{} has fewer key heads than heads", metadata_.name());
    config_["n_head"] = heads;
    config_["n_positions"] = integer("context_length", int64_t{1} << 31);
    config_[std::string(architecture_.eps.field)] =
        metadata_.number(key(architecture_.eps.key));
    config_["activation_function"] = "gelu_new";
  }

  // Passed on as it is; whether it can be computed is the model's to say.
  std::optional<ordered_json> rope_scaling() const {
    ordered_json scaling;
    if (const auto linear = metadata_.find_number(key("rope.scale_linear"));
        linear && *linear != 1) {
      scaling["rope_type"] = "linear";
      scaling["factor"] = *linear;
    }
    const auto type_key = key("rope.scaling.type");
    if (const auto* type = metadata_.find<std::string>(type_key, "a string")) {
      if (*type == "none") {
        refuse_attn_factor("none");
        return std::nullopt;
      }
      scaling["rope_type"] = printable(*type);
    }
    if (const auto factor = metadata_.find_number(key("rope.scaling.factor")))
      scaling["factor"] = *factor;
    if (const auto length = find_integer(
            "rope.scaling.original_context_length", 1, int64_t{1} << 31))
      scaling["original_max_position_embeddings"] = *length;
    // The length alone says nothing of a scaling.
    if (!scaling.contains("rope_type") && !scaling.contains("factor")) {
      if (!has_factors()) refuse_attn_factor("none");
      return std::nullopt;
    }
    // llama.cpp takes what has no name for linear.
    if (!scaling.contains("rope_type")) scaling["rope_type"] = "linear";
    const auto type = scaling["rope_type"].get<std::string>();
    if (type == "yarn")
      add_yarn(scaling);
    else if (!has_factors())
      refuse_attn_factor(type);
    return scaling;
  }

  /** Times what is turned, whatever the scaling. */
  double attn_factor() const {
    return metadata_.find_number(key("rope.scaling.attn_factor")).value_or(1);
  }

  void refuse_attn_factor(const std::string& type) const {
    if (attn_factor() != 1)
      metadata_.bad(
          "{} has {} {} though its RoPE scaling is \"{}\", which has none",
          metadata_.name(),
          key("rope.scaling.attn_factor"),
          attn_factor(),
          printable(type));
  }

  // The converter writes the checkpoint's attention_factor as yarn_attn_factor;
  // left out it follows from the factor. rope.scaling.attn_factor multiplies
  // it.
  void add_yarn(ordered_json& scaling) const {
    for (const std::string beta : {"beta_fast", "beta_slow"})
      if (const auto turns =
              metadata_.find_number(key("rope.scaling.yarn_" + beta)))
        scaling[beta] = *turns;
    auto attention =
        metadata_.find_number(key("rope.scaling.yarn_attn_factor"));
    const double more = attn_factor();
    if (more != 1 && !attention) {
      const double factor = scaling.value("factor", 1.0);
      attention = factor > 1 ? 1 + 0.1 * std::log(factor) : 1;
    }
    if (attention) scaling["attention_factor"] = *attention * more;
    const auto field = key("rope.scaling.yarn_ext_factor");
    const auto* mix = metadata_.find<double>(field, "a float");
    // Negative: not set. 1: the ramp as YaRN has it.
    if (mix && !(*mix < 0) && *mix != 1)
      metadata_.bad(
          "{} of {} is {}; only 1 is supported for YaRN",
          field,
          metadata_.name(),
          *mix);
  }

  void add_vocabulary() {
    const TensorInfo* embedding = find_tensor("token_embd.weight");
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

  const Gguf& gguf_;
  const GgufMetadata& metadata_;
  const GgufArchitecture& architecture_;
  ordered_json config_;
  int64_t head_dim_ = 0;
};

}  // namespace

std::string make_config(
    const Gguf& gguf,
    const GgufMetadata& metadata,
    const GgufArchitecture& architecture) {
  return ConfigMaker(gguf, metadata, architecture).make().dump(2);
}

bool is_in_config(std::string_view tensor) {
  return tensor == rope_freqs || tensor == rope_long || tensor == rope_short;
}

}  // namespace mlxterp
