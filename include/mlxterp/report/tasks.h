// mlxterp/report/tasks.h: a task's prompts and scores as JSON.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/analysis/tasks.h"

namespace mlxterp::report {

/** A prompt as text, whether or not it was drawn as text. */
std::string prompt_text(
    const InterpretableModel& model, const std::vector<int>& ids);

/** The answer of `mlxterp tasks` (docs/json.md). `edits`: of the model, as
 * written. */
std::string to_json(
    const InterpretableModel& model,
    const std::string& model_name,
    const Task& task,
    const TaskOptions& options,
    const TaskScores& scores,
    const std::vector<std::string>& edits = {});

}  // namespace mlxterp::report
