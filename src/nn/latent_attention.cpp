#include "mlxterp/nn/latent_attention.h"

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

AttentionConfig whole(AttentionConfig config, const LatentConfig& latent) {
  config.n_kv_heads = config.n_heads;
  config.d_value = latent.d_value;
  config.rope_from = config.d_head - latent.d_rope;
  if (config.rope.dims > 0) config.rope.dims = latent.d_rope;
  return config;
}

}  // namespace

LatentAttention::LatentAttention(
    const AttentionConfig& config, const LatentConfig& latent)
    : Attention(whole(config, latent), latent.q_rank == 0),
      kv_a_proj(config.d_model, latent.kv_rank + latent.d_rope, latent.bias),
      kv_a_norm(latent.kv_rank, latent.norm),
      k_b_proj(
          latent.kv_rank, config.n_heads * (config.d_head - latent.d_rope)),
      v_b_proj(latent.kv_rank, config.n_heads * latent.d_value),
      latent_(latent) {
  if (latent.q_rank == 0) {
    add("q_proj", *q_proj);
  } else {
    add("q_a_proj",
        q_a_proj.emplace(config.d_model, latent.q_rank, latent.bias));
    add("q_a_norm", q_a_norm.emplace(latent.q_rank, latent.norm));
    add("q_b_proj",
        q_b_proj.emplace(latent.q_rank, config.n_heads * config.d_head));
    alias("q_latent", "q_a_norm.output");
  }
  add("kv_a_proj", kv_a_proj);
  add("kv_a_norm", kv_a_norm);
  alias("kv_latent", "kv_a_norm.output");
  add("k_b_proj", k_b_proj);
  add("v_b_proj", v_b_proj);
  k_pe_ = site("k_pe", {.width = latent.d_rope});
  add("o_proj", o_proj, Stage::after);
  add_steps();
}

mx::array LatentAttention::project_q(const mx::array& x, Pass& pass) const {
  if (q_proj) return Attention::project_q(x, pass);
  const auto latent = (*q_a_norm)((*q_a_proj)(x, pass), pass);
  return mx::reshape(
      (*q_b_proj)(latent, pass),
      {x.shape(0), x.shape(1), config().n_heads, config().d_head});
}

LatentAttention::KeysAndValues LatentAttention::project_kv(
    const mx::array& x, Pass& pass) const {
  const int batch = x.shape(0), length = x.shape(1), n = config().n_heads;
  const auto by_heads = [&](const mx::array& y) {
    return mx::reshape(y, {batch, length, n, -1});
  };
  const auto parts =
      mx::split(kv_a_proj(x, pass), mx::Shape{latent_.kv_rank}, -1);
  const auto latent = kv_a_norm(parts[0], pass);
  const auto shared = mx::broadcast_to(
      mx::expand_dims(tap(pass, k_pe_, parts[1]), 2),
      {batch, length, n, latent_.d_rope});
  auto k = tap_k(
      mx::concatenate({by_heads(k_b_proj(latent, pass)), shared}, -1), pass);
  return {std::move(k), by_heads(v_b_proj(latent, pass))};
}

}  // namespace mlxterp::nn
