#include <algorithm>
#include <chrono>
#include <cmath>
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

// Of each W and b.
struct Gradients {
  std::vector<std::optional<mx::array>> weights, biases;
  double loss = 0;  // mean over layers and positions

  explicit Gradients(size_t layers) : weights(layers), biases(layers) {}

  static void add(std::optional<mx::array>& sum, const mx::array& part) {
    sum = sum ? mx::add(*sum, part) : part;
  }
};

// Of the mean over layers but the last and positions of the KL divergence from
// what the last residual says to what each says through its translator.
Gradients gradients(
    const InterpretableModel& model,
    const TunedLens& lens,
    const Stretch& stretch) {
  // The last residual is what the model says: there is nothing to learn.
  const auto layers = stretch.residuals.size() - 1;
  Gradients out(layers);
  const float share =
      1.0f / static_cast<float>(layers) / static_cast<float>(stretch.length);
  const int step = chunk_of(model);
  for (int from = 0; from < stretch.length; from += step) {
    const int to = std::min(stretch.length, from + step);
    const auto target =
        logits_of(model, stretch, rows(stretch.residuals.back(), from, to));
    const auto log_p =
        mx::subtract(target, mx::logsumexp(target, -1, /*keepdims=*/true));
    const auto p = mx::exp(log_p);
    mx::eval(log_p, p);
    for (size_t i = 0; i < layers; ++i) {
      const auto h = rows(stretch.residuals[i], from, to);
      const auto loss = [&](const std::vector<mx::array>& parameters)
          -> std::vector<mx::array> {
        const auto logits = logits_of(
            model,
            stretch,
            mx::astype(translated(h, parameters[0], parameters[1]), h.dtype()));
        const auto log_q =
            mx::subtract(logits, mx::logsumexp(logits, -1, /*keepdims=*/true));
        // By row first: a sum of everything at once would round.
        const auto kl =
            mx::sum(mx::multiply(p, mx::subtract(log_p, log_q)), -1);
        return {mx::multiply(mx::sum(kl), mx::array(share))};
      };
      const auto [value, slopes] = mx::value_and_grad(
          loss, std::vector{0, 1})({lens.weights[i], lens.biases[i]});
      Gradients::add(out.weights[i], slopes[0]);
      Gradients::add(out.biases[i], slopes[1]);
      auto part = value[0];
      mx::eval(part, *out.weights[i], *out.biases[i]);
      out.loss += static_cast<double>(part.item<float>());
    }
  }
  return out;
}

// SGD with Nesterov's momentum, as torch and mlx.optimizers have it.
class Optimizer {
 public:
  Optimizer(const TunedLensOptions& options, size_t layers)
      : options_(options), weights_(layers), biases_(layers) {}

  void step(TunedLens& lens, Gradients& slopes, float rate) {
    auto squares = mx::array(0.0f);
    for (const auto* all : {&slopes.weights, &slopes.biases})
      for (const auto& slope : *all)
        squares = mx::add(squares, mx::sum(mx::square(*slope)));
    const float norm = std::sqrt(squares.item<float>());
    const float factor =
        norm > options_.clip ? options_.clip / (norm + 1e-6f) : 1.0f;
    std::vector<mx::array> all;
    for (size_t i = 0; i < weights_.size(); ++i) {
      move(lens.weights[i], weights_[i], *slopes.weights[i], factor, rate);
      move(lens.biases[i], biases_[i], *slopes.biases[i], factor, rate);
      all.insert(
          all.end(),
          {lens.weights[i], lens.biases[i], *weights_[i], *biases_[i]});
    }
    mx::eval(std::move(all));
  }

 private:
  void move(
      mx::array& parameter,
      std::optional<mx::array>& velocity,
      const mx::array& slope,
      float factor,
      float rate) const {
    const auto g = mx::multiply(slope, mx::array(factor));
    const mx::array momentum(options_.momentum);
    velocity = velocity ? mx::add(mx::multiply(momentum, *velocity), g) : g;
    parameter = mx::subtract(
        parameter,
        mx::multiply(
            mx::array(rate), mx::add(g, mx::multiply(momentum, *velocity))));
  }

