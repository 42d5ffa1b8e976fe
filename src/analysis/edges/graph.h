// analysis/edges/graph.h: what writes to the residual stream and what reads it,
// and where both are found.

#pragma once

#include <vector>

#include "mlxterp/analysis/edges.h"

namespace mlxterp {

/** Neighbouring sources whose values are read at one site. */
struct EdgeWriter {
  enum class Kind { input, heads, whole };
  Kind kind = Kind::whole;
  int layer = -1;
  SiteId site = -1;  ///< Of heads z, else what is added to the stream.
  int first = 0, count = 1;
  SiteId added = -1;  ///< What all of them add.
  SiteId scale = -1;  ///< Of heads, the divisor of a norm behind them.
};

/** Neighbouring destinations that one product serves. */
struct EdgeReader {
  int layer = 0;
  /** Where they read; the gradients at several add up. Of the logits none. */
  std::vector<SiteId> sites = {};
  /** Between the layer's input and there; null: the site is the stream. */
  const nn::Norm* norm = nullptr;
  /** Behind which the site stands, its rows by head; null: before any. */
  const nn::Linear* projection = nullptr;
  /** q, k, v or g, of heads; 0: of none. */
  char input = 0;
  int first = 0, count = 1;
  int before = 0;  ///< As EdgeDestination's.
};

struct EdgeGraph {
  std::vector<EdgeSource> sources;
  std::vector<EdgeDestination> destinations;
  std::vector<EdgeWriter> writers;
  std::vector<EdgeReader> readers;
  /** What the stream that enters each layer, and the last one, has been
   * multiplied with by layers' scalars. */
  std::vector<float> factors;
};

/** Throws usage where `ungrouped` is not defined. Evaluates scalars. */
EdgeGraph edge_graph(const InterpretableModel& model, bool ungrouped);

}  // namespace mlxterp
