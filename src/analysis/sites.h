// analysis/sites.h: one site in every layer, as sweeps name it.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/trace/model.h"

namespace mlxterp {

struct LayerSite {
  std::string relative;  ///< "attn.z": what stands behind "layers.i.".
  std::vector<SiteId> ids;
  Layout layout = Layout::features;
  int heads = 0;         ///< 0: none.
  int width = 0;         ///< Of the last axis, d_head where there are heads.
  bool pattern = false;  ///< ids are those of z, which it is patched through.
  /** ids are those of the next layer's resid_pre, which resid_post is. */
  int shift = 0;

  std::string name_of(int layer) const;
};

/** A site by its canonical or short name: resid_pre, z, attn.z, mlp.post.
 * Throws unknown_name with the nearest, usage where its rows are no positions.
 */
LayerSite layer_site(const InterpretableModel& model, const std::string& name);

}  // namespace mlxterp
