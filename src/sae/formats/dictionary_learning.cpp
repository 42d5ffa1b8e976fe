// sae/formats/dictionary_learning.cpp: Marks, Karvonen and Mueller's
// dictionary_learning: trainer_N/ae.pt and config.json
// (github.com/saprmarks/dictionary_learning).

#include "mlx/ops.h"
#include "sae/formats/format.h"
#include "sae/hooks.h"

namespace mx = mlx::core;

namespace mlxterp::sae_format {

namespace {

const nlohmann::json* trainer_of(const Input& input) {
  if (!input.has("trainer")) return nullptr;
  const auto& trainer = input.config["trainer"];
  return trainer.is_object() ? &trainer : nullptr;
}

std::string trainer_text(const Input& input, const char* key) {
  const auto* trainer = trainer_of(input);
  if (!trainer || !trainer->contains(key)) return "";
  const auto& value = (*trainer)[key];
  return value.is_string() ? value.get<std::string>() : "";
}

// What the class must be where config.json does not say: its tensors tell.
std::string class_of(const Input& input) {
  auto name = trainer_text(input, "dict_class");
  if (!name.empty()) return name;
  const auto& weights = input.weights;
  if (weights.has_all({"gate_bias", "mag_bias"})) return "GatedAutoEncoder";
  if (weights.has("group_sizes")) return "MatryoshkaBatchTopKSAE";
  if (weights.has_all({"W_enc", "threshold"})) return "JumpReluAutoEncoder";
  if (weights.has_all({"bias", "encoder.bias"})) return "AutoEncoder";
  if (weights.has("threshold"))
    input.bad(
        "a TopK and a BatchTopK SAE look the same here, and only config.json "
        "(trainer.dict_class), which is not beside it, tells them apart");
  return "AutoEncoderNew";
}

bool is(const Input& input) {
  const auto& weights = input.weights;
  if (weights.kind() != WeightFile::Kind::torch) return false;
  return !trainer_text(input, "dict_class").empty() ||
         weights.has("group_sizes") ||
         weights.has_all({"gate_bias", "mag_bias"}) ||
         weights.has_all({"bias", "encoder.weight", "decoder.weight"}) ||
         (weights.has("threshold") &&
          (weights.has("encoder.weight") || weights.has("W_enc")));
}

// One threshold of all features; below 0: it was never set, and ReLU is meant.
void set_threshold(const Input& input, Sae& sae) {
  sae.activation = SaeActivation::jump_relu;
  const auto& weights = input.weights;
  sae.threshold = weights.shape("threshold").empty()
                      ? one_for_all(weights.number("threshold"), sae.d_sae())
                      : weights.read("threshold");
}

Sae with_matrices(const Input& input) {
  const auto& weights = input.weights;
  return {
      .W_enc = weights.read("W_enc"),
      .b_enc = weights.read("b_enc"),
      .W_dec = weights.read("W_dec"),
      .b_dec = weights.read("b_dec")};
}

Sae with_layers(const Input& input, const char* b_enc, const char* b_dec) {
  const auto& weights = input.weights;
  return {
      .W_enc = transposed(weights.read("encoder.weight")),
      .b_enc = weights.read(b_enc),
      .W_dec = transposed(weights.read("decoder.weight")),
      .b_dec = weights.read(b_dec)};
}

void need_matrix(const Sae& sae) {
  if (sae.W_enc.ndim() != 2) check(sae);
}

Sae of_class(const Input& input, const std::string& name) {
  const auto& weights = input.weights;
  if (name == "AutoEncoder") {
    auto sae = with_layers(input, "encoder.bias", "bias");
    sae.subtract_b_dec = true;
    check(sae);
    return fold_decoder_norm(std::move(sae));  // as its from_pretrained does
  }
  if (name == "AutoEncoderNew")
    return with_layers(input, "encoder.bias", "decoder.bias");
  if (name == "GatedAutoEncoder") {
    // The gate opens where pre > b_mag - e^r b_gate: see Sae.
    auto sae = with_layers(input, "mag_bias", "decoder_bias");
    const auto e = mx::exp(weights.read("r_mag"));
    need_matrix(sae);
    sae.W_enc = mx::multiply(sae.W_enc, e);
    sae.activation = SaeActivation::jump_relu;
    sae.threshold =
        mx::subtract(sae.b_enc, mx::multiply(e, weights.read("gate_bias")));
    sae.subtract_b_dec = true;
    return sae;
  }
  if (name == "AutoEncoderTopK") {
    auto sae = with_layers(input, "encoder.bias", "b_dec");
    sae.activation = SaeActivation::topk;
    sae.k = input.options.k.value_or(static_cast<int>(weights.number("k")));
    sae.subtract_b_dec = true;
    return sae;
  }
  if (name == "BatchTopKSAE" || name == "MatryoshkaBatchTopKSAE") {
    auto sae = name == "BatchTopKSAE"
                   ? with_layers(input, "encoder.bias", "b_dec")
                   : with_matrices(input);
    need_matrix(sae);
    set_threshold(input, sae);
    sae.subtract_b_dec = true;
    return sae;
  }
  if (name == "JumpReluAutoEncoder") {
    auto sae = with_matrices(input);
    need_matrix(sae);
    set_threshold(input, sae);
    return sae;
  }
  input.bad(fmt::format(
      "its class is '{}', which is not one of dictionary_learning's that are "
      "read",
      printable(name)));
}

// "resid_post_layer_3"; files without it are of the residual stream.
std::string hook_of(const Input& input) {
  auto name = trainer_text(input, "submodule_name");
  if (!name.empty()) return name;
  const auto* trainer = trainer_of(input);
  if (!trainer || !trainer->contains("layer") ||
      !(*trainer)["layer"].is_number_integer())
    return "";
  return fmt::format("resid_post_layer_{}", (*trainer)["layer"].get<int64_t>());
}

Sae read(const Input& input) {
  const auto name = class_of(input);
  auto sae = of_class(input, name);
  const auto hook = hook_of(input);
  sae.source = source_of(
      input, "dictionary_learning", name, trainer_text(input, "lm_name"), hook);
  return sae;
}

}  // namespace

const Reader dictionary_learning{
    {"dictionary_learning", "dictionary_learning, all classes: ae.pt"},
    is,
    read};

}  // namespace mlxterp::sae_format
