#include "mlxterp/models/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "mlx/ops.h"
#include "nn/indices.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// `flags` of one layer; an empty list says `otherwise` for all.
template <typename T>
T at(const std::vector<T>& flags, int layer, T otherwise) {
  return flags.empty() ? otherwise : T(flags[static_cast<size_t>(layer)]);
}

mx::array times(const mx::array& x, float factor) {
  return factor == 1.0f ? x : mx::multiply(x, mx::array(factor, x.dtype()));
}

nn::PerLayerConfig per_layer_config(const DecoderConfig& config) {
  return {
      .vocab = config.per_layer_vocab,
      .d_model = config.d_model,
      .n_layers = config.n_layers,
      .d = config.d_per_layer,
      .activation = config.activation,
      .norm = config.norm,
  };
}

std::unique_ptr<nn::Mixer> mixer_of(const DecoderConfig& config, int layer) {
  if (!config.mixer && config.latent)
    return std::make_unique<nn::LatentAttention>(
        attention_config(config, layer), *config.latent);
  if (!config.mixer)
    return std::make_unique<nn::Attention>(attention_config(config, layer));
  auto made = config.mixer(config, layer);
  if (!made)
    fail(
        ErrorKind::usage,
        "[Decoder] the config's `mixer` made nothing for layer {}; return a "
        "nn::Mixer, say nn::Attention(attention_config(config, layer))",
        layer);
  return made;
}

}  // namespace

bool DecoderConfig::same_angles(int length, int other) const {
  return rope.same_angles(length, other) &&
         (!local_rope || local_rope->same_angles(length, other));
}

nn::AttentionConfig attention_config(const DecoderConfig& config, int layer) {
  nn::AttentionConfig attn{
      .d_model = config.d_model,
      .n_heads = config.n_heads,
      .n_kv_heads = at(config.kv_heads, layer, config.n_kv_heads),
      .d_head = at(config.d_heads, layer, config.d_head),
      .qkv_bias = config.qkv_bias,
      .out_bias = config.attn_out_bias,
      .rope = config.rope,
      .scale = config.attention_scale,
      .softcap = config.attention_softcap,
      .clip_qkv = config.clip_qkv,
      .window = at(config.windows, layer, 0),
      .chunk = at(config.chunks, layer, 0),
      .alibi = config.alibi,
      .sinks = config.attention_sinks,
      .gate = config.attention_gate,
      .qk_norm = config.qk_norm,
      .norm = config.qk_norm_config,
      .norm_rotated = config.qk_norm_rotated,
      .v_norm = config.v_norm,
      .k_eq_v = at(config.k_eq_v, layer, false),
      .q_scale = config.q_scale,
  };
  if (const int source = at(config.kv_layers, layer, layer); source != layer) {
    attn.kv_layer = source;
    attn.own_kv = false;
  } else if (std::ranges::count(config.kv_layers, layer) > 1) {
    attn.kv_layer = layer;
  }
  if (at(config.no_qk_norm, layer, false))
    attn.qk_norm = nn::AttentionConfig::QkNorm::none;
  if (at(config.no_q_scale, layer, false)) attn.q_scale.reset();
  if (config.local_rope && attn.window > 0) attn.rope = *config.local_rope;
  if (at(config.no_rope, layer, false)) attn.rope.dims = 0;
  if (config.scale_by_layer) {
    const auto d_head = static_cast<float>(attn.d_head);
    const float scale = attn.scale > 0 ? attn.scale : 1 / std::sqrt(d_head);
    attn.scale = scale / static_cast<float>(layer + 1);
  }
  return attn;
}

DecoderLayer::DecoderLayer(const DecoderConfig& config, int layer)
    : mixer(mixer_of(config, layer)),
      parallel_(config.parallel),
      float32_stream_(config.float32_stream),
      residual_scale_(config.residual_scale) {
  if (config.pre_norms) add_norm("ln1", ln1, config, Stage::before);
  add(std::string(mixer->name()), *mixer, Stage::inside);
  if (config.post_norms) add_norm("ln1_post", ln1_post, config, Stage::after);
  add_feed_forward(config, layer);
  if (config.d_per_layer > 0) {
    add("ple", ple.emplace(per_layer_config(config), layer), Stage::after);
    add_norm("ln_ple_post", ln_ple_post, config, Stage::after);
  }
  add_names(config);
}

void DecoderLayer::add_norm(
    const char* name,
    std::optional<nn::Norm>& norm,
    const DecoderConfig& config,
    Stage stage) {
  add(name, norm.emplace(config.d_model, config.norm), stage);
}

