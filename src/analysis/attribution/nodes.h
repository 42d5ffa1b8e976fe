// analysis/attribution/nodes.h: what attribution patching differentiates by:
// the sites that are asked for, in each layer, with all that is checked of them
// before long work.

#pragma once

#include <limits>
#include <vector>

#include "analysis/pairs.h"
#include "mlxterp/analysis/attribute.h"

namespace mlxterp {

/** One site that is asked for. */
struct AttributedSite {
  LayerSite site = {};
  Grid grid = {};
  bool by_unit = false;              ///< Heads, or neurons told apart.
  bool stream = false;               ///< Of no layer's own.
  bool query = false;                ///< Not keys, where it is `fixed`.
  bool fixed = false;                ///< By the QK fix.
  size_t first = 0;                  ///< Among all layers' of all sites.
  std::vector<int> layers = {};      ///< That are watched, in order.
  std::vector<size_t> watched = {};  ///< Of each, unless it is fixed.
  struct Reader {
    const nn::Attention* attention;
    size_t pattern;  ///< In AttributedNodes::watched.
    size_t q, k;     ///< In AttributedNodes::seen.
  };
  /** Of each layer, where it is fixed. */
  std::vector<std::vector<Reader>> readers = {};
};

/** Throws what attribute() does. `model` outlives it. */
struct AttributedNodes {
  AttributedNodes(
      const InterpretableModel& model, const AttributeOptions& options);

  std::vector<Pair> pairs;
  std::vector<AttributedSite> sites;
  /** What is differentiated by, and what is only read, of all sites. */
  std::vector<SiteId> watched, seen;
  int lowest = std::numeric_limits<int>::max();  ///< Layer of any site.

  /** For a prompt of `length`, by `watched`: zeros, one for all rows of a
   * batch. */
  std::vector<mlx::core::array> nothings(
      const InterpretableModel& model, int length) const;
};

}  // namespace mlxterp
