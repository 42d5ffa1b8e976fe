#include "mlxterp/analysis/heads.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "analysis/random.h"
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
  const auto& decoder = model.decoder();
  const int n = static_cast<int>(batch.prompts.size());
  const int length = static_cast<int>(batch.prompts[0].size());
  const int columns = static_cast<int>(n_kinds + 1);
  const mx::array weights(batch.columns.data(), {n, length * length, columns});
  const PassRows rows{.lengths = std::vector<int>(size(n), length)};
  auto x = Stepper(model, nullptr, rows).embed(ids_of(batch.prompts));
  for (int i = 0; i < decoder.config().n_layers; ++i) {
    const auto site = decoder.layers[size(i)]->attn.pattern_site();
    TraceContext context(model.shared_sites(), {}, rows.lengths, {site});
    x = Stepper(model, &context, rows).layer(i, x);
    const auto pattern = context.value(model.sites()[site].name);
    auto sums = mx::contiguous(mx::sum(
        mx::matmul(
            mx::reshape(
                mx::astype(pattern, mx::float32),
                {n, pattern.shape(1), length * length}),
            weights),
        0));
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

Inputs::Rows repeated_tokens(
    const InterpretableModel& model, const RepeatedTokens& options) {
  int vocab = model.decoder().config().vocab;
  std::vector<int> prefix;
  if (model.has_tokenizer()) {
    vocab = std::min(vocab, model.tokenizer().vocab_size());
    // Not what stands behind a text, such as an EOS.
    const auto bos = model.tokenizer().bos();
    const auto around = model.tokenizer().encode("");
    if (bos && !around.empty() && around[0] == *bos) prefix = {*bos};
  }
  const int first = vocab / 10, choice = vocab - 2 * first;
  if (options.period < 2 || options.repeats < 2 || options.sequences < 1)
    fail(
        ErrorKind::usage,
        "[repeated_tokens] {} sequences of {} tokens {} times; give 1 at "
        "least, of 2 tokens, twice",
        options.sequences,
        options.period,
        options.repeats);
  if (options.period > choice)
    fail(
        ErrorKind::usage,
        "[repeated_tokens] {} different tokens from {} of the vocabulary; make "
        "the period shorter",
        options.period,
        choice);
  const int context = model.decoder().config().context;
  const int64_t length = int64_t{options.period} * options.repeats +
                         static_cast<int64_t>(prefix.size());
  if (length > context)
    fail(
        ErrorKind::usage,
        "[repeated_tokens] {} tokens {} times are {}, the model's context is "
        "{}; make the period shorter",
        options.period,
        options.repeats,
        length,
        context);
  Random random(options.seed);
  Inputs::Rows rows;
  for (int s = 0; s < options.sequences; ++s) {
    auto& row = rows.emplace_back(prefix);
    std::vector<int> period;
    std::set<int> taken;
    while (period.size() < size(options.period)) {
      const int id = first + static_cast<int>(random.below(size(choice)));
      if (taken.insert(id).second) period.push_back(id);
    }
    for (int r = 0; r < options.repeats; ++r)
      row.insert(row.end(), period.begin(), period.end());
  }
  return rows;
}

HeadScores head_scores(
    const InterpretableModel& model,
    const Inputs& prompts,
    const HeadOptions& options) {
  const auto& config = model.decoder().config();
  auto all = batches(model.token_ids(prompts), config.n_heads);
  const size_t heads = size(config.n_heads), columns = n_kinds + 1;
  const size_t cells = size(config.n_layers) * heads;
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
             static_cast<double>(layer + 1) / config.n_layers) /
                static_cast<double>(all.size()));
    });
    all[b] = {};
  }
  HeadScores out;
  for (size_t k = 0; k < n_kinds; ++k) {
    auto& grid = out.grids.emplace_back(
        HeadGrid{config.n_layers, config.n_heads, std::vector<float>(cells)});
    for (size_t c = 0; c < cells; ++c)
      grid.values[c] = score(
          options.measure,
          sums[c * columns + k],
          sums[c * columns + n_kinds],
          counts,
          k);
  }
  return out;
}

