// mlxterp/nn/rope.h: rotary position embedding and its ways to longer prompts.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/nn/packed_batch.h"

namespace mlxterp::nn {

/** Rotary position embedding (Su et al., 2021). A value; its calls are lazy. */
struct Rope {
  int dims = 0;  ///< Leading dimensions of d_head that are rotated.
  float theta = 10000.0f;
  /** Pairs are neighbours (GPT-J), not the two halves (GPT-NeoX, Llama). */
  bool interleaved = false;
  /** Multiplies positions: linear scaling by a factor is 1 / factor. */
  float scale = 1.0f;
  /** Multiplies the rotated vectors (YaRN, LongRoPE). */
  float attention_factor = 1.0f;
  /** Positions it is made for; 0: unspecified. */
  int max_positions = 0;
  /** 1 / inv_freq of each pair, where theta alone does not determine it. */
  std::vector<float> wavelengths = {};

  /** Other wavelengths where a prompt is longer than `beyond` (LongRoPE). */
  struct Long {
    int beyond = 0;
    std::vector<float> wavelengths = {};
  };
  std::optional<Long> longer = {};

  /** Theta grows with a prompt longer than `context` (dynamic NTK). */
  struct Dynamic {
    float factor = 1.0f;
    int context = 0;
  };
  std::optional<Dynamic> dynamic = {};

  /** What config.json calls the scaling: for people, nothing depends on it. */
  std::string kind = "default";

  /** Whether prompts of these two lengths are rotated by the same angles,
   * position by position. */
  bool same_angles(int length, int other) const;

  /** Rotates [batch, head, pos, d_head]; the first position is `offset`. */
  mlx::core::array operator()(const mlx::core::array& x, int offset) const;

  /** Rotates [1, head, row, d_head], each row by its own position. */
  mlx::core::array operator()(
      const mlx::core::array& x, const PackedBatch& packed) const;
};

}  // namespace mlxterp::nn
