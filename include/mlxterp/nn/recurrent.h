// mlxterp/nn/recurrent.h: mixers that carry a memory along positions.

#pragma once

#include <optional>

#include "mlxterp/nn/mixer.h"

namespace mlxterp::nn {

struct DeltaInput;

/** A mixer with a memory [batch, head, d_key, d_value] that a KvCache keeps,
 * and whose site `state` holds it behind each position. */
class Recurrent : public Mixer {
 protected:
  /** What the heads read of their memories, float32 [batch, pos, head,
   * d_value], from arrays [batch, pos, head, ...]. */
  mlx::core::array recurred(const Pass::Arrays& read, Pass& pass) const;

  /** What that becomes of some sequences' rows; without `initial` the memory is
   * zeros. */
  virtual DeltaInput input(
      const Pass::Arrays& rows,
      const std::optional<mlx::core::array>& initial) const = 0;

  /** Declares the site `state`. */
  void add_state(int d_value);

 private:
  Slot state_ = {};
};

}  // namespace mlxterp::nn
