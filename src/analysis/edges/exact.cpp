#include "analysis/edges/exact.h"

#include <fmt/format.h>

#include <algorithm>

#include "analysis/int_array.h"
#include "analysis/measured.h"
#include "analysis/wavefront/wavefront.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Rows whose layer is computed at once to see what a reader makes of them.
constexpr int rows_at_once = 8192;

size_t size(int n) {
  return static_cast<size_t>(n);
}

// Lets one reader see another stream than the layer has, and keeps a value that
// comes of it.
class OtherStream final : public Observer {
 public:
  OtherStream(
      const EdgeReader& reader,
      const mx::array& stream,
      const mx::array& difference,
      SiteId kept_site)
      : reader_(reader),
        stream_(stream),
        difference_(difference),
        kept_site_(kept_site) {}

  mx::array at(SiteId site, mx::array value) override {
    if (site == kept_site_) kept = value;
    if (!edits(site)) return value;
    if (!reader_.norm && !reader_.projection)
      return mx::add(value, mx::astype(difference_, value.dtype()));
    Pass pass;
    auto y = mx::add(stream_, mx::astype(difference_, stream_.dtype()));
    if (reader_.norm) y = (*reader_.norm)(y, pass);
    if (reader_.projection) y = (*reader_.projection)(y, pass);
    return mx::astype(y, value.dtype());
  }
  bool edits(SiteId site) const override {
    return std::ranges::find(reader_.sites, site) != reader_.sites.end();
  }
  void offer(SiteId, std::function<mx::array()>) override {}

  std::optional<mx::array> kept;

 private:
  const EdgeReader& reader_;
  const mx::array& stream_;
  const mx::array& difference_;
  SiteId kept_site_;
};

mx::array repeated(const mx::array& x, int n) {
  auto shape = x.shape();
  shape[0] = n;
  return mx::broadcast_to(x, shape);
}

}  // namespace

mx::array ExactEdges::differences(int layer, int from, int to) const {
  const auto& all = runs.differences;
  const int d_model = all.shape(2);
  auto some = mx::slice(all, {from, 0, 0}, {to, all.shape(1), d_model});
  some = mx::multiply(some, mx::array(graph.factors[size(layer)]));
  if (runs.from == 0) return some;
  return mx::concatenate(
      {mx::zeros({to - from, runs.from, d_model}, some.dtype()), some}, 1);
}

bool ExactEdges::wanted(size_t source, size_t destination) const {
  return chosen.empty() ||
         chosen[source * graph.destinations.size() + destination];
}

void ExactEdges::sweep() const {
  const auto& decoder = model.decoder();
  const int layers = decoder.config().n_layers;
  for (int i = 0; i < layers; ++i)
    if (const auto* attention = decoder.layers[size(i)]->attention();
        attention && attention->config().kv_layer >= 0)
      fail(
          ErrorKind::usage,
          "[edges] layer {} has keys and values in common with other layers, "
          "which exact does not follow; use eap or eap-ig",
          i);
  const int length = static_cast<int>(pair.run.size());
  Stepper stepper(model);
  auto x = stepper.embed(mx::reshape(int_array(pair.run), {1, length}));
  const auto carried = stepper.carried();
  size_t done = 0;
  for (size_t r = 0, layer = 0; layer <= size(layers); ++layer) {
    mx::eval(x);
    for (; r < graph.readers.size(); ++r) {
      const auto& reader = graph.readers[r];
      if (size(reader.layer) != layer) break;
      if (reader.layer == layers)
        of_logits(reader, x);
      else
        of_reader(reader, x, carried);
      done += size(reader.before * reader.count);
      if (report)
        report(
            static_cast<double>(done) /
            static_cast<double>(
                graph.sources.size() * graph.destinations.size()));
    }
    if (layer < size(layers)) x = stepper.layer(static_cast<int>(layer), x);
  }
}

