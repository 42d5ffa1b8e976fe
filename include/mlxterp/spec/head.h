// mlxterp/spec/head.h: attention heads, and what a head reads, as they are
// written in text.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/analysis/heads.h"
#include "mlxterp/analysis/path_patch.h"

namespace mlxterp::spec {

/**
 * Layer and head, counted from 0:
 *
 *     head = ["L"] layer ("H" | ".") number     L23H3, 23H3, 23.3
 *
 * L23H3 is how heads are printed (mlxterp::name). A negative layer counts from
 * the last. Throws usage; whether the model has that head is seen where it is
 * used.
 */
Head parse_head(std::string_view text, std::string_view name = "head");

/** A list of them: "L5H1,L20H3". Throws usage. */
std::vector<Head> parse_heads(
    const std::vector<std::string>& texts, std::string_view name = "heads");

/** Heads that a sweep keeps to. */
struct HeadChoice {
  std::vector<int> layers;  ///< Empty: not said, so all.
  std::vector<int> heads;
};

/**
 * Heads of every layer, a list or ranges of numbers ("3,5..7"), or heads each
 * with its layer ("L23H3" or "23.3"). Of several layers, the same heads must be
 * named in each: a sweep goes over layers times heads. Throws usage.
 */
HeadChoice parse_head_choice(
    const std::vector<std::string>& texts, std::string_view name = "heads");

/** A head and what of it reads the residual stream: HEAD.q, HEAD.k or HEAD.v,
 * such as L24H6.q or 24.6.q. Of k and v the head is the kv head. Throws usage.
 */
Receiver parse_receiver(
    std::string_view text, std::string_view name = "receiver");

/** A list of them: "L24H6.q,L25H0.k". Throws usage. */
std::vector<Receiver> parse_receivers(
    const std::vector<std::string>& texts, std::string_view name = "receivers");

/** "L24H6.q". */
std::string spell(const Receiver& receiver);

}  // namespace mlxterp::spec
