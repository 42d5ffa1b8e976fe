// mlxterp/spec/task.h: a task of one's own, its pairs written in a file.

#pragma once

#include <string>
#include <string_view>

#include "mlxterp/analysis/tasks.h"
#include "mlxterp/spec/metric.h"

namespace mlxterp::spec {

/**
 * A task as JSON, as `mlxterp tasks --json` answers:
 *
 *     {"task": "mine", "pairs": [
 *       {"clean": "Mary and John met, John gave a drink to",
 *        "corrupt": "Mary and John met, Mary gave a drink to",
 *        "answers": [" Mary"], "foils": [" John"]}, ...]}
 *
 * Instead of its text a prompt may be given by `clean_ids` or `corrupt_ids`,
 * which count where both are there. Each of the answers and foils is a token: a
 * text, an id, or {"id": 7042}. "task" is the name; other fields are left
 * alone. Messages begin with options.name, which is what the text is called;
 * options.warn gets answer_warnings(). Throws bad_data where it is no such
 * JSON or the prompts of a pair are of different lengths, and what
 * parse_token() throws.
 */
Task parse_task(
    const InterpretableModel& model,
    std::string_view json,
    const MetricOptions& options = {.name = "task"});

}  // namespace mlxterp::spec
