#include "analysis/plain_sweep.h"

#include "analysis/any_model.h"
#include "analysis/int_array.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// What stands in a place of a layer's value, whatever part of it that is.
Intervention replaced(
    const LayerSite& site,
    const PlainSource& source,
    const Place& place,
    int layer) {
  std::vector<int> to, from;
  for (int p = place.from; p <= place.to; ++p) {
    to.push_back(p);
    from.push_back(
        source.positions.empty() ? p
                                 : source.positions[static_cast<size_t>(p)]);
  }
  Intervention inner = zero_out();
  if (!source.values.empty()) {
    auto value = source.values[static_cast<size_t>(layer)].value();
    const bool scores = site.layout == Layout::scores;
    const bool means = value.ndim() == (site.heads > 0 ? 3u : 2u);
    if (means) value = mx::expand_dims(value, 0);
    auto part = mx::take(value, int_array(from), scores ? 2 : 1);
    if (place.unit >= 0)
      part = mx::take(part, int_array({place.unit}), scores ? 1 : 2);
    inner = [part](const mx::array& x) { return mx::astype(part, x.dtype()); };
  }
  if (place.unit < 0) return at_positions(to, inner);
  return at_positions(
      to,
      site.heads > 0 ? on_heads({place.unit}, inner)
                     : on_neurons({place.unit}, inner));
}

}  // namespace

std::vector<std::string> saved_names(const LayerSite& site) {
  std::vector<std::string> names = {"logits"};
  for (size_t i = 0; i < site.ids.size(); ++i)
    if (site.ids[i] >= 0) names.push_back(site.name_of(static_cast<int>(i)));
  return names;
}

std::vector<std::optional<mx::array>> site_values(
    const LayerSite& site, const ActivationCache& run) {
  std::vector<std::optional<mx::array>> values(site.ids.size());
  for (size_t i = 0; i < values.size(); ++i)
    if (site.ids[i] >= 0) values[i] = run[site.name_of(static_cast<int>(i))];
  return values;
}

Wavefront::Result PlainSweep::sweep() const {
  Wavefront::Result result;
  for (const auto& cell : cells) {
    std::vector<Edit> edits;
    for (const auto& place : cell)
      for (int i = place.first_layer; i <= place.last_layer; ++i)
        if (site.ids[static_cast<size_t>(i)] >= 0)
          edits.push_back({site.name_of(i), replaced(site, source, place, i)});
    const auto run = model.run(ids, {.save = {"logits"}, .edits = edits});
    result.cells.push_back(metric.of_run(run["logits"], ids, reference));
    if (progress)
      progress(
          what,
          static_cast<double>(result.cells.size()) /
              static_cast<double>(cells.size()));
  }
  result.computed = cells.size();
  result.rows =
      cells.size() * ids.size() * static_cast<size_t>(layer_count(model));
  return result;
}

}  // namespace mlxterp
