// analysis/gradient_tap.h: gradients by any values inside a pass.

#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "mlx/ops.h"
#include "mlxterp/nn/pass.h"

namespace mlxterp {

/** Adds to each watched value what is differentiated by: zeros. All gradients
 * are then those of one connected graph. */
class GradientTap final : public Observer {
 public:
  /** `seen`: kept as well, of values that are offered. */
  GradientTap(
      size_t sites,
      const std::vector<SiteId>& watched,
      const std::vector<SiteId>& seen = {})
      : index_(sites, -1),
        seen_index_(seen.empty() ? 0 : sites, -1),
        values(watched.size()),
        seen_values(seen.size()) {
    for (size_t i = 0; i < watched.size(); ++i)
      index_[static_cast<size_t>(watched[i])] = static_cast<int>(i);
    for (size_t i = 0; i < seen.size(); ++i)
      seen_index_[static_cast<size_t>(seen[i])] = static_cast<int>(i);
  }

  mlx::core::array at(SiteId site, mlx::core::array value) override {
    keep(site, [&] { return value; });
    const int i = index(site);
    if (i < 0) return value;
    values[static_cast<size_t>(i)] = value;
    const auto& added = (*zeros)[static_cast<size_t>(i)];
    return mlx::core::add(value, mlx::core::astype(added, value.dtype()));
  }
  bool edits(SiteId site) const override { return index(site) >= 0; }
  void offer(SiteId site, std::function<mlx::core::array()> make) override {
    keep(site, make);
  }

 private:
  int index(SiteId site) const {
    return site < 0 ? -1 : index_[static_cast<size_t>(site)];
  }

  template <typename Make>
  void keep(SiteId site, const Make& make) {
    if (site < 0 || seen_index_.empty()) return;
    const int i = seen_index_[static_cast<size_t>(site)];
    if (i >= 0) seen_values[static_cast<size_t>(i)] = make();
  }

  std::vector<int> index_;       // by site, -1: not watched
  std::vector<int> seen_index_;  // likewise

 public:
  /** Of one pass: the zeros, in the order of what is watched. */
  const std::vector<mlx::core::array>* zeros = nullptr;
  std::vector<std::optional<mlx::core::array>> values, seen_values;
};

}  // namespace mlxterp
