// models/gptj.cpp: GPT-J (Wang and Komatsuzaki, 2021).

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

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
  c.unembed_bias = !c.tied;
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

}  // namespace

extern const Family gptj_family;
const Family gptj_family = {"gptj", gptj, names};

}  // namespace mlxterp
