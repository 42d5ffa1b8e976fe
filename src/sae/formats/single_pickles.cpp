// sae/formats/single_pickles.cpp: SAEs that are one .pt file with nothing but
// two matrices and two biases: Qwen Scope, Goodfire's, those of DeepSeek R1
// distilled, and Kissane and Krzyzanowski's of attention.

#include "sae/formats/format.h"

namespace mlxterp::sae_format {

namespace {

bool torch_with(
    const Input& input, std::initializer_list<std::string_view> names) {
  return input.weights.kind() == WeightFile::Kind::torch &&
         input.weights.has_all(names);
}

// [d_sae, d_in] where [d_in, d_sae] is usual.
bool encoder_is_turned(const WeightFile& weights) {
  const auto encoder = weights.shape("W_enc"), bias = weights.shape("b_enc");
  return encoder.size() == 2 && bias.size() == 1 && encoder[0] == bias[0] &&
         encoder[1] != bias[0];
}

bool is_qwen(const Input& input) {
  return torch_with(input, {"W_enc", "W_dec", "b_enc", "b_dec"}) &&
         encoder_is_turned(input.weights);
}

Sae read_qwen(const Input& input) {
  const auto& weights = input.weights;
  Sae sae{
      .W_enc = transposed(weights.read("W_enc")),
      .b_enc = weights.read("b_enc"),
      .W_dec = transposed(weights.read("W_dec")),
      .b_dec = weights.read("b_dec")};
  const auto where = input.where();
  sae.activation = SaeActivation::topk;
  const auto k = matched(where, "-L0_([0-9]+)");
  if (!input.options.k && (k.empty() || k.size() > 8))
    fail(
        ErrorKind::bad_data,
        "[{}] how many features are active stands in the name of Qwen Scope's "
        "repository (...-L0_50), and {} has none; give it (--k, "
        "SaeLoadOptions::k)",
        caller,
        printable(where));
  sae.k = input.options.k ? *input.options.k : std::stoi(k);
  const auto layer = matched(where, "layer([0-9]+)\\.sae\\.pt$");
  const auto model = matched(where, "SAE-Res-(.+)-W[0-9]+K-L0_[0-9]+");
  sae.source = source_of(
      input,
      "qwen_scope",
      "topk",
      model.empty() ? "" : "Qwen/" + model,
      layer.empty() ? "" : fmt::format("blocks.{}.hook_resid_post", layer));
  sae.source.l0 = sae.k;
  return sae;
}

// Linear layers, ReLU between; nothing is subtracted.
Sae read_linear(
    const Input& input,
    const char* format,
    const std::string& encoder,
    const std::string& decoder,
    const std::string& model,
    const std::string& layer) {
  const auto& weights = input.weights;
  Sae sae{
      .W_enc = transposed(weights.read(encoder + ".weight")),
      .b_enc = weights.read(encoder + ".bias"),
      .W_dec = transposed(weights.read(decoder + ".weight")),
      .b_dec = weights.read(decoder + ".bias")};
  sae.source = source_of(
      input,
      format,
      "relu",
      model,
      layer.empty() ? "" : fmt::format("blocks.{}.hook_resid_post", layer));
  return sae;
}

bool is_goodfire(const Input& input) {
  return torch_with(input, {"encoder_linear.weight", "decoder_linear.weight"});
}

Sae read_goodfire(const Input& input) {
  const auto where = input.where();
  const auto model = matched(where, "(Llama-3[^/]*-Instruct)-SAE-l[0-9]+");
  return read_linear(
      input,
      "goodfire",
      "encoder_linear",
      "decoder_linear",
      model.empty() ? "" : "meta-llama/" + model,
      matched(where, "-l([0-9]+)\\.pth?$"));
}

bool is_deepseek(const Input& input) {
  return torch_with(
             input,
             {"encoder.weight",
              "encoder.bias",
              "decoder.weight",
              "decoder.bias"}) &&
         input.weights.names().size() == 4;
}

Sae read_deepseek(const Input& input) {
  const auto where = input.where();
  const auto layer = matched(where, "-l([0-9]+)\\.pth?$");
  const auto model = matched(where, "(DeepSeek-R1-Distill-[^/]*?)-SAE");
  return read_linear(
      input,
      "deepseek",
      "encoder",
      "decoder",
      model.empty() ? "" : "deepseek-ai/" + model,
      layer);
}

bool is_connor_rob(const Input& input) {
  return torch_with(input, {"W_enc", "W_dec", "b_enc", "b_dec"});
}

Sae read_connor_rob(const Input& input) {
  const auto& weights = input.weights;
  Sae sae{
      .W_enc = weights.read("W_enc"),
      .b_enc = weights.read("b_enc"),
      .W_dec = weights.read("W_dec"),
      .b_dec = weights.read("b_dec")};
  sae.subtract_b_dec = true;
  sae.source = source_of(
      input,
      "connor_rob",
      "relu",
      input.where().find("gpt2") == std::string::npos ? "" : "gpt2",
      input.text("act_name"));
  return sae;
}

}  // namespace

const Reader qwen_scope{
    {"qwen_scope", "Qwen Scope: layerN.sae.pt"}, is_qwen, read_qwen};
const Reader goodfire{
    {"goodfire", "Goodfire's SAEs of Llama 3: a .pt or .pth"},
    is_goodfire,
    read_goodfire};
const Reader deepseek{
    {"deepseek", "SAEs of DeepSeek R1 distilled: a .pt of linear layers"},
    is_deepseek,
    read_deepseek};
const Reader connor_rob{
    {"connor_rob", "Attention SAEs of GPT-2: NAME.pt and NAME_cfg.json"},
    is_connor_rob,
    read_connor_rob};

}  // namespace mlxterp::sae_format
