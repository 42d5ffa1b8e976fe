// analysis/steering_checks.h: what the files of steering vectors share.

#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "mlxterp/analysis/steering.h"

namespace mlxterp {

/** N of "layers.N" with that prefix; nothing where it is none. */
std::optional<int> layer_of(std::string_view name, std::string_view prefix);

/** By its name(); nothing where there is none of it. */
std::optional<SteeringOperation> operation_of(std::string_view text);

/** Throws usage where its residual norm is not known. */
void check_norm(const SteeringVector::Layer& layer, const char* who);

/** Of any finite numbers, also where their squares are beyond float32.
 * Evaluates. */
double length_of(const mlx::core::array& direction);

/** The direction with length 1, float32. Throws usage where it has none: it is
 * zero, or not finite. Evaluates. */
mlx::core::array unit_of(const mlx::core::array& direction, const char* who);

/** Throws usage where `length`, that of what is set or added, is not finite. */
void check_length(float length, const char* who);

/** Why a vector cannot be a direction ("is zero"); empty: it can. `width`: of
 * others, 0: there are none. Evaluates. */
std::string direction_fault(const mlx::core::array& direction, int width);

}  // namespace mlxterp
