#include <algorithm>
#include <optional>

#include "analysis/any_model.h"
#include "analysis/text_stretch.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/tuned_lens.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Sums over positions of how one set of logits does; evaluated.
struct Sums {
  double kl = 0, cross_entropy = 0, agreement = 0;
};

Sums compare(
    const mx::array& logits,
    const mx::array& log_p,
    const mx::array& winners,
    const std::optional<mx::array>& next) {
  const auto log_q =
      mx::subtract(logits, mx::logsumexp(logits, -1, /*keepdims=*/true));
  auto kl = mx::sum(
      mx::sum(mx::multiply(mx::exp(log_p), mx::subtract(log_p, log_q)), -1));
  auto agree = mx::sum(
      mx::astype(mx::equal(mx::argmax(logits, -1), winners), mx::float32));
  auto nats = next ? mx::negative(mx::sum(mx::take_along_axis(
                         rows(log_q, 0, next->shape(0)), *next, 1)))
                   : mx::array(0.0f);
  mx::eval(kl, agree, nats);
  return {
      static_cast<double>(kl.item<float>()),
      static_cast<double>(nats.item<float>()),
      static_cast<double>(agree.item<float>())};
}

LensQuality mean(const Sums& sums, double positions, double targets) {
  return {
      static_cast<float>(sums.kl / positions),
      static_cast<float>(sums.cross_entropy / targets),
      static_cast<float>(sums.agreement / positions)};
}

}  // namespace

LensEvaluation evaluate_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const TunedLens* lens,
    int length,
    const Progress& progress) {
  check_stretch(model, length, "evaluate_lens");
  if (ids.size() < 2)
    fail(
        ErrorKind::usage,
        "[evaluate_lens] the text has {} tokens; give at least 2",
        ids.size());
  if (lens) lens->check_fits(model);
  const auto layers = static_cast<size_t>(layer_count(model));
  std::vector<Sums> logit(layers), tuned(lens ? layers : 0);
  Sums own;
  double positions = 0, targets = 0;
  const auto add = [](Sums& sum, const Sums& part) {
    sum.kl += part.kl;
    sum.cross_entropy += part.cross_entropy;
    sum.agreement += part.agreement;
  };
  const int step = chunk_of(model);
  for (size_t at = 0; at + 1 < ids.size(); at += static_cast<size_t>(length)) {
    const size_t end = std::min(ids.size(), at + static_cast<size_t>(length));
    const std::vector<int> some(
        ids.begin() + static_cast<long>(at),
        ids.begin() + static_cast<long>(end));
    const auto stretch = read_stretch(model, some);
    for (int from = 0; from < stretch.length; from += step) {
      const int to = std::min(stretch.length, from + step);
      const auto target =
          logits_of(model, stretch, rows(stretch.residuals.back(), from, to));
      const auto log_p =
          mx::subtract(target, mx::logsumexp(target, -1, /*keepdims=*/true));
      const auto winners = mx::argmax(target, -1);
      // The last position of a stretch has nothing behind it.
      const int known = std::min(to, stretch.length - 1) - from;
      std::optional<mx::array> next;
      if (known > 0)
        next = mx::array(some.data() + from + 1, {known, 1}, mx::int32);
      mx::eval(log_p, winners);
      positions += to - from;
      targets += known;
      add(own, compare(target, log_p, winners, next));
      for (size_t i = 0; i < layers; ++i) {
        const auto h = rows(stretch.residuals[i], from, to);
        add(logit[i],
            compare(logits_of(model, stretch, h), log_p, winners, next));
        if (lens && i + 1 < layers)
          add(tuned[i],
              compare(
                  logits_of(model, stretch, (*lens)(h, static_cast<int>(i))),
                  log_p,
                  winners,
                  next));
      }
    }
    if (progress)
      progress(
          "Reading the text",
          static_cast<double>(end) / static_cast<double>(ids.size()));
  }
  if (lens) tuned.back() = logit.back();  // no translator there
  LensEvaluation out;
  for (const auto& sums : logit)
    out.logit.push_back(mean(sums, positions, targets));
  for (const auto& sums : tuned)
    out.tuned.push_back(mean(sums, positions, targets));
  out.cross_entropy = mean(own, positions, targets).cross_entropy;
  out.positions = static_cast<size_t>(positions);
  return out;
}

}  // namespace mlxterp
