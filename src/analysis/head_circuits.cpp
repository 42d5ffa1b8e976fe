#include <cmath>
#include <limits>

#include "core/fail.h"
#include "mlx/linalg.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/heads.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

mx::array float32(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

mx::array gain(const nn::Norm& norm, const nn::NormConfig& config) {
  const auto weight = float32(norm.weight);
  return config.plus_one ? mx::add(weight, mx::array(1.0f)) : weight;
}

// Weights [..., d_model] that read through a norm, as reading what it reads.
mx::array reading(
    const mx::array& weight,
    const nn::Norm* norm,
    const nn::NormConfig& config) {
  if (!norm) return weight;
  auto folded = mx::multiply(weight, gain(*norm, config));
  if (config.kind == nn::NormConfig::Kind::layer)
    folded = mx::subtract(folded, mx::mean(folded, -1, true));
  return folded;
}

const nn::Norm* pointer(const std::optional<nn::Norm>& norm) {
  return norm ? &*norm : nullptr;
}

// [head * d_head, d_model] as [n_heads, d_head, d_model], kv heads repeated.
mx::array by_head(const mx::array& weight, int heads, int n_heads) {
  const auto split = mx::reshape(weight, {heads, -1, weight.shape(1)});
  return mx::repeat(split, n_heads / heads, 0);
}

// The gain that q or k is normalised with, where there is one.
mx::array head_gain(
    const mx::array& weight,
    const std::optional<nn::Norm>& norm,
    const DecoderConfig& config,
    int heads,
    int d) {
  if (!norm) return weight;
  auto by = gain(*norm, config.qk_norm_config);
  if (by.size() == static_cast<size_t>(d)) by = mx::tile(by, {heads});
  return mx::multiply(weight, mx::reshape(by, {heads * d, 1}));
}

// What heads are made by from what attention reads, [heads * d, d_model] each.
struct Reads {
  mx::array q, k, v;
};

Reads reads_of(
    const nn::Attention& attn,
    const nn::Attention& keys,
    const DecoderConfig& config) {
  const int kv = keys.config().n_kv_heads, d = attn.config().d_head;
  return {
      head_gain(
          attn.q_proj->weight.numbers(),
          attn.q_norm,
          config,
          config.n_heads,
          d),
      head_gain(keys.k_proj->weight.numbers(), keys.k_norm, config, kv, d),
      (keys.v_proj ? keys.v_proj : keys.k_proj)->weight.numbers()};
}

// Through its latents, whose norms have gains, and divide by what no matrix
// knows: up to a factor. Of queries and keys, what is not rotated.
Reads reads_of(const nn::LatentAttention& attn) {
  const auto& config = attn.config();
  const auto& latent = attn.latent();
  const auto through = [&](const nn::Linear& out,
                           const nn::Norm& norm,
                           const mx::array& in) {
    return mx::matmul(
        mx::multiply(float32(out.weight.numbers()), gain(norm, latent.norm)),
        float32(in));
  };
  const auto kv = mx::slice(
      attn.kv_a_proj.weight.numbers(),
      {0, 0},
      {latent.kv_rank, config.d_model});
  auto q = attn.q_proj ? float32(attn.q_proj->weight.numbers())
                       : through(
                             *attn.q_b_proj,
                             *attn.q_a_norm,
                             attn.q_a_proj->weight.numbers());
  q = mx::slice(
      mx::reshape(q, {config.n_heads, config.d_head, config.d_model}),
      {0, 0, 0},
      {config.n_heads, config.rope_from, config.d_model});
  return {
      mx::reshape(q, {-1, config.d_model}),
      through(attn.k_b_proj, attn.kv_a_norm, kv),
      through(attn.v_b_proj, attn.kv_a_norm, kv)};
}

// Of each of [head, n, n]: sum of eigenvalues over sum of magnitudes.
void shares(const mx::array& matrices, std::vector<float>& into) {
  // LAPACK's, so on the CPU.
  auto values = mx::linalg::eigvals(matrices, mx::Device::cpu);
  auto sum = mx::sum(mx::real(values), -1);
  auto most = mx::sum(mx::abs(values), -1);
  mx::eval(sum, most);
  for (int i = 0; i < matrices.shape(0); ++i) {
    const float all = most.data<float>()[i];
    into.push_back(all > 0 ? sum.data<float>()[i] / all : 0.0f);
  }
}

}  // namespace

HeadCircuits head_circuits(
    const InterpretableModel& model, const Progress& progress) {
  const auto& decoder = model.decoder();
  const auto& config = decoder.config();
  auto embed = float32(decoder.embed.weight.numbers());
  if (decoder.embed.ln) {
    Pass pass;
    embed = (*decoder.embed.ln)(embed, pass);
  }
  // From what is written to what is said, and from token to token, as seen
  // from the residual stream: [d_model, d_model].
  auto said = mx::matmul(
      mx::transpose(embed),
      reading(
          float32(decoder.unembed.weight().numbers()),
          &decoder.ln_final,
          config.norm));
  auto gram = mx::matmul(mx::transpose(embed), embed);
  mx::eval(said, gram);

  HeadCircuits out;
  for (auto* grid : {&out.copying, &out.matching})
    *grid = {config.n_layers, config.n_heads, {}};
  for (int i = 0; i < config.n_layers; ++i) {
    const auto& layer = *decoder.layers[static_cast<size_t>(i)];
    if (!layer.attention()) {
      constexpr float none = std::numeric_limits<float>::quiet_NaN();
      for (auto* grid : {&out.copying, &out.matching})
        grid->values.insert(grid->values.end(), size_t(config.n_heads), none);
      continue;
    }
    const auto& attn = *layer.attention();
    // Whose keys and values it reads.
    const int other = attn.config().kv_layer;
    const auto& from =
        attn.config().own_kv ? layer : *decoder.layers[size_t(other)];
    const auto& keys = *from.attention();
    const auto read =
        [&](const mx::array& weight, const DecoderLayer& by, int heads) {
          return by_head(
              reading(float32(weight), pointer(by.ln1), config.norm),
              heads,
              config.n_heads);
        };
    const auto* latent = dynamic_cast<const nn::LatentAttention*>(&attn);
    const auto by = latent ? reads_of(*latent) : reads_of(attn, keys, config);
    const int kv = keys.config().n_kv_heads;
    const auto w_q = read(by.q, layer, config.n_heads);
    const auto w_k = read(by.k, from, kv), w_v = read(by.v, from, kv);
    auto w_o =
        float32(attn.o_proj.weight.numbers());  // [d_model, head * d_value]
    if (layer.ln1_post)
      w_o = mx::multiply(
          mx::expand_dims(gain(*layer.ln1_post, config.norm), 1), w_o);
    w_o = mx::transpose(
        mx::reshape(w_o, {config.d_model, config.n_heads, -1}), {1, 0, 2});
    shares(mx::matmul(mx::matmul(w_v, said), w_o), out.copying.values);
    shares(
        mx::matmul(mx::matmul(w_k, gram), mx::swapaxes(w_q, 1, 2)),
        out.matching.values);
    if (progress)
      progress("Reading weights", static_cast<double>(i + 1) / config.n_layers);
  }
  return out;
}

}  // namespace mlxterp
