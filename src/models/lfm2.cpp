// models/lfm2.cpp: LFM2 (Liquid AI, 2025): short convolutions, and attention in
// some layers.

#include <cmath>
#include <set>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/nn/short_conv.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// The layers that have attention by their numbers; absent: all.
std::function<bool(int)> by_numbers(const ConfigReader& config, int n_layers) {
  if (!config.has("full_attn_idxs")) return [](int) { return true; };
  const auto& list = config.json()["full_attn_idxs"];
  std::set<int> layers;
  if (!list.is_array())
    fail(
        ErrorKind::bad_data,
        "[config.json] 'full_attn_idxs' is not a list of layers");
  for (const auto& layer : list) {
    if (!layer.is_number_unsigned() ||
        layer.get<uint64_t>() >= static_cast<uint64_t>(n_layers))
      fail(
          ErrorKind::bad_data,
          "[config.json] 'full_attn_idxs' names {}; the model has {} layers",
          printable(layer.dump()),
          n_layers);
    layers.insert(layer.get<int>());
  }
  return [layers](int layer) { return layers.contains(layer); };
}

// intermediate_size is what a plain MLP would have; gated, it gets two thirds,
// in whole blocks.
int width_of_mlp(const ConfigReader& config, int size) {
  if (!config.boolean("block_auto_adjust_ff_dim", true)) return size;
  double width = std::floor(2.0 * size / 3);
  const double by = config.positive("block_ffn_dim_multiplier", 1.0f);
  const int of = config.integer_or("block_multiple_of", 256, 1, limits::d_mlp);
  width = of * std::ceil(std::floor(by * width) / of);
  if (width < 1 || width > limits::d_mlp)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'block_ffn_dim_multiplier' and 'block_multiple_of' make "
        "an MLP {:g} wide; it must be 1 to {}",
        width,
        limits::d_mlp);
  return static_cast<int>(width);
}

DecoderConfig lfm2(const std::string& json) {
  auto fields = ConfigReader(json).json();
  // As older files call them; they count more.
  const ConfigReader older(fields);
  if (fields.contains("block_ff_dim"))
    fields["intermediate_size"] =
        older.integer("block_ff_dim", 1, limits::d_mlp);
  if (fields.contains("tie_embedding"))
    fields["tie_word_embeddings"] = older.boolean("tie_embedding", true);
  if (!fields.contains("intermediate_size"))
    fail(
        ErrorKind::bad_data,
        "[config.json] there is neither 'intermediate_size' nor, as older "
        "files call it, 'block_ff_dim'");
  const ConfigReader config(fields);
  auto c = common_config(
      config, {.tied = true, .theta = 1e6f, .kv_heads = 8, .context = 128'000});
  c.norm.eps = config.positive("norm_eps", 1e-5f);
  c.qk_norm_config = c.norm;
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.activation = nn::Activation::silu;
  c.d_mlp = width_of_mlp(config, c.d_mlp);
  const auto attending = attending_layers(
      config, c.n_layers, "conv", by_numbers(config, c.n_layers));
  const int width = config.integer_or("conv_L_cache", 3, 1, limits::heads);
  const bool bias = config.boolean("conv_bias", false);
  c.mixer = [=](const DecoderConfig& own,
                int layer) -> std::unique_ptr<nn::Mixer> {
    if (attending[static_cast<size_t>(layer)])
      return std::make_unique<nn::Attention>(attention_config(own, layer));
    return std::make_unique<nn::ShortConv>(own.d_model, width, bias);
  };
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"embedding_norm", "ln_final"},
    {"operator_norm", "ln1"},
    {"ffn_norm", "ln2"},
    {"self_attn", "attn"},
    {"attn.out_proj", "attn.o_proj"},
    {"q_layernorm", "q_norm"},
    {"k_layernorm", "k_norm"},
    {"feed_forward", "mlp"},
    {"w1", "gate_proj"},
    {"w2", "down_proj"},
    {"w3", "up_proj"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family lfm2_family;
const Family lfm2_family = {"lfm2", lfm2, names};

}  // namespace mlxterp
