#include "sae/train/sparse.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

#include "core/parallel.h"
#include "mlx/allocator.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "sae/train/sparse_ops.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

// Of `n` parts of a work of so many additions, as many as are worth a thread.
size_t worth_a_thread(size_t n, size_t work) {
  constexpr size_t least = size_t{1} << 18;
  return std::max<size_t>(1, n * least / std::max<size_t>(work, 1));
}

mx::array ints(const std::vector<int>& values) {
  return mx::array(
      values.data(), mx::Shape{static_cast<int>(values.size())}, mx::int32);
}

// Evaluated, row by row, float32.
mx::array dense(const mx::array& x) {
  auto out = mx::contiguous(mx::astype(x, mx::float32));
  mx::eval(out);
  return out;
}

void add_scaled(float* to, const float* from, float by, size_t n) {
  for (size_t i = 0; i < n; ++i)
    to[i] += by * from[i];
}

float dot(const float* a, const float* b, size_t n) {
  constexpr size_t lanes = 16;  // so that it is vectorised in a fixed order
  float part[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (size_t j = 0; j < lanes; ++j)
      part[j] += a[i + j] * b[i + j];
  float sum = 0;
  for (; i < n; ++i)
    sum += a[i] * b[i];
  for (const float it : part)
    sum += it;
  return sum;
}

// The k largest of values, the first of equal ones, as ascending indices.
void choose(
    const float* values,
    size_t n,
    size_t k,
    std::vector<float>& work,
    int* chosen) {
  work.assign(values, values + n);
  std::nth_element(
      work.begin(),
      work.begin() + static_cast<long>(k) - 1,
      work.end(),
      std::greater<>());
  const float least = work[k - 1];
  size_t above = 0;
  for (size_t i = 0; i < k; ++i)
    above += work[i] > least;
  auto equal = k - above;
  size_t at = 0;
  for (size_t i = 0; i < n && at < k; ++i) {
    if (values[i] > least)
      chosen[at++] = static_cast<int>(i);
    else if (values[i] == least && equal > 0) {
      chosen[at++] = static_cast<int>(i);
      --equal;
    }
  }
}

}  // namespace

Engine default_engine() {
  return mx::default_device() == mx::Device::cpu ? Engine::loops : Engine::ops;
}

mx::array filled_later(mx::Shape shape) {
  size_t n = 1;
  for (const int dim : shape)
    n *= static_cast<size_t>(dim);
  return mx::array(
      new float[std::max<size_t>(n, 1)],
      std::move(shape),
      mx::float32,
      [](void* data) { delete[] static_cast<float*>(data); });
}

Ranked::Ranked(mx::array from, std::optional<mx::array> factors)
    : pre(std::move(from)),
      by(std::move(factors)),
      rank(by ? mx::multiply(pre, *by) : pre) {}

Sparse top_of_rows(
    const Ranked& ranked,
    int k,
    const std::optional<std::vector<int>>& among,
    Engine engine) {
  if (engine == Engine::ops) return ops::top_of_rows(ranked, k, among);
  const auto all = dense(ranked.rank);
  const auto rows = static_cast<size_t>(all.shape(0));
  const auto width = static_cast<size_t>(all.shape(1));
  const auto n = among ? among->size() : width;
  const auto each = std::min(static_cast<size_t>(k), n);
  std::vector<int> row_of(rows * each), cols(rows * each);
  auto values = filled_later({static_cast<int>(rows * each)});
  const auto* from = all.data<float>();
  auto* to = values.data<float>();
  split_over_cores(
      rows, worth_a_thread(rows, 4 * rows * n), [&](size_t begin, size_t end) {
        std::vector<float> work, some(among ? n : 0);
        for (size_t r = begin; r < end; ++r) {
          const auto* row = from + r * width;
          if (among)
            for (size_t i = 0; i < n; ++i)
              some[i] = row[static_cast<size_t>((*among)[i])];
          const auto* candidates = among ? some.data() : row;
          auto* chosen = cols.data() + r * each;
          choose(candidates, n, each, work, chosen);
          for (size_t i = 0; i < each; ++i) {
            row_of[r * each + i] = static_cast<int>(r);
            to[r * each + i] = candidates[static_cast<size_t>(chosen[i])];
            if (among) chosen[i] = (*among)[static_cast<size_t>(chosen[i])];
          }
        }
      });
  Sparse out{ints(row_of), ints(cols), values};
  if (!ranked.by) return out;
  out.values = mx::divide(values, mx::take(*ranked.by, out.cols, 0));
  out.values.eval();
  return out;
}

Sparse top_of_all(const Ranked& ranked, int64_t n, Engine engine) {
  if (engine == Engine::ops) return ops::top_of_all(ranked, n);
  const auto all = dense(ranked.rank);
  const auto width = static_cast<size_t>(all.shape(1));
  const auto* from = all.data<float>();
  std::vector<size_t> places;
  std::vector<float> found;
  for (size_t i = 0; i < all.size(); ++i)
    if (from[i] > 0) {
      places.push_back(i);
      found.push_back(from[i]);
    }
  std::vector<int> rows, cols, chosen(found.size());
  std::iota(chosen.begin(), chosen.end(), 0);
  if (static_cast<size_t>(n) < found.size()) {
    chosen.resize(static_cast<size_t>(n));
    std::vector<float> work;
    choose(found.data(), found.size(), chosen.size(), work, chosen.data());
  }
  auto values = filled_later({static_cast<int>(chosen.size())});
  for (size_t i = 0; i < chosen.size(); ++i) {
    const auto at = static_cast<size_t>(chosen[i]);
    rows.push_back(static_cast<int>(places[at] / width));
    cols.push_back(static_cast<int>(places[at] % width));
    values.data<float>()[i] = found[at];
  }
  return {ints(rows), ints(cols), values};
}

