// models/gpt_neo.cpp: GPT-Neo (Black et al., 2021), and the TinyStories models
// (Eldan and Li, 2023): GPT-2 whose scores are not scaled and whose layers may
// see a window only.

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// attention_types are kinds and how often they repeat: [[["global", "local"],
// 12]] are 24 layers. Each layer's window; 0 for none.
std::vector<int> windows(const ConfigReader& config, int n_layers) {
  const int window = config.integer_or("window_size", 256, 1, limits::dim);
  auto types = nlohmann::json::parse(R"([[["global", "local"], 12]])");
  if (config.has("attention_types")) types = config.json()["attention_types"];
  std::vector<int> all;
  const auto wrong = [&] {
    fail(
        ErrorKind::bad_data,
        "[config.json] 'attention_types' is {}; expected entries as "
        "[[\"global\", \"local\"], 12], for {} layers in all",
        printable(types.dump(), 80),
        n_layers);
  };
  if (!types.is_array()) wrong();
  for (const auto& entry : types) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_array() ||
        !entry[1].is_number_unsigned() ||
        entry[1].get<uint64_t>() > uint64_t{limits::layers})
      wrong();
    for (auto i = entry[1].get<uint64_t>(); i > 0; --i)
      for (const auto& kind : entry[0]) {
        if (kind != "global" && kind != "local") wrong();
        if (all.size() == static_cast<size_t>(n_layers)) wrong();
        all.push_back(kind == "local" ? window : 0);
      }
  }
  if (all.size() != static_cast<size_t>(n_layers)) wrong();
  return all;
}

DecoderConfig gpt_neo(const std::string& json) {
  const ConfigReader config(json);
  auto c =
      sized_config(config, {.n_layers = "num_layers", .n_heads = "num_heads"});
  c.d_mlp = config.has("intermediate_size")
                ? config.integer("intermediate_size", 1, limits::d_mlp)
                : 4 * c.d_model;
  c.context =
      config.integer_or("max_position_embeddings", 2048, 1, limits::dim);
  c.positions = c.context;
  c.windows = windows(config, c.n_layers);
  c.norm = layer_norm(config, "layer_norm_epsilon", true);
  c.attention_scale = 1.0f;
  c.attn_out_bias = c.mlp_bias = true;
  c.activation = activation_of(config, "activation_function", "gelu_new");
  c.gated = false;
  c.tied = config.boolean("tie_word_embeddings", true);
  return c;
}

constexpr Rename names[] = {
    {"transformer", ""},
    {"wte", "embed"},
    {"wpe", "pos_embed"},
    {"h", "layers"},
    {"ln_1", "ln1"},
    {"ln_2", "ln2"},
    {"attn.attention", "attn"},
    {"attn.out_proj", "attn.o_proj"},
    {"mlp.c_fc", "mlp.up_proj"},
    {"mlp.c_proj", "mlp.down_proj"},
    {"ln_f", "ln_final"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family gpt_neo_family;
const Family gpt_neo_family = {"gpt_neo", gpt_neo, names};

}  // namespace mlxterp
