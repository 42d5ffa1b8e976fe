#include "mlxterp/report/verify.h"

#include <algorithm>

#include "report/json.h"

namespace mlxterp::report {

std::string to_json(
    const InterpretableModel& model,
    const std::string& model_name,
    const std::vector<int>& ids,
    const std::vector<Check>& checks,
    const std::vector<std::string>& edits) {
  Json out;
  out["model"] = model_name;
  out["tokens"] = json_of(named(model, ids));
  out["edits"] = edits;
  out["passed"] = std::ranges::all_of(checks, &Check::passed);
  out["checks"] = Json::array();
  for (const auto& check : checks)
    out["checks"].push_back(
        {{"name", check.name},
         {"error", number(check.error)},
         {"bound", number(check.bound)},
         {"passed", check.passed()},
         {"compared", check.compared},
         {"where", check.where}});
  return text_of(out);
}

}  // namespace mlxterp::report