Sparse columns(const Sparse& all, int begin, int end, Engine engine) {
  if (engine == Engine::ops) return ops::columns(all, begin, end);
  std::vector<int> rows, cols;
  std::vector<float> found;
  for (int i = 0; i < all.size(); ++i) {
    const int col = all.cols.data<int>()[i];
    if (col < begin || col >= end) continue;
    rows.push_back(all.rows.data<int>()[i]);
    cols.push_back(col);
    found.push_back(all.values.data<float>()[i]);
  }
  auto values = filled_later({static_cast<int>(found.size())});
  std::copy(found.begin(), found.end(), values.data<float>());
  return {ints(rows), ints(cols), values};
}

mx::array decode(
    const Sparse& acts, const mx::array& W, int rows, Engine engine) {
  if (engine == Engine::ops) return ops::decode(acts, W, rows);
  const auto from = dense(W);
  const auto d = static_cast<size_t>(from.shape(1));
  auto out = filled_later({rows, from.shape(1)});
  const auto* row_of = acts.rows.data<int>();
  const auto work = static_cast<size_t>(acts.size()) * d;
  split_over_cores(
      static_cast<size_t>(rows),
      worth_a_thread(static_cast<size_t>(rows), work),
      [&](size_t begin, size_t end) {
        auto* to = out.data<float>();
        std::memset(to + begin * d, 0, (end - begin) * d * sizeof(float));
        auto i = std::lower_bound(
                     row_of, row_of + acts.size(), static_cast<int>(begin)) -
                 row_of;
        for (; i < acts.size() && row_of[i] < static_cast<int>(end); ++i)
          add_scaled(
              to + static_cast<size_t>(row_of[i]) * d,
              from.data<float>() +
                  static_cast<size_t>(acts.cols.data<int>()[i]) * d,
              acts.values.data<float>()[i],
              d);
      });
  return out;
}

mx::array dots(
    const Sparse& at, const mx::array& G, const mx::array& W, Engine engine) {
  if (engine == Engine::ops) return ops::dots(at, G, W);
  const auto left = dense(G), right = dense(W);
  const auto d = static_cast<size_t>(left.shape(1));
  auto out = filled_later({at.size()});
  split_over_cores(
      static_cast<size_t>(at.size()),
      worth_a_thread(1, d),
      [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i)
          out.data<float>()[i] =
              dot(left.data<float>() +
                      static_cast<size_t>(at.rows.data<int>()[i]) * d,
                  right.data<float>() +
                      static_cast<size_t>(at.cols.data<int>()[i]) * d,
                  d);
      });
  return out;
}

ByFeature by_feature(const Sparse& at, int features, Engine engine) {
  if (engine == Engine::ops) return ops::by_feature(at, features);
  std::vector<int> begin(static_cast<size_t>(features) + 1);
  std::vector<int> order(static_cast<size_t>(at.size()));
  const auto* cols = at.cols.data<int>();
  for (int i = 0; i < at.size(); ++i)
    ++begin[static_cast<size_t>(cols[i]) + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  auto next = begin;
  for (int i = 0; i < at.size(); ++i)
    order[static_cast<size_t>(next[static_cast<size_t>(cols[i])]++)] = i;
  return {ints(order), ints(begin)};
}

FeatureSums outer(
    const Sparse& at,
    const ByFeature& places,
    const mx::array& G,
    Engine engine) {
  if (engine == Engine::ops) return ops::outer(at, places, G);
  const auto from = dense(G);
  const auto d = static_cast<size_t>(from.shape(1));
  const int features = places.features();
  auto out = filled_later({features, from.shape(1)});
  const auto* order = places.order.data<int>();
  const auto* begin_of = places.begin.data<int>();
  const auto work = static_cast<size_t>(at.size()) * d;
  split_over_cores(
      static_cast<size_t>(features),
      worth_a_thread(static_cast<size_t>(features), work),
      [&](size_t begin, size_t end) {
        auto* to = out.data<float>();
        std::memset(to + begin * d, 0, (end - begin) * d * sizeof(float));
        for (size_t f = begin; f < end; ++f)
          for (int j = begin_of[f]; j < begin_of[f + 1]; ++j) {
            const int i = order[j];
            add_scaled(
                to + f * d,
                from.data<float>() +
                    static_cast<size_t>(at.rows.data<int>()[i]) * d,
                at.values.data<float>()[i],
                d);
          }
      });
  return {out, sums(at, features, engine)};
}

mx::array sums(const Sparse& at, int features, Engine engine) {
  if (engine == Engine::ops) return ops::sums(at, features);
  auto out = filled_later({features});
  auto* to = out.data<float>();
  std::fill(to, to + features, 0.0f);
  for (int i = 0; i < at.size(); ++i)
    to[at.cols.data<int>()[i]] += at.values.data<float>()[i];
  return out;
}

}  // namespace mlxterp::sae_train
