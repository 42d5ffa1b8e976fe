// mlxterp/analysis/lens_edits.h: edits of a residual stream along vectors of a
// Jacobian lens: tokens made stronger, taken away, put in each other's place.

#pragma once

#include "mlx/array.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** h + strength median(|h|) v / |v|: the median of the residual's lengths over
 * the positions of its sequence. `vector` [d_model]. Evaluates it. Throws usage
 * where it is not finite, or zero. */
Intervention lens_steer(mlx::core::array vector, float strength = 4.0f);

/** h without what of it lies in the space of `vectors`, [token, d_model]: all
 * at once, since one after the other would put back what the first took. */
Intervention lens_ablate(mlx::core::array vectors);

/** h + strength V (swapped c - c): c are the coordinates of h along two vectors
 * V, by the pseudo-inverse. `source`, `target` [d_model]. Strength 1 swaps
 * them, so that twice is nothing; 2 goes as far again. Evaluates. Throws usage
 * where they are nearly parallel (a cosine of 0.999 or more), or not finite. */
Intervention lens_swap(
    mlx::core::array source, mlx::core::array target, float strength = 1.0f);

/** The same, but to the swapped coordinates that `clean` [pos, d_model] has, a
 * run's own values at the site: it may act in many layers and does not undo
 * itself. Position by position. At positions that `clean` lacks nothing
 * happens. */
Intervention lens_clamp(
    mlx::core::array source,
    mlx::core::array target,
    mlx::core::array clean,
    float strength = 1.0f);

/** The coordinates of h [..., d_model] along two vectors, [..., 2]: h = V c +
 * what is at right angles to both. Lazy but for the vectors. Throws as
 * lens_swap. */
mlx::core::array lens_coordinates(
    const mlx::core::array& h,
    const mlx::core::array& source,
    const mlx::core::array& target);

}  // namespace mlxterp
