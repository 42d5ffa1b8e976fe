#include "mlxterp/nn/module.h"

#include <algorithm>
#include <string_view>
#include <unordered_set>

#include "core/fail.h"

namespace mlxterp::nn {

namespace {

// What a module calls its matrix; its other parts are called by its side.
constexpr std::string_view weight = "weight";

std::string join(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

// Visits every module below `module` once, parents first.
template <typename M, typename Visit>
void walk(
    M& module,
    const std::string& path,
    std::unordered_set<const Module*>& seen,
    const Visit& visit) {
  if (!seen.insert(&module).second) return;
  visit(path, module);
  for (const auto& [name, child] : module.children())
    walk<M>(*child, join(path, name), seen, visit);
}

void check_name(const char* what, const std::string& name, bool taken) {
  if (name.empty() || name.front() == '.' || name.back() == '.')
    fail(
        ErrorKind::usage,
        "[Module] {} name '{}' is empty or starts or ends with a dot",
        what,
        printable(name));
  if (taken)
    fail(
        ErrorKind::usage,
        "[Module] {} name '{}' is taken; each name may be added once",
        what,
        printable(name));
}

bool has(const auto& named, const std::string& name) {
  return std::any_of(named.begin(), named.end(), [&](const auto& entry) {
    return entry.first == name;
  });
}

}  // namespace

std::vector<std::pair<std::string, const Module*>> Module::named_modules()
    const {
  std::vector<std::pair<std::string, const Module*>> all;
  std::unordered_set<const Module*> seen;
  walk(*this, "", seen, [&](const std::string& path, const Module& module) {
    all.emplace_back(path, &module);
  });
  return all;
}

std::vector<std::pair<std::string, const mlx::core::array*>>
Module::parameters() const {
  std::vector<std::pair<std::string, const mlx::core::array*>> all;
  std::unordered_set<const Module*> seen;
  walk(*this, "", seen, [&](const std::string& path, const Module& module) {
    for (const auto& [name, parameter] : module.own_parameters())
      all.emplace_back(join(path, name), parameter);
  });
  return all;
}

std::vector<Module::Parameter> Module::mutable_parameters() {
  std::vector<Parameter> all;
  std::unordered_set<const Module*> seen;
  walk(*this, "", seen, [&](const std::string& path, Module& module) {
    for (const auto& [name, parameter] : module.own_parameters())
      all.emplace_back(join(path, name), parameter);
  });
  return all;
}

std::vector<Module::Parameter> Module::own_parameters() const {
  std::vector<Parameter> all;
  for (const auto& [name, parameter] : parameters_) {
    const auto found = std::ranges::find(
        matrices_, name, [](const auto& entry) { return entry.first; });
    if (found == matrices_.end() || !found->second->is_packed()) {
      all.emplace_back(name, parameter);
      continue;
    }
    const auto stem = name.substr(0, name.size() - weight.size());
    for (const auto& [part, value] : found->second->parts())
      all.emplace_back(stem + part, value);
  }
  return all;
}

std::vector<std::pair<std::string, const Matrix*>> Module::matrices() const {
  std::vector<std::pair<std::string, const Matrix*>> all;
  std::unordered_set<const Module*> seen;
  walk(*this, "", seen, [&](const std::string& path, const Module& module) {
    for (const auto& [name, matrix] : module.matrices_)
      all.emplace_back(join(path, name), matrix);
  });
  return all;
}

std::vector<std::pair<std::string, Matrix*>> Module::mutable_matrices() {
  std::vector<std::pair<std::string, Matrix*>> all;
  std::unordered_set<const Module*> seen;
  walk(*this, "", seen, [&](const std::string& path, Module& module) {
    for (const auto& [name, matrix] : module.matrices_)
      all.emplace_back(join(path, name), matrix);
  });
  return all;
}

void Module::add(std::string name, Module& child, Stage stage) {
  check_name("part", name, has(children_, name) || has(parameters_, name));
  child.stage_ = stage;
  children_.emplace_back(std::move(name), &child);
}

void Module::add(std::string name, mlx::core::array& parameter) {
  check_name("parameter", name, has(children_, name) || has(parameters_, name));
  parameters_.emplace_back(std::move(name), &parameter);
}

void Module::add(std::string name, Matrix& matrix) {
  if (!name.ends_with(weight))
    fail(
        ErrorKind::usage,
        "[Module] matrix name '{}' does not end with '{}'",
        printable(name),
        weight);
  matrices_.emplace_back(name, &matrix);
  add(std::move(name), matrix.dense());
}

Module::Slot Module::site(std::string name, const SiteTraits& traits) {
  check_name(
      "site",
      name,
      std::any_of(sites_.begin(), sites_.end(), [&](const auto& declared) {
        return declared.name == name;
      }));
  sites_.push_back({std::move(name), traits});
  return static_cast<Slot>(sites_.size() - 1);
}

std::string Module::site_name(Slot slot) const {
  return join(path_, sites_[static_cast<size_t>(slot)].name);
}

void Module::alias(std::string name, std::string path) {
  aliases_.emplace_back(std::move(name), std::move(path));
}

void Module::describe(const SiteTraits& input, const SiteTraits& output) {
  sites_[0].traits = input;
  sites_[1].traits = output;
}

}  // namespace mlxterp::nn
