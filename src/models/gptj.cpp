// models/gptj.cpp: GPT-J (Wang and Komatsuzaki, 2021) and CodeGen (Nijkamp et
// al., 2022), whose queries, keys and values are one matrix.

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// The machines that CodeGen was trained on: each one's queries, values and
// keys lie together.
constexpr int codegen_shards = 4;

DecoderConfig gptj(const std::string& json) {
  const ConfigReader config(json);
  auto c = gpt_config(config, /*tied=*/false, /*context=*/2048);
  c.parallel = c.shared_norm = true;
  c.rope = {.dims = c.d_head, .interleaved = true};  // null: all of it turns
  if (!config.null("rotary_dim"))
    c.rope.dims = config.integer_or("rotary_dim", 64, 2, c.d_head);
  if (c.rope.dims % 2 != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'rotary_dim' {} is odd; RoPE rotates pairs of "
        "dimensions",
        c.rope.dims);
  c.unembed_bias = true;
  return c;
}

DecoderConfig codegen(const std::string& json) {
  auto c = gptj(json);
  if (c.d_model % codegen_shards != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] n_embd {} is not a multiple of {}, the number of parts "
        "that CodeGen's attention was trained in",
        c.d_model,
        codegen_shards);
  return c;
}

constexpr Rename names[] = {
    {"transformer", ""},
    {"model", ""},  // mlx-lm's
    {"wte", "embed"},
    {"h", "layers"},
    {"ln_1", "ln1"},
    {"attn.out_proj", "attn.o_proj"},
    {"mlp.fc_in", "mlp.up_proj"},
    {"mlp.fc_out", "mlp.down_proj"},
    {"ln_f", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr std::array<std::string_view, 3> q_v_k = {
    "attn.q_proj", "attn.v_proj", "attn.k_proj"};
constexpr Fused codegen_fused[] = {{"attn.qkv_proj", q_v_k, codegen_shards}};

}  // namespace

extern const Family gptj_family, codegen_family;
const Family gptj_family = {"gptj", gptj, names};
const Family codegen_family = {"codegen", codegen, names, codegen_fused};

}  // namespace mlxterp
