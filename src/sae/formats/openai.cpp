// sae/formats/openai.cpp: OpenAI's autoencoders of GPT-2 (Gao et al. 2024,
// github.com/openai/sparse_autoencoder): a state dict with what its activation
// is.

#include "sae/formats/format.h"

namespace mlxterp::sae_format {

namespace {

bool is(const Input& input) {
  return input.weights.has_all({"pre_bias", "encoder.weight", "latent_bias"});
}

// .../gpt2-small/resid_post_mlp/v5_32k/autoencoders/8.pt
std::string hook_of(const std::string& where) {
  constexpr struct {
    const char *place, *hook;
  } places[] = {
      {"mlp_post_act", "mlp.hook_post"},
      {"resid_delta_attn", "hook_attn_out"},
      {"resid_delta_mlp", "hook_mlp_out"},
      {"resid_post_attn", "hook_resid_mid"},
      {"resid_post_mlp", "hook_resid_post"},
  };
  const auto layer = matched(where, "/([0-9]+)\\.pt$");
  for (const auto& [place, hook] : places)
    if (!layer.empty() && where.find(place) != where.npos)
      return fmt::format("blocks.{}.{}", layer, hook);
  return "";
}

Sae read(const Input& input) {
  const auto& weights = input.weights;
  const auto encoder = weights.read("encoder.weight");
  Sae sae{
      .W_enc = transposed(encoder),
      .b_enc = weights.read("latent_bias"),
      .W_dec = weights.has("decoder.weight")
                   ? transposed(weights.read("decoder.weight"))
                   : encoder,  // tied
      .b_dec = weights.read("pre_bias")};
  sae.subtract_b_dec = true;
  std::string name = "ReLU";
  if (const auto* given = weights.value("activation")) name = given->text;
  if (name == "TopK") {
    const auto* state = weights.value("activation_state_dict");
    const auto* k = state ? state->find("k") : nullptr;
    const auto* after = state ? state->find("postact_fn") : nullptr;
    if (!k || k->kind != TorchValue::Kind::integer || k->integer < 1 ||
        k->integer > static_cast<int64_t>(sae.b_enc.size()))
      input.bad("a TopK without its k");
    sae.k = static_cast<int>(k->integer);
    sae.activation = after && after->text == "Identity"
                         ? SaeActivation::signed_topk
                         : SaeActivation::topk;
    sae.norm = SaeNorm::layer_norm;
    sae.undo_norm = true;
  } else if (name != "ReLU") {
    input.bad(fmt::format("its activation is '{}'", printable(name)));
  }
  const auto hook = hook_of(input.where());
  sae.source =
      source_of(input, "openai", name, hook.empty() ? "" : "gpt2", hook);
  return sae;
}

}  // namespace

const Reader openai{
    {"openai", "OpenAI's autoencoders of GPT-2: a .pt state dict"}, is, read};

}  // namespace mlxterp::sae_format
