// analysis/qk_fix.h: what patched queries and keys do to a pattern, through the
// whole softmax.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/trace/model.h"

namespace mlxterp {

/** Whether a site is what the QK fix is of: attn.q, attn.rot_q; attn.k,
 * attn.rot_k. */
bool is_query(const std::string& relative);
bool is_key(const std::string& relative);

/** An attention that a layer's queries or keys meet in, by its sites. */
struct QkReader {
  const nn::Attention* attention;
  SiteId q, k, pattern;
};

/** Those that read such a site of a layer: keys may be read by later layers,
 * too. Throws usage where a head's own do not determine what meets in
 * attention, or where an edit stands between that and the pattern. */
std::vector<QkReader> qk_readers(
    const InterpretableModel& model, const std::string& relative, int layer);

/** What meets in attention: rot_q [1, pos, head, d_head] and rot_k [1, pos,
 * kv_head, d_head]. */
struct QueriesAndKeys {
  mlx::core::array q, k;
};

/**
 * The change of each head's pattern where the queries of one position are
 * `patched`, as rot_q, times `gradient` [row, head, dest, src], the metric's at
 * the pattern: [row, pos, head], float32, lazy (AtP*: Kramar et al., 2024,
 * 3.1).
 */
mlx::core::array query_fix(
    const nn::Attention& attention,
    const QueriesAndKeys& run,
    const mlx::core::array& patched,
    const mlx::core::array& gradient);

/**
 * The same where the key of one position is `patched`, as rot_k, at all
 * destinations: [row, pos, kv_head], of a kv head summed over those that read
 * it. One column of scores changes, so the softmax is known without being made
 * again: as much work as one pattern, not one for each position.
 */
mlx::core::array key_fix(
    const nn::Attention& attention,
    const QueriesAndKeys& run,
    const mlx::core::array& patched,
    const mlx::core::array& gradient);

}  // namespace mlxterp
