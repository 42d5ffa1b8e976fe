// analysis/plain_sweep.h: a sweep by one forward pass a cell, to hold the
// wavefront against, and for models that the wavefront cannot walk.

#pragma once

#include <optional>
#include <vector>

#include "analysis/grid.h"
#include "analysis/readout.h"
#include "analysis/wavefront/wavefront.h"

namespace mlxterp {

/** What is put in a site's place. */
struct PlainSource {
  /** Of each layer, [pos, ...] or [1, pos, ...]; without any, zeros. */
  std::vector<std::optional<mlx::core::array>> values = {};
  /** By position of the run, that of the values; empty: the same. */
  std::vector<int> positions = {};
};

struct PlainSweep {
  const InterpretableModel& model;
  const LayerSite& site;
  const Readout& metric;
  const std::vector<int>& ids;                   ///< The run that is changed.
  const std::vector<std::vector<Place>>& cells;  ///< Of that prompt.
  const PlainSource& source;
  /** The clean run's logits [vocab] where the metric asks for them. */
  std::optional<mlx::core::array> reference = {};
  std::string_view what = {};  ///< For progress: "Patching".
  Progress progress = {};

  /** The metric of each cell. Evaluates. */
  Wavefront::Result sweep() const;
};

/** A site's value in every layer of a run. Evaluates. */
std::vector<std::optional<mlx::core::array>> site_values(
    const LayerSite& site, const ActivationCache& run);

/** The site's names in the layers that have it, and the logits. */
std::vector<std::string> saved_names(const LayerSite& site);

}  // namespace mlxterp
