// The trainer of a transcoder across layers: where it begins, steps, and what
// it has become.

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/clt_train.h"
#include "sae/train/steps.h"

namespace mx = mlx::core;

namespace mlxterp {

using namespace sae_train;  // NOLINT(google-build-using-namespace): its parts

namespace {

std::string at(const char* name, int layer) {
  return fmt::format("{}_{}", name, layer);
}

// [n, layers, width] as float32; throws where it is not.
mx::array rows_of(const mx::array& x, int layers, int width, const char* what) {
  if (x.ndim() != 3 || x.shape(0) < 1 || x.shape(1) != layers ||
      x.shape(2) < 1 || (width > 0 && x.shape(2) != width))
    fail(
        ErrorKind::usage,
        "[{}] {} is of shape [{}]; give rows of {} layers of {} numbers",
        who,
        what,
        fmt::join(x.shape(), ", "),
        layers,
        width > 0 ? fmt::format("{}", width) : "one number of");
  return mx::astype(x, mx::float32);
}

mx::array layer_of(const mx::array& x, int layer) {
  const int rows = x.shape(0), d = x.shape(2);
  return mx::reshape(
      mx::slice(x, {0, layer, 0}, {rows, layer + 1, d}), {rows, d});
}

std::vector<double> scales_of(
    const mx::array& x, SaeInputScale scale, const char* what) {
  std::vector<double> out;
  for (int l = 0; l < x.shape(1); ++l)
    out.push_back(scale_of(
        layer_of(x, l), scale, fmt::format("{} in layer {}", what, l).c_str()));
  return out;
}

}  // namespace

mx::array CltTrainer::scaled(
    const mx::array& x,
    int width,
    const std::vector<double>& scales,
    const char* what) const {
  std::vector<float> factors(scales.begin(), scales.end());
  return mx::multiply(
      rows_of(x, options_.layers, width, what),
      mx::array(factors.data(), {1, options_.layers, 1}, mx::float32));
}

CltTrainer::CltTrainer(
    SaeTrainOptions options, const mx::array& x, const mx::array& y) {
  if (options.layers < 1)
    fail(
        ErrorKind::usage,
        "[{}] these are options of no cross-layer transcoder; say of how many "
        "layers it is",
        who);
  const auto read = rows_of(x, options.layers, 0, "the sample");
  const auto wanted =
      rows_of(y, options.layers, 0, "the sample of what is predicted");
  d_in_ = read.shape(2);
  d_out_ = wanted.shape(2);
  options_ = checked(std::move(options), d_in_, d_out_);
  const auto& o = options_;
  scale_in_ = scales_of(read, o.scale, "what is read");
  scale_out_ = scales_of(wanted, o.scale, "what is predicted");

  auto key = mx::random::key(o.seed);
  const auto uniform = [&](const mx::Shape& shape, double width) {
    const auto [here, rest] = mx::random::split(key);
    key = rest;
    const auto most = static_cast<float>(1 / std::sqrt(width));
    return mx::random::uniform(-most, most, shape, mx::float32, here);
  };
  const auto targets = scaled(wanted, d_out_, scale_out_, "the sample");
  auto& p = parameters_;
  for (int l = 0; l < o.layers; ++l) {
    p.insert_or_assign(
        at("W_enc", l), uniform({o.features, d_in_}, o.features));
    p.insert_or_assign(
        at("W_dec", l),
        uniform(
            {o.features, o.layers - l, d_out_},
            static_cast<double>(o.layers) * d_out_));
    p.insert_or_assign(
        at("b_dec", l),
        o.mean_bias ? mx::mean(layer_of(targets, l), 0)
                    : mx::zeros({d_out_}, mx::float32));
    p.insert_or_assign(at("b_enc", l), mx::zeros({o.features}, mx::float32));
    if (o.recipe == SaeRecipe::jump_relu)
      p.insert_or_assign(
          at("log_threshold", l),
          mx::full({o.features}, scalar(std::log(o.threshold)), mx::float32));
  }
  if (o.recipe == SaeRecipe::jump_relu)
    begin_biases(scaled(read, d_in_, scale_in_, "the sample"));
  for (auto& [name, value] : p) {
    value.eval();
    first_.insert_or_assign(name, mx::zeros_like(value));
    second_.insert_or_assign(name, mx::zeros_like(value));
  }
  since_.assign(
      static_cast<size_t>(o.features) * static_cast<size_t>(o.layers), 0);
}

// Each feature begins active in a share of the rows (Anthropic's update of
// January 2025).
void CltTrainer::begin_biases(const mx::array& x) {
  constexpr double active = 10'000, most = 0.4;
  constexpr int least_rows = 2, most_rows = 1024;
  const auto& o = options_;
  const int rows = std::min(x.shape(0), most_rows);
  if (rows < least_rows) return;
  const double share = std::min(most, active / o.features);
  const auto place = std::min(
      rows - 1, static_cast<int>((1 - share) * static_cast<double>(rows)));
  for (int l = 0; l < o.layers; ++l) {
    const auto some = mx::slice(layer_of(x, l), {0, 0}, {rows, d_in_});
    const auto pre =
        mx::matmul(some, mx::transpose(parameters_.at(at("W_enc", l))));
    const auto limit = mx::reshape(
        mx::slice(mx::sort(pre, 0), {place, 0}, {place + 1, o.features}),
        {o.features});
    auto& bias = parameters_.at(at("b_enc", l));
    bias = mx::subtract(scalar(o.threshold), limit);
    bias.eval();
  }
}

double CltTrainer::dead_share() const {
  return static_cast<double>(dead_of(since_, options_.dead_after).size()) /
         static_cast<double>(since_.size());
}

SaeStep CltTrainer::step(const mx::array& x, const mx::array& y) {
  auto in = scaled(x, d_in_, scale_in_, "x");
  auto out = scaled(y, d_out_, scale_out_, "y");
  if (in.shape(0) != out.shape(0))
    fail(
        ErrorKind::usage,
        "[{}] {} rows are read and {} predicted; give as many",
        who,
        in.shape(0),
        out.shape(0));
  mx::eval(in, out);
  Stopwatch watch;
  const CltProblem problem{
      .options = options_,
      .p = parameters_,
      .x = in,
      .y = out,
      .sparsity = sparsity_at(options_, steps_),
      .dead = dead_of(since_, options_.dead_after),
      .engine = default_engine()};
  auto slopes = slopes_of(problem);
  evaluate(slopes, watch, times_);
  auto result = seen(slopes, in, steps_);
  count_rows(slopes.fired, in.shape(0), since_);
  threshold_ = threshold_after(threshold_, slopes);
  move(std::move(slopes.gradients));
  ++steps_;
  result.dead_share = dead_share();
  times_.optimiser += watch.lap();
  return result;
}

void CltTrainer::move(Tensors gradients) {
  const auto factor = clip_factor(gradients, options_.clip);
  const auto options = adam_options(options_, steps_);
  for (auto& [name, value] : parameters_) {
    auto moved = adam(
        {value, first_.at(name), second_.at(name)},
        gradients.at(name),
        factor,
        options,
        default_engine());
    mx::eval(moved.parameter, moved.first, moved.second);
    value = moved.parameter;
    first_.at(name) = moved.first;
    second_.at(name) = moved.second;
  }
}

std::vector<Sae> CltTrainer::transcoders() const {
  const auto& p = parameters_;
  const auto& o = options_;
  // It began at 0, which a short run would remember.
  const double known =
      1 - std::pow(1 - threshold_weight, static_cast<double>(steps_));
  std::vector<Sae> out;
  for (int l = 0; l < o.layers; ++l) {
    const auto part = [&](const char* name) { return p.at(at(name, l)); };
    const auto from = static_cast<size_t>(l);
    Sae sae{
        .W_enc = mx::transpose(part("W_enc")),
        .b_enc = part("b_enc"),
        .W_dec = part("W_dec"),
        .b_dec = part("b_dec")};
    sae.kind = SaeKind::cross_layer;
    sae.activation = SaeActivation::jump_relu;
    sae.first_target = l;
    sae.source.layer = l;
    if (o.recipe == SaeRecipe::jump_relu) {
      sae.threshold = mx::exp(part("log_threshold"));
    } else {
      sae.threshold = mx::zeros({o.features}, mx::float32);
      sae = fold_decoder_norm(std::move(sae));
      // It is of activations as they were ranked.
      sae.threshold = mx::full(
          {o.features},
          scalar(known > 0 ? threshold_ / known : 0),
          mx::float32);
    }
    sae.W_enc = mx::multiply(sae.W_enc, scalar(scale_in_[from]));
    std::vector<float> back;
    for (size_t t = from; t < scale_out_.size(); ++t)
      back.push_back(static_cast<float>(1 / scale_out_[t]));
    sae.W_dec = mx::multiply(
        sae.W_dec, mx::array(back.data(), {1, o.layers - l, 1}, mx::float32));
    sae.b_dec = mx::multiply(sae.b_dec, mx::array(back.front()));
    out.push_back(fold_decoder_norm(std::move(sae)));
    out.back().W_enc = mx::contiguous(out.back().W_enc);
  }
  return out;
}

void CltTrainer::set(const Tensors& parameters) {
  replace(parameters, parameters_);
}

CltTrainer::Tensors CltTrainer::state() const {
  Tensors out;
  add_state(parameters_, first_, second_, out);
  std::vector<double> numbers = {static_cast<double>(steps_), threshold_};
  numbers.insert(numbers.end(), scale_in_.begin(), scale_in_.end());
  numbers.insert(numbers.end(), scale_out_.begin(), scale_out_.end());
  add_counts(since_, numbers, out);
  return out;
}

void CltTrainer::restore(const Tensors& state) {
  restore_state(state, parameters_, first_, second_);
  std::vector<double> numbers(2 + scale_in_.size() + scale_out_.size());
  restore_counts(state, since_, numbers);
  steps_ = static_cast<int64_t>(numbers[0]);
  threshold_ = numbers[1];
  const auto first = numbers.begin() + 2;
  std::copy_n(first, scale_in_.size(), scale_in_.begin());
  std::copy_n(
      first + static_cast<long>(scale_in_.size()),
      scale_out_.size(),
      scale_out_.begin());
}

}  // namespace mlxterp
