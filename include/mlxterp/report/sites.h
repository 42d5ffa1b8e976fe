// mlxterp/report/sites.h: a model's sites, their shapes and their names, as
// JSON and as a table's rows.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/trace/model.h"

namespace mlxterp::report {

struct SiteRow {
  std::string name = {};  ///< Canonical.
  /** Sizes, and in their place "batch", "pos", "dest" and "src" where these
   * say more. */
  std::vector<std::string> shape = {};
  std::vector<std::string> aliases = {};
  std::string transformer_lens = {};  ///< Empty where it has none.
};

/** Every site that the pattern means, or without one all, those of the layers
 * once as layers.*.NAME. Needs the model's shapes, not its weights. Throws
 * unknown_name, usage. */
std::vector<SiteRow> site_rows(
    const InterpretableModel& model, const std::string& pattern = "");

/** The answer of `mlxterp sites` (docs/json.md). */
std::string to_json(
    const std::vector<SiteRow>& rows, const std::string& model_name);

}  // namespace mlxterp::report
