#include "mlxterp/nn/kv_cache.h"

#include <algorithm>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

const KvCache::Layer& KvCache::append(
    const void* attention, int held, const mx::array& k, const mx::array& v) {
  const auto layer = std::ranges::find(layers, attention, &Layer::attention);
  if (layer == layers.end()) {
    if (held > 0)
      fail(
          ErrorKind::usage,
          "[KvCache] the {} cached positions belong to another model; give "
          "each "
          "model a cache of its own",
          held);
    layers.push_back({attention, k, v});
    return layers.back();
  }
  if (layer->k.shape(0) != k.shape(0))
    fail(
        ErrorKind::usage,
        "[KvCache] the cache holds a batch of {}, the input is a batch of {}; "
        "continue the same prompts, or start with an empty cache",
        layer->k.shape(0),
        k.shape(0));
  if (layer->k.shape(2) != held)
    fail(
        ErrorKind::usage,
        "[KvCache] one layer holds {} positions, the others {}; attention that "
        "runs twice in a pass cannot be cached",
        layer->k.shape(2),
        held);
  layer->k = mx::concatenate({layer->k, k}, 2);
  layer->v = mx::concatenate({layer->v, v}, 2);
  return *layer;
}

}  // namespace mlxterp::nn
