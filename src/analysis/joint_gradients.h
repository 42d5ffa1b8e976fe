// analysis/joint_gradients.h: gradients by values inside a Decoder's pass, of
// all points of a line and all dropped layers in as few passes as pay.

#pragma once

#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "analysis/linear/held.h"
#include "analysis/pairs.h"
#include "trace/carried_rows.h"

namespace mlxterp {

/** A value. */
struct JointGradients {
  const InterpretableModel& model;  ///< Of a Decoder.
  const Pair& pair;
  const Readout& metric;
  const HeldSites& held;               ///< At each point its own values.
  const std::vector<SiteId>& watched;  ///< What is differentiated by.
  /** Zeros like each of them, [1, ...], of the longer prompt. */
  const std::vector<mlx::core::array>& zeros;
  const std::vector<SiteId>& seen;  ///< Only read; they must be offered.
  /** Points from the run (0) on the way to the source. */
  int steps = 1;
  bool clean_source = true;  ///< Whose logits a KL divergence starts from.
  /** The first layer that is dropped, up to the last; the number of layers:
   * none. */
  int drop_from = 0;
  std::function<void(double share)> report = {};

  struct Values {
    std::vector<mlx::core::array> differences;  ///< Source less run, [1, ...].
    /** By seen, of the run and of the source, [1, pos, ...]. */
    std::vector<std::pair<mlx::core::array, mlx::core::array>> seen;
  };
  /** What is kept of a gradient [row, ...] by one of `watched`, summed over the
   * points: arrays [row, ...] that are added to the parts so numbered. Linear
   * in it. */
  using Part = std::pair<size_t, mlx::core::array>;
  std::function<std::vector<Part>(
      size_t watched, const mlx::core::array& gradient, const Values& values)>
      contract;

  struct Result {
    /** As contracted. Row 0 is of the whole gradient; the others, of a dropped
     * layer each, lack what goes through what that layer adds to the stream. */
    std::vector<mlx::core::array> parts;
    double run = 0, source = 0;  ///< The metric.
    /** By watched, whether its whole gradient is zero everywhere; empty where
     * nothing is held. */
    std::vector<bool> vanished;
  };

  /** Evaluates. */
  Result compute() const;

 private:
  struct Line {
    Stream source, points;
  };
  Line embedded(int length) const;
  using Parts = std::map<size_t, mlx::core::array>;
  struct Whole {
    Result result;
    Parts parts;
    Values values;
    std::optional<mlx::core::array> reference;  // what the metric starts from
  };
  Whole whole(const Line& line) const;
  /** Of a gradient by one of `watched`, to parts. */
  void add(
      size_t index,
      const mlx::core::array& gradient,
      const Values& values,
      Parts& parts) const;
  /** Those of the rows of dropped layers. */
  Parts dropped(const Line& line, const Whole& whole) const;
  void tell(double rows) const;
  int drops() const;
};

}  // namespace mlxterp
