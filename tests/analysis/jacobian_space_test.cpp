#include "mlxterp/analysis/jacobian_space.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <numeric>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/core/error.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;

constexpr int k = 8;
const std::vector<int> ids = {7, 13, 21, 5, 2, 30, 9};

JacobianLens lens_of(const InterpretableModel& model) {
  JacobianOptions options;
  options.skip = 1;
  options.tolerance = 0;
  return fit_jacobian_lens(model, {ids}, options).lens;
}

Rows rows_of(const mx::array& values) {
  auto flat = mx::contiguous(mx::astype(values, mx::float32));
  flat.eval();
  Rows out;
  for (int i = 0; i < flat.shape(0); ++i) {
    const float* row = flat.data<float>() + int64_t{i} * flat.shape(1);
    out.emplace_back(row, row + flat.shape(1));
  }
  return out;
}

double dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// All of a layer's directions at once, each of length 1.
Rows dictionary_of(
    const InterpretableModel& model, const JacobianLens& lens, int layer) {
  std::vector<int> all(static_cast<size_t>(model.decoder().config().vocab));
  std::iota(all.begin(), all.end(), 0);
  auto out = rows_of(lens.directions(model, all, layer));
  for (auto& v : out) {
    const double length = std::sqrt(dot(v, v));
    for (double& x : v)
      x /= length;
  }
  return out;
}

Vector left_of(
    const Vector& h,
    const Rows& dictionary,
    const std::vector<int>& tokens,
    const Vector& c) {
  auto out = h;
  for (size_t i = 0; i < tokens.size(); ++i)
    for (size_t j = 0; j < h.size(); ++j)
      out[j] -= c[i] * dictionary[static_cast<size_t>(tokens[i])][j];
  return out;
}

struct Plain {
  std::vector<int> tokens;
  Vector c, explained;
};

// The same steps with the dictionary at hand and without a Gram matrix; the
// least squares by coordinate descent instead of active sets.
Plain plainly(const Vector& h, const Rows& dictionary, SparseMethod method) {
  Plain out;
  auto left = h;
  for (int step = 0; step < k; ++step) {
    int best = -1;
    double most = 0;
    for (size_t i = 0; i < dictionary.size(); ++i) {
      const int token = static_cast<int>(i);
      const double agrees = dot(dictionary[i], left);
      if (std::ranges::find(out.tokens, token) == out.tokens.end() &&
          agrees > most) {
        most = agrees;
        best = token;
      }
    }
    if (best < 0) break;
    out.tokens.push_back(best);
    out.c.push_back(0);
    const auto atom = [&](size_t i) -> const Vector& {
      return dictionary[static_cast<size_t>(out.tokens[i])];
    };
    if (method == SparseMethod::nnls) {
      for (int sweep = 0; sweep < 20000; ++sweep)
        for (size_t i = 0; i < out.c.size(); ++i) {
          const double old = out.c[i];
          out.c[i] = std::max(0.0, old + dot(atom(i), left));
          for (size_t j = 0; j < h.size(); ++j)
            left[j] += (old - out.c[i]) * atom(i)[j];
        }
    } else {
      Vector g, moved(h.size());
      for (size_t i = 0; i < out.c.size(); ++i) {
        g.push_back(dot(atom(i), left));
        if (out.c[i] == 0) g[i] = std::max(0.0, g[i]);
        for (size_t j = 0; j < h.size(); ++j)
          moved[j] += g[i] * atom(i)[j];
      }
      double size = dot(g, g) / dot(moved, moved);
      const double before = dot(left, left);
      for (;; size /= 2) {
        auto next = out.c;
        for (size_t i = 0; i < next.size(); ++i)
          next[i] = std::max(0.0, next[i] + size * g[i]);
        const auto rest = left_of(h, dictionary, out.tokens, next);
        if (dot(rest, rest) > before) continue;
        out.c = next;
        break;
      }
    }
    left = left_of(h, dictionary, out.tokens, out.c);
    out.explained.push_back(1 - dot(left, left) / dot(h, h));
  }
  return out;
}