void ExactEdges::of_logits(
    const EdgeReader& reader, const mx::array& stream) const {
  const int length = stream.shape(1);
  const int chunk = std::max(1, rows_at_once / length);
  for (int begin = 0; begin < reader.before; begin += chunk) {
    const int end = std::min(begin + chunk, reader.before);
    const auto x = mx::add(
        repeated(stream, end - begin),
        mx::astype(differences(reader.layer, begin, end), stream.dtype()));
    const auto values =
        mx::contiguous(measured(model, x, pair.run, metric, runs.reference));
    mx::eval(values);
    for (int s = begin; s < end; ++s)
      if (wanted(size(s), size(reader.first)))
        found(
            size(s),
            size(reader.first),
            static_cast<double>(values.data<float>()[s - begin]) -
                static_cast<double>(mx::array(runs.base).item<float>()));
  }
}

void ExactEdges::of_reader(
    const EdgeReader& reader,
    const mx::array& stream,
    const Carried& carried) const {
  const auto& decoder = model.decoder();
  const auto& layer = *decoder.layers[size(reader.layer)];
  const int length = stream.shape(1);
  // What the reader's part writes: heads z, the others what they add. Where one
  // norm spans all heads, another query or key changes more than its own z.
  const auto* attention = layer.attention();
  const bool together =
      attention && (reader.input == 'q' || reader.input == 'k') &&
      attention->config().qk_norm == nn::AttentionConfig::QkNorm::together;
  const bool shared = reader.input == 'k' || reader.input == 'v';
  if (together && shared && reader.count != attention->config().n_kv_heads)
    fail(
        ErrorKind::usage,
        "[edges] layer {} has one norm for all its keys, so that query heads "
        "have no copies of them that exact could run; leave ungrouped out",
        reader.layer);
  const char* const kept =
      together       ? (reader.input == 'q' ? "attn.q" : "attn.k")
      : reader.input ? "attn.z"
      : graph.destinations[size(reader.first)].name[0] == 'a' ? "attn_out"
      : graph.destinations[size(reader.first)].name[0] == 'p' ? "ple_out"
                                                              : "mlp_out";
  const auto site =
      model.sites().find(fmt::format("layers.{}.{}", reader.layer, kept));
  const int group = shared && !ungrouped && !together
                        ? attention->config().n_heads / reader.count
                        : 1;
  const int chunk = std::max(1, rows_at_once / length);
  for (int begin = 0; begin < reader.before; begin += chunk) {
    const int n = std::min(chunk, reader.before - begin);
    const auto x = repeated(stream, n);
    const auto difference = differences(reader.layer, begin, begin + n);
    OtherStream other(reader, x, difference, site);
    Stepper stepper(model, &other);
    stepper.carried() =
        each(carried, [&](const mx::array& y) { return repeated(y, n); });
    static_cast<void>(stepper.layer(reader.layer, x));
    auto given = mx::contiguous(mx::flatten(other.kept.value(), 0, 1));
    mx::eval(given);
    const auto layers = size(decoder.config().n_layers);
    Wavefront::Site changed{
        .ids = std::vector<SiteId>(layers, -1),
        .layout = reader.input ? Layout::heads : Layout::features,
        .given = std::vector<mx::array>(layers, mx::array(0.0f))};
    changed.ids[size(reader.layer)] = site;
    changed.given[size(reader.layer)] = given;
    Wavefront wave{
        .model = model,
        .runs = {{pair.run}},
        .sites = {std::move(changed)},
        .cells = {},
        .metric = metric};
    if (metric.needs_reference()) {
      wave.runs.push_back({pair.source});
      wave.reference = denoise ? 1 : 0;
    }
    std::vector<std::pair<size_t, size_t>> edges;
    for (int s = 0; s < n; ++s)
      for (int c = 0; c < reader.count; ++c) {
        if (!wanted(size(begin + s), size(reader.first + c))) continue;
        edges.emplace_back(size(begin + s), size(reader.first + c));
        auto& changes = wave.cells.emplace_back().changes;
        for (int u = 0; u < group; ++u)
          changes.push_back(
              {.first_layer = reader.layer,
               .last_layer = reader.layer,
               .from = runs.from,
               .to = length - 1,
               .unit = reader.input ? c * group + u : -1,
               .source = -1,
               .given_row = s * length});
      }
    if (edges.empty()) continue;
    const auto result = wave.sweep();
    for (size_t i = 0; i < result.cells.size(); ++i)
      found(
          edges[i].first,
          edges[i].second,
          static_cast<double>(result.cells[i]) -
              static_cast<double>(result.runs[0]));
  }
}

}  // namespace mlxterp