void DecoderLayer::add_feed_forward(const DecoderConfig& config, int layer) {
  const bool experts = config.moe && !at(config.dense, layer, false);
  const int d_mlp = at(config.d_mlps, layer, config.d_mlp);
  if (!experts && d_mlp == 0) return;
  if (config.pre_norms && !config.shared_norm)
    add_norm("ln2", ln2, config, Stage::after);
  if (!experts || config.moe_beside)
    add("mlp",
        mlp.emplace(nn::MLPConfig{
            .d_model = config.d_model,
            .d_mlp = d_mlp,
            .activation = config.activation,
            .gated = config.gated,
            .bias = config.mlp_bias,
        }),
        Stage::after);
  if (experts)
    add(config.moe_beside ? "moe" : "mlp",
        moe.emplace(*config.moe),
        Stage::after);
  if (moe_beside() && config.moe->norm) {
    add_norm("ln_mlp_post", ln_mlp_post, config, Stage::after);
    add_norm("ln_moe_post", ln_moe_post, config, Stage::after);
  }
  if (config.post_norms) add_norm("ln2_post", ln2_post, config, Stage::after);
}

void DecoderLayer::add_names(const DecoderConfig& config) {
  const SiteTraits stream{.width = config.d_model, .stage = Stage::after};
  describe({.width = config.d_model, .stage = Stage::before}, stream);
  alias("resid_pre", "input");
  // Where a norm or a factor stands behind it, what is added to the residual
  // stream is a value of its own; else it is the module's output.
  const bool scaled = config.residual_scale != 1.0f;
  const auto name = [&](const char* added,
                        std::optional<Slot>& slot,
                        bool own,
                        const std::string& output) {
    if (own)
      slot = site(added, stream);
    else
      alias(added, output + ".output");
  };
  name(
      "attn_out",
      attn_out_,
      scaled,
      config.post_norms ? "ln1_post" : std::string(mixer->name()));
  if (feeds_forward())
    name(
        "mlp_out",
        mlp_out_,
        scaled || (moe_beside() && !config.post_norms),
        config.post_norms ? "ln2_post" : "mlp");
  if (ple) alias("ple_out", "ln_ple_post.output");
  if (feeds_forward() && !config.parallel)
    resid_mid_ = site("resid_mid", stream);
  if (config.layer_scalar) {
    add("layer_scalar", layer_scalar.emplace(mx::ones({1})));
    layer_scalar_ = site("layer_scalar", {.width = 1, .stage = Stage::after});
  }
  alias("resid_post", "output");
}

mx::array DecoderLayer::through(
    const nn::Norm& norm, const mx::array& stream, Pass& pass) const {
  return norm(
      float32_stream_ ? mx::astype(stream, norm.weight.dtype()) : stream, pass);
}

mx::array DecoderLayer::feed_forward(
    const mx::array& x, const mx::array& stream, Pass& pass) const {
  if (!mlp) return (*moe)(x, pass);
  auto y = (*mlp)(x, pass);
  if (!moe) return y;
  if (!ln_mlp_post) return mx::add(y, (*moe)(x, pass));
  y = (*ln_mlp_post)(y, pass);
  return mx::add(y, (*ln_moe_post)((*moe)(stream, pass), pass));
}

mx::array DecoderLayer::finished(mx::array stream, Pass& pass) const {
  if (ple) stream = mx::add(stream, (*ln_ple_post)((*ple)(stream, pass), pass));
  if (!layer_scalar) return stream;
  const auto each = mx::broadcast_to(
      mx::astype(*layer_scalar, stream.dtype()),
      {stream.shape(0), stream.shape(1), 1});
  return mx::multiply(stream, tap(pass, *layer_scalar_, each));
}

mx::array DecoderLayer::written(
    mx::array y,
    const std::optional<nn::Norm>& post,
    std::optional<Slot> slot,
    Pass& pass) const {
  if (post) y = (*post)(y, pass);
  y = times(y, residual_scale_);
  return slot ? tap(pass, *slot, std::move(y)) : y;
}

mx::array DecoderLayer::forward(const mx::array& x, Pass& pass) const {
  const auto read = ln1 ? through(*ln1, x, pass) : x;
  const auto attn_out =
      written((*mixer)(read, pass), ln1_post, attn_out_, pass);
  const auto stream = pass.gather_output_rows(x);
  if (!feeds_forward()) return finished(mx::add(stream, attn_out), pass);
  if (parallel_) {
    const auto both =
        ln2 ? through(*ln2, stream, pass) : pass.gather_output_rows(read);
    const auto mlp_out =
        written(feed_forward(both, stream, pass), ln2_post, mlp_out_, pass);
    return finished(mx::add(mx::add(stream, attn_out), mlp_out), pass);
  }
  const auto mid = tap(pass, *resid_mid_, mx::add(stream, attn_out));
  const auto mlp_out = written(
      feed_forward(ln2 ? through(*ln2, mid, pass) : mid, mid, pass),
      ln2_post,
      mlp_out_,
      pass);
  return finished(mx::add(mid, mlp_out), pass);
}

