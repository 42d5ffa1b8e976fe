// apps/mlxterp/edit_text.h: edits as they are written in a shell.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/trace/intervention.h"

namespace mlxterp::cli {

/**
 * SITE=EDIT, where EDIT is written as in C++:
 *
 *     zero_out   scale(0.5)   clamp(-1, 1)   noise(0.1, 42)
 *     replace_with(0)   replace_with(FILE.safetensors:NAME)
 *     add_vector(FILE.safetensors:NAME)
 *     compose(scale(2), clamp(-1, 1))
 *     at_positions(-1, zero_out)   at_positions([0, 3..5], scale(2))
 *     on_heads(7, zero_out)   on_neurons([3, 8], zero_out)
 *
 * Throws Error(usage) with the column of what is wrong. A FILE is read here.
 */
Edit parse_edit(const std::string& text);
std::vector<Edit> parse_edits(const std::vector<std::string>& texts);

}  // namespace mlxterp::cli
