// sae/formats/circuit_tracer.cpp: one layer of circuit-tracer's sets of
// per-layer transcoders: layer_N.safetensors, with config.yaml beside it
// (github.com/safety-research/circuit-tracer).

#include "io/input_file.h"
#include "mlx/ops.h"
#include "sae/formats/format.h"
#include "sae/set_config.h"

namespace mx = mlx::core;

namespace mlxterp::sae_format {

namespace {

constexpr const char* threshold = "activation_function.threshold";

bool is(const Input& input) {
  return input.weights.kind() == WeightFile::Kind::safetensors &&
         input.weights.has_all({"W_enc", "W_dec", "b_enc", "b_dec"});
}

// [d_sae, d] as its present release writes both matrices; an earlier one had
// the decoder the other way round.
bool decoder_is_turned(const WeightFile& weights) {
  const auto shape = weights.shape("W_dec");
  const auto out = weights.shape("b_dec"), features = weights.shape("b_enc");
  return shape.size() == 2 && out.size() == 1 && features.size() == 1 &&
         shape[0] == out[0] && shape[1] == features[0] && out != features;
}

void set_activation(const Input& input, const SetConfig& set, Sae& sae) {
  const auto& weights = input.weights;
  if (set.activation == "relu") return;
  if (set.activation == "topk" || weights.has("k") || input.options.k) {
    sae.activation = SaeActivation::signed_topk;  // there is no ReLU behind it
    if (input.options.k)
      sae.k = *input.options.k;
    else if (set.k)
      sae.k = *set.k;
    else
      sae.k = static_cast<int>(weights.number("k"));
    return;
  }
  if (!set.activation.empty() && set.activation != "jumprelu" &&
      set.activation != "jump_relu")
    input.bad(fmt::format(
        "config.yaml beside it says that its activation is '{}'",
        printable(set.activation)));
  if (!weights.has(threshold)) return;
  auto values = weights.read(threshold);
  // Its jump ReLU has no ReLU: below 0 it would let negative numbers pass.
  if (mx::any(mx::less(values, mx::array(0.0f))).item<bool>())
    input.bad("some of its thresholds are below 0");
  sae.activation = SaeActivation::jump_relu;
  sae.threshold = values.size() == 1
                      ? one_for_all(values.item<float>(), sae.d_sae())
                      : values;
}

Sae read(const Input& input) {
  const auto& weights = input.weights;
  const auto set = read_set_config(input.folder()).value_or(SetConfig{});
  const auto W_dec = weights.read("W_dec");
  Sae sae{
      .W_enc = transposed(weights.read("W_enc")),
      .b_enc = weights.read("b_enc"),
      .W_dec = decoder_is_turned(weights) ? transposed(W_dec) : W_dec,
      .b_dec = weights.read("b_dec")};
  sae.kind = SaeKind::transcoder;
  if (weights.has("W_skip")) sae.W_skip = transposed(weights.read("W_skip"));
  if (sae.W_enc.ndim() != 2) check(sae);
  set_activation(input, set, sae);
  const auto layer =
      matched(weights.path().filename().string(), "([0-9]{1,4})\\.safe");
  const int number = layer.empty() ? -1 : std::stoi(layer);
  sae.source = source_of(
      input,
      "circuit_tracer",
      std::string(name_of(sae.activation)),
      set.model,
      number < 0 ? "" : SetConfig::hook(set.hook_in, number),
      number < 0 ? "" : SetConfig::hook(set.hook_out, number));
  if (sae.source.layer < 0) sae.source.layer = number;
  return sae;
}

}  // namespace

const Reader circuit_tracer{
    {"circuit_tracer", "circuit-tracer's transcoders: layer_N.safetensors"},
    is,
    read};

}  // namespace mlxterp::sae_format
