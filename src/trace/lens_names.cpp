#include "trace/lens_names.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "mlxterp/models/family.h"

namespace mlxterp {

namespace {

// TransformerLens' words for ours; its names lose every "hook_" first.
constexpr Rename lens_renames[] = {
    {"blocks", "layers"},
    {"attn_scores", "scores"},
    {"hook_in", "input"},
    {"hook_out", "output"},
};

// The last part of what TransformerLens has names for.
constexpr std::string_view lens_parts[] = {
    "embed",    "pos_embed", "resid_pre", "resid_mid",  "resid_post",
    "attn_out", "mlp_out",   "scale",     "normalized", "q",
    "k",        "v",         "z",         "rot_q",      "rot_k",
    "scores",   "pattern",   "result",    "pre",        "pre_linear",
    "post"};

constexpr std::string_view layers = "layers.";

}  // namespace

std::string from_lens(std::string name) {
  name = rename(std::move(name), lens_renames);
  for (size_t at; (at = name.find("hook_")) != std::string::npos;)
    name.erase(at, 5);
  return rename(std::move(name), lens_renames);
}

std::string to_lens(std::string name) {
  const auto dot = name.rfind('.');
  const auto last = dot == std::string::npos ? 0 : dot + 1;
  const auto part = name.substr(last);
  if (std::ranges::find(lens_parts, part) == std::end(lens_parts)) return "";
  name.replace(last, part.size(), "hook_");
  name += part == "scores" ? "attn_scores" : part;
  if (name.starts_with(layers)) name.replace(0, layers.size() - 1, "blocks");
  return name;
}

}  // namespace mlxterp
