#include "mlxterp/sae/sae.h"

#include <cmath>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr float layer_norm_epsilon = 1e-5f;

mx::array float32(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

// What a row of the input was divided by and what was taken from it before.
struct RowNorm {
  mx::array scale;
  std::optional<mx::array> mean = {};
};

RowNorm row_norm(const Sae& sae, const mx::array& x) {
  if (sae.norm == SaeNorm::constant_norm)
    return {mx::divide(
        mx::sqrt(mx::sum(mx::square(x), -1, true)),
        mx::array(std::sqrt(static_cast<float>(sae.d_in()))))};
  auto mean = mx::mean(x, -1, true);
  auto deviation = mx::sqrt(mx::var(x, -1, true, 1));
  return {std::move(deviation), std::move(mean)};
}

mx::array normalised(const Sae& sae, const mx::array& x) {
  if (sae.norm == SaeNorm::none) return x;
  const auto [scale, mean] = row_norm(sae, x);
  if (!mean) return mx::divide(x, scale);
  return mx::divide(
      mx::subtract(x, *mean), mx::add(scale, mx::array(layer_norm_epsilon)));
}

mx::array denormalised(const Sae& sae, const mx::array& y, const mx::array& x) {
  const auto [scale, mean] = row_norm(sae, x);
  const auto scaled = mx::multiply(y, scale);
  return mean ? mx::add(scaled, *mean) : scaled;
}

void check_width(
    const mx::array& x, int width, std::string_view what, const Sae& sae) {
  if (x.ndim() >= 1 && x.shape(-1) == width) return;
  std::string shape;
  for (const int dim : x.shape())
    shape += fmt::format("{}{}", shape.empty() ? "" : ", ", dim);
  fail(
      ErrorKind::usage,
      "[sae] {} is [{}], and {} of {} is {} wide; is it the SAE of another "
      "model or site? Heads are flattened to [..., heads * d_head]",
      what,
      shape,
      what,
      sae.source.file.empty() ? "this SAE" : printable(sae.source.file),
      width);
}

// The k of each row with the largest `rank`, with `values` in their places.
mx::array keep_largest(const mx::array& rank, const mx::array& values, int k) {
  const int width = rank.shape(-1);
  if (k >= width) return values;
  const auto order =
      mx::argpartition(mx::negative(mx::stop_gradient(rank)), k - 1, -1);
  mx::Shape begin(rank.ndim(), 0), end = rank.shape();
  end.back() = k;
  const auto kept = mx::stop_gradient(mx::slice(order, begin, end));
  return mx::put_along_axis(
      mx::zeros_like(values), kept, mx::take_along_axis(values, kept, -1), -1);
}

mx::array relu(const mx::array& x) {
  return mx::maximum(x, mx::array(0.0f));
}

mx::array group_max(const mx::array& pre, int k) {
  auto grouped = pre.shape();
  grouped.back() = k;
  grouped.push_back(pre.shape(-1) / k);
  const auto groups = relu(mx::reshape(pre, grouped));
  const auto best = mx::stop_gradient(mx::argmax(groups, -1, true));
  const auto kept = mx::equal(mx::arange(grouped.back(), mx::uint32), best);
  return mx::reshape(mx::where(kept, groups, mx::array(0.0f)), pre.shape());
}

[[noreturn]] void unfit(const Sae& sae, const std::string& why) {
  fail(
      ErrorKind::bad_data,
      "[sae] {}: {}; is the file whole, and of the format {}?",
      sae.source.file.empty() ? "this SAE" : printable(sae.source.file),
      why,
      sae.source.format.empty() ? "it was read as" : sae.source.format);
}

std::string shown(const mx::Shape& shape) {
  std::string text = "[";
  for (const int dim : shape)
    text += fmt::format("{}{}", text.size() > 1 ? ", " : "", dim);
  return text + "]";
}

void check_shape(
    const Sae& sae,
    std::string_view name,
    const mx::array& array,
    const mx::Shape& expected) {
  if (array.shape() != expected)
    unfit(
        sae,
        fmt::format(
            "{} is {} and should be {}",
            name,
            shown(array.shape()),
            shown(expected)));
  if (array.dtype() != mx::float32)
    unfit(sae, fmt::format("{} is not float32", name));
}

bool counts(SaeActivation activation) {
  return activation == SaeActivation::topk ||
         activation == SaeActivation::signed_topk ||
         activation == SaeActivation::abs_topk ||
         activation == SaeActivation::group_max;
}

}  // namespace

