#include "trace/lens_names.h"

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

}  // namespace

std::string from_lens(std::string name) {
  name = rename(std::move(name), lens_renames);
  for (size_t at; (at = name.find("hook_")) != std::string::npos;)
    name.erase(at, 5);
  return rename(std::move(name), lens_renames);
}

}  // namespace mlxterp
