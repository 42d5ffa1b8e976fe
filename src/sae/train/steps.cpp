#include "sae/train/steps.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

double number(mx::array x) {
  x.eval();
  return static_cast<double>(x.item<float>());
}

std::string first_of(const std::string& name) {
  return fmt::format("first.{}", name);
}

std::string second_of(const std::string& name) {
  return fmt::format("second.{}", name);
}

mx::array part_of_state(
    const SaeTrainer::Tensors& state,
    const std::string& name,
    const mx::Shape& shape,
    mx::Dtype dtype) {
  const auto found = state.find(name);
  if (found == state.end() || found->second.shape() != shape ||
      found->second.dtype() != dtype)
    fail(
        ErrorKind::bad_data,
        "[{}] '{}' of shape [{}] is not what the trainer's state holds; it "
        "is of other options, or broken: train anew into another folder",
        who,
        name,
        fmt::join(shape, ", "));
  auto out = mx::contiguous(found->second);
  out.eval();
  return out;
}

}  // namespace

double Stopwatch::lap() {
  const auto now = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(now - std::exchange(at_, now)).count();
}

AdamOptions adam_options(const SaeTrainOptions& options, int64_t at) {
  const auto all = static_cast<double>(options.steps());
  const auto now = static_cast<double>(at);
  const double up = std::max(1.0, std::floor(options.warm_up * all));
  const double down = std::max(1.0, std::floor(options.decay * all));
  const double left =
      options.decay > 0 ? std::clamp((all - now) / down, 0.0, 1.0) : 1.0;
  return {
      .rate = options.learning_rate * std::min(1.0, (now + 1) / up) * left,
      .beta1 = options.beta1,
      .beta2 = options.beta2,
      .epsilon = options.epsilon,
      .step = at + 1};
}

double sparsity_at(const SaeTrainOptions& options, int64_t at) {
  const double up = std::floor(
      options.sparsity_warm_up * static_cast<double>(options.steps()));
  return options.sparsity *
         (up > 0 ? std::min(1.0, static_cast<double>(at) / up) : 1.0);
}

float clip_factor(const Tensors& gradients, double clip) {
  if (clip <= 0) return 1;
  auto squares = mx::array(0.0f);
  for (const auto& [name, value] : gradients)
    squares = mx::add(squares, total(mx::square(value)));
  const double norm = std::sqrt(number(squares));
  constexpr double tiny = 1e-6;
  return static_cast<float>(std::min(1.0, clip / (norm + tiny)));
}

// From float64 sums of the lengths.
double scale_of(const mx::array& x, SaeInputScale scale, const char* what) {
  auto squares = mx::sum(mx::square(x), 1);
  mx::eval(squares);
  double lengths = 0, all = 0;
  const auto n = static_cast<size_t>(squares.size());
  for (size_t i = 0; i < n; ++i) {
    const auto it = static_cast<double>(squares.data<float>()[i]);
    lengths += std::sqrt(it);
    all += it;
  }
  if (!std::isfinite(all) || all <= 0)
    fail(
        ErrorKind::bad_data,
        "[{}] {} has a mean square of {}; an SAE is trained on values that "
        "are finite and not all 0",
        who,
        what,
        all / static_cast<double>(n));
  const auto rows = static_cast<double>(n);
  switch (scale) {
    case SaeInputScale::none:
      return 1;
    case SaeInputScale::root_d:
      return std::sqrt(static_cast<double>(x.shape(1))) / (lengths / rows);
    case SaeInputScale::unit:
      return 1 / std::sqrt(all / rows);
  }
  return 1;
}

void evaluate(const Slopes& slopes, Stopwatch& watch, SaeTimes& times) {
  std::vector<mx::array> all = {
      slopes.loss,
      slopes.errors,
      slopes.variance,
      slopes.sparsity,
      slopes.aux,
      slopes.fired,
      slopes.l0};
  if (slopes.least) all.push_back(*slopes.least);
  for (const auto& [name, value] : slopes.gradients)
    all.push_back(value);
  mx::eval(all);
  times.choice += slopes.choice;
  times.sparse += slopes.sparse;
  times.products += watch.lap() - slopes.choice - slopes.sparse;
}

