#include "mlxterp/trace/proxy.h"

#include "core/fail.h"

namespace mlxterp {

TraceContext& OutputProxy::context() const {
  auto* current = TraceContext::current();
  if (!current)
    fail(
        ErrorKind::usage,
        "[trace] '{}' was read outside a trace; read it while "
        "`auto trace = model.trace(...)` lives, on the same thread",
        name());
  if (current->sites() != sites_)
    fail(
        ErrorKind::usage,
        "[trace] '{}' was read inside a trace of another model",
        name());
  return *current;
}

Saved OutputProxy::save() const {
  return context().save(name());
}

mlx::core::array OutputProxy::value() const {
  return context().value(name());
}

ModuleProxy::ModuleProxy(
    std::shared_ptr<const SiteCatalog> sites, std::string path)
    : sites_(std::move(sites)), path_(std::move(path)) {
  sites_->find(path_);
}

ModuleProxy ModuleProxy::operator[](std::string_view part) const {
  return {sites_, fmt::format("{}.{}", path_, part)};
}

OutputProxy ModuleProxy::output() const {
  return {sites_, sites_->find(path_)};
}

OutputProxy ModuleProxy::input() const {
  return {sites_, sites_->find(path_ + ".input")};
}

LayerListProxy::LayerListProxy(std::shared_ptr<const SiteCatalog> sites)
    : sites_(std::move(sites)) {
  while (sites_->contains(fmt::format("layers.{}.output", size_)))
    ++size_;
}

ModuleProxy LayerListProxy::operator[](int layer) const {
  if (layer < -size_ || layer >= size_)
    fail(
        ErrorKind::out_of_range,
        "[layers] layer {} is out of range; the model has {}",
        layer,
        size_);
  return {sites_, fmt::format("layers.{}", layer < 0 ? layer + size_ : layer)};
}

}  // namespace mlxterp