namespace {

// Mean loss of the tokens of the first period and of those after it, in nats,
// the first token of each period left out.
struct Losses {
  double first = 0, repeated = 0;
};

Losses losses(
    const InterpretableModel& model,
    const Inputs::Rows& rows,
    const RepeatedTokens& tokens,
    const std::vector<Edit>& edits) {
  Losses sum;
  size_t n_first = 0, n_repeated = 0;
  for (const auto& row : rows) {
    const auto run = model.run(row, {.save = {"logits"}, .edits = edits});
    const int length = static_cast<int>(row.size());
    const auto logits = mx::astype(
        mx::slice(
            mx::squeeze(run["logits"], 0),
            {0, 0},
            {length - 1, run["logits"].shape(2)}),
        mx::float32);
    const mx::array next(row.data() + 1, {length - 1, 1}, mx::int32);
    auto nats = mx::subtract(
        mx::logsumexp(logits, -1, false),
        mx::squeeze(mx::take_along_axis(logits, next, 1), 1));
    nats.eval();
    const int prefix = length - tokens.period * tokens.repeats;
    for (int i = 1; i < length; ++i) {
      const int at = i - prefix;
      if (at < 0 || at % tokens.period == 0) continue;
      const auto value = static_cast<double>(nats.data<float>()[i - 1]);
      (at < tokens.period ? sum.first : sum.repeated) += value;
      ++(at < tokens.period ? n_first : n_repeated);
    }
  }
  return {
      sum.first / static_cast<double>(n_first),
      sum.repeated / static_cast<double>(n_repeated)};
}

// Edits of z, by layer.
std::vector<Edit> without(
    const std::vector<Head>& heads, const std::map<int, mx::array>& means) {
  std::map<int, std::vector<int>> by_layer;
  for (const auto& head : heads)
    by_layer[head.layer].push_back(head.head);
  std::vector<Edit> edits;
  for (const auto& [layer, some] : by_layer) {
    const auto site = fmt::format("layers.{}.attn.z", layer);
    if (means.empty()) {
      edits.push_back({site, on_heads(some, zero_out())});
      continue;
    }
    const mx::array which(some.data(), {static_cast<int>(some.size())});
    const auto mean = mx::take(means.at(layer), which, 0);
    edits.push_back({site, on_heads(some, [mean](const mx::array& z) {
                       return mx::broadcast_to(
                           mx::astype(mean, z.dtype()), z.shape());
                     })});
  }
  return edits;
}

// Mean z of the layers' heads over prompts and positions, [head, d_head].
std::map<int, mx::array> mean_z(
    const InterpretableModel& model,
    const Inputs::Rows& rows,
    const std::set<int>& layers) {
  RunOptions options;
  for (const int layer : layers)
    options.save.push_back(fmt::format("layers.{}.attn.z", layer));
  const auto run = model.run(rows, options);
  std::map<int, mx::array> means;
  size_t i = 0;
  for (const int layer : layers) {
    auto mean = mx::mean(run[options.save[i++]], std::vector<int>{0, 1});
    mean.eval();
    means.emplace(layer, mean);
  }
  return means;
}

}  // namespace

float InductionAblation::removed_at_random() const {
  float sum = 0;
  for (const auto& trial : random)
    sum += trial.removed;
  return sum / static_cast<float>(random.size());
}

InductionAblation induction_ablation(
    const InterpretableModel& model, const AblationOptions& options) {
  const auto& config = model.decoder().config();
  if (options.heads < 1 || options.heads > config.n_layers * config.n_heads ||
      options.draws < 0)
    fail(
        ErrorKind::usage,
        "[induction_ablation] {} heads, {} draws of random ones; ablate 1 to "
        "{}, and draw 0 times or more",
        options.heads,
        options.draws,
        config.n_layers * config.n_heads);
  const auto scores = head_scores(
      model,
      repeated_tokens(model, options.tokens),
      {.progress = options.progress});
  const auto best = scores[HeadKind::induction].best(size(options.heads));
  std::map<int, size_t> wanted;  // how many of each layer
  std::set<int> layers;
  for (const auto& head : best) {
    ++wanted[head.layer];
    layers.insert(head.layer);
  }
  for (const auto& [layer, n] : wanted)
    if (options.draws > 0 && 2 * n > size(config.n_heads))
      fail(
          ErrorKind::usage,
          "[induction_ablation] {} of the best heads lie in layer {}, which "
          "has {}: too few others to draw from; ablate fewer, or draw 0 times",
          n,
          layer,
          config.n_heads);

  auto other = options.tokens;
  other.seed += 1;
  const auto rows = repeated_tokens(model, other);
  const auto means = options.value == AblationOptions::Value::mean
                         ? mean_z(model, rows, layers)
                         : std::map<int, mx::array>();
  const auto plain = losses(model, rows, other, {});
  const auto trial = [&](std::vector<Head> heads) {
    const auto left = losses(model, rows, other, without(heads, means));
    return InductionAblation::Trial{
        std::move(heads),
        static_cast<float>(left.repeated),
        static_cast<float>(
            (left.repeated - plain.repeated) / (plain.first - plain.repeated))};
  };
  InductionAblation out;
  out.first = static_cast<float>(plain.first);
  out.repeated = static_cast<float>(plain.repeated);
  out.best = trial(best);
  Random random(options.tokens.seed);
  for (int d = 0; d < options.draws; ++d) {
    std::vector<Head> drawn;
    for (const auto& [layer, n] : wanted) {
      std::vector<Head> others;
      for (int h = 0; h < config.n_heads; ++h)
        if (std::ranges::find(best, Head{layer, h}) == best.end())
          others.push_back({layer, h});
      random.shuffle(others, n);
      drawn.insert(
          drawn.end(), others.begin(), others.begin() + static_cast<long>(n));
    }
    out.random.push_back(trial(std::move(drawn)));
    if (options.progress)
      options.progress(
          "Ablating heads", static_cast<double>(d + 1) / options.draws);
  }
  return out;
}

}  // namespace mlxterp