std::string_view name_of(SaeActivation activation) {
  switch (activation) {
    case SaeActivation::relu:
      return "relu";
    case SaeActivation::topk:
      return "topk";
    case SaeActivation::signed_topk:
      return "signed_topk";
    case SaeActivation::abs_topk:
      return "abs_topk";
    case SaeActivation::group_max:
      return "group_max";
    case SaeActivation::jump_relu:
      return "jump_relu";
  }
  return "";
}

std::string_view name_of(SaeNorm norm) {
  switch (norm) {
    case SaeNorm::none:
      return "none";
    case SaeNorm::layer_norm:
      return "layer_norm";
    case SaeNorm::constant_norm:
      return "constant_norm";
  }
  return "";
}

std::string_view name_of(SaeKind kind) {
  switch (kind) {
    case SaeKind::sae:
      return "sae";
    case SaeKind::transcoder:
      return "transcoder";
    case SaeKind::cross_layer:
      return "cross_layer";
  }
  return "";
}

void check(const Sae& sae) {
  const auto& W_enc = sae.W_enc;
  const bool cross = sae.kind == SaeKind::cross_layer;
  if (W_enc.ndim() != 2 || W_enc.size() == 0)
    unfit(sae, fmt::format("W_enc is {}, not a matrix", shown(W_enc.shape())));
  if (sae.W_dec.ndim() != (cross ? 3u : 2u) || sae.W_dec.size() == 0)
    unfit(
        sae,
        fmt::format(
            "W_dec is {}, not [d_sae, {}d_out]",
            shown(sae.W_dec.shape()),
            cross ? "targets, " : ""));
  const int d_in = sae.d_in(), d_sae = sae.d_sae(), d_out = sae.d_out();
  check_shape(sae, "W_enc", W_enc, {d_in, d_sae});
  check_shape(sae, "b_enc", sae.b_enc, {d_sae});
  check_shape(
      sae,
      "W_dec",
      sae.W_dec,
      cross ? mx::Shape{d_sae, sae.targets(), d_out} : mx::Shape{d_sae, d_out});
  check_shape(sae, "b_dec", sae.b_dec, {d_out});
  if (sae.W_skip) check_shape(sae, "W_skip", *sae.W_skip, {d_in, d_out});
  if (sae.kind == SaeKind::sae && d_in != d_out)
    unfit(
        sae,
        fmt::format(
            "it reads {} numbers and reconstructs {}, which only a transcoder "
            "does",
            d_in,
            d_out));
  if (sae.subtract_b_dec && d_in != d_out)
    unfit(
        sae,
        fmt::format(
            "b_dec of {} numbers cannot be subtracted from {}", d_out, d_in));
  const bool jumps = sae.activation == SaeActivation::jump_relu;
  if (jumps && !sae.threshold) unfit(sae, "a jump ReLU without its threshold");
  if (sae.threshold) check_shape(sae, "threshold", *sae.threshold, {d_sae});
  if (counts(sae.activation) && (sae.k < 1 || sae.k > d_sae))
    unfit(
        sae,
        fmt::format(
            "k is {}, and there are {} features to choose from", sae.k, d_sae));
  if (sae.activation == SaeActivation::group_max && d_sae % sae.k != 0)
    unfit(
        sae, fmt::format("{} features are not {} equal groups", d_sae, sae.k));
  if (cross && (sae.first_target < 0 || sae.source.layer < sae.first_target ||
                sae.source.layer >= sae.first_target + sae.targets()))
    unfit(
        sae,
        fmt::format(
            "it reads layer {} and writes layers {} to {}",
            sae.source.layer,
            sae.first_target,
            sae.first_target + sae.targets() - 1));
}

mx::array pre_activations(const Sae& sae, const mx::array& x) {
  check_width(x, sae.d_in(), "the input", sae);
  auto z = normalised(sae, float32(x));
  if (sae.subtract_b_dec) z = mx::subtract(z, sae.b_dec);
  return mx::add(mx::matmul(z, sae.W_enc), sae.b_enc);
}

mx::array activate(const Sae& sae, const mx::array& pre) {
  check_width(pre, sae.d_sae(), "the pre-activation", sae);
  switch (sae.activation) {
    case SaeActivation::relu:
      return relu(pre);
    case SaeActivation::topk:
      return keep_largest(pre, relu(pre), sae.k);
    case SaeActivation::signed_topk:
      return keep_largest(pre, pre, sae.k);
    case SaeActivation::abs_topk:
      return keep_largest(mx::abs(pre), pre, sae.k);
    case SaeActivation::group_max:
      return group_max(pre, sae.k);
    case SaeActivation::jump_relu:
      return mx::where(
          mx::greater(pre, *sae.threshold), relu(pre), mx::array(0.0f));
  }
  return pre;
}