  const TunedLensOptions& options_;
  std::vector<std::optional<mx::array>> weights_, biases_;
};

constexpr double most_minutes = 1e6;  // a slip of the finger

// How much of the training is done, by steps or by the clock.
class Schedule {
 public:
  explicit Schedule(const TunedLensOptions& options) : options_(options) {}

  /** Of a step that begins now, 0 to 1. */
  double done(int step) const {
    if (step == 0) return 0;  // however short the time is
    if (!(options_.minutes > 0))
      return static_cast<double>(step) / options_.steps;
    return std::min(passed() / (60 * options_.minutes), 1.0);
  }
  bool ends_before(int step) const {
    if (!(options_.minutes > 0)) return step >= options_.steps;
    return step > 0 && passed() * (step + 1) / step > 60 * options_.minutes;
  }

 private:
  using Clock = std::chrono::steady_clock;

  double passed() const {
    return std::chrono::duration<double>(Clock::now() - begin_).count();
  }

  const TunedLensOptions& options_;
  Clock::time_point begin_ = Clock::now();
};

void check(const TunedLensOptions& options) {
  const auto positive = [](float x) { return std::isfinite(x) && x > 0; };
  if (!(options.minutes >= 0) || options.minutes > most_minutes)
    fail(
        ErrorKind::usage,
        "[train_tuned_lens] {} minutes; give a number above 0, at most {}, or "
        "0 to train for a number of steps",
        options.minutes,
        most_minutes);
  if (options.steps < 1 || !positive(options.learning_rate) ||
      !positive(options.clip) || !(options.momentum >= 0) ||
      options.momentum >= 1)
    fail(
        ErrorKind::usage,
        "[train_tuned_lens] {} steps, learning rate {}, clip {}, momentum {}; "
        "give at least one step, a positive rate and clip, and a momentum from "
        "0 "
        "to 1",
        options.steps,
        options.learning_rate,
        options.clip,
        options.momentum);
}

}  // namespace

TunedLens train_tuned_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const TunedLensOptions& options) {
  check(options);
  check_stretch(model, options.length, "train_tuned_lens");
  const auto length = static_cast<size_t>(options.length);
  if (ids.size() < length)
    fail(
        ErrorKind::usage,
        "[train_tuned_lens] the text has {} tokens, a step reads {}; give more "
        "text, or a shorter length",
        ids.size(),
        options.length);
  const int layers = layer_count(model);
  if (layers < 2)
    fail(
        ErrorKind::usage,
        "[train_tuned_lens] the model has only one layer, whose prediction is "
        "the model's own; there is nothing to train");
  TunedLens lens(layers, residual_width(model));
  Optimizer optimizer(options, lens.weights.size() - 1);
  const auto tell = [&](double done) {
    if (options.progress) options.progress("Training translators", done);
  };
  tell(0);
  size_t at = 0;
  const Schedule schedule(options);
  for (int step = 0; !schedule.ends_before(step); ++step) {
    const double done = schedule.done(step);
    const auto begin = ids.begin() + static_cast<long>(at);
    auto stretch = read_stretch(
        model, std::vector<int>(begin, begin + static_cast<long>(length)));
    auto slopes = gradients(model, lens, stretch);
    if (!std::isfinite(slopes.loss))
      fail(
          ErrorKind::bad_data,
          "[train_tuned_lens] the loss of step {} is {}, NaN or infinite; use "
          "a smaller "
          "learning rate, or float32",
          step,
          slopes.loss);
    optimizer.step(
        lens,
        slopes,
        options.learning_rate * (1.0f - static_cast<float>(done)));
    if (options.on_step) options.on_step(step, static_cast<float>(slopes.loss));
    tell(schedule.done(step + 1));
    if (options.stop && options.stop()) break;
    at += length;
    if (at + length > ids.size()) at = 0;
  }
  return lens;
}

}  // namespace mlxterp
