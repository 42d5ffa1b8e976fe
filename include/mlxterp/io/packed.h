// mlxterp/io/packed.h: a matrix as MLX packs it.

#pragma once

#include <optional>
#include <string>

#include "mlx/array.h"

namespace mlxterp {

/** Groups of numbers along a row share a scale. */
struct Packed {
  mlx::core::array words;   ///< uint32 [..., rows, columns * bits / 32]
  mlx::core::array scales;  ///< [..., rows, columns / group]
  std::optional<mlx::core::array> biases = {};  ///< Affine ones have them.
  int group = 0;
  int bits = 0;
  std::string mode = "affine";  ///< One of mx::quantize's.
  /** Where these are, float16, scales and biases are integers, and eight groups
   * share one of these that they are times. GGUF's Q4_K and Q5_K have them. */
  std::optional<mlx::core::array> scale_of_scales = {}, scale_of_biases = {};
  /** float32 of each matrix in a stack, or one: nvfp4 may have it. */
  std::optional<mlx::core::array> global_scale = {};

  /** The same of some rows: `f` of each of its arrays. */
  template <typename F>
  Packed each(const F& f) const {
    Packed out = *this;
    out.words = f(words);
    out.scales = f(scales);
    for (auto part :
         {&Packed::biases, &Packed::scale_of_scales, &Packed::scale_of_biases})
      if (this->*part) out.*part = f(*(this->*part));
    return out;
  }
};

}  // namespace mlxterp
