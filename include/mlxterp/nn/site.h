// mlxterp/nn/site.h: what a site's value is, said once, where it is declared.

#pragma once

namespace mlxterp {

/** A named value of the forward pass, as a dense number fixed when the model
 * is built (see SiteCatalog). -1: a module that belongs to no model yet. */
using SiteId = int;

/** What the axes of a site's value are. */
enum class Layout {
  features,  ///< [batch, pos, feature]
  heads,     ///< [batch, pos, head, d_head or d_model]
  scores,    ///< [batch, head, dest, src]
  other,     ///< Anything else; selectors do not apply.
};

/** Whose heads a head axis counts. */
enum class Heads { none, query, kv };

/** Where in its layer a value stands. Behind attention a layer may go on with
 * fewer rows than it read: only those that somebody asks for. */
enum class Stage {
  outside,  ///< Of no layer; of a part: as its parent's.
  before,   ///< What attention reads.
  inside,   ///< Within attention, up to z.
  after,    ///< All that follows.
};

/** Everything that is asked of a site: selectors, sweeps, tables and the Python
 * package read it here, and nothing compares names. */
struct SiteTraits {
  Layout layout = Layout::features;
  Heads heads = Heads::none;
  int n_heads = 0;  ///< Entries of the head axis; 0: none, or not said.
  int width = 0;    ///< Entries of the last axis; 0: not said, or it varies.
  Stage stage = Stage::outside;
  /** Made only where somebody asks: reading it costs more than a look. */
  bool offered = false;
};

}  // namespace mlxterp
