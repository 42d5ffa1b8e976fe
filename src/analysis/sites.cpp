#include "analysis/sites.h"

#include <algorithm>
#include <optional>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "trace/overlay.h"

namespace mlxterp {

std::string LayerSite::name_of(int layer) const {
  return fmt::format("layers.{}.{}", layer, relative);
}

LayerSite layer_site(const InterpretableModel& model, const std::string& name) {
  const auto& sites = model.sites();
  const auto* decoder = decoder_of(model);
  const int n = layer_count(model);
  // By whatever name it was called, in the first layer that has it.
  LayerSite out;
  std::optional<SiteId> first;
  // "z" is attention's before it is another mixer's.
  std::vector<std::string> prefixes = {"", "attn.", "mlp."};
  for (int i = 0; decoder && i < n; ++i) {
    const auto& mixer = *decoder->layers[static_cast<size_t>(i)]->mixer;
    auto prefix = fmt::format("{}.", mixer.name());
    if (std::ranges::find(prefixes, prefix) == prefixes.end())
      prefixes.push_back(std::move(prefix));
  }
  // What it was called: a mixer's output is attn_out, which others have, too.
  std::string asked = name;
  for (const auto& prefix : prefixes)
    for (int i = 0; i < n && !first; ++i)
      if (const auto found =
              sites.lookup(fmt::format("layers.{}.{}{}", i, prefix, name));
          found.size() == 1) {
        first = found[0];
        asked = prefix + name;
      }
  // A site of one layer, or of none, by its whole name.
  if (const auto whole = sites.lookup(name); !first && whole.size() == 1) {
    const auto& one = sites[whole[0]];
    if (one.layer < 0)
      fail(
          ErrorKind::usage,
          "[sweep] '{}' is a site of the whole model; name one that every "
          "layer "
          "has, say resid_pre",
          printable(name));
    fail(
        ErrorKind::usage,
        "[sweep] '{}' is a site of one layer; name it '{}', and the layer {} "
        "by itself",
        printable(name),
        one.relative(),
        one.layer);
  }
  if (!first)
    first = sites.find(fmt::format("layers.0.{}", name));  // throws, as a rule
  const auto& site = sites[*first];
  if (site.layer < 0)
    fail(
        ErrorKind::usage,
        "[sweep] '{}' is '{}', which is in no layer; name a site that every "
        "layer has",
        printable(name),
        site.name);
  out.relative = site.relative();
  out.layout = site.layout;
  out.heads = site.n_heads;
  out.width = site.width;
  if (decoder) {
    const auto& at = *decoder->layers[static_cast<size_t>(site.layer)];
    out.pattern = at.attention() && *first == at.attention()->pattern_site();
    // What leaves a layer is what enters the next one, unless it is edited
    // there.
    const auto* overlay = model.overlay();
    const bool same = std::ranges::none_of(decoder->layers, [&](auto& layer) {
      return overlay && overlay->edits(layer->input_site());
    });
    out.shift = *first == at.output_site() && same ? 1 : 0;
  }
  const bool rows = out.layout != Layout::other &&
                    (out.layout != Layout::scores || out.pattern || !decoder);
  if (!rows)
    fail(
        ErrorKind::usage,
        "[sweep] '{}' is not one row of numbers for each position or head; use "
        "pattern, z, or another site, or edit it in a trace",
        printable(name));
  for (int i = 0; i < n; ++i) {
    const auto found = sites.lookup(fmt::format("layers.{}.{}", i, asked));
    auto id = found.empty() ? -1 : found[0];
    if (id >= 0 && (out.pattern || out.shift == 1)) {
      const auto& layer = *decoder->layers[static_cast<size_t>(i)];
      id = out.pattern ? layer.attention()->mix_site() : layer.input_site();
    }
    out.ids.push_back(id);
  }
  if (out.width == 0 && !out.pattern) {
    // Shapes are known before anything is computed.
    auto trace = model.trace(std::vector<int>{0});
    const auto value = trace.value(site.name);
    out.width = value.shape(-1);
    if (!decoder && out.layout != Layout::features)
      out.heads = value.shape(out.layout == Layout::heads ? 2 : 1);
  }
  return out;
}

}  // namespace mlxterp
