// report/pass_memory.h: about how much memory a pass takes.

#pragma once

#include "mlxterp/models/decoder.h"

namespace mlxterp::report {

/** About what a pass over `tokens` tokens takes at its peak beside the weights,
 * in bytes: the logits, and of the layer that takes most what its mixer and its
 * MLP make. `wide`: bytes of a number in the stream. On a CPU attention keeps
 * its scores. */
double pass_bytes(const DecoderConfig& config, int tokens, double wide);

}  // namespace mlxterp::report
