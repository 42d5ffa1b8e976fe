// models/qwen_experts.h: the fields that Qwen's mixtures of experts share.

#pragma once

#include "models/common.h"

namespace mlxterp {

struct QwenExperts {
  const char* count_field;
  int count, top_k, d_mlp;
  bool normalize;
};

/** Fills `moe`, and `dense` by decoder_sparse_step and mlp_only_layers. */
void set_qwen_experts(
    const ConfigReader& config, const QwenExperts& defaults, DecoderConfig& c);

}  // namespace mlxterp
