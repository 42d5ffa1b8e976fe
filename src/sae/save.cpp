#include "mlxterp/sae/save.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "core/fail.h"
#include "io/input_file.h"
#include "mlx/ops.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/io/safetensors.h"
#include "trace/lens_names.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Tensors = std::vector<std::pair<std::string, mx::array>>;

// What it writes is laid out as of this version.
constexpr const char* saelens_version = "6.54.12";

void make_folder(
    const fs::path& folder,
    std::string_view caller,
    const char* last,
    bool overwrite) {
  std::error_code error;
  if (!overwrite && fs::exists(folder / last, error))
    fail(
        ErrorKind::usage,
        "[{}] {} exists; choose another folder or ask for it to be overwritten",
        caller,
        quoted(folder / last));
  fs::create_directories(folder, error);
  if (error)
    fail(
        ErrorKind::environment,
        "[{}] {} cannot be made ({}); check the folders above it",
        caller,
        quoted(folder),
        error.message());
}

// b_dec belongs to the output alone there: what it takes from the input is
// taken from b_enc.
Sae without_subtraction(Sae sae) {
  if (!sae.subtract_b_dec) return sae;
  sae.b_enc = mx::subtract(sae.b_enc, mx::matmul(sae.b_dec, sae.W_enc));
  sae.subtract_b_dec = false;
  return sae;
}

// SAELens and circuit-tracer know TransformerLens' names.
std::string lens_hook(const std::string& hook, const std::string& site) {
  if (hook.find("hook_") != hook.npos) return hook;
  const auto known = to_lens(site);
  return known.empty() ? hook : known;
}

// ---- SAELens ----

std::string architecture_of(const Sae& sae) {
  const bool transcodes = sae.kind == SaeKind::transcoder;
  const bool fits = sae.kind != SaeKind::cross_layer &&
                    (transcodes || !sae.W_skip) &&
                    (sae.norm == SaeNorm::none || sae.undo_norm != transcodes);
  if (fits && sae.activation == SaeActivation::relu)
    return !transcodes  ? "standard"
           : sae.W_skip ? "skip_transcoder"
                        : "transcoder";
  if (fits && sae.activation == SaeActivation::jump_relu)
    return !transcodes  ? "jumprelu"
           : sae.W_skip ? "jumprelu_skip_transcoder"
                        : "jumprelu_transcoder";
  if (fits && !transcodes && sae.activation == SaeActivation::topk)
    return "topk";
  if (fits && !transcodes && sae.activation == SaeActivation::abs_topk)
    return "abstopk";
  fail(
      ErrorKind::usage,
      "[save_saelens] SAELens has no class for a {} with {}{}{}; write it for "
      "another tool",
      name_of(sae.kind),
      name_of(sae.activation),
      sae.W_skip ? ", a skip connection" : "",
      sae.norm == SaeNorm::none
          ? ""
          : fmt::format(
                ", {}{}",
                name_of(sae.norm),
                sae.undo_norm ? "" : " that is not undone"));
}

nlohmann::ordered_json configuration(
    const Sae& sae, const std::string& architecture) {
  const auto& source = sae.source;
  nlohmann::ordered_json out;
  out["d_in"] = sae.d_in();
  out["d_sae"] = sae.d_sae();
  out["dtype"] = "float32";
  out["device"] = "cpu";
  out["apply_b_dec_to_input"] = sae.subtract_b_dec;
  out["normalize_activations"] = sae.norm == SaeNorm::layer_norm ? "layer_norm"
                                 : sae.norm == SaeNorm::constant_norm
                                     ? "constant_norm_rescale"
                                     : "none";
  const auto hook_in = lens_hook(source.hook_in, source.site_in);
  const auto hook_out = lens_hook(source.hook_out, source.site_out);
  const bool heads = hook_in.ends_with("_z");
  out["reshape_activations"] = heads ? "hook_z" : "none";
  if (architecture == "topk" || architecture == "abstopk") {
    out["k"] = sae.k;
    out["rescale_acts_by_decoder_norm"] = false;
  }
  if (sae.kind == SaeKind::transcoder) out["d_out"] = sae.d_out();
  auto& about = out["metadata"];
  about["sae_lens_version"] = saelens_version;
  about["sae_lens_training_version"] = nullptr;
  const auto say = [&](const char* key, const std::string& value) {
    if (!value.empty()) about[key] = value;
  };
  say("model_name", source.model);
  say("hook_name", hook_in);
  if (sae.kind == SaeKind::transcoder) say("hook_name_out", hook_out);
  if (source.l0) about["l0"] = *source.l0;
  out["architecture"] = architecture;
  return out;
}