struct Compared {
  double worst = 0;
  size_t cells = 0, inactive = 0;
};

void compare(
    const InterpretableModel& model, SparseMethod method, Compared& out) {
  const auto lens = lens_of(model);
  SpaceOptions options;
  options.sparse = {.k = k, .method = method, .memory = 3 * 97 * 4};
  options.controls = 0;
  const auto space = jacobian_space(model, lens, {ids}, options);
  const int n = model.decoder().config().n_layers;
  ASSERT_EQ(static_cast<int>(space.layers.size()), n);
  ASSERT_EQ(space.codes.size(), space.layers.size() * ids.size());
  for (size_t l = 0; l < space.layers.size(); ++l) {
    const int layer = space.layers[l];
    const auto dictionary = dictionary_of(model, lens, layer);
    const auto site = fmt::format("layers.{}.resid_post", layer);
    const auto run = model.run({ids}, {.save = {site}});
    const auto h = rows_of(mx::squeeze(run[site], 0));
    for (size_t t = 0; t < ids.size(); ++t) {
      const auto& code = space.codes[l * ids.size() + t];
      const auto plain = plainly(h[t], dictionary, method);
      ASSERT_EQ(code.tokens, plain.tokens) << layer << " " << t;
      ASSERT_EQ(code.explained.size(), size_t{k});
      const double unit = std::sqrt(dot(h[t], h[t]));
      for (size_t i = 0; i < plain.c.size(); ++i) {
        const auto c = static_cast<double>(code.coefficients[i]);
        const auto share = static_cast<double>(code.explained[i]);
        ASSERT_TRUE(std::isfinite(c) && std::isfinite(share));
        EXPECT_GE(c, 0);
        out.worst = std::max(
            {out.worst,
             std::abs(c - plain.c[i]) / unit,
             std::abs(share - plain.explained[i])});
        out.inactive += c == 0;
      }
      // Karush, Kuhn and Tucker: nothing to gain on either side of the bound.
      if (method == SparseMethod::nnls) {
        const Vector c(code.coefficients.begin(), code.coefficients.end());
        const auto left = left_of(h[t], dictionary, code.tokens, c);
        for (size_t i = 0; i < c.size(); ++i) {
          const double g =
              dot(dictionary[static_cast<size_t>(code.tokens[i])], left) / unit;
          EXPECT_LE(g, 1e-5);
          if (c[i] > 0) {
            EXPECT_GE(g, -1e-5);
          }
        }
      }
      ++out.cells;
    }
  }
}

TEST(JacobianSpace, IsWhatADictionaryAtHandGives) {
  for (const auto method : {SparseMethod::pursuit, SparseMethod::nnls}) {
    Compared found;
    compare(test::tiny_model(), method, found);
    EXPECT_LE(found.worst, 1e-5) << name(method);
    EXPECT_EQ(found.cells, 21u);
    std::cout << fmt::format(
        "{}: {} cells, {:.2g} at most, {} inactive atoms\n",
        name(method),
        found.cells,
        found.worst,
        found.inactive);
  }
}

