#include "io/gguf_architecture.h"

#include <string>

namespace mlxterp {

namespace {

constexpr GgufRenaming llama_whole[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

constexpr GgufRenaming llama_in_block[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj", Stored::query_rows},
    {"attn_k", "self_attn.k_proj", Stored::key_rows},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr GgufRenaming qwen_in_block[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr GgufRenaming gemma_whole[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm", Stored::one_added},
    {"output", "lm_head"},
};

constexpr GgufRenaming gemma_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm", Stored::one_added},
    {"attn_k_norm", "self_attn.k_norm", Stored::one_added},
    {"attn_output", "self_attn.o_proj"},
    {"post_attention_norm", "post_attention_layernorm", Stored::one_added},
    {"ffn_norm", "pre_feedforward_layernorm", Stored::one_added},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"post_ffw_norm", "post_feedforward_layernorm", Stored::one_added},
};

constexpr GgufRenaming nemotron_in_block[] = {
    {"attn_norm", "input_layernorm", Stored::one_added},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_norm", "post_attention_layernorm", Stored::one_added},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr GgufRenaming phi3_in_block[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_up", "mlp.gate_up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr GgufRenaming gpt2_whole[] = {
    {"token_embd", "transformer.wte"},
    {"position_embd", "transformer.wpe"},
    {"output_norm", "transformer.ln_f"},
    {"output", "lm_head"},
};

constexpr GgufRenaming gpt2_in_block[] = {
    {"attn_norm", "ln_1"},
    {"attn_qkv", "attn.c_attn", Stored::transposed},
    {"attn_output", "attn.c_proj", Stored::transposed},
    {"ffn_norm", "ln_2"},
    {"ffn_up", "mlp.c_fc", Stored::transposed},
    {"ffn_down", "mlp.c_proj", Stored::transposed},
};

constexpr std::string_view layers = "model.layers";

constexpr GgufArchitecture architectures[] = {
    {"llama", "llama", layers, llama_whole, llama_in_block},
    {"qwen2", "qwen2", layers, llama_whole, qwen_in_block},
    {"qwen3", "qwen3", layers, llama_whole, qwen_in_block},
    {"gemma2", "gemma2", layers, gemma_whole, gemma_in_block},
    {"gemma3", "gemma3_text", layers, gemma_whole, gemma_in_block},
    {"phi3", "phi3", layers, llama_whole, phi3_in_block},
    {"gpt2", "gpt2", "transformer.h", gpt2_whole, gpt2_in_block},
    // Its whole model has names like Gemma's, and its norms one added.
    {"nemotron", "nemotron", layers, gemma_whole, nemotron_in_block},
};

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() {
  return architectures;
}

const GgufArchitecture& find_architecture(const GgufMetadata& metadata) {
  const std::string& name = metadata.text("general.architecture");
  std::string known;
  for (const GgufArchitecture& architecture : architectures) {
    if (architecture.name == name) return architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.name);
  }
  fail(
      ErrorKind::bad_data,
      "[Checkpoint::open] {} has the architecture \"{}\"; GGUF files are read "
      "for: {}",
      metadata.name(),
      printable(name),
      known);
}

}  // namespace mlxterp
