// mlxterp/nn/attention.h: grouped-query attention with every step a site.

#pragma once

#include <optional>

#include "mlxterp/nn/alibi.h"
#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mixer.h"
#include "mlxterp/nn/norm.h"
#include "mlxterp/nn/rope.h"

namespace mlxterp::nn {

/** Queries grow with their position, since a longer context would flatten the
 * softmax: times 1 + beta * log(1 + floor((first + position) / every)) (Llama
 * 4, 2025). */
struct QueryScale {
  float beta = 0.0f;
  int every = 0;  ///< Positions of one size.
  int first = 0;  ///< The number of the first position.
};

struct AttentionConfig {
  int d_model = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int d_head = 0;
  int d_value = 0;  ///< Of values and z; 0: d_head.
  bool qkv_bias = false;
  bool out_bias = false;
  Rope rope = {};      ///< dims 0: nothing is rotated.
  int rope_from = 0;   ///< The first dimension of a head that is.
  float scale = 0.0f;  ///< Of q times k; 0: 1 / sqrt(d_head).
  /** Scores are held in +-softcap by a tanh; 0: they are not. */
  float softcap = 0.0f;
  /** Entries of q, k (behind their norms) and v are held in +-clip_qkv; 0:
   * they are not. */
  float clip_qkv = 0.0f;
  /** A destination sees that many sources, itself the last; 0: all. */
  int window = 0;
  /** Positions lie in stretches of that many, and a destination sees none
   * before its own stretch (Llama 4, 2025); 0: one stretch. */
  int chunk = 0;
  Alibi alibi = {};    ///< Without slopes: none.
  bool sinks = false;  ///< Each head has one.
  bool gate = false;   ///< Of z, from what attention reads.

  /** What normalises q and k. */
  enum class QkNorm {
    none,
    head,      ///< Each head alone, one gain for all.
    each,      ///< Each head alone, with a gain of its own.
    together,  ///< All heads as one vector.
  };
  QkNorm qk_norm = QkNorm::none;
  NormConfig norm = {};       ///< Of q and k.
  bool norm_rotated = false;  ///< Behind the rotation, not before it.
  /** Normalises values, each head alone. */
  std::optional<NormConfig> v_norm = {};
  bool k_eq_v = false;  ///< Values are keys before their norm and rotation.
  /** The layer that makes keys and values which others read, too: this one, or
   * an earlier one whose are read in place of own ones; -1: they are its own
   * alone. */
  int kv_layer = -1;
  bool own_kv = true;                      ///< It makes them.
  std::optional<QueryScale> q_scale = {};  ///< Behind both.
};

/**
 * Causal attention. Sites, beside those of q_proj, k_proj, v_proj, o_proj and
 * where they exist gate_proj, q_norm, k_norm and v_norm:
 *
 *     q, rot_q, z       [batch, pos, head, d_head]; q before q_norm, rot_q as
 *                       it meets the keys, behind rotation, norm and q_scale
 *     k, v, rot_k       [batch, pos, kv_head, d_head]; likewise; v before
 *                       v_norm, but, as rot_q and rot_k, behind clip_qkv.
 *                       None of them where another layer's are read. v and z
 *                       have d_value in place of d_head where it differs
 *     q_scale           [batch, pos, 1], what queries are multiplied with
 *                       where they grow with their position
 *     scores, pattern   [batch, head, dest, src]; scores after scale, softcap,
 *                       bias and mask, masked ones -inf
 *     position_bias     [batch, head, dest, src], what ALiBi adds to scores;
 *                       float32
 *     sinks             [batch, pos, head, 1], the score that a destination
 *                       gives to nothing (Miller, 2023): it takes its share of
 *                       the softmax and mixes no value
 *     sink_share        [batch, pos, head, 1], that share: what a row of the
 *                       pattern lacks to 1. Editing it leaves the rest to the
 *                       sources in proportion
 *     gate, mix         [batch, pos, head, d_head], where z is gated: z is mix,
 *                       the values by pattern, times the sigmoid of gate
 *     result            [batch, pos, head, d_model], z through W_O by head;
 *                       their sum (and the bias) is the output
 *
 * Query head h reads kv head h / (n_heads / n_kv_heads). Attention runs fused
 * unless scores are capped; reading what lies between q and z adds lazy nodes
 * beside it, editing it switches this layer to the explicit path. Parameter,
 * beside those of its parts: sinks [head].
 *
 * In a pass with a KvCache every site holds the new positions, and dest are the
 * new ones while src are all. In a packed pass scores, position_bias and
 * pattern are seen only where they are edited, one sequence at a time.
 */
class Attention : public Mixer {
 public:
  explicit Attention(const AttentionConfig& config);

  std::string_view name() const override { return "attn"; }
  const Attention* attention() const override { return this; }

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  /** [batch, head, dest, src] from what rot_q and rot_k hold, heads before
   * positions: rot_q [batch, head, pos, d_head]. */
  mlx::core::array pattern(
      const mlx::core::array& rot_q, const mlx::core::array& rot_k) const;

