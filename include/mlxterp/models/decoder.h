// mlxterp/models/decoder.h: the one transformer decoder that every family
// configures.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mlxterp/nn/attention.h"
#include "mlxterp/nn/latent_attention.h"
#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mixer.h"
#include "mlxterp/nn/mlp.h"
#include "mlxterp/nn/moe.h"
#include "mlxterp/nn/norm.h"
#include "mlxterp/nn/per_layer.h"

namespace mlxterp {

struct DecoderConfig;

/** Makes what mixes positions in a layer, from 0. */
using MakeMixer = std::function<std::unique_ptr<nn::Mixer>(
    const DecoderConfig& config, int layer)>;

/** What a decoder is made of; a family fills it from config.json. */
struct DecoderConfig {
  std::string model_type;
  int vocab = 0;
  int d_model = 0;
  int n_layers = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int d_head = 0;
  int d_mlp = 0;    ///< 0: layers are a mixer alone, without an MLP.
  int context = 0;  ///< Longest prompt, in tokens.

  /** How a layer is put together. Without `parallel` the MLP reads what
   * attention left in the residual stream, with it both read the same. */
  bool parallel = false;
  bool shared_norm = false;  ///< Parallel only: ln1 serves both, no ln2.
  bool pre_norms = true;     ///< ln1, ln2 on what attention and MLP read.
  bool post_norms = false;   ///< ln1_post, ln2_post on what they write.
  nn::NormConfig norm;
  float residual_scale = 1.0f;  ///< Of what they write.
  bool layer_scalar = false;    ///< Multiplies what leaves the layer.
  /** The residual stream is float32 whatever the weights are. */
  bool float32_stream = false;

  nn::Rope rope;  ///< dims 0: none.
  /** If set, layers with a window use this one instead. */
  std::optional<nn::Rope> local_rope;
  std::vector<int> windows;   ///< Of each layer, 0 none; empty: none.
  std::vector<int> chunks;    ///< Likewise.
  std::vector<bool> no_rope;  ///< Layers that do not rotate; empty: all do.
  std::vector<bool> dense;    ///< Of a mixture, layers with an MLP.
  bool qkv_bias = false;
  bool attn_out_bias = false;
  float attention_scale = 0.0f;    ///< 0: 1 / sqrt(d_head).
  bool scale_by_layer = false;     ///< Divided by the layer's number, from 1.
  float attention_softcap = 0.0f;  ///< 0: none.
  float clip_qkv = 0.0f;           ///< Bound of q, k and v; 0: none.
  nn::Alibi alibi;                 ///< Without slopes: none.
  bool attention_sinks = false;    ///< Of each head, one.
  bool attention_gate = false;     ///< Of z.
  nn::AttentionConfig::QkNorm qk_norm = nn::AttentionConfig::QkNorm::none;
  nn::NormConfig qk_norm_config;
  bool qk_norm_rotated = false;  ///< Behind the rotation, not before it.
  std::vector<bool> no_qk_norm;  ///< Layers without; empty: all have it.
  std::optional<nn::QueryScale> q_scale;
  std::vector<bool> no_q_scale;  ///< Likewise.
  std::optional<nn::NormConfig> v_norm;
  std::vector<int> d_heads;   ///< Of each layer; empty: d_head.
  std::vector<int> kv_heads;  ///< Likewise; empty: n_kv_heads.
  std::vector<bool> k_eq_v;   ///< Layers whose values are their keys.
  /** The layer whose keys and values each reads, itself or an earlier one that
   * reads its own; empty: all read their own. */
  std::vector<int> kv_layers;

  /** Queries, keys and values come from small vectors (DeepSeek); d_head and
   * attention_scale hold, n_kv_heads and what is said of norms do not. */
  std::optional<nn::LatentConfig> latent;

  /** Makes each layer's mixer; empty: attention as the fields above say, in
   * every layer. */
  MakeMixer mixer;

  nn::Activation activation = nn::Activation::silu;
  bool gated = true;
  bool mlp_bias = false;
  std::vector<int> d_mlps;           ///< Of each layer, 0 none; empty: d_mlp.
  std::optional<nn::MoEConfig> moe;  ///< In place of the MLP.
  /** Beside it instead; where the experts have a norm of their own they read
   * what ln2 does not, and each of both has one behind it. */
  bool moe_beside = false;
  /** Embeddings that each layer has of its own: their width, and how many of
   * the vocabulary's tokens have them; 0: none. */
  int d_per_layer = 0;
  int per_layer_vocab = 0;

  float embed_scale = 1.0f;   ///< Part of what the embedding gives.
  float embed_factor = 1.0f;  ///< Behind it: Granite's multiplier.
  bool embed_norm = false;    ///< A norm behind the embedding, embed.ln.
  int positions = 0;          ///< Learned position embeddings; 0: none.
  int position_offset = 0;    ///< The row of the first position.
  bool tied = false;          ///< The unembedding is the embedding.
  bool unembed_bias = false;
  float logit_scale = 1.0f;
  float logit_softcap = 0.0f;  ///< 0: none.

