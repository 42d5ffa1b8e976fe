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

/** What its weights take in memory, so loaded. */
double bytes_in_memory(
    const Checkpoint& checkpoint,
    std::optional<mlx::core::Dtype> dtype,
    bool packed);

}  // namespace mlxterp
