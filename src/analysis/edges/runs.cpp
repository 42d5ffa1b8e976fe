#include "analysis/edges/runs.h"

#include <algorithm>
#include <unordered_map>

#include "analysis/int_array.h"
#include "analysis/measured.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Values = std::unordered_map<SiteId, mx::array>;

size_t size(int n) {
  return static_cast<size_t>(n);
}

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

// Entries [from, to) of an axis; to -1: the end.
mx::array part(const mx::array& x, int axis, int from, int to = -1) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[size(axis)] = from;
  if (to >= 0) last[size(axis)] = to;
  return mx::slice(x, first, last);
}

// Keeps values of a pass, and adds to some what is differentiated by.
class EdgeTap final : public Observer {
 public:
  explicit EdgeTap(const std::vector<SiteId>& kept) {
    for (const auto site : kept)
      values_.emplace(site, std::nullopt);
  }

  /** Zeros of these sites, in their order. */
  void differentiate(
      const std::vector<SiteId>& sites, const std::vector<mx::array>& zeros) {
    zeros_.clear();
    for (size_t i = 0; i < sites.size(); ++i)
      zeros_.emplace(sites[i], zeros[i]);
  }

  void shift(const EdgeShift& shift) { shift_ = shift; }

  const mx::array& operator[](SiteId site) const {
    return values_.at(site).value();
  }

  mx::array at(SiteId site, mx::array value) override {
    const auto kept = values_.find(site);
    if (kept != values_.end()) kept->second = value;
    if (shift_ && shift_->site == site)
      value = mx::add(value, mx::astype(shift_->change, value.dtype()));
    const auto zero = zeros_.find(site);
    if (zero == zeros_.end()) return value;
    return mx::add(value, mx::astype(zero->second, value.dtype()));
  }
  bool edits(SiteId site) const override {
    return zeros_.contains(site) || (shift_ && shift_->site == site);
  }
  void offer(SiteId site, std::function<mx::array()> make) override {
    const auto kept = values_.find(site);
    if (kept != values_.end()) kept->second = make();
  }

 private:
  std::unordered_map<SiteId, std::optional<mx::array>> values_;
  Values zeros_;
  std::optional<EdgeShift> shift_;
};

}  // namespace

// [run, pos, ...] to [source, run, pos, d_model], what each of the
// writer's sources adds to the stream.
mx::array EdgeRunner::written(
    const EdgeWriter& writer,
    const mx::array& value,
    const std::optional<mx::array>& scale) const {
  if (writer.kind != EdgeWriter::Kind::heads)
    return mx::expand_dims(wide(value), 0);
  const auto& layer = *decoder_.layers[size(writer.layer)];
  const auto& o_proj = layer.attention()->o_proj;
  const auto w_o = mx::transpose(
      mx::reshape(
          wide(o_proj.weight.numbers()),
          {o_proj.weight.shape(0), writer.count, -1}),
      {1, 2, 0});
  // [head, run * pos, d_value] each through its part of W_O.
  const int runs = value.shape(0), rows = value.shape(1);
  auto y = mx::reshape(
      mx::matmul(
          mx::reshape(
              mx::transpose(wide(value), {2, 0, 1, 3}),
              {writer.count, runs * rows, -1}),
          w_o),
      {writer.count, runs, rows, -1});
  if (scale) {
    const auto& config = decoder_.config().norm;
    if (config.kind == nn::NormConfig::Kind::layer)
      y = mx::subtract(y, mx::mean(y, -1, true));
    auto gain = wide(layer.ln1_post->weight);
    if (config.plus_one) gain = mx::add(gain, mx::array(1.0f));
    y = mx::divide(mx::multiply(y, gain), wide(*scale));
  }
  const float factor = decoder_.config().residual_scale;
  return factor == 1.0f ? y : mx::multiply(y, mx::array(factor));
}

EdgeRuns EdgeRunner::both(
    const Pair& pair, const Readout& metric, bool denoise) const {
  const int length = static_cast<int>(pair.run.size());
  std::vector<SiteId> kept;
  for (const auto& writer : graph_.writers) {
    kept.push_back(writer.site);
    if (writer.scale >= 0) kept.push_back(writer.scale);
  }
  EdgeTap tap(kept);
  auto ids = pair.run;
  ids.insert(ids.end(), pair.source.begin(), pair.source.end());
  Stepper stepper(model_, &tap);
  auto x = stepper.embed(mx::reshape(int_array(ids), {2, length}));
  EdgeRuns out{
      .base = x,
      .other = x,
      .embedded = {x, stepper.carried()},
      .differences = x};
  out.from = std::min(pair.shared(), length - 1);
  for (int i = 0; i < decoder_.config().n_layers; ++i)
    x = stepper.layer(i, x);
  const auto row = [&](int i) { return part(x, 0, i, i + 1); };
  if (metric.needs_reference())
    out.reference = logits_at_end(model_, row(denoise ? 1 : 0), length, metric);
  out.base = measured(model_, row(0), pair.run, metric, out.reference);
  out.other =
      pair.run == pair.source
          ? out.base
          : measured(model_, row(1), pair.source, metric, out.reference);
  std::vector<mx::array> parts;
  for (const auto& writer : graph_.writers) {
    std::optional<mx::array> scale;
    if (writer.scale >= 0) scale = part(tap[writer.scale], 1, out.from);
    const auto y = written(writer, part(tap[writer.site], 1, out.from), scale);
    auto change = mx::subtract(part(y, 1, 1, 2), part(y, 1, 0, 1));
    const auto before = graph_.factors[size(std::max(writer.layer, 0))];
    if (before != 1.0f) change = mx::divide(change, mx::array(before));
    parts.push_back(mx::squeeze(change, 1));
  }
  out.differences = mx::concatenate(std::move(parts), 0);
  return out;
}

