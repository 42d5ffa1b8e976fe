// sae/formats/sparsify.cpp: EleutherAI's sparsify: HOOKPOINT/cfg.json and
// sae.safetensors (github.com/EleutherAI/sparsify).

#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"
#include "sae/formats/format.h"

namespace mlxterp::sae_format {

namespace {

bool is(const Input& input) {
  return input.weights.has_all({"encoder.weight", "W_dec"}) &&
         (input.has("expansion_factor") || input.has("num_latents"));
}

// The folder's name is the module; several seeds lie one deeper.
std::filesystem::path hook_folder(const Input& input) {
  auto folder = std::filesystem::absolute(input.folder());
  if (folder.filename().string().starts_with("seed"))
    folder = folder.parent_path();
  return folder;
}

std::string model_of(const std::filesystem::path& run) {
  const auto path = run / "config.json";
  const auto text = text_of(path, limits::config_bytes, caller);
  if (!text) return "";
  const auto config = parse_json(*text, caller, quoted(path));
  const auto found = config.find("model");
  return config.is_object() && found != config.end() && found->is_string()
             ? found->get<std::string>()
             : "";
}

SaeActivation activation_of(const Input& input) {
  const auto name = input.text("activation", "topk");
  if (name == "groupmax") return SaeActivation::group_max;
  if (name != "topk")
    input.bad(fmt::format("its activation is '{}'", printable(name)));
  return input.boolean("signed", false) ? SaeActivation::abs_topk
                                        : SaeActivation::topk;
}

Sae read(const Input& input) {
  const auto& weights = input.weights;
  const bool transcodes = input.boolean("transcode", false);
  Sae sae{
      .W_enc = transposed(weights.read("encoder.weight")),
      .b_enc = weights.read("encoder.bias"),
      .W_dec = weights.read("W_dec"),
      .b_dec = weights.read("b_dec")};
  sae.kind = transcodes ? SaeKind::transcoder : SaeKind::sae;
  sae.activation = activation_of(input);
  sae.k = input.integer("k");
  sae.subtract_b_dec = !transcodes;
  if (input.boolean("skip_connection", false))
    sae.W_skip = transposed(weights.read("W_skip"));
  const auto folder = hook_folder(input);
  const auto hook = folder.filename().string();
  sae.source = source_of(
      input,
      "sparsify",
      std::string(name_of(sae.activation)),
      model_of(folder.parent_path()),
      hook,
      transcodes ? hook : "");
  return sae;
}

}  // namespace

const Reader sparsify{
    {"sparsify", "EleutherAI's sparsify: HOOKPOINT/cfg.json, sae.safetensors"},
    is,
    read};

}  // namespace mlxterp::sae_format
