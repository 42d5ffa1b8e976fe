#include "mlxterp/trace/activation_cache.h"

#include <algorithm>

#include "core/fail.h"

namespace mlxterp {

ActivationCache::ActivationCache(
    std::shared_ptr<const SiteCatalog> sites,
    std::vector<std::pair<SiteId, mlx::core::array>> values,
    std::vector<int> lengths)
    : sites_(std::move(sites)), lengths_(std::move(lengths)) {
  std::sort(values.begin(), values.end(), [](const auto& a, const auto& b) {
    return a.first < b.first;
  });
  for (auto& [site, value] : values) {
    ids_.push_back(site);
    entries_.emplace_back((*sites_)[site].name, std::move(value));
  }
}

mlx::core::array ActivationCache::operator[](std::string_view name) const {
  const auto site = sites_->find(name);
  const auto found = std::lower_bound(ids_.begin(), ids_.end(), site);
  if (found == ids_.end() || *found != site)
    fail(
        ErrorKind::unknown_name,
        "[ActivationCache] '{}' was not saved; add it to the sites to save",
        (*sites_)[site].name);
  return entries_[static_cast<size_t>(found - ids_.begin())].second;
}

bool ActivationCache::contains(std::string_view name) const {
  const auto sites = sites_->lookup(name);
  return sites.size() == 1 &&
         std::binary_search(ids_.begin(), ids_.end(), sites.front());
}

}  // namespace mlxterp
