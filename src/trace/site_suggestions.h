// trace/site_suggestions.h: which site was meant by a name that is none.

#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mlxterp {

/**
 * The end of "no site is called 'NAME'...": how many layers there are where it
 * asks for one beyond; the names, as layers.*.NAME, that hold what stands in a
 * pattern or is a name's end; else the nearest spellings. `names`: those that
 * there are. Empty where nothing is near.
 */
std::string suggest_sites(
    std::string_view asked, const std::vector<std::string>& names);

}  // namespace mlxterp