// ---- circuit-tracer ----

constexpr std::string_view tracing = "save_circuit_tracer";

void need_traceable(const Sae& sae) {
  const bool fits = sae.kind != SaeKind::sae && sae.norm == SaeNorm::none &&
                    (sae.activation == SaeActivation::relu ||
                     sae.activation == SaeActivation::jump_relu ||
                     (sae.activation == SaeActivation::signed_topk &&
                      sae.kind == SaeKind::transcoder));
  if (!fits)
    fail(
        ErrorKind::usage,
        "[{}] {} is {} with {}{}, of which circuit-tracer has no class; it "
        "takes transcoders with relu, jump_relu or signed_topk",
        tracing,
        printable(sae.source.file),
        sae.kind == SaeKind::sae ? "an SAE" : "a transcoder",
        name_of(sae.activation),
        sae.norm == SaeNorm::none ? "" : " and a norm");
  if (sae.threshold &&
      mx::any(mx::less(*sae.threshold, mx::array(0.0f))).item<bool>())
    fail(
        ErrorKind::usage,
        "[{}] some thresholds of {} are below 0, where circuit-tracer's jump "
        "ReLU would let negative numbers pass; it cannot be written",
        tracing,
        printable(sae.source.file));
}

void write_transcoder(
    const Sae& given, const fs::path& folder, int layer, bool overwrite) {
  const auto sae = without_subtraction(given);
  Tensors tensors = {
      {"W_enc", mx::transpose(sae.W_enc)},
      {"W_dec", sae.W_dec},
      {"b_enc", sae.b_enc},
      {"b_dec", sae.b_dec}};
  if (sae.threshold)
    tensors.emplace_back("activation_function.threshold", *sae.threshold);
  if (sae.W_skip) tensors.emplace_back("W_skip", mx::transpose(*sae.W_skip));
  save_safetensors(
      folder / fmt::format("layer_{}.safetensors", layer),
      tensors,
      {},
      overwrite);
}

void write_cross_layer(
    const Sae& sae, const fs::path& folder, int layer, bool overwrite) {
  const auto named = [&](const char* what) {
    return fmt::format("{}_{}", what, layer);
  };
  if (sae.W_skip)
    fail(
        ErrorKind::usage,
        "[{}] {} has a skip connection, which circuit-tracer's files of "
        "cross-layer transcoders have no place for",
        tracing,
        printable(sae.source.file));
  Tensors encoder = {
      {named("W_enc"), mx::transpose(sae.W_enc)},
      {named("b_enc"), sae.b_enc},
      {named("b_dec"), sae.b_dec}};
  if (sae.threshold) encoder.emplace_back(named("threshold"), *sae.threshold);
  save_safetensors(
      folder / (named("W_enc") + ".safetensors"), encoder, {}, overwrite);
  save_safetensors(
      folder / (named("W_dec") + ".safetensors"),
      {{named("W_dec"), sae.W_dec}},
      {},
      overwrite);
}

// "hook_mlp_out" of "blocks.3.hook_mlp_out", "ln2.output" of
// "layers.3.ln2.output", which no other tool has a name for.
std::string behind_block(const std::string& hook) {
  if (hook.ends_with(".mlp.input")) return "mlp.hook_in";
  for (const std::string_view above : {"blocks.", "layers."}) {
    if (!hook.starts_with(above)) continue;
    const auto dot = hook.find('.', above.size());
    if (dot != hook.npos) return hook.substr(dot + 1);
  }
  return hook;
}

// A plain value of YAML, whatever is in it.
std::string yaml(const std::string& text) {
  return nlohmann::json(text).dump(
      -1, ' ', true, nlohmann::json::error_handler_t::replace);
}