mx::array encode(const Sae& sae, const mx::array& x) {
  return activate(sae, pre_activations(sae, x));
}

mx::array decode(
    const Sae& sae, const mx::array& acts, const std::optional<mx::array>& x) {
  check_width(acts, sae.d_sae(), "the activation", sae);
  const bool undo = sae.undo_norm && sae.norm != SaeNorm::none;
  if ((undo || sae.W_skip) && !x)
    fail(
        ErrorKind::usage,
        "[sae] reconstructing from activations alone cannot be done here: {}; "
        "give the input, too",
        undo ? "the input's norm is undone" : "there is a skip connection");
  if (x) check_width(*x, sae.d_in(), "the input", sae);
  if (sae.kind != SaeKind::cross_layer) {
    auto y = mx::add(mx::matmul(float32(acts), sae.W_dec), sae.b_dec);
    if (undo) y = denormalised(sae, y, float32(*x));
    if (sae.W_skip) y = mx::add(y, mx::matmul(float32(*x), *sae.W_skip));
    return y;
  }
  const int targets = sae.targets();
  const auto flat = mx::reshape(sae.W_dec, {sae.d_sae(), -1});
  auto shape = acts.shape();
  shape.back() = targets;
  shape.push_back(sae.d_out());
  const auto y = mx::reshape(mx::matmul(float32(acts), flat), shape);
  auto own = sae.b_dec;
  if (sae.W_skip) own = mx::add(own, mx::matmul(float32(*x), *sae.W_skip));
  // [targets, 1]: 1 for the layer it reads.
  const auto here = mx::reshape(
      mx::astype(
          mx::equal(
              mx::arange(targets, mx::int32),
              mx::array(sae.source.layer - sae.first_target)),
          mx::float32),
      {targets, 1});
  return mx::add(y, mx::multiply(mx::expand_dims(own, -2), here));
}

void SaeFitter::add(
    const mx::array& target, const mx::array& recon, const mx::array& acts) {
  const auto error = mx::sum(mx::square(mx::subtract(target, recon)), -1);
  const auto square = mx::sum(mx::square(target), -1);
  const auto active = mx::sum(
      mx::astype(mx::not_equal(acts, mx::array(0.0f)), mx::float32), -1);
  const auto rows = mx::contiguous(float32(target));
  mx::eval(error, square, active, rows);
  const size_t n = error.size();
  for (size_t i = 0; i < n; ++i) {
    errors_ += error.data<float>()[i];
    squares_ += square.data<float>()[i];
    active_ += active.data<float>()[i];
  }
  const size_t width = n == 0 ? 0 : rows.size() / n;
  sums_.resize(width);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < width; ++j)
      sums_[j] += rows.data<float>()[i * width + j];
  rows_ += n;
}

SaeFit SaeFitter::fit() const {
  SaeFit out{.rows = rows_};
  if (rows_ == 0) return out;
  const auto n = static_cast<double>(rows_);
  double mean = 0;
  for (const double sum : sums_)
    mean += sum / n * (sum / n);
  out.fvu = (errors_ / n) / (squares_ / n - mean);
  out.explained_variance = 1 - out.fvu;
  out.l0 = active_ / n;
  return out;
}

std::string doubt(const Sae& sae, const SaeFit& fit) {
  if (fit.rows == 0) return "";
  std::string what;
  if (fit.explained_variance < 0) {
    what =
        fmt::format("the explained variance is {:.3g}", fit.explained_variance);
  } else if (const auto said = sae.source.l0; said && *said > 0) {
    constexpr double times = 3;
    if (fit.l0 > times * *said || fit.l0 < *said / times)
      what = fmt::format(
          "{:.3g} features are active, and its file says {:.3g}",
          fit.l0,
          *said);
  }
  if (what.empty()) return "";
  return fmt::format(
      "{}: are these the activations of {}{}? Another site, the next or the "
      "last layer, a missing scale or another model would look like this",
      what,
      sae.source.site_in.empty() ? "its site" : sae.source.site_in,
      sae.source.model.empty() ? "" : " in " + sae.source.model);
}

}  // namespace mlxterp
