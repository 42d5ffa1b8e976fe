// sae/formats/saelens.cpp: SAELens, version 6 and older: cfg.json and
// sae_weights.safetensors (github.com/jbloomAus/SAELens).

#include <cmath>

#include "io/input_file.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "sae/formats/format.h"

namespace mx = mlx::core;

namespace mlxterp::sae_format {

namespace {

// Version 6 keeps what concerns the model in "metadata"; older ones beside the
// rest, under names that changed.
std::string about_model(
    const Input& input, std::initializer_list<std::string_view> keys) {
  const auto& config = input.config;
  const auto metadata = config.find("metadata");
  for (const auto key : keys) {
    if (metadata != config.end() && metadata->is_object()) {
      const auto found = metadata->find(key);
      if (found != metadata->end() && found->is_string())
        return found->get<std::string>();
    }
    if (input.has(key)) return input.text(key);
  }
  return "";
}

std::string architecture_of(const Input& input) {
  const auto activation =
      input.text("activation_fn", input.text("activation_fn_str", "relu"));
  const auto name = input.text("architecture", "standard");
  return name == "standard" && activation == "topk" ? "topk" : name;
}

int k_of(const Input& input) {
  if (input.options.k) return *input.options.k;
  if (input.has("k")) return input.integer("k");
  const auto& config = input.config;
  const auto found = config.find("activation_fn_kwargs");
  if (found != config.end() && found->is_object() && found->contains("k") &&
      (*found)["k"].is_number_integer())
    return (*found)["k"].get<int>();
  input.bad("a TopK SAE without its k");
}

mx::array threshold_of(const Input& input, int d_sae) {
  const auto& weights = input.weights;
  if (weights.has("threshold")) {
    auto threshold = weights.read("threshold");
    if (threshold.size() != 1) return threshold;
    return mx::broadcast_to(mx::reshape(threshold, {1}), {d_sae});
  }
  if (weights.has("log_threshold"))
    return mx::exp(weights.read("log_threshold"));
  return weights.read("threshold");  // says that it is missing
}

// A factor of each decoder row that was trained afterwards.
mx::array with_row_factors(const Input& input, const mx::array& W_dec) {
  for (const char* name : {"scaling_factor", "finetuning_scaling_factor"}) {
    if (!input.weights.has(name)) continue;
    const auto factor = input.weights.read(name);
    if (mx::all(mx::equal(factor, mx::array(1.0f))).item<bool>()) continue;
    if (std::string_view(name) == "scaling_factor" &&
        !input.boolean("finetuning_scaling_factor", false))
      input.bad(
          "there is a scaling_factor, and finetuning_scaling_factor says that "
          "it is not used");
    return mx::multiply(W_dec, mx::reshape(factor, {-1, 1}));
  }
  return W_dec;
}

// The scale that a training checkpoint keeps beside its weights.
std::optional<float> saved_scale(const Input& input) {
  const auto path = input.folder() / "activation_scaler.json";
  const auto text = text_of(path, limits::config_bytes, caller);
  if (!text) return {};
  const auto parsed = parse_json(*text, caller, quoted(path));
  const auto found = parsed.find("scaling_factor");
  if (!parsed.is_object() || found == parsed.end() || !found->is_number())
    return {};
  return found->get<float>();
}

Sae with_input_norm(const Input& input, Sae sae) {
  const auto& config = input.config;
  const auto found = config.find("normalize_activations");
  std::string norm = "none";
  if (found != config.end() && found->is_boolean())
    norm = found->get<bool>() ? "expected_average_only_in" : "none";
  else
    norm = input.text("normalize_activations", "none");
  if (norm == "none") return sae;
  if (norm == "layer_norm" || norm == "constant_norm_rescale") {
    sae.norm =
        norm == "layer_norm" ? SaeNorm::layer_norm : SaeNorm::constant_norm;
    sae.undo_norm = sae.kind == SaeKind::sae;  // SAELens' transcoders do not
    return sae;
  }
  if (norm == "expected_average_only_in") {
    auto scale = input.options.activation_scale;
    if (!scale) scale = saved_scale(input);
    if (!scale)
      fail(
          ErrorKind::bad_data,
          "[{}] {} says that activations were scaled to an expected norm and "
          "not by how much; give the scale, or 1 where it is folded into the "
          "weights already (--activation-scale, "
          "SaeLoadOptions::activation_scale)",
          caller,
          quoted(input.config_path));
    return fold_scale(std::move(sae), *scale);
  }
  if (norm == "covariance_whitening") {
    const auto path = input.folder() / "activation_whitening.safetensors";
    const auto file = WeightFile::open(path);
    return fold_whitening(
        std::move(sae),
        file.read("mean"),
        file.read("matrix"),
        file.read("inverse_matrix"));
  }
  input.bad(fmt::format("its normalize_activations is '{}'", printable(norm)));
}

void set_activation(
    const Input& input, const std::string& architecture, Sae& sae) {
  if (architecture.starts_with("jumprelu")) {
    sae.activation = SaeActivation::jump_relu;
    sae.threshold = threshold_of(input, sae.d_sae());
  } else if (architecture == "topk" || architecture == "abstopk") {
    sae.activation =
        architecture == "topk" ? SaeActivation::topk : SaeActivation::abs_topk;
    sae.k = k_of(input);
  } else if (architecture == "gated") {
    // The gate opens where pre > b_mag - e^r b_gate: see Sae.
    const auto e = mx::exp(input.weights.read("r_mag"));
    sae.activation = SaeActivation::jump_relu;
    sae.W_enc = mx::multiply(sae.W_enc, e);
    sae.threshold =
        mx::subtract(sae.b_enc, mx::multiply(e, input.weights.read("b_gate")));
  } else if (
      architecture != "standard" && architecture != "transcoder" &&
      architecture != "skip_transcoder") {
    const bool known =
        architecture == "temporal" || architecture == "matching_pursuit";
    fail(
        ErrorKind::bad_data,
        "[{}] {} is of the architecture '{}', which is not read{}; take one "
        "of another architecture",
        caller,
        quoted(input.config_path),
        printable(architecture),
        known ? " (a row's activations depend on more than one product)" : "");
  }
}

bool is(const Input& input) {
  const auto& weights = input.weights;
  const bool described = input.has("d_sae") || input.has("architecture") ||
                         input.has("hook_point") || input.has("hook_name");
  return described && weights.kind() == WeightFile::Kind::safetensors &&
         (weights.has("W_enc") || weights.has("W_dec")) &&
         !weights.has("encoder.weight");
}

Sae read(const Input& input) {
  if (!input.config.is_object()) input.bad("there is no cfg.json beside it");
  const auto& weights = input.weights;
  const auto architecture = architecture_of(input);
  if (architecture == "temporal" || architecture == "matching_pursuit") {
    Sae nothing{
        mx::array(0.0f), mx::array(0.0f), mx::array(0.0f), mx::array(0.0f)};
    set_activation(input, architecture, nothing);
  }
  const bool transcodes = architecture.ends_with("transcoder");
  Sae sae{
      .W_enc = weights.read("W_enc"),
      .b_enc = weights.read(architecture == "gated" ? "b_mag" : "b_enc"),
      .W_dec = weights.read("W_dec"),
      .b_dec = weights.read("b_dec")};
  sae.kind = transcodes ? SaeKind::transcoder : SaeKind::sae;
  sae.source = source_of(
      input,
      "saelens",
      architecture,
      about_model(input, {"model_name"}),
      about_model(input, {"hook_name", "hook_point"}),
      transcodes ? about_model(input, {"hook_name_out", "hook_name"}) : "");
  if (const auto& config = input.config; config.contains("metadata")) {
    const auto& metadata = config["metadata"];
    if (metadata.is_object() && metadata.contains("l0") &&
        metadata["l0"].is_number())
      sae.source.l0 = metadata["l0"].get<double>();
  }
  for (const char* key : {"d_in", "d_sae"}) {
    const int said = input.has(key) ? input.integer(key) : 0;
    const auto axis = std::string_view(key) == "d_in" ? 0 : 1;
    if (said > 0 && sae.W_enc.ndim() == 2 && sae.W_enc.shape(axis) != said)
      input.bad(fmt::format(
          "{} is {}, and W_enc has {}", key, said, sae.W_enc.shape(axis)));
  }
  sae.W_dec = with_row_factors(input, sae.W_dec);
  sae.subtract_b_dec =
      !transcodes && input.boolean("apply_b_dec_to_input", true);
  if (weights.has("W_skip")) sae.W_skip = transposed(weights.read("W_skip"));
  if (architecture.ends_with("skip_transcoder") && !sae.W_skip)
    (void)weights.read("W_skip");  // says that it is missing
  set_activation(input, architecture, sae);
  check(sae);
  if (input.boolean("rescale_acts_by_decoder_norm", false))
    sae = fold_decoder_norm(std::move(sae), /*chosen_so=*/true);
  return with_input_norm(input, std::move(sae));
}

}  // namespace

const Reader saelens{
    {"saelens", "SAELens, version 6 and older: cfg.json, sae_weights"},
    is,
    read};

}  // namespace mlxterp::sae_format
