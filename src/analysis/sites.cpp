#include "analysis/sites.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "core/fail.h"

namespace mlxterp {

std::string LayerSite::name_of(int layer) const {
  return fmt::format("layers.{}.{}", layer, relative);
}

LayerSite layer_site(const InterpretableModel& model, const std::string& name) {
  const auto& sites = model.sites();
  const int layers = model.decoder().config().n_layers;
  LayerSite out;
  for (const auto& relative : {name, "attn." + name, "mlp." + name})
    if (sites.contains(fmt::format("layers.0.{}", relative))) {
      out.relative = relative;
      break;
    }
  if (out.relative.empty())
    sites.find(fmt::format("layers.0.{}", name));  // throws, with the nearest
  // Its canonical name, by whatever name it was called.
  const auto& first = sites[sites.find(out.name_of(0))];
  constexpr std::string_view prefix = "layers.0.";
  if (!first.name.starts_with(prefix))
    fail(
        ErrorKind::usage,
        "[patch] '{}' is '{}', which is no layer's; name a site that every "
        "layer has",
        printable(name),
        first.name);
  out.relative = first.name.substr(prefix.size());
  out.layout = first.layout;

  const auto& config = model.decoder().config();
  out.pattern = out.relative == "attn.pattern";
  if ((out.layout == Layout::scores && !out.pattern) ||
      out.layout == Layout::other)
    fail(
        ErrorKind::usage,
        "[patch] '{}' has no row for each position; patch pattern, z, or "
        "another site",
        printable(name));
  if (out.layout == Layout::heads || out.pattern) {
    const bool kv = out.relative == "attn.k" || out.relative == "attn.v" ||
                    out.relative == "attn.rot_k" ||
                    out.relative.find("k_norm") != std::string::npos;
    out.heads = kv ? config.n_kv_heads : config.n_heads;
  }
  const bool post = out.relative == "resid_post";
  out.shift = post ? 1 : 0;
  const auto swept = out.pattern ? "attn.z" : post ? "resid_pre" : out.relative;
  for (int i = 0; i < layers; ++i)
    out.ids.push_back(sites.find(fmt::format("layers.{}.{}", i, swept)));
  const auto named = [&](std::initializer_list<std::string_view> names) {
    return std::ranges::find(names, out.relative) != names.end();
  };
  if (named({"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"})) {
    out.width = config.d_model;
  } else if (named({"attn.q", "attn.k", "attn.v", "attn.z"})) {
    out.width = config.d_head;
  } else if (!out.pattern) {
    // Shapes are known before anything is computed.
    auto trace = model.trace(std::vector<int>{0});
    out.width = model[out.name_of(0)].output().value().shape(-1);
  }
  return out;
}

}  // namespace mlxterp
