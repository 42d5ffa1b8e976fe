// analysis/jacobian/sums.h: the running sums of a fit, and the file in which it
// is gone on with.

#pragma once

#include <filesystem>
#include <vector>

#include "mlxterp/analysis/jacobian_lens.h"

namespace mlxterp::jacobian {

/** What a fit has when it has seen some prompts. A value. */
struct Sums {
  JacobianSource source = {};  ///< Whose `prompts` are those seen.
  std::vector<int> layers = {};
  /** [d_model, d_model] of each, and what rounding took from it (Kahan). */
  std::vector<mlx::core::array> sums = {}, lost = {};
  std::vector<float> changes = {};

  Sums(JacobianSource source, std::vector<int> layers, int d_model);

  /** Adds a prompt's Jacobians; the change is added too. Evaluates. */
  void add(const std::vector<mlx::core::array>& jacobians);

  /** Their mean. Lazy. */
  JacobianLens lens() const;

  void save(const std::filesystem::path& path) const;
  /** Throws bad_data. */
  static Sums load(const std::filesystem::path& path);
};

/** "sum.3" and the like in a file of Sums. */
inline constexpr const char* sum_prefix = "sum.";
inline constexpr const char* lost_prefix = "lost.";
inline constexpr const char* matrix_prefix = "J.";
inline constexpr const char* kind_key = "mlxterp_kind";
inline constexpr const char* lens_kind = "jacobian_lens";
inline constexpr const char* sums_kind = "jacobian_sums";

/** Square, of one width, and finite, or bad_data that says `shown`. Float32
 * out. Evaluates. */
void check_matrices(
    const std::vector<int>& layers,
    std::vector<mlx::core::array>& matrices,
    const std::string& shown);

}  // namespace mlxterp::jacobian
