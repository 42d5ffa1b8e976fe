// mlxterp/spec/when.h: when an edit acts, as it is written in text.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "mlxterp/trace/intervention.h"

namespace mlxterp::spec {

/**
 *     when = "prompt" | "generated" | "all"
 *          | "step:" number | "steps:" number ".." [number]    both ends count
 *
 * Step 0 is the prompt, step k the k-th generated token (see When); "steps:2.."
 * has no end. Throws usage.
 */
When parse_when(std::string_view text, std::string_view name = "when");

/** The same; none where the text is no such thing. */
std::optional<When> find_when(std::string_view text);

/** As parse_when reads it. */
std::string text_of(const When& when);

}  // namespace mlxterp::spec
