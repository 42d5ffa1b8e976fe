#include "analysis/sites.h"

#include <algorithm>
#include <optional>

#include "core/fail.h"
#include "trace/overlay.h"

namespace mlxterp {

std::string LayerSite::name_of(int layer) const {
  return fmt::format("layers.{}.{}", layer, relative);
}

LayerSite layer_site(const InterpretableModel& model, const std::string& name) {
  const auto& sites = model.sites();
  const auto& layers = model.decoder().layers;
  const int n = static_cast<int>(layers.size());
  // By whatever name it was called, in the first layer that has it.
  LayerSite out;
  std::optional<SiteId> first;
  for (int i = 0; i < n && !first; ++i)
    for (const auto* prefix : {"", "attn.", "mlp."})
      if (const auto found =
              sites.lookup(fmt::format("layers.{}.{}{}", i, prefix, name));
          found.size() == 1) {
        first = found[0];
        break;
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
  const auto& at = *layers[static_cast<size_t>(site.layer)];
  out.pattern = *first == at.attn.pattern_site();
  out.layout = site.layout;
  if ((out.layout == Layout::scores && !out.pattern) ||
      out.layout == Layout::other)
    fail(
        ErrorKind::usage,
        "[sweep] '{}' does not have one row per position; use pattern, z, or "
        "another site",
        printable(name));
  out.heads = site.n_heads;
  out.width = site.width;
  // What leaves a layer is what enters the next one, unless it is edited there.
  const auto* overlay = model.overlay();
  const bool same = std::ranges::none_of(layers, [&](const auto& layer) {
    return overlay && overlay->edits(layer->input_site());
  });
  out.shift = *first == at.output_site() && same ? 1 : 0;
  for (int i = 0; i < n; ++i) {
    const auto& layer = *layers[static_cast<size_t>(i)];
    const auto found = sites.lookup(out.name_of(i));
    out.ids.push_back(
        found.empty()    ? -1
        : out.pattern    ? layer.attn.z_site()
        : out.shift == 1 ? layer.input_site()
                         : found[0]);
  }
  if (out.width == 0 && !out.pattern) {
    // Shapes are known before anything is computed.
    auto trace = model.trace(std::vector<int>{0});
    out.width = trace.value(site.name).shape(-1);
  }
  return out;
}

}  // namespace mlxterp