TEST(JacobianSpace, FindsWhatAnActivationWasMadeOf) {
  const auto model = test::tiny_model();
  const auto lens = lens_of(model);
  const auto atoms = rows_of(lens.directions(model, {11, 40}, 1));
  std::vector<float> h;
  for (size_t j = 0; j < atoms[0].size(); ++j)
    h.push_back(static_cast<float>(
        3 * atoms[0][j] / std::sqrt(dot(atoms[0], atoms[0])) +
        2 * atoms[1][j] / std::sqrt(dot(atoms[1], atoms[1]))));
  h.resize(2 * h.size(), 0.0f);  // and one that is 0
  const auto codes = sparse_codes(
      model,
      lens,
      1,
      mx::array(h.data(), {2, 24}),
      {.k = 6, .method = SparseMethod::nnls});
  EXPECT_EQ(codes[0].tokens[0], 11);
  double others = 0;
  size_t found = 0;
  for (size_t i = 0; i < codes[0].tokens.size(); ++i) {
    const auto c = static_cast<double>(codes[0].coefficients[i]);
    const int token = codes[0].tokens[i];
    if (token == 11 || token == 40) {
      EXPECT_NEAR(c, token == 11 ? 3 : 2, 1e-3);
      ++found;
    } else {
      others = std::max(others, c);
    }
  }
  EXPECT_EQ(found, 2u);
  EXPECT_LE(others, 1e-3);
  EXPECT_NEAR(codes[0].explained.back(), 1, 1e-6);
  for (size_t i = 1; i < 6; ++i)
    EXPECT_GE(codes[0].explained[i], codes[0].explained[i - 1] - 1e-6f);
  EXPECT_TRUE(codes[1].tokens.empty());
  EXPECT_TRUE(std::isnan(codes[1].explained[0]));
}

TEST(JacobianSpace, ControlsAreRandomDirectionsOfTheSameDictionary) {
  const auto model = test::tiny_model();
  const auto lens = lens_of(model);
  SpaceOptions options;
  options.layers = {-2};
  options.positions = {1, -1};
  options.sparse.k = 5;
  const auto space = jacobian_space(model, lens, {ids}, options);
  EXPECT_EQ(space.layers, std::vector{1});
  EXPECT_EQ(space.positions, (std::vector{1, 6}));
  ASSERT_EQ(space.controls.size(), 1u);
  ASSERT_EQ(space.occupancy.size(), 2u);
  for (size_t cell = 0; cell < 2; ++cell) {
    int at = 0;
    float best = 0;
    for (size_t i = 0; i < 5; ++i) {
      const auto ahead = space.codes[cell].explained[i] - space.controls[0][i];
      if (ahead > best) {
        best = ahead;
        at = static_cast<int>(i) + 1;
      }
    }
    EXPECT_EQ(space.occupancy[cell], at);
  }
  // The dictionary is no larger for them: the mean is that of such directions.
  const auto drawn = sparse_codes(
      model,
      lens,
      1,
      mx::random::normal({400, 24}, mx::float32, 0, 1, mx::random::key(5)),
      {.k = 5});
  for (size_t i = 0; i < 5; ++i) {
    double sum = 0;
    for (const auto& code : drawn)
      sum += static_cast<double>(code.explained[i]);
    EXPECT_NEAR(sum / 400, space.controls[0][i], 0.06) << i;
  }
  options.controls = 0;
  EXPECT_TRUE(jacobian_space(model, lens, {ids}, options).occupancy.empty());
}

TEST(JacobianSpace, RefusesWhatCannotBe) {
  const auto model = test::tiny_model();
  const auto lens = lens_of(model);
  const auto h = mx::ones({1, 24});
  EXPECT_THROW(sparse_codes(model, lens, 1, h, {.k = 0}), Error);
  EXPECT_THROW(sparse_codes(model, lens, 1, h, {.k = 98}), Error);
  EXPECT_THROW(sparse_codes(model, lens, 7, h), Error);
  EXPECT_THROW(sparse_codes(model, lens, 1, mx::ones({1, 23})), Error);
  EXPECT_THROW(
      sparse_codes(model, lens, 1, mx::full({1, 24}, mx::array(NAN))), Error);
  EXPECT_THROW(sparse_method("omp"), Error);
  EXPECT_THROW(jacobian_space(model, lens, {ids}, {.layers = {3}}), Error);
  EXPECT_THROW(jacobian_space(model, lens, {ids}, {.positions = {7}}), Error);
  EXPECT_THROW(jacobian_space(model, lens, {ids}, {.controls = -1}), Error);
}

}  // namespace
}  // namespace mlxterp