Unembedding::Unembedding(
    const DecoderConfig& config, const nn::Embedding& embed)
    : embed_(embed),
      float32_stream_(config.float32_stream),
      scale_(config.logit_scale),
      softcap_(config.logit_softcap) {
  if (!config.tied)
    add("weight",
        own_.emplace(nn::Linear(config.d_model, config.vocab).weight));
  if (config.unembed_bias) add("bias", bias.emplace(mx::zeros({config.vocab})));
  describe({.width = config.d_model}, {.width = config.vocab});
  if (scale_ != 1.0f || softcap_ != 0)
    raw_ = site("raw", {.width = config.vocab});
}

mx::array Unembedding::forward(const mx::array& x, Pass& pass) const {
  auto logits = weight().times(read(x), bias);
  return raw_ ? capped(tap(pass, *raw_, std::move(logits))) : logits;
}

mx::array Unembedding::of_tokens(
    const mx::array& x, const std::vector<int>& tokens) const {
  const mx::array ids(
      tokens.data(), {static_cast<int>(tokens.size())}, mx::int32);
  auto logits = mx::matmul(read(x), mx::transpose(weight().take(ids)));
  if (bias) logits = mx::add(logits, mx::take(*bias, ids, 0));
  return capped(std::move(logits));
}

mx::array Unembedding::read(const mx::array& x) const {
  return float32_stream_ ? mx::astype(x, weight().dtype()) : x;
}

mx::array Unembedding::capped(mx::array logits) const {
  logits = times(logits, scale_);
  if (softcap_ == 0) return logits;
  const mx::array cap(softcap_, logits.dtype());
  return mx::multiply(mx::tanh(mx::divide(logits, cap)), cap);
}

Decoder::Decoder(const DecoderConfig& config)
    : embed(
          config.vocab,
          config.d_model,
          config.embed_scale,
          config.embed_factor,
          config.embed_norm ? std::optional(config.norm) : std::nullopt),
      ln_final(config.d_model, config.norm),
      unembed(config, embed),
      config_(config) {
  add("embed", embed);
  if (config.positions > 0)
    add("pos_embed", pos_embed.emplace(config.positions, config.d_model));
  if (config.d_per_layer > 0) add("ple", ple.emplace(per_layer_config(config)));
  for (int i = 0; i < config.n_layers; ++i) {
    layers.push_back(std::make_unique<DecoderLayer>(config, i));
    add(fmt::format("layers.{}", i), *layers.back());
  }
  add("ln_final", ln_final);
  add("unembed", unembed);
  describe({.layout = Layout::other}, {.width = config.vocab});
  alias("tokens", "input");
  alias("embed", "embed.output");
  if (pos_embed) alias("pos_embed", "pos_embed.output");
  alias("ln_final", "ln_final.output");
  alias("logits", "unembed.output");
  alias("output", "unembed.output");  // one value, one site
}

mx::array Decoder::forward(const mx::array& ids, Pass& pass) const {
  const int held = pass.cache_offset();
  if (held > 0 && ids.shape(1) > config_.context - held)
    fail(
        ErrorKind::usage,
        "[Decoder] the cache holds {} positions and {} more were given, the "
        "model's context is {}; start with an empty cache and a shorter prompt",
        held,
        ids.shape(1),
        config_.context);
  if (pass.edits(id(input_slot)))
    if (const auto token = nn::outside(ids, config_.vocab))
      fail(
          ErrorKind::out_of_range,
          "[Decoder] id {} at site 'tokens' is out of range; ids go from 0 to "
          "{}",
          *token,
          config_.vocab - 1);
  auto x = embedded(ids, pass);
  for (const auto& layer : layers)
    x = (*layer)(x, pass);
  return unembed(ln_final(x, pass), pass);
}

mx::array Decoder::embedded(const mx::array& ids, Pass& pass) const {
  auto x = embed(ids, pass);
  if (config_.float32_stream) x = mx::astype(x, mx::float32);
  if (ple) ple->carry(ids, x, pass);
  if (!pos_embed) return x;
  const int first = config_.position_offset + pass.cache_offset();
  auto row = mx::arange(first, first + ids.shape(1));
  if (pass.packed()) {
    const auto at = pass.packed()->positions();
    row = mx::add(
        mx::array(at.data(), {ids.shape(1)}, mx::int32), mx::array(first));
  }
  return mx::add(x, (*pos_embed)(mx::broadcast_to(row, ids.shape()), pass));
}

}  // namespace mlxterp