  /** The sites that sweeps ask for, by number; -1: it has none. */
  SiteId rot_q_site() const { return id(rot_q_); }
  SiteId rot_k_site() const { return config_.own_kv ? id(rot_k_) : -1; }
  /** What the pattern mixes: v, or what its norm makes of it. */
  SiteId values_site() const {
    if (!config_.own_kv) return -1;
    return v_norm ? v_norm->output_site() : id(v_);
  }
  SiteId scores_site() const { return id(scores_); }
  SiteId pattern_site() const { return id(pattern_); }
  SiteId z_site() const { return id(z_); }
  /** What the pattern makes of the values: z, where nothing gates it. */
  SiteId mix_site() const { return id(mix_.value_or(z_)); }

  const AttentionConfig& config() const { return config_; }

  /** Keys or values, [batch, pos, kv_head, d_head], that another layer made.
   * With a cache, those it holds come first. */
  const mlx::core::array& shared_k(const Carried& carried) const;
  const mlx::core::array& shared_v(const Carried& carried) const;

  /** What queries, keys and values are made by, where a matrix does it: keys
   * are absent where another layer's are read, values where keys are both. */
  std::optional<Linear> q_proj, k_proj, v_proj;
  Linear o_proj;
  std::optional<Linear> gate_proj;
  std::optional<Norm> q_norm, k_norm, v_norm;
  std::optional<mlx::core::array> sinks;

 protected:
  /** Of these projections q_proj, if asked for, and o_proj are made, and none
   * is added: who derives adds its own, o_proj as the last, then the steps. */
  Attention(const AttentionConfig& config, bool with_q_proj);
  void add_steps();

  /** What [batch, pos, head, ...] is, of the heads that queries have or keys
   * and values. */
  SiteTraits traits(Heads heads) const;

  /** From what is read to [batch, pos, head, d_head]. */
  virtual mlx::core::array project_q(
      const mlx::core::array& x, Pass& pass) const;

  /** From what is read to [batch, pos, kv_head, d_head], behind the site k, and
   * [batch, pos, kv_head, d_value], before the site v. */
  struct KeysAndValues {
    mlx::core::array k, v;
  };
  virtual KeysAndValues project_kv(const mlx::core::array& x, Pass& pass) const;
  mlx::core::array tap_k(mlx::core::array k, Pass& pass) const {
    return tap(pass, k_, std::move(k));
  }

 private:
  void add_projections();
  void add_norms();
  void add_mixing();

  /** q or k through its norm, [batch, pos, head, d_head]. */
  mlx::core::array normed(
      const std::optional<Norm>& norm,
      const mlx::core::array& x,
      Pass& pass) const;

  /** q_scale of the rows of x, [batch, pos, ...]. */
  mlx::core::array query_scale(const mlx::core::array& x, Pass& pass) const;

  /** Rotated and normed, heads before positions; `norm` where it stands behind
   * the rotation. */
  mlx::core::array rotated(
      const mlx::core::array& y,
      const std::optional<Norm>& norm,
      const std::optional<mlx::core::array>& by,
      Slot slot,
      Pass& pass) const;

  /** x turned by its position, heads before positions. */
  mlx::core::array turned(const mlx::core::array& x, Pass& pass) const;

  /** All keys and values there are, heads before positions; in a packed pass,
   * those of its rows. */
  KeysAndValues keys_and_values(const mlx::core::array& x, Pass& pass) const;

  /** How far a destination looks back, wherever it stands; 0: that depends. */
  int reach_of_window() const { return config_.chunk ? 0 : config_.window; }

  /** What a joint pass's sequences mix together, [sequence, kv_head, src, d],
   * with those that hold nothing. */
  KeysAndValues joint_sources(
      const mlx::core::array& k,
      const mlx::core::array& v,
      const PackedBatch& packed) const;
  /** What each sequence of a packed pass mixes, with what it continues; of
   * another pass, k and v as they are. */
  std::vector<KeysAndValues> sources(
      const mlx::core::array& k, const mlx::core::array& v, Pass& pass) const;

  mlx::core::array by_heads(
      const Linear& project,
      const mlx::core::array& x,
      int n,
      Pass& pass) const;
  mlx::core::array clipped(mlx::core::array y) const;

  /** The heads' mix of values, [batch, head, pos, d_value], from rotated q and
   * k with heads before positions. */
  mlx::core::array mix(
      const mlx::core::array& q,
      const mlx::core::array& k,
      const mlx::core::array& v,
      Pass& pass) const;

  /** The same step by step, each a site. */
  mlx::core::array opened(
      const mlx::core::array& q,
      const mlx::core::array& k,
      const mlx::core::array& v,
      Pass& pass) const;

  /** The site position_bias of a pass of these sizes. */
  mlx::core::array biases(int batch, int dest, int src) const;

  /** The site sinks beside q, [batch, head, pos, d_head]. */
  mlx::core::array sinks_of(const mlx::core::array& q) const;

  /** Each head's part of the output, [batch, pos, head, d_model]. */
  mlx::core::array per_head(const mlx::core::array& z) const;

  AttentionConfig config_;  // its scale and d_value resolved
  Slot q_ = {}, k_ = {}, v_ = {}, rot_q_ = {}, rot_k_ = {}, scores_ = {},
       pattern_ = {}, z_ = {}, result_ = {};
  std::optional<Slot> gate_, mix_, q_scale_, position_bias_, sinks_,
      sink_share_;
};

}  // namespace mlxterp::nn
