// sae/formats/gemma_scope_2.cpp: Gemma Scope 2 (Google DeepMind 2025): SAEs,
// transcoders with and without an affine skip, layers of cross-layer
// transcoders: config.json, which may be missing, and params.safetensors.

#include "sae/formats/format.h"
#include "sae/hooks.h"

namespace mlxterp::sae_format {

namespace {

bool is(const Input& input) {
  return input.weights.has_all({"w_enc", "w_dec", "b_enc", "b_dec"}) &&
         input.weights.kind() == WeightFile::Kind::safetensors;
}

// From the folders' names, as the published ones are called.
std::string hook_of(
    const std::string& where, const std::string& layer, bool output) {
  if (layer.empty()) return "";
  const auto block = fmt::format("model.layers.{}.", layer);
  const auto holds = [&](const char* part) {
    return where.find(part) != where.npos;
  };
  if (holds("transcoder") || holds("clt"))
    return block + (output ? "post_feedforward_layernorm.output"
                           : "pre_feedforward_layernorm.output");
  if (output) return "";
  if (holds("resid_post")) return block + "output";
  if (holds("attn_out")) return block + "self_attn.o_proj.input";
  if (holds("mlp_out")) return block + "post_feedforward_layernorm.output";
  return "";
}

std::string model_of(const Input& input, const std::string& where) {
  auto name = input.text("model_name");
  if (name.empty()) {
    const auto rest = matched(where, "gemma-scope-2-([0-9]+[bm]-[pi]t)");
    if (!rest.empty()) name = "gemma-3-" + rest;
  }
  if (const auto at = name.find("-v3"); at != name.npos)
    name = name.substr(0, at) + "-" + name.substr(at + 2);
  // The smallest one has no suffix on the hub.
  if (name.find("270m") != name.npos)
    if (const auto at = name.find("-pt"); at != name.npos)
      name = name.substr(0, at) + name.substr(at + 3);
  return name.empty() || name.find('/') != name.npos ? name : "google/" + name;
}

Sae read(const Input& input) {
  const auto& weights = input.weights;
  if (const auto name = input.text("architecture", "jump_relu");
      name != "jump_relu")
    input.bad(fmt::format("its architecture is '{}'", printable(name)));
  Sae sae{
      .W_enc = weights.read("w_enc"),
      .b_enc = weights.read("b_enc"),
      .W_dec = weights.read("w_dec"),
      .b_dec = weights.read("b_dec")};
  sae.activation = SaeActivation::jump_relu;
  sae.threshold = weights.read("threshold");
  constexpr const char* skip = "affine_skip_connection";
  if (weights.has(skip)) sae.W_skip = weights.read(skip);
  if (input.boolean("affine_connection", false) && !sae.W_skip)
    (void)weights.read(skip);  // says that it is missing
  const auto where = input.where();
  const auto layer = matched(where, "layer_([0-9]+)[^/]*(?:/[^/]*)?$");
  const auto in = input.text("hf_hook_point_in", hook_of(where, layer, false));
  auto out = input.text("hf_hook_point_out", hook_of(where, layer, true));
  if (out == in) out.clear();
  sae.source = source_of(
      input, "gemma_scope_2", "jump_relu", model_of(input, where), in, out);
  if (sae.W_dec.ndim() == 3) {
    sae.kind = SaeKind::cross_layer;
    if (sae.source.layer < 0)
      input.bad(
          "a layer of a cross-layer transcoder, and neither config.json nor "
          "its name (layer_N) says which");
  } else {
    sae.kind = out.empty() ? SaeKind::sae : SaeKind::transcoder;
  }
  if (input.has("l0") && input.config["l0"].is_number())
    sae.source.l0 = input.number("l0");
  return sae;
}

}  // namespace

const Reader gemma_scope_2{
    {"gemma_scope_2",
     "Gemma Scope 2, SAEs, (affine) transcoders, layers of CLTs"},
    is,
    read};

}  // namespace mlxterp::sae_format
