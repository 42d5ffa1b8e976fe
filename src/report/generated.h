// report/generated.h: generated text and how it was drawn, for every report
// that has some.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/report/generate.h"
#include "report/json.h"

namespace mlxterp::report {

/** `from_model`: which of its numbers generation_config.json gave. */
Json json_of(
    const Sampling& sampling, const std::vector<std::string>& from_model);

/** Adds its tokens, text and finish. `labels`: of its tokens; `index`: which
 * of the texts that `probes` read it is. */
void add_generated(
    Json& out,
    const GeneratedText& text,
    const std::vector<std::string>& labels,
    const std::vector<ShownProbe>& probes = {},
    size_t index = 0);

}  // namespace mlxterp::report
