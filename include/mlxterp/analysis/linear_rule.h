// mlxterp/analysis/linear_rule.h: what a gradient goes through, and what it
// takes as constant.

#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mlxterp {

/**
 * What is differentiated of a pass, and what is held as it was. No rule changes
 * a value. Norms' scales are those of all norms in layers, of heads' queries
 * and keys too, and of the one before the unembedding where a gradient comes
 * from the logits.
 */
struct LinearRule {
  enum Kind : char {
    full,  ///< Everything is differentiated: the gradient.
    /** Norms' scales are held; an activation is x times a held factor, and each
     * factor of a gated product gets half (relevance propagation: Achtibat et
     * al., 2024, "AttnLRP"; RelP: Jafari et al., 2025, its LN, identity and
     * half rules). Patterns are differentiated. */
    relevance,
    frozen,  ///< Patterns and norms' scales are held; activations are not.
    hold,    ///< `sites` are held, nothing else.
  };
  Kind kind = full;
  /** Of hold; of relevance and frozen what is held besides: names or patterns
   * of sites (SiteCatalog). What stands behind "layers.i." alone means every
   * layer that has it: attn.pattern, ln1.scale, mlp.post. */
  std::vector<std::string> sites = {};

  LinearRule() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a kind is a rule.
  LinearRule(Kind rule) : kind(rule) {}
  bool operator==(const LinearRule&) const = default;
};

/** "full", "relevance", "frozen", "hold(attn.pattern, ln1.scale)",
 * "relevance+hold(attn.pattern)". */
std::string name(const LinearRule& rule);
/** Throws usage with the names there are. */
LinearRule linear_rule(std::string_view text);

}  // namespace mlxterp
