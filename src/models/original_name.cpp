#include "models/original_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace mlxterp {

OriginalNames::OriginalNames(const Checkpoint& checkpoint, const Family& family)
    : family_(family) {
  std::string names;  // each between dots, a line each
  for (const auto& tensor : checkpoint.tensors()) {
    names += fmt::format(".{}.\n", tensor.name);
    const auto path = rename(tensor.name, family.renames);
    for (const auto& fused : family.fused)
      for (const auto into : fused.into)
        if (path.find(fmt::format(".{}.", into)) != path.npos)
          apart_.insert(fused.part);
  }
  for (const auto& it : family.renames)
    for (const auto components : {it.from, it.to})
      known_[components] =
          names.find(fmt::format(".{}.", components)) != std::string::npos;
}

bool OriginalNames::has(std::string_view components) const {
  return known_.at(components);
}

std::string OriginalNames::of(std::string path) const {
  for (const auto& fused : family_.fused)
    for (const auto into : fused.into) {
      if (apart_.contains(fused.part)) break;
      const Rename whole[] = {{into, fused.part}};
      path = rename(path, whole);
    }
  const std::vector<Rename> backwards(
      family_.renames.rbegin(), family_.renames.rend());
  for (const auto& it : backwards) {
    const Rename back[] = {{it.to, it.from, it.at_start}};
    // Of two that mean the same, the one that is there; one that goes on where
    // another ended ("q_norm.norms" to "q_norm") stands for itself.
    const bool another =
        !it.from.starts_with(it.to) &&
        std::ranges::any_of(family_.renames, [&](const Rename& r) {
          return r.to == it.to && has(r.from);
        });
    if (!it.to.empty() && (has(it.from) || (!another && !has(it.to))))
      path = rename(path, back);
  }
  // A prefix that the whole tree is under; the unembedding stands beside it.
  const bool outside =
      std::ranges::any_of(family_.renames, [&](const Rename& r) {
        return r.to == "unembed" && path.starts_with(r.from);
      });
  if (outside) return path;
  for (const auto& it : backwards) {
    const auto prefix = fmt::format("{}.", it.from);
    if (it.to.empty() && has(it.from) && !path.starts_with(prefix))
      path.insert(0, prefix);
  }
  return path;
}

std::string OriginalNames::of_part(std::string path, size_t index) const {
  constexpr std::string_view experts = ".experts";
  const auto found = path.find(experts);
  path.insert(
      found == path.npos ? path.rfind('.') : found + experts.size(),
      fmt::format(".{}", index));
  return of(std::move(path));
}

}  // namespace mlxterp