  /** Whether prompts of these two lengths are rotated by the same angles, in
   * every layer. */
  bool same_angles(int length, int other) const;
};

/** What the fields of a config say of attention in a layer, for a `mixer` that
 * has attention in some. */
nn::AttentionConfig attention_config(const DecoderConfig& config, int layer);

/**
 * One layer. Sites beside those of its parts, all [batch, pos, d_model]:
 * resid_pre, resid_post; attn_out and mlp_out, what is added to the residual
 * stream; resid_mid between them (not in parallel layers). attn_out is what the
 * mixer adds, whether or not it is attention; mlp_out, where experts stand
 * beside the MLP, what both do. A layer that is a mixer alone has neither
 * mlp_out nor resid_mid. ple_out, what the layer's own embedding adds, comes
 * last. layer_scalar [batch, pos, 1] then multiplies the stream.
 */
class DecoderLayer : public nn::Module {
 public:
  DecoderLayer(const DecoderConfig& config, int layer);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  std::optional<nn::Norm> ln1, ln1_post, ln2, ln2_post;
  /** Behind the MLP and the experts beside it, before they are added. */
  std::optional<nn::Norm> ln_mlp_post, ln_moe_post;
  std::optional<nn::Norm> ln_ple_post;
  /** Its attention; null: something else mixes positions. */
  const nn::Attention* attention() const { return mixer->attention(); }

  std::unique_ptr<nn::Mixer> mixer;
  std::optional<nn::MLP> mlp;
  std::optional<nn::MoE> moe;
  std::optional<nn::PerLayerInput> ple;
  std::optional<mlx::core::array> layer_scalar;

  /** Something follows its mixer: an MLP, experts, or both. */
  bool feeds_forward() const { return mlp || moe; }
  /** Experts stand beside its MLP. */
  bool moe_beside() const { return mlp && moe; }
  /** "mlp" or "moe", where it has experts. */
  const char* moe_name() const { return moe_beside() ? "moe" : "mlp"; }

 private:
  void add_feed_forward(const DecoderConfig& config, int layer);
  void add_norm(
      const char* name,
      std::optional<nn::Norm>& norm,
      const DecoderConfig& config,
      Stage stage);
  void add_names(const DecoderConfig& config);

  /** The stream through a norm, in the precision of its weights. */
  mlx::core::array through(
      const nn::Norm& norm, const mlx::core::array& stream, Pass& pass) const;
  /** `x` through ln2, and without it. */
  mlx::core::array feed_forward(
      const mlx::core::array& x,
      const mlx::core::array& stream,
      Pass& pass) const;
  /** All that follows attention and MLP. */
  mlx::core::array finished(mlx::core::array stream, Pass& pass) const;
  /** What attention or MLP wrote, as it is added to the residual stream. */
  mlx::core::array written(
      mlx::core::array y,
      const std::optional<nn::Norm>& post,
      std::optional<Slot> slot,
      Pass& pass) const;

  bool parallel_, float32_stream_;
  float residual_scale_;
  std::optional<Slot> resid_mid_, attn_out_, mlp_out_, layer_scalar_;
};

/** Residual to logits, [batch, pos, d_model] to [batch, pos, vocab].
 * Parameters: weight [vocab, d_model], unless it is tied to the embedding; bias
 * [vocab] in some families. Site where a scale or a cap follows: raw, before
 * both. */
class Unembedding : public nn::Module {
 public:
  Unembedding(const DecoderConfig& config, const nn::Embedding& embed);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  /** The logits of these tokens alone, [..., token], by no site. Ids must be in
   * range. */
  mlx::core::array of_tokens(
      const mlx::core::array& x, const std::vector<int>& tokens) const;

  const nn::Matrix& weight() const { return own_ ? *own_ : embed_.weight; }
  std::optional<mlx::core::array> bias;

 private:
  /** `x` in the precision of the weights. */
  mlx::core::array read(const mlx::core::array& x) const;
  mlx::core::array capped(mlx::core::array logits) const;

  const nn::Embedding& embed_;
  std::optional<nn::Matrix> own_;  // absent where tied
  bool float32_stream_;
  float scale_, softcap_;
  std::optional<Slot> raw_;
};

/**
 * Token ids [batch, pos] to logits [batch, pos, vocab]. Its paths, and so its
 * sites, are the same for every family: embed, pos_embed, ple, layers.i.{ln1,
 * attn. {q_proj, k_proj, v_proj, o_proj, q_norm, k_norm} or another mixer by
 * its name, ln1_post, ln2, mlp.{gate_proj, up_proj, act_fn, down_proj} or mlp.{
 * router, experts}, ln2_post, ple}, ln_final, unembed, each where the family
 * has it. New ones have random weights; models/load.h fills them from a
 * checkpoint. A pass with a KvCache goes on behind the positions held; beyond
 * the context that throws usage.
 */
class Decoder : public nn::Module {
 public:
  explicit Decoder(const DecoderConfig& config);

  mlx::core::array forward(
      const mlx::core::array& ids, Pass& pass) const override;

  /** What enters layer 0, [batch, pos, d_model]; the pass carries what travels
   * beside it. */
  mlx::core::array embedded(const mlx::core::array& ids, Pass& pass) const;

  const DecoderConfig& config() const { return config_; }

  nn::Embedding embed;
  std::optional<nn::Embedding> pos_embed;
  std::optional<nn::PerLayerEmbedding> ple;
  std::vector<std::unique_ptr<DecoderLayer>> layers;
  nn::Norm ln_final;
  Unembedding unembed;

 private:
  DecoderConfig config_;
};

}  // namespace mlxterp
