#include <algorithm>
#include <map>
#include <set>

#include "analysis/any_model.h"
#include "analysis/random.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/heads.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

size_t size(int n) {
  return static_cast<size_t>(n);
}

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
  const int n_heads = head_count(model);
  const int most = n_heads * static_cast<int>(attention_layers(model).size());
  if (options.heads < 1 || options.heads > most || options.draws < 0)
    fail(
        ErrorKind::usage,
        "[induction_ablation] {} heads and {} random draws asked for; ablate 1 "
        "to {} heads, with 0 draws or more",
        options.heads,
        options.draws,
        most);
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
    if (options.draws > 0 && 2 * n > size(n_heads))
      fail(
          ErrorKind::usage,
          "[induction_ablation] {} of the best heads are in layer {}, which "
          "has "
          "{}: too few others to draw from; ablate fewer, or use 0 draws",
          n,
          layer,
          n_heads);

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
      for (int h = 0; h < n_heads; ++h)
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
