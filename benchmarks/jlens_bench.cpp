// A Jacobian lens of a small random model, beside what autograd alone would do:
// the whole model differentiated, as many rows of one-hot cotangents at a time
// as is fastest of some, all layers by one pass back. In turn, the fastest of
// three.

#include <algorithm>
#include <cmath>
#include <limits>

#include "benchmarks/timing.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/jacobian_lens.h"
#include "ratios.h"
#include "tests/tiny_model.h"
#include "trace/stepper.h"

namespace mx = mlx::core;
using namespace mlxterp;
using namespace mlxterp::bench;

namespace {

constexpr int length = 64, skip = 16;

DecoderConfig config() {
  auto out = test::tiny_config();
  out.vocab = 512;
  out.d_model = 256;
  out.n_layers = 6;
  out.n_heads = 4;
  out.n_kv_heads = 2;
  out.d_head = 64;
  out.d_mlp = 768;
  out.context = length;
  out.rope.dims = 64;
  return out;
}

// J of all layers but the last, evaluated.
std::vector<mx::array> plainly(
    const InterpretableModel& model, const std::vector<int>& ids, int batch) {
  const int d = model.decoder().config().d_model;
  const int n = model.decoder().config().n_layers;
  const auto at = mx::arange(length);
  const auto counts = mx::reshape(
      mx::astype(
          mx::logical_and(
              mx::greater_equal(at, mx::array(skip)),
              mx::less(at, mx::array(length - 1))),
          mx::float32),
      {1, length, 1});
  std::vector<std::vector<mx::array>> rows(static_cast<size_t>(n - 1));
  for (int from = 0; from < d; from += batch) {
    const auto tokens = mx::broadcast_to(
        mx::array(ids.data(), {1, length}, mx::int32), {batch, length});
    const auto last = [&](const std::vector<mx::array>& added) {
      Stepper stepper(model);
      auto x = stepper.embed(tokens);
      for (int i = 0; i < n; ++i) {
        x = stepper.layer(i, x);
        if (i < n - 1) x = mx::add(x, added[static_cast<size_t>(i)]);
      }
      return std::vector{x};
    };
    const auto one_hot = mx::slice(mx::eye(d), {from, 0}, {from + batch, d});
    const std::vector<mx::array> zeros(
        rows.size(), mx::zeros({batch, length, d}));
    const auto gradients =
        mx::vjp(
            last, zeros, {mx::multiply(mx::expand_dims(one_hot, 1), counts)})
            .second;
    std::vector<mx::array> means;
    for (size_t l = 0; l < rows.size(); ++l) {
      means.push_back(mx::mean(
          mx::slice(gradients[l], {0, skip, 0}, {batch, length - 1, d}), 1));
      rows[l].push_back(means.back());
    }
    mx::eval(means);
  }
  std::vector<mx::array> out;
  for (auto& row : rows)
    out.push_back(mx::concatenate(std::move(row), 0));
  mx::eval(out);
  return out;
}

}  // namespace

int main() {
  const auto model = test::tiny_model(config());
  std::vector<int> ids;
  for (const int id : prompt(length, 3))
    ids.push_back(id % 512);
  JacobianOptions options;
  options.skip = skip;
  options.tolerance = 0;
  JacobianFit fit;
  std::vector<mx::array> plain;
  double ours = std::numeric_limits<double>::infinity(), theirs = ours;
  for (int i = 0; i < 3; ++i) {
    ours = std::min(
        ours, seconds([&] { fit = fit_jacobian_lens(model, {ids}, options); }));
    for (const int batch : {8, 32, 128})
      theirs = std::min(
          theirs, seconds([&] { plain = plainly(model, ids, batch); }));
  }
  float worst = 0;
  for (size_t l = 0; l < plain.size(); ++l) {
    const auto& j = fit.lens.at(static_cast<int>(l));
    const auto error = mx::max(mx::abs(mx::subtract(j, plain[l])));
    const float off =
        mx::divide(error, mx::max(mx::abs(plain[l]))).item<float>();
    if (!(off <= worst)) worst = off;
  }
  fmt::print(
      "ours {:.0f} ms, autograd {:.0f} ms, {:.2f} times as long; J apart by "
      "{:.2g} at most\n",
      1e3 * ours,
      1e3 * theirs,
      theirs / ours,
      worst);
  row("jlens fit / autograd", ours / theirs, "times", 0.5);
  return worst <= 1e-4f ? 0 : 1;  // of NaN, too
}
