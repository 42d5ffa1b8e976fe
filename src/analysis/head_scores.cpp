#include "mlxterp/analysis/heads.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr size_t patterns_budget = size_t{256} << 20;
constexpr size_t n_kinds = head_kinds.size();

size_t size(int n) {
  return static_cast<size_t>(n);
}

bool attends(HeadKind kind, const std::vector<int>& ids, size_t i, size_t j) {
  switch (kind) {
    case HeadKind::induction:
      return j > 0 && j <= i && ids[j - 1] == ids[i];
    case HeadKind::previous_token:
      return j + 1 == i;
    case HeadKind::duplicate_token:
      return j < i && ids[j] == ids[i];
    case HeadKind::first_token:
      return j == 0;
    case HeadKind::current_token:
      break;
  }
  return j == i;
}

// Prompts of one length, with what is summed of their patterns: a column of
// ones and zeros for each kind, and one for all attention that counts.
struct Batch {
  std::vector<std::vector<int>> prompts;
  std::vector<float> columns;  // [prompt, dest, src, kind + 1]
};

// Of all prompts: how many destinations have a source, how many sources.
struct Counts {
  std::array<double, n_kinds> rows = {}, sources = {};
  double destinations = 0;
};

void fill_columns(Batch& batch, const HeadOptions& options, Counts& counts) {
  const size_t n = batch.prompts[0].size();
  batch.columns.assign(batch.prompts.size() * n * n * (n_kinds + 1), 0.0f);
  float* at = batch.columns.data();
  for (const auto& ids : batch.prompts) {
    counts.destinations += static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) {
      std::array<bool, n_kinds> any = {};
      for (size_t j = 0; j < n; ++j, at += n_kinds + 1) {
        const bool counted = j <= i && !(options.exclude_first && j == 0) &&
                             !(options.exclude_current && j == i);
        if (!counted) continue;
        at[n_kinds] = 1;
        for (size_t k = 0; k < n_kinds; ++k) {
          if (!attends(head_kinds[k], ids, i, j)) continue;
          at[k] = 1;
          any[k] = true;
          counts.sources[k] += 1;
        }
      }
      for (size_t k = 0; k < n_kinds; ++k)
        counts.rows[k] += any[k];
    }
  }
}

// As they come, so that a batch has one length and its patterns fit.
std::vector<Batch> batches(Inputs::Rows prompts, int heads) {
  std::vector<Batch> all;
  for (auto& prompt : prompts) {
    const size_t each = prompt.size() * prompt.size() * sizeof(float) *
                        std::max(size(heads), n_kinds + 1);
    const bool fits = !all.empty() &&
                      all.back().prompts[0].size() == prompt.size() &&
                      (all.back().prompts.size() + 1) * each <= patterns_budget;
    if (!fits) all.emplace_back();
    all.back().prompts.push_back(std::move(prompt));
  }
  return all;
}

mx::array ids_of(const std::vector<std::vector<int>>& prompts) {
  std::vector<int> flat;
  for (const auto& prompt : prompts)
    flat.insert(flat.end(), prompt.begin(), prompt.end());
  return mx::array(
      flat.data(),
      {static_cast<int>(prompts.size()), static_cast<int>(prompts[0].size())},
      mx::int32);
}

// Walks the layers; `seen(layer, sums)`, sums [head, kind + 1] of float32.
template <typename Seen>
void walk(
    const InterpretableModel& model, const Batch& batch, const Seen& seen) {
  const int n = static_cast<int>(batch.prompts.size());
  const int length = static_cast<int>(batch.prompts[0].size());
  const int columns = static_cast<int>(n_kinds + 1);
  const mx::array weights(batch.columns.data(), {n, length * length, columns});
  const auto sums_of = [&](const mx::array& pattern) {
    return mx::contiguous(mx::sum(
        mx::matmul(
            mx::reshape(
                mx::astype(pattern, mx::float32),
                {n, pattern.shape(1), length * length}),
            weights),
        0));
  };
  const auto* decoder = decoder_of(model);
  if (!decoder) {
    auto trace = model.trace(batch.prompts);
    std::vector<mx::array> all;
    const auto layers = attention_layers(model);
    for (const int i : layers)
      all.push_back(
          sums_of(trace.value(fmt::format("layers.{}.attn.pattern", i))));
    trace.finish(all);
    for (size_t i = 0; i < all.size(); ++i)
      seen(layers[i], all[i]);
    return;
  }
  const PassRows rows{.lengths = std::vector<int>(size(n), length)};
  Stepper first(model, nullptr, rows);
  auto x = first.embed(ids_of(batch.prompts));
  auto carried = std::move(first.carried());
  const auto through = [&](int i, Observer* observer) {
    Stepper stepper(model, observer, rows);
    stepper.carried() = std::move(carried);
    x = stepper.layer(i, x);
    carried = std::move(stepper.carried());
  };
  for (int i = 0; i < decoder->config().n_layers; ++i) {
    const auto* attn = decoder->layers[size(i)]->attention();
    if (!attn) {
      through(i, nullptr);
      continue;
    }
    const auto site = attn->pattern_site();
    TraceContext context(model.shared_sites(), {}, rows.lengths, {site});
    through(i, &context);
    auto sums = sums_of(context.value(model.sites()[site].name));
    mx::eval(x, sums);
    seen(i, sums);
  }
}

