#include "sae/hooks.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "mlxterp/models/family.h"
#include "trace/lens_names.h"

namespace mlxterp {

namespace {

constexpr std::string_view layers = "layers.";

// What Hugging Face's modules are called before their layers.
constexpr std::string_view above[] = {
    "base_model.",
    "model.",
    "language_model.",
    "transformer.",
    "gpt_neox.",
    "decoder.",
};

constexpr Rename modules[] = {
    {"h", "layers"},
    {"self_attn", "attn"},
    {"attention", "attn"},
    {"embed_tokens", "embed"},
    {"embed_in", "embed"},
    {"wte", "embed"},
};

// Behind "layers.N.": of modules and of TransformerLens, and the site's name.
constexpr struct {
  std::string_view hook, site;
} parts[] = {
    {"output", "resid_post"},
    {"input", "resid_pre"},
    {"mlp_in", "resid_mid"},  // a copy of it, before the norm
    {"attn.o_proj.input", "attn.z"},
    {"pre_feedforward_layernorm.output", "ln2.output"},
    {"post_feedforward_layernorm.output", "mlp_out"},
    {"post_attention_layernorm.output", "ln2.output"},
};

bool is_lens(std::string_view hook) {
  return hook.starts_with("blocks.") || hook.find("hook_") != hook.npos;
}

// "resid_post_layer_3" of dictionary_learning.
std::string from_dictionary(std::string_view hook) {
  constexpr std::string_view layer = "_layer_";
  const auto at = hook.find(layer);
  if (at == hook.npos) return "";
  const auto site = hook.substr(0, at), number = hook.substr(at + layer.size());
  for (const auto& [own, ours] :
       {std::pair<std::string_view, std::string_view>{
            "resid_post", "resid_post"},
        {"mlp_out", "mlp_out"},
        {"attn_out", "attn_out"},
        {"attention_out", "attn_out"}})
    if (site == own) return fmt::format("{}{}.{}", layers, number, ours);
  return "";
}

std::string_view behind_layer(std::string_view site) {
  if (layer_of_site(site) < 0) return "";
  const auto dot = site.find('.', layers.size());
  return dot == site.npos ? "" : site.substr(dot + 1);
}

}  // namespace

int layer_of_site(std::string_view site) {
  if (!site.starts_with(layers)) return -1;
  int layer = -1;
  const auto* end = site.data() + site.size();
  const auto [rest, error] =
      std::from_chars(site.data() + layers.size(), end, layer);
  return error == std::errc() && (rest == end || *rest == '.') ? layer : -1;
}

std::string site_of_hook(std::string_view hook, std::string_view side) {
  if (hook.empty()) return "";
  std::string site;
  if (auto known = from_dictionary(hook); layer_of_site(known) >= 0) {
    site = std::move(known);
  } else if (is_lens(hook)) {
    site = from_lens(std::string(hook));
  } else {
    for (bool found = true; found;) {
      found = false;
      for (const auto prefix : above)
        if (hook.starts_with(prefix)) {
          hook.remove_prefix(prefix.size());
          found = true;
        }
    }
    site = rename(std::string(hook), modules);
    // A module alone; a value of one has a word of its own.
    const auto last = site.substr(site.rfind('.') + 1);
    const bool module =
        layer_of_site(site) >= 0
            ? behind_layer(site).empty() || last == "mlp" || last == "attn"
            : false;
    if (module) site += fmt::format(".{}", side);
  }
  const auto part = behind_layer(site);
  for (const auto& [known, own] : parts)
    if (part == known)
      return fmt::format("{}{}.{}", layers, layer_of_site(site), own);
  return site;
}

}  // namespace mlxterp
