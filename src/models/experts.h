// models/experts.h: experts that a checkpoint keeps as stacks, gates and ups as
// one.

#pragma once

#include <array>
#include <string_view>

#include "mlxterp/models/family.h"

namespace mlxterp {

inline int experts_of(const Decoder& decoder) {
  return decoder.config().moe ? decoder.config().moe->n_experts : 1;
}

inline constexpr std::array<std::string_view, 2> gate_up_experts = {
    "experts.gate_proj", "experts.up_proj"};

/** Each expert's rows are those of its gate, then of its up projection. */
inline constexpr Fused gate_up_stack = {
    .part = "experts.gate_up_proj",
    .into = gate_up_experts,
    .stacked = true,
    .blocks_of = experts_of};

}  // namespace mlxterp
