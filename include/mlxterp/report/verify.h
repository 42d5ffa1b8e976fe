// mlxterp/report/verify.h: the checks of a model as JSON.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/analysis/verify.h"

namespace mlxterp::report {

/** The answer of `mlxterp verify` (docs/json.md). `ids`: the prompt. */
std::string to_json(
    const InterpretableModel& model,
    const std::string& model_name,
    const std::vector<int>& ids,
    const std::vector<Check>& checks,
    const std::vector<std::string>& edits = {});

}  // namespace mlxterp::report