double threshold_after(double threshold, const Slopes& slopes) {
  if (!slopes.least) return threshold;
  auto least = *slopes.least;
  const auto now = static_cast<double>(least.item<float>());
  return now > 0 ? threshold + threshold_weight * (now - threshold) : threshold;
}

SaeStep seen(const Slopes& slopes, const mx::array& in, int64_t at) {
  SaeStep out;
  out.loss = number(slopes.loss);
  if (!std::isfinite(out.loss))
    fail(
        ErrorKind::bad_data,
        "[{}] the loss of step {} is {}; {}",
        who,
        at,
        out.loss,
        mx::all(mx::isfinite(in)).item<bool>()
            ? "use a smaller learning rate"
            : "the activations have values that are NaN or infinite");
  out.error = number(slopes.errors) / in.shape(0);
  const double variance = number(slopes.variance);
  out.explained = variance > 0 ? 1 - number(slopes.errors) / variance : 0;
  out.sparsity = number(slopes.sparsity);
  out.aux = number(slopes.aux);
  out.l0 = number(slopes.l0);
  return out;
}

void count_rows(const mx::array& fired, int rows, std::vector<int64_t>& since) {
  const auto* now = fired.data<float>();
  for (size_t f = 0; f < since.size(); ++f)
    since[f] = now[f] > 0 ? 0 : since[f] + rows;
}

std::vector<int> dead_of(std::span<const int64_t> since, int64_t dead_after) {
  std::vector<int> out;
  for (size_t f = 0; f < since.size(); ++f)
    if (since[f] >= dead_after) out.push_back(static_cast<int>(f));
  return out;
}

void add_state(
    const Tensors& parameters,
    const Tensors& first,
    const Tensors& second,
    SaeTrainer::Tensors& to) {
  for (const auto& [name, value] : parameters) {
    to.insert_or_assign(name, value);
    to.insert_or_assign(first_of(name), first.at(name));
    to.insert_or_assign(second_of(name), second.at(name));
  }
}

void restore_state(
    const SaeTrainer::Tensors& state,
    Tensors& parameters,
    Tensors& first,
    Tensors& second) {
  for (auto& [name, value] : parameters) {
    const auto shape = value.shape();
    value = part_of_state(state, name, shape, mx::float32);
    first.at(name) = part_of_state(state, first_of(name), shape, mx::float32);
    second.at(name) = part_of_state(state, second_of(name), shape, mx::float32);
  }
}

void add_counts(
    std::span<const int64_t> since,
    std::span<const double> numbers,
    SaeTrainer::Tensors& to) {
  to.insert_or_assign(
      "since",
      mx::array(since.data(), {static_cast<int>(since.size())}, mx::int64));
  // float64 is no dtype of files here: the bits.
  to.insert_or_assign(
      "numbers",
      mx::array(
          reinterpret_cast<const int64_t*>(numbers.data()),
          {static_cast<int>(numbers.size())},
          mx::int64));
}

void restore_counts(
    const SaeTrainer::Tensors& state,
    std::span<int64_t> since,
    std::span<double> numbers) {
  const auto counts = part_of_state(
      state, "since", {static_cast<int>(since.size())}, mx::int64);
  std::copy_n(counts.data<int64_t>(), since.size(), since.begin());
  const auto bits = part_of_state(
      state, "numbers", {static_cast<int>(numbers.size())}, mx::int64);
  std::memcpy(numbers.data(), bits.data<int64_t>(), numbers.size_bytes());
  for (const double it : numbers)
    if (!std::isfinite(it) || it < 0)
      fail(
          ErrorKind::bad_data,
          "[{}] the trainer's state holds the number {}; it is broken: train "
          "anew into another folder",
          who,
          it);
}

void replace(const Tensors& given, Tensors& parameters) {
  for (const auto& [name, value] : given) {
    const auto found = parameters.find(name);
    if (found == parameters.end() || found->second.shape() != value.shape())
      fail(
          ErrorKind::usage,
          "[{}] there is no parameter '{}' of shape [{}]",
          who,
          printable(name),
          fmt::join(value.shape(), ", "));
    found->second = mx::contiguous(mx::astype(value, mx::float32));
    found->second.eval();
  }
}

}  // namespace mlxterp::sae_train