void write_set(
    const fs::path& folder,
    int layers,
    const std::function<Sae(int)>& layer,
    const std::string& scan,
    bool overwrite) {
  constexpr const char* last = "config.yaml";
  make_folder(folder, tracing, last, overwrite);
  std::optional<Sae> first;
  for (int i = 0; i < layers; ++i) {
    const auto sae = layer(i);
    need_traceable(sae);
    if (!first) first = sae;
    if (sae.activation != first->activation || sae.k != first->k ||
        sae.d_sae() != first->d_sae() || sae.kind != first->kind)
      fail(
          ErrorKind::usage,
          "[{}] layer {} has {} features with {}, layer 0 {} with {}; the "
          "layers of a set are alike",
          tracing,
          i,
          sae.d_sae(),
          name_of(sae.activation),
          first->d_sae(),
          name_of(first->activation));
    (sae.kind == SaeKind::cross_layer ? write_cross_layer : write_transcoder)(
        sae, folder, i, overwrite);
  }
  const bool cross = first->kind == SaeKind::cross_layer;
  const auto& source = first->source;
  auto text = fmt::format(
      "model_name: {}\nmodel_kind: {}\nfeature_input_hook: {}\n"
      "feature_output_hook: {}\nscan: {}\n",
      yaml(source.model),
      cross ? "cross_layer_transcoder" : "transcoder_set",
      yaml(behind_block(lens_hook(source.hook_in, source.site_in))),
      yaml(behind_block(lens_hook(source.hook_out, source.site_out))),
      yaml(scan));
  if (first->activation == SaeActivation::relu && !cross)
    text += "activation: relu\n";
  if (first->activation == SaeActivation::signed_topk)
    text += fmt::format("activation: topk\nk: {}\n", first->k);
  if (!cross) {
    text += "transcoders:\n";
    for (int i = 0; i < layers; ++i)
      text += fmt::format("- layer_{}.safetensors\n", i);
  }
  write_file_atomically(folder / last, text, overwrite);
}

}  // namespace

void save_saelens(const Sae& given, const fs::path& folder, bool overwrite) {
  check(given);
  const auto sae =
      given.kind == SaeKind::transcoder ? without_subtraction(given) : given;
  const auto architecture = architecture_of(sae);
  constexpr const char* last = "cfg.json";
  make_folder(folder, "save_saelens", last, overwrite);
  Tensors tensors = {
      {"W_enc", sae.W_enc},
      {"b_enc", sae.b_enc},
      {"W_dec", sae.W_dec},
      {"b_dec", sae.b_dec}};
  if (sae.threshold) tensors.emplace_back("threshold", *sae.threshold);
  if (sae.W_skip) tensors.emplace_back("W_skip", mx::transpose(*sae.W_skip));
  save_safetensors(
      folder / "sae_weights.safetensors",
      tensors,
      {{"format", "pt"}},
      overwrite);
  write_file_atomically(
      folder / last,
      configuration(sae, architecture)
              .dump(2, ' ', true, nlohmann::json::error_handler_t::replace) +
          "\n",
      overwrite);
}

void save_circuit_tracer(
    const SaeSet& set, const fs::path& folder, bool overwrite) {
  write_set(
      folder,
      set.layers(),
      [&](int layer) { return set.layer(layer); },
      set.scan(),
      overwrite);
}

void save_circuit_tracer(
    const std::vector<Sae>& transcoders,
    const fs::path& folder,
    bool overwrite) {
  if (transcoders.empty())
    fail(ErrorKind::usage, "[{}] no transcoders; give one a layer", tracing);
  for (size_t i = 0; i < transcoders.size(); ++i)
    if (transcoders[i].source.layer != static_cast<int>(i))
      fail(
          ErrorKind::usage,
          "[{}] {} is of layer {} and stands at place {}; circuit-tracer "
          "wants every layer from 0 on, in order",
          tracing,
          printable(transcoders[i].source.file),
          transcoders[i].source.layer,
          i);
  write_set(
      folder,
      static_cast<int>(transcoders.size()),
      [&](int layer) { return transcoders[static_cast<size_t>(layer)]; },
      "",
      overwrite);
}

}  // namespace mlxterp
