// core/number.h: numbers as text, the same in every locale.

#pragma once

#include <optional>
#include <string_view>

namespace mlxterp {

/**
 * The number that all of `text` spells, as C writes numbers: "0.5", "-1e-5".
 * Nothing for other text, for what stands around a number, and for inf, nan and
 * hexadecimal. The decimal point is a point whatever the locale says. Too large
 * a number is infinite, too small a one 0.
 */
std::optional<double> parse_double(std::string_view text);
std::optional<float> parse_float(std::string_view text);

/** The double with the fewest digits that is `value` as a float: 1e-05 and not
 * 9.999999747e-06. */
double shortest(float value);

}  // namespace mlxterp
