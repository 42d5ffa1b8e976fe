#include "io/gguf_rotation.h"

#include <cmath>
#include <optional>

#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::ordered_json;

constexpr std::string_view rope_freqs = "rope_freqs.weight";
constexpr std::string_view rope_long = "rope_factors_long.weight";
constexpr std::string_view rope_short = "rope_factors_short.weight";

class RotationMaker {
 public:
  RotationMaker(
      const GgufFields& file,
      int64_t head_dim,
      int64_t context,
      ordered_json& config)
      : file_(file), head_dim_(head_dim), context_(context), config_(config) {}

  void add_one() {
    config_["rope_theta"] = theta(10000.0);
    if (file_.architecture.name == "deepseek2") {
      if (const auto scaling = rope_scaling())
        config_["rope_scaling"] = *scaling;
      return;
    }
    const int64_t turned =
        file_.find_integer("rope.dimension_count", 1, limits::d_model)
            .value_or(head_dim_);
    if (turned != head_dim_ || file_.architecture.part_turns)
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
    if (scaling && file_.architecture.name == "gpt-oss")
      config_["rope_scaling"]["truncate"] = false;
  }

  // Layers with a window turn by a theta of their own, never stretched.
  void add_two() {
    const auto turned =
        file_.find_integer("rope.dimension_count", 1, limits::d_model);
    if (turned.value_or(head_dim_) != head_dim_)
      file_.metadata.bad(
          "{} rotates {} of {} dimensions; {} models rotate all",
          file_.metadata.name(),
          *turned,
          head_dim_,
          file_.architecture.model_type);
    ordered_json full, sliding;
    if (const auto scaling = rope_scaling())
      full = *scaling;
    else
      full["rope_type"] = "default";
    full["rope_theta"] = theta(10000.0);
    sliding["rope_type"] = "default";
    sliding["rope_theta"] =
        file_.find_number("rope.freq_base_swa")
            .value_or(
                file_.architecture.name == "gemma3" ? 10000.0 : theta(10000.0));
    config_["rope_parameters"] = {
        {"full_attention", full}, {"sliding_attention", sliding}};
  }

  // What its queries grow by stands beside the rotation.
  void add_ministral() {
    if (!config_.contains("rope_scaling")) {
      const auto length = file_.find_integer(
          "rope.scaling.original_context_length", 1, int64_t{1} << 31);
      config_["rope_scaling"] = {
          {"rope_type", "default"},
          {"original_max_position_embeddings", length.value_or(context_)}};
    }
    if (const auto beta = file_.find_number("attention.temperature_scale"))
      config_["rope_scaling"]["llama_4_scaling_beta"] = *beta;
  }

  // As it is for Mistral, a tenth of it for DeepSeek, whose rotated dimensions
  // have the same multiplier as all.
  void add_log_multiplier() {
    const auto all = file_.find_number("rope.scaling.yarn_log_multiplier");
    if (!all || !config_.contains("rope_scaling")) return;
    const bool tenth = file_.architecture.name == "deepseek2";
    auto& scaling = config_["rope_scaling"];
    scaling["mscale"] = tenth ? *all * 10 : 1.0;
    scaling["mscale_all_dim"] = tenth ? *all * 10 : *all;
  }

 private:
  double theta(double otherwise) const {
    return file_.find_number("rope.freq_base").value_or(otherwise);
  }

  /** The stretch of each turning pair where tensors hold it: Phi-3's two,
   * or Llama 3's one, which does not depend on the length. */
  std::optional<ordered_json> rope_factors(
      const std::optional<ordered_json>& stated) const {
    const bool same = file_.has_tensor(rope_freqs);
    if (!has_factors()) return std::nullopt;
    if (stated && stated->contains("factor"))
      file_.metadata.bad(
          "{} scales RoPE twice, by a factor and by a tensor",
          file_.metadata.name());
    ordered_json scaling;
    scaling["rope_type"] = "longrope";
    scaling["original_max_position_embeddings"] =
        file_
            .find_integer(
                "rope.scaling.original_context_length", 1, int64_t{1} << 31)
            .value_or(context_);
    scaling["attention_factor"] = attn_factor();
    scaling["short_factor"] = file_.numbers(same ? rope_freqs : rope_short);
    scaling["long_factor"] = file_.numbers(same ? rope_freqs : rope_long);
    return scaling;
  }

  bool has_factors() const {
    return file_.has_tensor(rope_freqs) || file_.has_tensor(rope_long) ||
           file_.has_tensor(rope_short);
  }

  // Passed on as it is; whether it can be computed is the model's to say.
  std::optional<ordered_json> rope_scaling() const {
    ordered_json scaling;
    if (const auto linear = file_.find_number("rope.scale_linear");
        linear && *linear != 1) {
      scaling["rope_type"] = "linear";
      scaling["factor"] = *linear;
    }
    const auto type_key = file_.key("rope.scaling.type");
    if (const auto* type =
            file_.metadata.find<std::string>(type_key, "a string")) {
      if (*type == "none") {
        refuse_attn_factor("none");
        return std::nullopt;
      }
      scaling["rope_type"] = printable(*type);
    }
    if (const auto factor = file_.find_number("rope.scaling.factor"))
      scaling["factor"] = *factor;
    if (const auto length = file_.find_integer(
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
    return file_.find_number("rope.scaling.attn_factor").value_or(1);
  }

  void refuse_attn_factor(const std::string& type) const {
    if (attn_factor() != 1)
      file_.metadata.bad(
          "{} has {} {} though its RoPE scaling is \"{}\", which has none",
          file_.metadata.name(),
          file_.key("rope.scaling.attn_factor"),
          attn_factor(),
          printable(type));
  }

  // The converter writes the checkpoint's attention_factor as yarn_attn_factor;
  // left out it follows from the factor. rope.scaling.attn_factor multiplies
  // it.
  void add_yarn(ordered_json& scaling) const {
    for (const std::string beta : {"beta_fast", "beta_slow"})
      if (const auto turns = file_.find_number("rope.scaling.yarn_" + beta))
        scaling[beta] = *turns;
    auto attention = file_.find_number("rope.scaling.yarn_attn_factor");
    const double more = attn_factor();
    if (more != 1 && !attention) {
      const double factor = scaling.value("factor", 1.0);
      attention = factor > 1 ? 1 + 0.1 * std::log(factor) : 1;
    }
    if (attention) scaling["attention_factor"] = *attention * more;
    const auto field = file_.key("rope.scaling.yarn_ext_factor");
    const auto* mix = file_.metadata.find<double>(field, "a float");
    // Negative: not set. 1: the ramp as YaRN has it.
    if (mix && !(*mix < 0) && *mix != 1)
      file_.metadata.bad(
          "{} of {} is {}; only 1 is supported for YaRN",
          field,
          file_.metadata.name(),
          *mix);
  }

  const GgufFields& file_;
  int64_t head_dim_, context_;
  ordered_json& config_;
};

}  // namespace

void add_rotation(
    const GgufFields& file,
    int64_t head_dim,
    int64_t context,
    ordered_json& config) {
  RotationMaker maker(file, head_dim, context, config);
  const auto type = file.architecture.model_type;
  if (type == "gemma3_text" || type == "olmo3")
    maker.add_two();
  else
    maker.add_one();
  maker.add_log_multiplier();
  if (type == "ministral3") maker.add_ministral();
}

bool is_in_config(std::string_view tensor) {
  return tensor == rope_freqs || tensor == rope_long || tensor == rope_short;
}

}  // namespace mlxterp
