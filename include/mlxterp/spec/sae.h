// mlxterp/spec/sae.h: sparse autoencoders as they are written in text.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/sae/sae.h"
#include "mlxterp/trace/attach.h"

namespace mlxterp::spec {

/** An SAE's files and where it belongs. */
struct SaePlace {
  std::string file = {};  ///< A folder, a file, or a hub id with a path.
  std::string site = {};  ///< Empty: as its file says.
};

/** "FILE", or "SITE=FILE" as in "layers.12.resid_post=my_sae". What begins with
 * a name without `/` before the first `=` is the second, unless there is such a
 * file. Throws usage where a part is empty. */
SaePlace parse_sae(std::string_view text, std::string_view name = "sae");

/** "read", "replace" or "replace_with_error". Throws usage. */
AttachOptions::Mode parse_attach_mode(
    std::string_view text, std::string_view name = "mode");

/** "relu", "topk", "signed_topk", "abs_topk", "group_max" or "jump_relu".
 * Throws usage. */
SaeActivation parse_sae_activation(
    std::string_view text, std::string_view name = "activation");

/** Which of an SAE's features: "all", "random:20", or numbers and ranges from 0
 * (see parse_numbers), "3,17,40..49". `seed` draws the random ones. Throws
 * usage; out_of_range for a feature that there is not. */
std::vector<int> parse_features(
    const std::vector<std::string>& texts,
    const Sae& sae,
    uint64_t seed,
    std::string_view name = "features");

}  // namespace mlxterp::spec
