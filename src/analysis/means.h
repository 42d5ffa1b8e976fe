// analysis/means.h: averages, of sweeps and of sites.

#pragma once

#include <string>
#include <vector>

#include "analysis/readout.h"
#include "mlxterp/analysis/sweep.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** Mean and spread of the cells of several sweeps of one shape. */
class Averages {
 public:
  explicit Averages(size_t cells) : sums_(cells), squares_(cells) {}

  /** Throws usage where a value is not finite, naming the metric. */
  void add(
      const std::vector<float>& cells,
      const std::string& metric,
      const char* who);
  /** Which cells could not act; empty: not known. */
  void add_inert(const std::vector<bool>& cells);
  /** As metric, spread and inert: of the cells that never could act. */
  void put(Sweep& sweep) const;

 private:
  std::vector<double> sums_, squares_;
  std::vector<bool> inert_;
  size_t sweeps_ = 0, with_inert_ = 0;
};

/** Each site's mean over prompts [pos, ...], position by position: over those
 * that have it. In float32. Evaluates, a batch of prompts at a time. */
std::vector<mlx::core::array> position_means(
    const InterpretableModel& model,
    const Inputs::Rows& prompts,
    const std::vector<std::string>& sites,
    const Progress& progress);

/** Throws where a metric cannot read a prompt of that length. */
void check_length(const Readout& metric, size_t length, const char* who);

}  // namespace mlxterp
