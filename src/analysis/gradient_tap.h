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
  GradientTap(size_t sites, const std::vector<SiteId>& watched)
      : index_(sites, -1), values(watched.size()) {
    for (size_t i = 0; i < watched.size(); ++i)
      index_[static_cast<size_t>(watched[i])] = static_cast<int>(i);
  }

  mlx::core::array at(SiteId site, mlx::core::array value) override {
    const int i = index(site);
    if (i < 0) return value;
    values[static_cast<size_t>(i)] = value;
    const auto& added = (*zeros)[static_cast<size_t>(i)];
    return mlx::core::add(value, mlx::core::astype(added, value.dtype()));
  }
  bool edits(SiteId site) const override { return index(site) >= 0; }
  void offer(SiteId, std::function<mlx::core::array()>) override {}

 private:
  int index(SiteId site) const {
    return site < 0 ? -1 : index_[static_cast<size_t>(site)];
  }

  std::vector<int> index_;  // by site, -1: not watched

 public:
  /** Of one pass: the zeros, in the order of what is watched. */
  const std::vector<mlx::core::array>* zeros = nullptr;
  std::vector<std::optional<mlx::core::array>> values;
};

}  // namespace mlxterp
