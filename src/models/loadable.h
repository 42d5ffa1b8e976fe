// models/loadable.h: what can be checked of a checkpoint before it is loaded.

#pragma once

#include "mlxterp/models/load.h"

namespace mlxterp {

/** Passes its warnings on. Throws bad_data where it is quantised in a way that
 * is not read here, environment where its weights need more memory than this
 * machine has. */
void check_loadable(const Checkpoint& checkpoint, const LoadOptions& options);

/** Whether matrices that the checkpoint keeps packed stay so, as
 * LoadOptions::packed says. */
bool keeps_packed(const Checkpoint& checkpoint, const LoadOptions& options);

/** What the numbers of its weights are computed with as; absent: as the file
 * has them. */
std::optional<mlx::core::Dtype> computed_as(const LoadOptions& options);

/** Whether a matrix stays in the half precision that the file has it in, as
 * LoadOptions::half says. */
bool keeps_half(const TensorInfo& tensor, const LoadOptions& options);

/** What its weights take in memory, loaded with these; `packed`: as
 * keeps_packed says. */
double bytes_in_memory(
    const Checkpoint& checkpoint, const LoadOptions& options, bool packed);

}  // namespace mlxterp
