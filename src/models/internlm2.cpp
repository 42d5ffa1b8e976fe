// models/internlm2.cpp: InternLM2 (Cai et al., 2024): Llama under other names,
// with queries, keys and values in one matrix.

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig internlm2(const std::string& json) {
  const ConfigReader config(json);
  check_scaling_type(config);
  auto c = common_config(config);
  c.qkv_bias = c.attn_out_bias = config.boolean("bias", true);
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"tok_embeddings", "embed"},
    {"attention", "attn"},
    {"attn.wqkv", "attn.qkv_proj"},
    {"attn.wo", "attn.o_proj"},
    {"attention_norm", "ln1"},
    {"feed_forward", "mlp"},
    {"mlp.w1", "mlp.gate_proj"},
    {"mlp.w2", "mlp.down_proj"},
    {"mlp.w3", "mlp.up_proj"},
    {"ffn_norm", "ln2"},
    {"norm", "ln_final"},
    {"output", "unembed", /*at_start=*/true},
};

constexpr Fused fused[] = {{"attn.qkv_proj", q_k_v, Fused::per_kv_head}};

}  // namespace

extern const Family internlm2_family;
const Family internlm2_family = {"internlm2", internlm2, names, fused};

}  // namespace mlxterp
