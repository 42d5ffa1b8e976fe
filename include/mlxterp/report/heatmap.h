// mlxterp/report/heatmap.h: numbers of two axes with all that is to be read
// beside them; view/heatmap.h shows it.

#pragma once

#include <string>
#include <vector>

namespace mlxterp::report {

/** Values around zero, [row, column] flat. Texts are as they are; the views
 * escape them. */
struct Heatmap {
  std::string kind = {};     ///< "Activation patching": above the heading.
  std::string heading = {};  ///< What it is of: a prompt.
  std::string about = {};    ///< A sentence or two on how to read it.
  std::string row_axis = {}, column_axis = {};  ///< "layer", "pos"
  std::vector<std::string> rows = {}, columns = {};
  /** Under the columns' names, where there is more to say: the prompt's tokens.
   */
  std::vector<std::string> notes = {};
  std::vector<float> values = {};
  /** Shown as percent (1 is 100) and else as they are. */
  bool percent = false;
};

}  // namespace mlxterp::report
