// analysis/plain_gradients.h: gradients by values inside a pass, by one pass
// for each point of a line, for models that need not be a Decoder.

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "analysis/pairs.h"

namespace mlxterp {

struct PlainGradients {
  const InterpretableModel& model;
  const Pair& pair;
  const Readout& metric;
  const std::vector<std::string>& sites;  ///< What is differentiated by.
  /** Zeros like each of them, of the run. */
  const std::vector<mlx::core::array>& zeros;
  /** Points from the run (0) on the way to the source. */
  int steps = 1;
  bool clean_source = true;  ///< Whose logits a KL divergence starts from.
  std::function<void(int step)> report = {};

  struct Result {
    /** By site: summed over the points; the source's value less the run's. */
    std::vector<mlx::core::array> gradients, differences;
    float run = 0, source = 0;  ///< The metric.
  };

  /** Evaluates. */
  Result compute() const;
};

}  // namespace mlxterp
