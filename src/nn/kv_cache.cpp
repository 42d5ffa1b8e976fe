#include "mlxterp/nn/kv_cache.h"

#include <algorithm>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

[[noreturn]] void of_another_model(int held) {
  fail(
      ErrorKind::usage,
      "[KvCache] the {} cached positions belong to another model; give each "
      "model a cache of its own",
      held);
}

void check_batch(int cached, int given) {
  if (cached != given)
    fail(
        ErrorKind::usage,
        "[KvCache] the cache holds a batch of {}, the input is a batch of {}; "
        "continue the same prompts, or start with an empty cache",
        cached,
        given);
}

void check_positions(int own, int held, const char* what) {
  if (own != held)
    fail(
        ErrorKind::usage,
        "[KvCache] one layer holds {} positions, the others {}; {} that runs "
        "twice in a pass cannot be cached",
        own,
        held,
        what);
}

// Rows of [batch, head, pos, d].
mx::array positions_of(const mx::array& x, int from, int to) {
  auto first = mx::Shape(4, 0), last = x.shape();
  first[2] = from;
  last[2] = to;
  return mx::slice(x, first, last);
}

// `added` behind the first `held`, in place where nobody else has them.
mx::array written(const mx::array& room, int held, const mx::array& added) {
  auto first = mx::Shape(4, 0), last = room.shape();
  first[2] = held;
  last[2] = held + added.shape(2);
  return mx::slice_update(room, mx::astype(added, room.dtype()), first, last);
}

// Room that is a multiple of this.
int room_for(int positions) {
  constexpr int step = 256;
  return (positions / step + 1) * step;
}

mx::array nothing(const mx::array& like, int positions) {
  auto shape = like.shape();
  shape[2] = positions;
  return mx::zeros(shape, like.dtype());
}

// Those held, behind so much nothing that they end at `end`, and room for more.
mx::array aligned(const mx::array& x, int held, int end) {
  return mx::concatenate(
      {nothing(x, end - held),
       positions_of(x, 0, held),
       nothing(x, room_for(end) - end)},
      2);
}

// The last `kept` of those held, `added` behind them, and room for more.
mx::array moved(
    const mx::array& x, int held, int kept, const mx::array& added) {
  const int n = kept + added.shape(2);
  return mx::concatenate(
      {positions_of(x, held - kept, held), added, nothing(x, room_for(n) - n)},
      2);
}

}  // namespace

KvCache::Sources KvCache::append(
    const void* attention,
    int seen,
    const mx::array& k,
    const mx::array& v,
    int window) {
  const int n = k.shape(2);
  const auto layer = std::ranges::find(layers, attention, &Layer::attention);
  if (layer == layers.end()) {
    if (seen > 0) of_another_model(seen);
    layers.push_back({attention, k, v, n, n});
    return {k, v};
  }
  check_batch(layer->k.shape(0), k.shape(0));
  check_positions(layer->positions, seen, "attention");
  const bool bounded = forgets && window > 0;
  const int reached = bounded ? std::min(layer->held, window - 1) : layer->held;
  if (layer->held + n > layer->k.shape(2)) {
    layer->k = moved(layer->k, layer->held, reached, k);
    layer->v = moved(layer->v, layer->held, reached, v);
    layer->held = reached;
  } else {
    layer->k = written(layer->k, layer->held, k);
    layer->v = written(layer->v, layer->held, v);
  }
  layer->held += n;
  layer->positions += n;
  const int first = layer->held - reached - n;
  return {
      positions_of(layer->k, first, layer->held),
      positions_of(layer->v, first, layer->held)};
}

std::optional<KvCache> KvCache::first(int n) const {
  if (n == positions()) return *this;
  if (n > positions() || !states.empty()) return std::nullopt;
  auto out = *this;
  for (auto& layer : out.layers) {
    if (layer.held < layer.positions) return std::nullopt;
    layer.held = layer.positions = n;
  }
  return out;
}

std::vector<int> KvCache::padding(const std::vector<KvCache>& rows) {
  std::vector<int> all;
  for (const auto& row : rows)
    all.push_back(row.positions());
  const int most = *std::ranges::max_element(all);
  for (int& n : all)
    n = most - n;
  return all;
}

KvCache KvCache::joined(const std::vector<KvCache>& rows) {
  auto out = rows[0];
  const int empty = padding(rows)[0];
  for (size_t i = 0; i < out.layers.size(); ++i) {
    auto& layer = out.layers[i];
    layer.positions += empty;
    for (const auto& row : rows)
      layer.held = std::max(layer.held, row.layers[i].held);
    const auto all = [&](mx::array Layer::*values) {
      std::vector<mx::array> each;
      for (const auto& row : rows) {
        const auto& own = row.layers[i];
        each.push_back(aligned(own.*values, own.held, layer.held));
      }
      return mx::concatenate(std::move(each), 0);
    };
    layer.k = all(&Layer::k);
    layer.v = all(&Layer::v);
  }
  return out;
}

KvCache KvCache::row(int i, int padding) const {
  auto out = *this;
  for (auto& layer : out.layers) {
    const int empty = std::max(0, padding - (layer.positions - layer.held));
    const auto own = [&](const mx::array& x) {
      return mx::contiguous(mx::slice(
          x, {i, 0, empty, 0}, {i + 1, x.shape(1), layer.held, x.shape(3)}));
    };
    layer.k = own(layer.k);
    layer.v = own(layer.v);
    layer.positions -= padding;
    layer.held -= empty;
  }
  return out;
}

std::vector<mx::array> KvCache::arrays() const {
  std::vector<mx::array> all;
  for (const auto& layer : layers)
    all.insert(all.end(), {layer.k, layer.v});
  for (const auto& state : states)
    all.insert(all.end(), state.values.begin(), state.values.end());
  return all;
}

std::vector<mx::array> KvCache::kept(
    const void* mixer, int held, int batch) const {
  const auto state = std::ranges::find(states, mixer, &State::mixer);
  if (state == states.end()) {
    if (held > 0) of_another_model(held);
    return {};
  }
  check_batch(state->values.front().shape(0), batch);
  check_positions(state->positions, held, "a mixer");
  return state->values;
}

void KvCache::keep(
    const void* mixer, int positions, std::vector<mx::array> values) {
  const auto state = std::ranges::find(states, mixer, &State::mixer);
  if (state == states.end()) {
    states.push_back({mixer, positions, std::move(values)});
    return;
  }
  state->positions = positions;
  state->values = std::move(values);
}

}  // namespace mlxterp::nn
