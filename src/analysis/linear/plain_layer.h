// analysis/linear/plain_layer.h: the transposed Jacobian of a layer of plain
// attention and an MLP, by hand: one linearisation for all rows, and products
// instead of a backward pass.

#pragma once

#include <optional>

#include "analysis/linear/norm_slope.h"
#include "mlx/array.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** From so many rows on it pays to take a layer apart, whose parts then serve
 * all of them. */
inline constexpr int rows_that_pay = 5;

/**
 * A layer at what entered it. Heads stay grouped, and where there are many rows
 * the MLP's Jacobian of a position is made once for all of them. What products
 * are added to is float32.
 */
class PlainLayer {
 public:
  /** Whether it knows the layer, for positions [from, to): the model stands as
   * it is; nothing in attention but norms of heads, rotation, masks, biases of
   * positions, sinks and caps; behind it an MLP; and prompts so short that an
   * array of what is kept takes a gigabyte at most. */
  static bool knows(
      const InterpretableModel& model, int layer, int from, int to);

  /** How products are computed. */
  struct How {
    mlx::core::Dtype numbers;  ///< Of what they read.
    /** Writes over rows that nobody else has, a piece after the other; else
     * pieces side by side, and then together. */
    bool in_place;
  };
  /** What suits the device, of a stream of this dtype. */
  static How best(mlx::core::Dtype stream);

  /** At `x` [1, pos, d_model]. Positions [from, to) of rows count. Evaluates.
   */
  PlainLayer(
      const InterpretableModel& model,
      int layer,
      const mlx::core::array& x,
      int from,
      int to,
      How how);

  /** Cotangents [pos, row, d_model] of what leaves the layer to those of what
   * enters it, float32. Evaluates. */
  mlx::core::array transport(mlx::core::array rows) const;

 private:
  struct Attention {
    mlx::core::array w_o;   // [d_model, head * d_value]
    mlx::core::array w_in;  // [q, k and v of all heads, d_model], by gain
    mlx::core::array late;  // [kv_head, pos, group * pos]: to sources, / s
    // [kv_head, group, pos, d_value, source or d_head]: from z to the scores,
    // and on to what is behind the queries' projection, / s
    mlx::core::array to_scores, to_q;
    mlx::core::array queries;  // [kv_head, group * pos, d_head]
    mlx::core::array turn;     // [kv_head or 1, pos, d_head, d_head], / s
    int kv_heads = 0, group = 0, d_head = 0, d_value = 0;
  };
  struct Mlp {
    mlx::core::array down;       // [d_model, d_mlp]
    mlx::core::array up, by_up;  // [d_mlp, d_model]; [pos, d_mlp]
    std::optional<mlx::core::array> gate, by_gate;
    std::optional<NormSlope> post;
  };

  mlx::core::array over_itself(mlx::core::array rows) const;
  mlx::core::array through_mlp(const mlx::core::array& rows) const;
  bool by_position(int count) const;
  mlx::core::array mlp_of_positions(
      const mlx::core::array& rows, int from, int to) const;
  mlx::core::array inner(
      const mlx::core::array& by_up,
      const std::optional<mlx::core::array>& by_gate) const;
  int rows_of_attention(int count) const;
  mlx::core::array through_attention(
      const mlx::core::array& rows, const mlx::core::array& onto) const;
  mlx::core::array attention_chunk(
      const mlx::core::array& rows, const mlx::core::array& onto) const;

  How how_;
  bool parallel_ = false;
  float written_ = 1.0f;  // what both write is multiplied by that
  std::optional<mlx::core::array> whole_;  // the stream by that
  std::optional<NormSlope> ln1_, ln1_post_, ln2_;
  std::optional<Attention> attention_;
  std::optional<Mlp> mlp_;
  int from_, to_;
};

}  // namespace mlxterp
