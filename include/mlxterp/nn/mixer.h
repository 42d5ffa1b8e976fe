// mlxterp/nn/mixer.h: the part of a layer that reads other positions.

#pragma once

#include <string_view>

#include "mlxterp/nn/module.h"

namespace mlxterp::nn {

class Attention;

/**
 * What mixes positions in a layer: attention, a convolution, a recurrence, or
 * one of your own. It reads [batch, pos, d_model] and writes the same, of the
 * rows that pass.gather_output_rows() leaves: a sweep may go on with a few of
 * them behind its last mixer.
 *
 * It sees earlier positions only. Where the pass carries a KvCache, it puts
 * there what the next positions need, and begins with what it finds. Where the
 * pass is packed, its rows are those of several sequences, some of which begin
 * in the middle of another (PackedBatch).
 */
class Mixer : public Module {
 public:
  /** What it is called in its layer, and so in its sites: "attn" is found at
   * layers.3.attn.output. One name for a kind; no dots. */
  virtual std::string_view name() const = 0;

  /** It as attention, for those who look at heads; null: it is something
   * else. */
  virtual const Attention* attention() const { return nullptr; }
};

}  // namespace mlxterp::nn
