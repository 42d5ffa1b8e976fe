#include "mlxterp/generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

mx::array without(const mx::array& logits, const mx::array& out) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  return mx::where(out, mx::array(-infinity), logits);
}

}  // namespace

void check(const Sampling& s) {
  const auto wrong =
      [](std::string_view name, double value, std::string_view allowed) {
        fail(
            ErrorKind::usage,
            "[Sampling] {} is {}; it must be {}",
            name,
            value,
            allowed);
      };
  if (!(s.temperature >= 0) || !std::isfinite(s.temperature))
    wrong("temperature", s.temperature, "0 or more");
  if (s.top_k < 0) wrong("top_k", s.top_k, "0 (all tokens) or more");
  if (!(s.top_p > 0 && s.top_p <= 1))
    wrong("top_p", s.top_p, "above 0 and at most 1 (all tokens)");
  if (!(s.min_p >= 0 && s.min_p <= 1))
    wrong("min_p", s.min_p, "from 0 (all tokens) to 1");
  if (!(s.repetition_penalty > 0) || !std::isfinite(s.repetition_penalty))
    wrong("repetition_penalty", s.repetition_penalty, "above 0; 1 is none");
  if (s.temperature > 0) return;
  const char* chooses = s.top_k > 0   ? "top_k"
                        : s.top_p < 1 ? "top_p"
                        : s.min_p > 0 ? "min_p"
                                      : nullptr;
  if (chooses)
    fail(
        ErrorKind::usage,
        "[Sampling] {} chooses what is drawn from, and with temperature 0 "
        "nothing is drawn; give a temperature above 0",
        chooses);
}

ResolvedSampling resolve(
    const SamplingChoice& choice, const GenerationConfig& model) {
  ResolvedSampling out;
  auto& s = out.sampling;
  s.temperature = choice.temperature.value_or(0.0f);
  s.seed = choice.seed.value_or(0);
  const auto take =
      [&](const char* name, auto& into, const auto& chosen, const auto& made) {
        if (chosen) {
          into = *chosen;
        } else if (made && s.temperature > 0 && *made != into) {
          into = *made;
          out.from_model.emplace_back(name);
        }
      };
  take("top_k", s.top_k, choice.top_k, model.top_k);
  take("top_p", s.top_p, choice.top_p, model.top_p);
  take("min_p", s.min_p, choice.min_p, model.min_p);
  take(
      "repetition_penalty",
      s.repetition_penalty,
      choice.repetition_penalty,
      model.repetition_penalty);
  check(s);
  return out;
}

mx::array penalized(
    const mx::array& logits, const mx::array& seen, float penalty) {
  const mx::array by(penalty);
  const auto moved = mx::where(
      mx::greater(logits, mx::array(0.0f)),
      mx::divide(logits, by),
      mx::multiply(logits, by));
  return mx::where(seen, moved, logits);
}

mx::array keep_top_k(const mx::array& logits, int k) {
  const int vocab = logits.shape(-1);
  if (k <= 0 || k >= vocab) return logits;
  // The k-th largest is the first of the upper part.
  const auto sorted = mx::partition(logits, vocab - k, -1);
  const auto least =
      mx::slice(sorted, {0, vocab - k}, {logits.shape(0), vocab - k + 1});
  return without(logits, mx::less(logits, least));
}

mx::array keep_top_p(const mx::array& logits, float p) {
  if (p >= 1) return logits;
  const auto rising = mx::argsort(logits, -1);
  const auto sorted = mx::take_along_axis(logits, rising, -1);
  const auto below = mx::cumsum(mx::softmax(sorted, -1, true), -1);
  // Of the tokens in rising order those go that together make up no more than
  // 1 - p; the last one never does.
  const auto is_last =
      mx::equal(mx::arange(logits.shape(-1)), mx::array(logits.shape(-1) - 1));
  const auto goes = mx::logical_and(
      mx::less_equal(below, mx::array(1.0f - p)), mx::logical_not(is_last));
  return without(
      logits, mx::put_along_axis(mx::zeros_like(goes), rising, goes, -1));
}

mx::array keep_min_p(const mx::array& logits, float p) {
  if (p <= 0) return logits;
  const auto least = mx::add(mx::max(logits, -1, true), mx::array(std::log(p)));
  return without(logits, mx::less(logits, least));
}

mx::array sample(
    const mx::array& given,
    const std::optional<mx::array>& seen,
    const Sampling& sampling,
    const std::vector<uint64_t>& seeds,
    int step) {
  auto logits = given;
  if (seen) logits = penalized(logits, *seen, sampling.repetition_penalty);
  if (sampling.temperature == 0)
    return mx::astype(mx::argmax(logits, -1), mx::int32);
  logits = keep_top_k(logits, sampling.top_k);
  logits = keep_top_p(logits, sampling.top_p);
  logits = keep_min_p(logits, sampling.min_p);
  // Below this logits would become infinite, and the likeliest one wins anyway.
  constexpr float coldest = 1e-30f;
  logits =
      mx::divide(logits, mx::array(std::max(sampling.temperature, coldest)));
  std::vector<mx::array> drawn;
  for (size_t i = 0; i < seeds.size(); ++i) {
    const auto row = static_cast<int>(i);
    // Far apart: neighbouring seeds must not share draws.
    const auto key = mx::random::key(
        seeds[i] * 0x9E3779B97F4A7C15ull +
        static_cast<uint64_t>(step) * 0xD1B54A32D192ED03ull);
    drawn.push_back(mx::random::categorical(
        mx::slice(logits, {row, 0}, {row + 1, logits.shape(1)}), -1, key));
  }
  return mx::astype(mx::concatenate(std::move(drawn), 0), mx::int32);
}

}  // namespace mlxterp
