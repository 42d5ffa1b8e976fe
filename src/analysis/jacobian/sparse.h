// analysis/jacobian/sparse.h: coefficients c >= 0 of few unit atoms, from their
// Gram matrix G and what they have in common with the target, b.

#pragma once

#include <vector>

namespace mlxterp::jacobian {

/** Symmetric, grown by a row at a time. */
using Gram = std::vector<std::vector<double>>;

/** argmin over c >= 0 of c G c / 2 - b c, by Lawson and Hanson's active sets,
 * from scratch. An atom that others already span stays at 0. */
std::vector<double> nnls(const Gram& gram, const std::vector<double>& b);

/** One step along the gradient b - G c, of the length that is exact without the
 * bound, projected to c >= 0, halved until c G c / 2 - b c does not grow. */
std::vector<double> pursuit_step(
    const Gram& gram, const std::vector<double>& b, std::vector<double> c);

}  // namespace mlxterp::jacobian
