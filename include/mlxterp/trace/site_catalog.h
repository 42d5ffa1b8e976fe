// mlxterp/trace/site_catalog.h: every site of a model, by number and by name.

#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mlxterp/models/family.h"
#include "mlxterp/nn/module.h"

namespace mlxterp {

/**
 * The sites of one module tree. Names are resolved here once, when a trace is
 * planned; during a pass only numbers are used. Immutable once built, so safe
 * to share between threads.
 *
 * All of these name the same site: the canonical `layers.3.attn_out`, the path
 * `layers.3.attn.output` or `layers.3.attn`, the checkpoint's
 * `model.layers.3.self_attn`, TransformerLens' `blocks.3.hook_attn_out`,
 * nnterp's `attentions_output[3]` and `attentions[3]`. A checkpoint's module
 * is what transformers calls so: `lm_head` and `embed_tokens` stand before
 * factors and caps (`unembed.raw`, `embed.raw`) where there are some.
 * Patterns: `*` stands for any run of characters but dots, `{3..7}` for a range
 * of numbers (both ends count), `{a,b}` for either.
 */
class SiteCatalog {
 public:
  struct Site : SiteTraits {
    std::string name;  ///< Canonical.
    std::vector<std::string> aliases;
    int layer = -1;  ///< Of `layers.i`; -1: of none.

    /** What stands behind "layers.i.", or the whole name. */
    std::string_view relative() const;
  };

  /** Numbers the sites of the tree below `root`, whose modules may be part of
   * no other tree. `renames` translate the checkpoint's names. Throws usage,
   * and then nothing is numbered. */
  explicit SiteCatalog(nn::Module& root, std::span<const Rename> renames = {});

  /** This catalog and, behind it, the sites of a module attached to one of
   * them, as `<site>.<name>.<its own>`; with `error`, one more of that name.
   * Throws usage where the name is taken. */
  SiteCatalog extended(
      SiteId site,
      const std::string& name,
      const SiteCatalog& module,
      bool error) const;

  size_t size() const { return sites_.size(); }
  const Site& operator[](SiteId site) const {
    return sites_[static_cast<size_t>(site)];
  }

  /** What TransformerLens calls a site; empty: it has no such value. */
  std::string lens_name(SiteId site) const;

  /** The one site of that name. Throws unknown_name with the nearest names,
   * or usage where a pattern means several. */
  SiteId find(std::string_view name) const;

  /** All sites a name or pattern means, in the model's order; never none, and
   * each choice in braces names one at least. Throws unknown_name with the
   * nearest names. */
  std::vector<SiteId> match(std::string_view pattern) const;

  /** Whether some site is called that. Never throws. */
  bool contains(std::string_view name) const;

  /** The sites that a name, or a pattern without braces, means, in the model's
   * order; none where there are none. */
  std::vector<SiteId> lookup(std::string_view name) const;

 private:
  std::vector<std::string> spellings(std::string_view name) const;
  /** Where to look instead of a name that is none. */
  std::string where(const std::string& name) const;
  std::string nearest(const std::string& name) const;
  /** Names, aliases and what follows from them, once all are known. */
  void name_sites();

  std::vector<Site> sites_;
  std::unordered_map<std::string, SiteId> names_;
  std::vector<Rename> renames_;
};

}  // namespace mlxterp