float score(
    HeadMeasure measure,
    double sum,
    double kept,
    const Counts& counts,
    size_t k) {
  if (counts.rows[k] == 0) return std::numeric_limits<float>::quiet_NaN();
  const double all = counts.destinations;
  double value = 0;
  switch (measure) {
    case HeadMeasure::mean:
      value = sum / counts.rows[k];
      break;
    case HeadMeasure::mul:
      value = sum / kept;
      break;
    case HeadMeasure::abs:
      value = 1 - (counts.sources[k] + kept - 2 * sum) / all;
      break;
  }
  return static_cast<float>(value);
}

}  // namespace

std::string name(const Head& head) {
  return fmt::format("L{}H{}", head.layer, head.head);
}

const char* name(HeadKind kind) {
  switch (kind) {
    case HeadKind::induction:
      return "induction";
    case HeadKind::previous_token:
      return "previous_token";
    case HeadKind::duplicate_token:
      return "duplicate_token";
    case HeadKind::first_token:
      return "first_token";
    case HeadKind::current_token:
      break;
  }
  return "current_token";
}

const char* name(HeadMeasure measure) {
  return measure == HeadMeasure::mean  ? "mean"
         : measure == HeadMeasure::mul ? "mul"
                                       : "abs";
}

std::vector<Head> HeadGrid::best(size_t n) const {
  std::vector<Head> all;
  for (int i = 0; i < layers; ++i)
    for (int j = 0; j < heads; ++j)
      if (!std::isnan(at({i, j}))) all.push_back({i, j});
  std::ranges::stable_sort(
      all, std::greater<>(), [&](const Head& head) { return at(head); });
  all.resize(std::min(n, all.size()));
  return all;
}

HeadScores head_scores(
    const InterpretableModel& model,
    const Inputs& prompts,
    const HeadOptions& options) {
  const int n_layers = layer_count(model), n_heads = head_count(model);
  auto all = batches(model.token_ids(prompts), n_heads);
  const size_t heads = size(n_heads), columns = n_kinds + 1;
  const size_t cells = size(n_layers) * heads;
  std::vector<double> sums(cells * columns);
  Counts counts;
  for (size_t b = 0; b < all.size(); ++b) {
    fill_columns(all[b], options, counts);
    walk(model, all[b], [&](int layer, const mx::array& part) {
      for (size_t i = 0; i < heads * columns; ++i)
        sums[size(layer) * heads * columns + i] +=
            static_cast<double>(part.data<float>()[i]);
      if (options.progress)
        options.progress(
            "Looking at heads",
            (static_cast<double>(b) +
             static_cast<double>(layer + 1) / n_layers) /
                static_cast<double>(all.size()));
    });
    all[b] = {};
  }
  const auto attending = attention_layers(model);
  HeadScores out;
  for (size_t k = 0; k < n_kinds; ++k) {
    auto& grid = out.grids.emplace_back(
        HeadGrid{n_layers, n_heads, std::vector<float>(cells)});
    std::ranges::fill(grid.values, std::numeric_limits<float>::quiet_NaN());
    for (const int layer : attending)
      for (size_t c = size(layer) * heads; c < size(layer + 1) * heads; ++c)
        grid.values[c] = score(
            options.measure,
            sums[c * columns + k],
            sums[c * columns + n_kinds],
            counts,
            k);
  }
  return out;
}

}  // namespace mlxterp
