// sae/formats/gemma_scope.cpp: Gemma Scope (Lieberum et al. 2024), SAEs and
// transcoders: layer_L/width_W/average_l0_N/params.npz; what it is of stands in
// the folders' names alone.

#include <algorithm>
#include <cctype>
#include <cmath>

#include "mlx/ops.h"
#include "sae/formats/format.h"

namespace mx = mlx::core;

namespace mlxterp::sae_format {

namespace {

// The tensor called one of these, in any case.
std::string found(
    const WeightFile& weights, std::initializer_list<std::string_view> names) {
  for (const auto& own : weights.names()) {
    std::string lower = own;
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) {
      return static_cast<char>(std::tolower(c));
    });
    if (std::ranges::find(names, lower) != names.end()) return own;
  }
  return std::string(*names.begin());
}

bool is(const Input& input) {
  const auto& weights = input.weights;
  return weights.kind() == WeightFile::Kind::npz &&
         weights.has(found(weights, {"w_enc", "wenc", "w_e"})) &&
         weights.has(found(weights, {"w_dec", "wdec", "w_d"}));
}

struct Hooks {
  std::string in, out;
};

Hooks hooks_of(const std::string& where, const std::string& layer) {
  if (where.find("embedding") != where.npos) return {"hook_embed", ""};
  const auto site = matched(where, "gemma-scope-[0-9]+b-[pi]t-([a-z]+)");
  if (layer.empty() || site.empty()) return {};
  const auto block = fmt::format("blocks.{}.", layer);
  if (site == "res") return {block + "hook_resid_post", ""};
  if (site == "mlp") return {block + "hook_mlp_out", ""};
  if (site == "att") return {block + "attn.hook_z", ""};
  if (site == "transcoders")
    return {block + "ln2.hook_normalized", block + "hook_mlp_out"};
  return {};
}

std::string model_of(const std::string& where) {
  const auto size = matched(where, "gemma-scope-([0-9]+b)-[pi]t");
  if (size.empty()) return "";
  const bool tuned = matched(where, "gemma-scope-[0-9]+b-([pi]t)") == "it";
  return fmt::format("google/gemma-2-{}{}", size, tuned ? "-it" : "");
}

Sae read(const Input& input) {
  const auto& weights = input.weights;
  const auto of = [&](std::initializer_list<std::string_view> names) {
    return weights.read(found(weights, names));
  };
  Sae sae{
      .W_enc = of({"w_enc", "wenc", "w_e"}),
      .b_enc = of({"b_enc", "benc", "b_e"}),
      .W_dec = of({"w_dec", "wdec", "w_d"}),
      .b_dec = of({"b_dec", "bdec", "b_d"})};
  sae.activation = SaeActivation::jump_relu;
  sae.threshold = of({"threshold"});
  const auto where = input.where();
  const auto hooks = hooks_of(where, matched(where, "layer_([0-9]+)"));
  sae.kind = hooks.out.empty() ? SaeKind::sae : SaeKind::transcoder;
  sae.source = source_of(
      input, "gemma_scope", "jumprelu", model_of(where), hooks.in, hooks.out);
  const auto l0 = matched(where, "average_l0_([0-9]+)");
  if (!l0.empty() && l0.size() < 9) sae.source.l0 = std::stoi(l0);
  check(sae);
  // Trained on embeddings before they are multiplied by sqrt(d_model).
  if (hooks.in == "hook_embed") {
    const auto root = mx::array(std::sqrt(static_cast<float>(sae.d_in())));
    sae.W_enc = mx::divide(sae.W_enc, root);
    sae.W_dec = mx::multiply(sae.W_dec, root);
  }
  return sae;
}

}  // namespace

const Reader gemma_scope{
    {"gemma_scope", "Gemma Scope 1, SAEs and transcoders: params.npz"},
    is,
    read};

}  // namespace mlxterp::sae_format