EdgeParts EdgeRunner::parts(const std::vector<int>& ids) const {
  const int layers = decoder_.config().n_layers;
  std::vector<SiteId> kept;
  for (const auto& writer : graph_.writers) {
    kept.push_back(writer.site);
    if (writer.scale >= 0) kept.push_back(writer.scale);
  }
  // Where nothing stands between the stream and a reader's site.
  const auto reads = [&](const EdgeReader& reader) {
    return reader.layer < layers && !reader.norm && !reader.projection;
  };
  for (const auto& reader : graph_.readers)
    if (reads(reader)) kept.push_back(reader.sites[0]);
  EdgeTap tap(kept);
  Stepper stepper(model_, &tap);
  auto x = stepper.embed(
      mx::reshape(int_array(ids), {1, static_cast<int>(ids.size())}));
  std::vector<mx::array> streams;
  for (int i = 0; i < layers; ++i) {
    streams.push_back(x);
    x = stepper.layer(i, x);
  }
  streams.push_back(x);
  std::vector<mx::array> added;
  for (const auto& writer : graph_.writers) {
    std::optional<mx::array> scale;
    if (writer.scale >= 0) scale = tap[writer.scale];
    auto y = written(writer, tap[writer.site], scale);
    const auto before = graph_.factors[size(std::max(writer.layer, 0))];
    if (before != 1.0f) y = mx::divide(y, mx::array(before));
    added.push_back(mx::squeeze(y, 1));
  }
  EdgeParts out{.added = mx::concatenate(std::move(added), 0), .streams = {}};
  for (const auto& reader : graph_.readers) {
    const auto& stream =
        reads(reader) ? tap[reader.sites[0]] : streams[size(reader.layer)];
    out.streams.push_back(mx::squeeze(wide(stream), 0));
  }
  return out;
}

std::vector<mx::array> EdgeRunner::gradients(
    const Stream& points,
    const std::vector<int>& ids,
    const Readout& metric,
    const std::optional<mx::array>& reference,
    int from,
    const std::optional<EdgeShift>& shift) const {
  const int layers = decoder_.config().n_layers;
  const int lines = points.x.shape(0), length = points.x.shape(1);
  std::vector<SiteId> sites, kept;
  std::vector<mx::array> zeros;
  std::unordered_map<SiteId, size_t> place;
  const auto watch = [&](SiteId site, const mx::Shape& shape) {
    if (!place.emplace(site, sites.size()).second) return;
    sites.push_back(site);
    zeros.push_back(mx::zeros(shape, mx::float32));
  };
  // By layer, where its keys and values are taken apart.
  std::unordered_map<int, std::pair<SiteId, SiteId>> apart;
  for (const auto& reader : graph_.readers) {
    const int width = reader.projection ? reader.projection->weight.shape(0)
                                        : decoder_.config().d_model;
    const bool shared = reader.input == 'k' || reader.input == 'v';
    if (!ungrouped_ || !shared) {
      for (const auto site : reader.sites)
        watch(site, {lines, length, width});
      continue;
    }
    const auto& config =
        decoder_.layers[size(reader.layer)]->attention()->config();
    const auto at = [&](const char* site) {
      return model_.sites().find(
          fmt::format("layers.{}.attn.{}", reader.layer, site));
    };
    const auto z = at("z"), read = at("input");
    watch(z, {lines, length, config.n_heads, config.d_value});
    kept.push_back(read);
    apart.emplace(reader.layer, std::pair(read, z));
  }
  zeros.push_back(mx::zeros(points.x.shape(), mx::float32));
  EdgeTap tap(kept);
  if (shift) tap.shift(*shift);
  std::vector<mx::array> streams;
  const auto [values, grads] = mx::vjp(
      [&](const std::vector<mx::array>& added) {
        tap.differentiate(sites, added);
        Stepper stepper(model_, &tap);
        stepper.carried() = points.carried;
        auto x = points.x;
        for (int i = 0; i < layers; ++i) {
          streams.push_back(x);
          x = stepper.layer(i, x);
        }
        x = mx::add(x, mx::astype(added.back(), x.dtype()));
        return std::vector{measured(model_, x, ids, metric, reference)};
      },
      zeros,
      {mx::ones({lines})});
  std::vector<mx::array> out;
  std::vector<mx::array> split;
  for (const auto& reader : graph_.readers) {
    std::optional<mx::array> gradient;
    const bool shared = reader.input == 'k' || reader.input == 'v';
    if (reader.layer == layers) {
      gradient = grads.back();
    } else if (ungrouped_ && shared) {
      if (reader.input == 'k') {
        const auto& [read, z] = apart.at(reader.layer);
        split = by_query_head(reader.layer, tap[read], grads[place.at(z)]);
      }
      gradient = split[reader.input == 'k' ? 0 : 1];
    } else {
      for (const auto site : reader.sites) {
        const auto& more = grads[place.at(site)];
        gradient = gradient ? mx::add(*gradient, more) : more;
      }
    }
    const auto& stream = streams[size(std::min(reader.layer, layers - 1))];
    auto pulled_back = pulled(reader, *gradient, stream, from);
    const auto factor = graph_.factors[size(reader.layer)];
    if (factor != 1.0f)
      pulled_back = mx::multiply(pulled_back, mx::array(factor));
    out.push_back(std::move(pulled_back));
  }
  return out;
}

