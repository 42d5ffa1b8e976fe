#include "sae/train/losses.h"

#include <algorithm>

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

bool by_index(SaeRecipe recipe) {
  return recipe == SaeRecipe::topk || recipe == SaeRecipe::batch_topk ||
         recipe == SaeRecipe::matryoshka;
}

}  // namespace

mx::array Problem::rounded(const mx::array& it) const {
  return options.bfloat16 ? mx::astype(it, mx::bfloat16) : it;
}

mx::array Problem::product(const mx::array& a, const mx::array& b) const {
  return as_float(mx::matmul(rounded(a), rounded(b)));
}

mx::array Problem::x_in() const {
  return options.subtract_b_dec ? mx::subtract(x, p.at("b_dec")) : x;
}

mx::array Problem::offset() const {
  const auto& b = p.at("b_dec");
  return options.skip ? mx::addmm(b, x, p.at("W_skip")) : b;
}

mx::array block_norms(const mx::array& W, int blocks) {
  const auto parts = mx::reshape(W, {W.shape(0), std::max(blocks, 1), -1});
  return mx::maximum(
      mx::sqrt(mx::sum(mx::square(parts), 2, /*keepdims=*/true)),
      mx::array(1e-8f));
}

mx::array Problem::norms() const {
  return mx::sum(
      mx::reshape(block_norms(p.at("W_dec"), options.blocks), {features(), -1}),
      1);
}

mx::array Problem::norm_slope(const mx::array& c) const {
  const auto& W = p.at("W_dec");
  const auto lengths = block_norms(W, options.blocks);
  const auto factor = mx::divide(mx::reshape(c, {features(), 1, 1}), lengths);
  const auto parts = mx::reshape(W, {features(), lengths.shape(1), -1});
  return mx::reshape(mx::multiply(factor, parts), W.shape());
}

mx::array as_float(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

mx::array total(const mx::array& x) {
  return x.ndim() < 2 ? mx::sum(x) : mx::sum(mx::sum(x, 1));
}

mx::array variance_of(const mx::array& y) {
  return total(mx::square(mx::subtract(y, mx::mean(y, 0))));
}

mx::array error_weight(const Problem& problem, const mx::array& variance) {
  return problem.options.loss == SaeLossScale::rows
             ? mx::array(1.0f / static_cast<float>(problem.rows()))
             : mx::reciprocal(variance);
}

void add_bias_gradients(
    const Problem& problem,
    const mx::array& G,
    const mx::array& pre_sums,
    Tensors& gradients) {
  auto b = mx::sum(G, 0);
  if (problem.options.subtract_b_dec)
    b = mx::subtract(b, mx::matmul(pre_sums, problem.p.at("W_enc")));
  gradients.insert_or_assign("b_dec", b);
  if (problem.options.skip)
    gradients.insert_or_assign(
        "W_skip", mx::matmul(mx::transpose(problem.x), G));
}

Slopes slopes_of(const Problem& problem) {
  return by_index(problem.options.recipe) ? sparse_slopes(problem)
                                          : dense_slopes(problem);
}

}  // namespace mlxterp::sae_train
