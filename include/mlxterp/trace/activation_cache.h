// mlxterp/trace/activation_cache.h: values kept from forward passes.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/trace/site_catalog.h"

namespace mlxterp {

/**
 * Evaluated values by site, in the model's order. Any name that means a site
 * finds its value. Immutable; safe to share between threads.
 */
class ActivationCache {
 public:
  using Entry = std::pair<std::string, mlx::core::array>;

  ActivationCache(
      std::shared_ptr<const SiteCatalog> sites,
      std::vector<std::pair<SiteId, mlx::core::array>> values,
      std::vector<int> lengths);

  /** The value of one site. Throws unknown_name where it was not kept. */
  mlx::core::array operator[](std::string_view name) const;

  /** Whether that is the name of one site whose value was kept. Never throws.
   */
  bool contains(std::string_view name) const;
  size_t size() const { return entries_.size(); }

  /** Canonical names and values. */
  const std::vector<Entry>& entries() const { return entries_; }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

  /** Real positions of each row of the batch; what lies behind is padding. */
  const std::vector<int>& lengths() const { return lengths_; }

 private:
  std::shared_ptr<const SiteCatalog> sites_;
  std::vector<SiteId> ids_;
  std::vector<Entry> entries_;
  std::vector<int> lengths_;
};

}  // namespace mlxterp
