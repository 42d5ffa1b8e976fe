// The trainer: where it begins, steps, and what it has become.

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/train.h"
#include "sae/train/adam.h"
#include "sae/train/losses.h"

namespace mx = mlx::core;

namespace mlxterp {

using namespace sae_train;  // NOLINT(google-build-using-namespace): its parts

namespace {

constexpr const char* who = "train_sae";
constexpr double threshold_weight = 0.01;  // of SAELens' moving average

mx::array scalar(double value) {
  return mx::array(static_cast<float>(value));
}

double number(mx::array x) {
  x.eval();
  return static_cast<double>(x.item<float>());
}

class Stopwatch {
 public:
  /** Seconds since the last time. */
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(at_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point at_ = std::chrono::steady_clock::now();
};

// [n, width] as float32; throws where it is not.
mx::array rows_of(const mx::array& x, int width, const char* what) {
  if (x.ndim() != 2 || x.shape(0) < 1 || (width > 0 && x.shape(1) != width))
    fail(
        ErrorKind::usage,
        "[{}] {} is of shape [{}]; give rows of {} numbers",
        who,
        what,
        fmt::join(x.shape(), ", "),
        width > 0 ? fmt::format("{}", width) : "one number of");
  return mx::astype(x, mx::float32);
}

// What rows are multiplied by, from float64 sums of the lengths.
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

std::string first_of(const std::string& name) {
  return fmt::format("first.{}", name);
}

std::string second_of(const std::string& name) {
  return fmt::format("second.{}", name);
}

}  // namespace

SaeTrainer::SaeTrainer(
    SaeTrainOptions options,
    const mx::array& x,
    const std::optional<mx::array>& y) {
  const auto read = rows_of(x, 0, "the sample");
  if (options.transcoder != y.has_value())
    fail(
        ErrorKind::usage,
        "[{}] {}",
        who,
        options.transcoder ? "a transcoder needs what it is to predict"
                           : "there is something to predict, and this is no "
                             "transcoder");
  const auto wanted =
      y ? rows_of(*y, 0, "the sample of what is predicted") : read;
  d_in_ = read.shape(1);
  d_out_ = wanted.shape(1);
  options_ = checked(std::move(options), d_in_, d_out_);
  const auto& o = options_;
  scale_in_ = scale_of(read, o.scale, "what is read");
  scale_out_ = y ? scale_of(wanted, o.scale, "what is predicted") : scale_in_;

  // Rows in random directions; the encoder begins as their transpose.
  const auto key = mx::random::key(o.seed);
  const auto [key1, key2] = mx::random::split(key);
  const auto directions = [&](int width, const mx::array& from) {
    return mx::multiply(
        with_unit_rows(
            mx::random::normal({o.features, width}, mx::float32, 0, 1, from)),
        scalar(o.decoder_norm));
  };
  const auto zeros = [&](int n) { return mx::zeros({n}, mx::float32); };
  auto& p = parameters_;
  p.insert_or_assign("W_dec", directions(d_out_, key1));
  p.insert_or_assign(
      "W_enc", o.transcoder ? directions(d_in_, key2) : p.at("W_dec"));
  p.insert_or_assign(
      "b_dec",
      o.mean_bias ? mx::multiply(mx::mean(wanted, 0), scalar(scale_out_))
                  : zeros(d_out_));
  if (o.recipe == SaeRecipe::gated) {
    for (const char* name : {"b_gate", "b_mag", "r_mag"})
      p.insert_or_assign(name, zeros(o.features));
  } else {
    p.insert_or_assign("b_enc", zeros(o.features));
  }
  if (o.recipe == SaeRecipe::jump_relu)
    p.insert_or_assign(
        "threshold", mx::full({o.features}, scalar(o.threshold), mx::float32));
  if (o.skip)
    p.insert_or_assign("W_skip", mx::zeros({d_in_, d_out_}, mx::float32));
  for (auto& [name, value] : p) {
    value.eval();
    first_.insert_or_assign(name, mx::zeros_like(value));
    second_.insert_or_assign(name, mx::zeros_like(value));
  }
  since_.assign(static_cast<size_t>(o.features), 0);
}

double SaeTrainer::rate() const {
  const auto all = static_cast<double>(options_.steps());
  const auto at = static_cast<double>(steps_);
  const double up = std::max(1.0, std::floor(options_.warm_up * all));
  const double down = std::max(1.0, std::floor(options_.decay * all));
  const double left =
      options_.decay > 0 ? std::clamp((all - at) / down, 0.0, 1.0) : 1.0;
  return options_.learning_rate * std::min(1.0, (at + 1) / up) * left;
}

double SaeTrainer::sparsity() const {
  const double up = std::floor(
      options_.sparsity_warm_up * static_cast<double>(options_.steps()));
  const auto at = static_cast<double>(steps_);
  return options_.sparsity * (up > 0 ? std::min(1.0, at / up) : 1.0);
}

std::vector<int> SaeTrainer::dead() const {
  std::vector<int> out;
  for (size_t f = 0; f < since_.size(); ++f)
    if (since_[f] >= options_.dead_after) out.push_back(static_cast<int>(f));
  return out;
}

double SaeTrainer::dead_share() const {
  return static_cast<double>(dead().size()) /
         static_cast<double>(since_.size());
}

SaeStep SaeTrainer::step(
    const mx::array& x, const std::optional<mx::array>& y) {
  if (options_.transcoder != y.has_value())
    fail(ErrorKind::usage, "[{}] a transcoder's steps have both values", who);
  auto in = mx::multiply(rows_of(x, d_in_, "x"), scalar(scale_in_));
  auto out =
      y ? mx::multiply(rows_of(*y, d_out_, "y"), scalar(scale_out_)) : in;
  mx::eval(in, out);
  Stopwatch watch;
  const Problem problem{
      .options = options_,
      .p = parameters_,
      .x = in,
      .y = out,
      .sparsity = sparsity(),
      .dead = dead(),
      .engine = default_engine()};
  auto slopes = slopes_of(problem);
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
  times_.choice += slopes.choice;
  times_.sparse += slopes.sparse;
  times_.products += watch.lap() - slopes.choice - slopes.sparse;

  SaeStep result;
  result.loss = number(slopes.loss);
  if (!std::isfinite(result.loss))
    fail(
        ErrorKind::bad_data,
        "[{}] the loss of step {} is {}; {}",
        who,
        steps_,
        result.loss,
        mx::all(mx::isfinite(in)).item<bool>()
            ? "use a smaller learning rate"
            : "the activations have values that are NaN or infinite");
  result.error = number(slopes.errors) / in.shape(0);
  const double variance = number(slopes.variance);
  result.explained = variance > 0 ? 1 - number(slopes.errors) / variance : 0;
  result.sparsity = number(slopes.sparsity);
  result.aux = number(slopes.aux);
  result.l0 = number(slopes.l0);

  const auto* fired = slopes.fired.data<float>();
  for (size_t f = 0; f < since_.size(); ++f)
    since_[f] = fired[f] > 0 ? 0 : since_[f] + in.shape(0);
  if (slopes.least && number(*slopes.least) > 0)
    threshold_ += threshold_weight * (number(*slopes.least) - threshold_);
  move(std::move(slopes.gradients));
  ++steps_;
  result.dead_share = dead_share();
  times_.optimiser += watch.lap();
  return result;
}

void SaeTrainer::move(Tensors gradients) {
  const auto& o = options_;
  if (o.unit_decoder) {
    auto& slope = gradients.at("W_dec");
    slope = without_parallel(slope, parameters_.at("W_dec"));
  }
  float factor = 1;
  if (o.clip > 0) {
    auto squares = scalar(0);
    for (const auto& [name, value] : gradients)
      squares = mx::add(squares, total(mx::square(value)));
    const double norm = std::sqrt(number(squares));
    constexpr double tiny = 1e-6;
    factor = static_cast<float>(std::min(1.0, o.clip / (norm + tiny)));
  }
  const AdamOptions adam_options{
      .rate = rate(),
      .beta1 = o.beta1,
      .beta2 = o.beta2,
      .epsilon = o.epsilon,
      .step = steps_ + 1};
  std::vector<mx::array> all;
  for (auto& [name, value] : parameters_) {
    auto moved = adam(
        {value, first_.at(name), second_.at(name)},
        gradients.at(name),
        factor,
        adam_options,
        default_engine());
    if (o.unit_decoder && name == "W_dec")
      moved.parameter = with_unit_rows(moved.parameter);
    // On the data, not in the graph: a clamp would stop its gradient.
    if (name == "threshold")
      moved.parameter = mx::maximum(moved.parameter, scalar(0));
    value = moved.parameter;
    first_.at(name) = moved.first;
    second_.at(name) = moved.second;
    all.insert(all.end(), {value, moved.first, moved.second});
  }
  mx::eval(std::move(all));
}

Sae SaeTrainer::sae() const {
  const auto& p = parameters_;
  const auto& o = options_;
  const bool gated = o.recipe == SaeRecipe::gated;
  Sae out{
      .W_enc = mx::contiguous(mx::transpose(p.at("W_enc"))),
      .b_enc = p.at(gated ? "b_mag" : "b_enc"),
      .W_dec = p.at("W_dec"),
      .b_dec = p.at("b_dec")};
  out.kind = o.transcoder ? SaeKind::transcoder : SaeKind::sae;
  out.subtract_b_dec = o.subtract_b_dec;
  if (o.skip) out.W_skip = p.at("W_skip");
  bool chosen_so = false;
  switch (o.recipe) {
    case SaeRecipe::relu_l1:
      break;
    case SaeRecipe::gated: {
      const auto stretch = mx::exp(p.at("r_mag"));
      out.activation = SaeActivation::jump_relu;
      out.W_enc = mx::multiply(out.W_enc, stretch);
      out.threshold =
          mx::subtract(p.at("b_mag"), mx::multiply(stretch, p.at("b_gate")));
      break;
    }
    case SaeRecipe::topk:
      out.activation = SaeActivation::topk;
      out.k = o.k;
      chosen_so = o.rank_by_norm;
      break;
    case SaeRecipe::batch_topk:
    case SaeRecipe::matryoshka:
      out.activation = SaeActivation::jump_relu;
      break;
    case SaeRecipe::jump_relu:
      out.activation = SaeActivation::jump_relu;
      out.threshold = p.at("threshold");
      break;
  }
  if (o.recipe == SaeRecipe::batch_topk || o.recipe == SaeRecipe::matryoshka) {
    out.threshold = mx::full({o.features}, scalar(0), mx::float32);
    // It is of activations as they were ranked.
    if (o.rank_by_norm && !o.unit_decoder)
      out = fold_decoder_norm(std::move(out));
    // It began at 0, which a short run would remember.
    const double known =
        1 - std::pow(1 - threshold_weight, static_cast<double>(steps_));
    out.threshold = mx::full(
        {o.features}, scalar(known > 0 ? threshold_ / known : 0), mx::float32);
  }
  out = fold_scale(
      std::move(out),
      static_cast<float>(scale_in_),
      o.transcoder ? std::optional(static_cast<float>(scale_out_))
                   : std::nullopt);
  const bool by_k = out.activation == SaeActivation::topk;
  if (!by_k || chosen_so)
    out = fold_decoder_norm(std::move(out), chosen_so && by_k);
  return out;
}

void SaeTrainer::set(const Tensors& parameters) {
  for (const auto& [name, value] : parameters) {
    const auto found = parameters_.find(name);
    if (found == parameters_.end() || found->second.shape() != value.shape())
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

SaeTrainer::Tensors SaeTrainer::state() const {
  Tensors out;
  for (const auto& [name, value] : parameters_) {
    out.insert_or_assign(name, value);
    out.insert_or_assign(first_of(name), first_.at(name));
    out.insert_or_assign(second_of(name), second_.at(name));
  }
  out.insert_or_assign(
      "since",
      mx::array(since_.data(), {static_cast<int>(since_.size())}, mx::int64));
  // float64 is no dtype of files here: the bits.
  const double numbers[] = {
      static_cast<double>(steps_), threshold_, scale_in_, scale_out_};
  out.insert_or_assign(
      "numbers",
      mx::array(
          reinterpret_cast<const int64_t*>(numbers),
          {static_cast<int>(std::size(numbers))},
          mx::int64));
  return out;
}

void SaeTrainer::restore(const Tensors& state) {
  const auto part = [&](const std::string& name,
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
  };
  for (auto& [name, value] : parameters_) {
    const auto shape = value.shape();
    value = part(name, shape, mx::float32);
    first_.at(name) = part(first_of(name), shape, mx::float32);
    second_.at(name) = part(second_of(name), shape, mx::float32);
  }
  const auto since =
      part("since", {static_cast<int>(since_.size())}, mx::int64);
  since_.assign(since.data<int64_t>(), since.data<int64_t>() + since.size());
  double numbers[4];
  const auto bits =
      part("numbers", {static_cast<int>(std::size(numbers))}, mx::int64);
  std::memcpy(numbers, bits.data<int64_t>(), sizeof numbers);
  for (const double it : numbers)
    if (!std::isfinite(it) || it < 0)
      fail(
          ErrorKind::bad_data,
          "[{}] the trainer's state holds the number {}; it is broken: train "
          "anew into another folder",
          who,
          it);
  steps_ = static_cast<int64_t>(numbers[0]);
  threshold_ = numbers[1];
  scale_in_ = numbers[2];
  scale_out_ = numbers[3];
}

}  // namespace mlxterp
