// sae/formats/llama_scope.cpp: Llama Scope (He et al. 2024) and its successor
// on distilled R1, OpenMOSS: hyperparams.json and
// checkpoints/final.safetensors, or config.json and sae_weights.safetensors.

#include <cmath>

#include "io/input_file.h"
#include "mlx/ops.h"
#include "sae/formats/format.h"

namespace mx = mlx::core;

namespace mlxterp::sae_format {

namespace {

constexpr const char* norms = "dataset_average_activation_norm";
constexpr const char* log_threshold = "log_jumprelu_threshold";

bool is(const Input& input) {
  return input.weights.has_all(
             {"encoder.weight", "encoder.bias", "decoder.weight"}) &&
         (input.has(norms) || input.weights.has(log_threshold));
}

// What activations were multiplied by: to a norm of sqrt(d) on average.
float scale_of(const Input& input, const char* side, int width) {
  if (input.options.activation_scale) return *input.options.activation_scale;
  if (input.has(norms)) {
    const auto& both = *input.config.find(norms);
    if (both.is_object() && both.contains(side) && both[side].is_number()) {
      const double norm = both[side].get<double>();
      if (norm > 0 && std::isfinite(norm))
        return static_cast<float>(std::sqrt(width) / norm);
    }
  }
  fail(
      ErrorKind::bad_data,
      "[{}] {} does not say the average norm ({}.{}) that activations were "
      "scaled by; give the scale (--activation-scale, "
      "SaeLoadOptions::activation_scale)",
      caller,
      quoted(input.config_path.empty() ? input.place : input.config_path),
      norms,
      side);
}

Sae read(const Input& input) {
  const auto& weights = input.weights;
  Sae sae{
      .W_enc = transposed(weights.read("encoder.weight")),
      .b_enc = weights.read("encoder.bias"),
      .W_dec = transposed(weights.read("decoder.weight")),
      .b_dec = weights.read("decoder.bias")};
  const auto hook_in = input.text("hook_point_in");
  const auto hook_out = input.text("hook_point_out", hook_in);
  const bool transcodes = hook_in != hook_out;
  sae.kind = transcodes ? SaeKind::transcoder : SaeKind::sae;
  sae.source = source_of(
      input,
      "llama_scope",
      "jumprelu",
      "meta-llama/Llama-3.1-8B",
      hook_in,
      transcodes ? hook_out : "");
  if (sae.W_enc.ndim() != 2 || sae.W_dec.ndim() != 2) check(sae);
  const float in = scale_of(input, "in", sae.d_in());
  const float out = transcodes ? scale_of(input, "out", sae.d_out()) : in;
  sae.activation = SaeActivation::jump_relu;
  // One number for all, of activations before they are scaled.
  sae.threshold =
      weights.has(log_threshold)
          ? mx::exp(weights.read(log_threshold))
          : one_for_all(input.number("jump_relu_threshold") * in, sae.d_sae());
  sae.subtract_b_dec =
      input.boolean("apply_decoder_bias_to_pre_encoder", false);
  check(sae);
  return fold_scale(std::move(sae), in, out);
}

}  // namespace

const Reader llama_scope{
    {"llama_scope", "Llama Scope, with its R1 successor (OpenMOSS)"}, is, read};

}  // namespace mlxterp::sae_format
