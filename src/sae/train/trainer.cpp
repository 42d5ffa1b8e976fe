// The trainer: where it begins, steps, and what it has become.

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/train.h"
#include "sae/train/adam.h"
#include "sae/train/losses.h"
#include "sae/train/steps.h"

namespace mx = mlx::core;

namespace mlxterp {

using namespace sae_train;  // NOLINT(google-build-using-namespace): its parts

namespace {

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

// The same from decoder rows whose lengths in all blocks sum to 1, by which
// they are ranked.
Sae fold_block_norms(Sae sae, int blocks) {
  const auto norms = mx::sum(
      mx::reshape(block_norms(sae.W_dec, blocks), {sae.d_sae(), -1}), 1);
  sae.W_dec = mx::divide(sae.W_dec, mx::expand_dims(norms, 1));
  sae.W_enc = mx::multiply(sae.W_enc, norms);
  sae.b_enc = mx::multiply(sae.b_enc, norms);
  if (sae.threshold) sae.threshold = mx::multiply(*sae.threshold, norms);
  return sae;
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
  for (int i = 0; i < o.blocks; ++i) {
    const int width = d_in_ / o.blocks;
    scales_.push_back(scale_of(
        mx::slice(read, {0, i * width}, {read.shape(0), (i + 1) * width}),
        o.scale,
        fmt::format("what is read, part {},", i).c_str()));
  }
  scale_in_ = o.blocks > 0 ? 1 : scale_of(read, o.scale, "what is read");
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
      o.mean_bias ? mx::multiply(
                        mx::mean(scales_.empty() ? wanted : scaled(wanted), 0),
                        scalar(scale_out_))
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

// A crosscoder's rows, each block by its own scale.
mx::array SaeTrainer::scaled(const mx::array& x) const {
  std::vector<float> factors(scales_.begin(), scales_.end());
  const int blocks = options_.blocks;
  return mx::reshape(
      mx::multiply(
          mx::reshape(x, {x.shape(0), blocks, -1}),
          mx::array(factors.data(), {1, blocks, 1}, mx::float32)),
      x.shape());
}

double SaeTrainer::dead_share() const {
  return static_cast<double>(dead_of(since_, options_.dead_after).size()) /
         static_cast<double>(since_.size());
}

SaeStep SaeTrainer::step(
    const mx::array& x, const std::optional<mx::array>& y) {
  if (options_.transcoder != y.has_value())
    fail(ErrorKind::usage, "[{}] a transcoder's steps have both values", who);
  auto in = rows_of(x, d_in_, "x");
  in = scales_.empty() ? mx::multiply(in, scalar(scale_in_)) : scaled(in);
  auto out =
      y ? mx::multiply(rows_of(*y, d_out_, "y"), scalar(scale_out_)) : in;
  mx::eval(in, out);
  Stopwatch watch;
  const Problem problem{
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

void SaeTrainer::move(Tensors gradients) {
  const auto& o = options_;
  if (o.unit_decoder) {
    auto& slope = gradients.at("W_dec");
    slope = without_parallel(slope, parameters_.at("W_dec"));
  }
  const auto factor = clip_factor(gradients, o.clip);
  const auto options = adam_options(o, steps_);
  std::vector<mx::array> all;
  for (auto& [name, value] : parameters_) {
    auto moved = adam(
        {value, first_.at(name), second_.at(name)},
        gradients.at(name),
        factor,
        options,
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
      out = o.blocks > 0 ? fold_block_norms(std::move(out), o.blocks)
                         : fold_decoder_norm(std::move(out));
    // It began at 0, which a short run would remember.
    const double known =
        1 - std::pow(1 - threshold_weight, static_cast<double>(steps_));
    out.threshold = mx::full(
        {o.features}, scalar(known > 0 ? threshold_ / known : 0), mx::float32);
  }
  if (o.blocks > 0) {
    if (chosen_so) out = fold_block_norms(std::move(out), o.blocks);
    const auto back = [&](const mx::array& rows) {
      return mx::divide(rows, scaled(mx::ones({1, d_in_}, mx::float32)));
    };
    out.W_enc = mx::transpose(scaled(mx::transpose(out.W_enc)));
    out.W_dec = back(out.W_dec);
    out.b_dec = mx::reshape(back(mx::reshape(out.b_dec, {1, d_in_})), {d_in_});
    out.W_enc = mx::contiguous(out.W_enc);
    return out;
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
  replace(parameters, parameters_);
}

SaeTrainer::Tensors SaeTrainer::state() const {
  Tensors out;
  add_state(parameters_, first_, second_, out);
  std::vector<double> numbers = {
      static_cast<double>(steps_), threshold_, scale_in_, scale_out_};
  numbers.insert(numbers.end(), scales_.begin(), scales_.end());
  add_counts(since_, numbers, out);
  return out;
}

void SaeTrainer::restore(const Tensors& state) {
  restore_state(state, parameters_, first_, second_);
  constexpr size_t plain = 4;
  std::vector<double> numbers(plain + scales_.size());
  restore_counts(state, since_, numbers);
  steps_ = static_cast<int64_t>(numbers[0]);
  threshold_ = numbers[1];
  scale_in_ = numbers[2];
  scale_out_ = numbers[3];
  std::copy(numbers.begin() + plain, numbers.end(), scales_.begin());
}

}  // namespace mlxterp
