// models/state_spaces.h: what families with state spaces share.

#pragma once

#include <array>
#include <string_view>

#include "mlxterp/nn/state_space.h"
#include "models/common.h"

namespace mlxterp {

/** What a config calls the sizes of its state spaces, and what it means where
 * it leaves one out. */
struct StateSpaceFields {
  struct Size {
    const char* name;
    int usual;  ///< 0: the config must say.
  };
  Size n_heads, d_head, n_groups, d_state, conv_width, expand;
  const char *conv_bias, *bias;
};

/** Throws bad_data where the sizes do not fit the model's width. d_head may be
 * "auto", which is usual where 0 is: what is left for each head. */
nn::StateSpaceConfig state_space_of(
    const ConfigReader& config,
    const DecoderConfig& decoder,
    const StateSpaceFields& fields);

inline constexpr std::array<std::string_view, 5> ssm_projections = {
    "ssm.z_proj", "ssm.x_proj", "ssm.B_proj", "ssm.C_proj", "ssm.dt_proj"};

/** Kept as one row of all groups. */
inline constexpr std::array<std::string_view, 1> ssm_by_head = {"ssm.norm"};

}  // namespace mlxterp
