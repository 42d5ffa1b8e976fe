#include "analysis/attribution/nodes.h"

#include <algorithm>
#include <set>

#include "analysis/any_model.h"
#include "analysis/qk_fix.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

bool fixes(AttributionMethod method) {
  return method == AttributionMethod::qk_fix ||
         method == AttributionMethod::atp_star;
}

PatchOptions of_site(const AttributeOptions& options, const std::string& site) {
  return {
      .clean = options.clean,
      .corrupt = options.corrupt,
      .site = site,
      .by = options.by,
      .metric = {},
      .direction = options.direction,
      .layers = options.layers,
      .positions = options.positions,
      .heads = options.heads,
      .neurons = options.neurons,
      .position_map = options.position_map};
}

void check_method(
    const Decoder* decoder,
    const AttributeOptions& options,
    const std::vector<Pair>& pairs) {
  if (!decoder && options.rule != LinearRule::full)
    fail(
        ErrorKind::usage,
        "[attribute] this model runs elsewhere, and only its gradient is "
        "known; choose the rule full, not {}",
        printable(name(options.rule)));
  if (options.method == AttributionMethod::atp) return;
  if (!decoder)
    fail(
        ErrorKind::usage,
        "[attribute] this model runs elsewhere: neither can its patterns be "
        "made again nor its layers be dropped; choose the method atp");
  const auto uneven = [](const Pair& pair) {
    return pair.run.size() != pair.source.size() || !pair.position_map.empty();
  };
  if (fixes(options.method) && std::ranges::any_of(pairs, uneven))
    fail(
        ErrorKind::usage,
        "[attribute] the QK fix compares patterns, which needs prompts that "
        "match position by position; choose the method atp or grad-drop");
  if (gives_sizes(options.method) && decoder->config().n_layers < 2)
    fail(
        ErrorKind::usage,
        "[attribute] GradDrop leaves out one layer after the other, and this "
        "model has one; choose the method atp or qk-fix");
}

void check(
    const Decoder* decoder,
    const AttributeOptions& options,
    const std::vector<Pair>& pairs) {
  if (options.sites.empty())
    fail(
        ErrorKind::usage,
        "[attribute] no site was given; name one, such as resid_pre");
  if (options.steps < 1)
    fail(
        ErrorKind::usage,
        "[attribute] steps is {}; give 1, or more for integrated gradients",
        options.steps);
  if (options.metric.kind == Metric::Kind::rank)
    fail(
        ErrorKind::usage,
        "[attribute] a rank has no gradient; measure logit, logit_diff or "
        "log_prob");
  check_method(decoder, options, pairs);
}

std::vector<int> layers_of(const Grid& grid) {
  std::set<int> layers;
  for (const auto& cell : grid.cells)
    for (const auto& place : cell)
      for (int i = place.first_layer; i <= place.last_layer; ++i)
        layers.insert(i);
  return {layers.begin(), layers.end()};
}

size_t index_in(std::vector<SiteId>& sites, SiteId site) {
  const auto found = std::ranges::find(sites, site);
  const auto index = static_cast<size_t>(found - sites.begin());
  if (found == sites.end()) sites.push_back(site);
  return index;
}

// Layers may differ in heads and widths.
mx::array nothing(
    const InterpretableModel& model,
    const LayerSite& site,
    SiteId watched,
    int length) {
  const auto& own = model.sites()[watched];
  const int width = own.width > 0 ? own.width : site.width;
  const int heads = own.n_heads > 0 ? own.n_heads : site.heads;
  mx::Shape shape{1, length, width};
  if (own.layout == Layout::scores)
    shape = {1, heads, length, length};
  else if (site.heads > 0)
    shape = {1, length, heads, width};
  return mx::zeros(shape, mx::float32);
}

}  // namespace

AttributedNodes::AttributedNodes(
    const InterpretableModel& model, const AttributeOptions& options)
    : pairs(make_pairs("attribute", model, of_site(options, ""))) {
  check(decoder_of(model), options, pairs);
  std::set<SiteId> known;
  size_t parts = 0;
  for (const auto& name : options.sites) {
    auto& it = sites.emplace_back();
    it.site = layer_site(model, name);
    it.grid =
        make_grid("attribute", model, of_site(options, name), it.site, pairs);
    it.by_unit = it.site.heads > 0 || !options.neurons.empty() ||
                 std::ranges::count(options.by, Axis::neuron) > 0;
    if (it.site.layout == Layout::scores && !options.position_map.empty())
      fail(
          ErrorKind::usage,
          "[attribute] patterns cannot be compared between prompts that do not "
          "match position by position; use z");
    it.first = parts;
    it.layers = layers_of(it.grid);
    parts += it.layers.size();
    it.stream = it.site.relative.starts_with("resid_");
    it.query = is_query(it.site.relative);
    it.fixed = fixes(options.method) && (it.query || is_key(it.site.relative));
    for (const int layer : it.layers) {
      lowest = std::min(lowest, layer);
      const auto own = model.sites().find(it.site.name_of(layer));
      if (!known.insert(own).second)
        fail(
            ErrorKind::usage,
            "[attribute] the site '{}' is given twice",
            printable(name));
      if (!it.fixed) {
        it.watched.push_back(index_in(watched, own));
        continue;
      }
      auto& readers = it.readers.emplace_back();
      for (const auto& reader : qk_readers(model, it.site.relative, layer))
        readers.push_back(
            {reader.attention,
             index_in(watched, reader.pattern),
             index_in(seen, reader.q),
             index_in(seen, reader.k)});
    }
  }
  if (options.method == AttributionMethod::qk_fix &&
      std::ranges::none_of(sites, &AttributedSite::fixed))
    fail(
        ErrorKind::usage,
        "[attribute] the QK fix is of queries and keys, and none of the sites "
        "has any; add q or k (or rot_q, rot_k), or choose the method atp");
}

std::vector<mx::array> AttributedNodes::nothings(
    const InterpretableModel& model, int length) const {
  std::vector<mx::array> out(watched.size(), mx::array(0.0f));
  for (const auto& it : sites) {
    for (const auto i : it.watched)
      out[i] = nothing(model, it.site, watched[i], length);
    for (const auto& readers : it.readers)
      for (const auto& reader : readers)
        out[reader.pattern] =
            nothing(model, it.site, watched[reader.pattern], length);
  }
  return out;
}

}  // namespace mlxterp