// From a site back to each copy of the stream: [copy, pos, d_model], the points
// added up.
mx::array EdgeRunner::pulled(
    const EdgeReader& reader,
    mx::array gradient,
    const mx::array& stream,
    int from) const {
  gradient = part(wide(gradient), 1, from);
  const int lines = gradient.shape(0), rows = gradient.shape(1);
  if (const auto* projection = reader.projection) {
    const int d_model = projection->weight.shape(1);
    const int n = reader.count;
    // A shared head's matrix serves all its query heads.
    const int width = gradient.shape(2) / n;
    auto w = mx::reshape(
        wide(projection->weight.numbers()), {-1, 1, width, d_model});
    w = mx::reshape(
        mx::broadcast_to(w, {w.shape(0), n / w.shape(0), width, d_model}),
        {n, width, d_model});
    gradient = mx::matmul(
        mx::transpose(
            mx::reshape(gradient, {lines, rows, n, width}), {0, 2, 1, 3}),
        w);
  } else {
    gradient = mx::expand_dims(gradient, 1);
  }
  if (reader.norm) {
    const auto x = mx::broadcast_to(
        mx::expand_dims(part(wide(mx::stop_gradient(stream)), 1, from), 1),
        gradient.shape());
    gradient = mx::vjp(
                   [&](const std::vector<mx::array>& in) {
                     Pass pass;
                     return std::vector{(*reader.norm)(in[0], pass)};
                   },
                   {x},
                   {gradient})
                   .second[0];
  }
  return lines == 1 ? mx::squeeze(gradient, 0) : mx::sum(gradient, 0);
}

// The gradients by keys and values as each query head reads them, [point, pos,
// head * width]: of z's, one head of every group at a time.
std::vector<mx::array> EdgeRunner::by_query_head(
    int layer, const mx::array& read, const mx::array& of_z) const {
  const auto& it = *decoder_.layers[size(layer)];
  const auto& config = it.attention()->config();
  const int kv = config.n_kv_heads, group = config.n_heads / kv;
  const int lines = read.shape(0), length = read.shape(1);
  std::vector<SiteId> sites;
  std::vector<mx::array> zeros;
  for (const char* name : {"k_proj", "v_proj"}) {
    const auto& linear =
        *name == 'k' ? it.attention()->k_proj : it.attention()->v_proj;
    if (!linear) continue;
    sites.push_back(model_.sites().find(
        fmt::format("layers.{}.attn.{}.output", layer, name)));
    zeros.push_back(mx::zeros(
        {group * lines, length, linear->weight.shape(0)}, mx::float32));
  }
  const auto z = it.attention()->z_site();
  EdgeTap tap({z});
  // [group, point, pos, kv, group, width], of each copy one head.
  auto cotangent = mx::expand_dims(
      mx::reshape(of_z, {lines, length, kv, group, config.d_value}), 0);
  cotangent = mx::multiply(
      cotangent, mx::reshape(mx::eye(group), {group, 1, 1, 1, group, 1}));
  cotangent = mx::reshape(
      cotangent, {group * lines, length, config.n_heads, config.d_value});
  const auto x = mx::reshape(
      mx::broadcast_to(
          mx::expand_dims(mx::stop_gradient(read), 0),
          {group, lines, length, read.shape(2)}),
      {group * lines, length, read.shape(2)});
  const auto [values, grads] = mx::vjp(
      [&](const std::vector<mx::array>& added) {
        tap.differentiate(sites, added);
        Pass pass(tap);
        (*it.mixer)(x, pass);
        return std::vector{tap[z]};
      },
      zeros,
      {mx::astype(cotangent, read.dtype())});
  std::vector<mx::array> out;
  for (const auto& grad : grads)
    out.push_back(mx::reshape(
        mx::transpose(
            mx::reshape(grad, {group, lines, length, kv, -1}), {1, 2, 3, 0, 4}),
        {lines, length, -1}));
  return out;
}

}  // namespace mlxterp
