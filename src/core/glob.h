// core/glob.h: patterns over dotted names: layers.*.attn.{q,k},
// layers.{3..7}.resid_post.

#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mlxterp {

/** The names and patterns without braces that a pattern stands for: `{3..7}` is
 * a range of numbers (both ends count), `{a,b}` either. Throws usage for braces
 * that are not closed, nested or empty, and beyond limits::pattern_*. */
std::vector<std::string> expand_braces(std::string_view pattern);

/** Whether `name` is what `pattern` describes; `*` stands for any run of
 * characters but dots. Takes at most the product of both lengths. */
bool glob_matches(std::string_view pattern, std::string_view name);

}  // namespace mlxterp
