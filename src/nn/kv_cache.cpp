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

}  // namespace

const KvCache::Layer& KvCache::append(
    const void* attention, int held, const mx::array& k, const mx::array& v) {
  const auto layer = std::ranges::find(layers, attention, &Layer::attention);
  if (layer == layers.end()) {
    if (held > 0) of_another_model(held);
    layers.push_back({attention, k, v});
    return layers.back();
  }
  check_batch(layer->k.shape(0), k.shape(0));
  check_positions(layer->k.shape(2), held, "attention");
  layer->k = mx::concatenate({layer->k, k}, 2);
  layer->v = mx::concatenate({layer->v, v}, 2);
  return *layer;
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
