#include <algorithm>
#include <cmath>

#include "analysis/int_array.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/lens_edits.h"
#include "mlxterp/analysis/steering.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr double nearly_parallel = 0.999;

std::vector<double> numbers_of(const mx::array& vector, const char* who) {
  if (vector.ndim() != 1 || vector.size() == 0)
    fail(ErrorKind::usage, "[{}] a vector is no [d_model]", who);
  auto flat = mx::contiguous(mx::astype(vector, mx::float32));
  flat.eval();
  const auto* data = flat.data<float>();
  std::vector<double> out(data, data + flat.size());
  double length = 0;
  for (const double x : out)
    length += x * x;
  if (!std::isfinite(length) || length == 0)
    fail(
        ErrorKind::usage,
        "[{}] a vector {}",
        who,
        length == 0 ? "is zero" : "holds NaN or infinity");
  return out;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += a[i] * b[i];
  return sum;
}

// Two vectors, [2, d], and their pseudo-inverse, [d, 2].
struct Plane {
  mx::array vectors, inverse;
};

Plane plane_of(
    const mx::array& source, const mx::array& target, const char* who) {
  const auto a = numbers_of(source, who), b = numbers_of(target, who);
  if (a.size() != b.size())
    fail(
        ErrorKind::usage,
        "[{}] vectors of {} and {} numbers; take both of one lens",
        who,
        a.size(),
        b.size());
  const double aa = dot(a, a), bb = dot(b, b), ab = dot(a, b);
  const double cosine = ab / std::sqrt(aa * bb);
  if (std::abs(cosine) >= nearly_parallel)
    fail(
        ErrorKind::usage,
        "[{}] the two vectors are nearly parallel (cosine {:.4f}); take tokens "
        "that differ more",
        who,
        cosine);
  const double determinant = aa * bb - ab * ab;
  std::vector<float> vectors, inverse;
  for (const auto* it : {&a, &b})
    for (const double x : *it)
      vectors.push_back(static_cast<float>(x));
  for (size_t i = 0; i < a.size(); ++i) {
    inverse.push_back(
        static_cast<float>((bb * a[i] - ab * b[i]) / determinant));
    inverse.push_back(
        static_cast<float>((aa * b[i] - ab * a[i]) / determinant));
  }
  const int d = static_cast<int>(a.size());
  return {mx::array(vectors.data(), {2, d}), mx::array(inverse.data(), {d, 2})};
}

mx::array wide(
    const mx::array& x, const SiteView& at, int width, const char* who) {
  if (!mx::issubdtype(x.dtype(), mx::floating) || x.ndim() == 0 ||
      x.shape(-1) != width)
    fail(
        ErrorKind::usage,
        "[{}] a vector has {} numbers, site '{}' {}; edit resid_post of the "
        "vector's layer",
        who,
        width,
        at.name,
        x.ndim() == 0 ? 1 : x.shape(-1));
  return mx::astype(x, mx::float32);
}

mx::array swapped(const mx::array& c) {
  return mx::take(c, mx::array({1, 0}, {2}), -1);
}

mx::array moved(
    const mx::array& h,
    const Plane& plane,
    const mx::array& to,
    float strength) {
  const auto change = mx::subtract(to, mx::matmul(h, plane.inverse));
  return mx::add(
      h, mx::matmul(mx::multiply(change, mx::array(strength)), plane.vectors));
}

}  // namespace

Intervention lens_steer(mx::array vector, float strength) {
  constexpr const char* who = "lens_steer";
  const auto numbers = numbers_of(vector, who);
  const double length = std::sqrt(dot(numbers, numbers));
  const auto unit = mx::divide(
      mx::astype(vector, mx::float32), mx::array(static_cast<float>(length)));
  return Intervention(
      [unit, strength](const mx::array& x, const SiteView& at) {
        const auto h = wide(x, at, unit.shape(0), who);
        const auto lengths = mx::sqrt(mx::sum(mx::square(h), -1));  // [.., pos]
        std::vector<mx::array> medians;
        const int rows = h.ndim() > 2 ? h.shape(0) : 1;
        const auto all = mx::reshape(lengths, {rows, -1});
        for (int i = 0; i < rows; ++i) {
          const int n =
              at.lengths.empty()
                  ? all.shape(1)
                  : std::min(all.shape(1), at.lengths[static_cast<size_t>(i)]);
          const auto sorted = mx::sort(mx::slice(all, {i, 0}, {i + 1, n}), -1);
          // Of an even number the lower, as torch has it.
          medians.push_back(
              mx::slice(sorted, {0, (n - 1) / 2}, {1, (n - 1) / 2 + 1}));
        }
        auto by = mx::concatenate(std::move(medians), 0);  // [row, 1]
        if (h.ndim() > 2) by = mx::expand_dims(by, -1);
        const auto added =
            mx::multiply(mx::multiply(by, mx::array(strength)), unit);
        return mx::astype(mx::add(h, added), x.dtype());
      },
      Intervention::Reach::sequence);
}

Intervention lens_ablate(mx::array vectors) {
  return project_out(std::move(vectors));
}

Intervention lens_swap(mx::array source, mx::array target, float strength) {
  constexpr const char* who = "lens_swap";
  const auto plane = plane_of(source, target, who);
  return Intervention(
      [plane, strength](const mx::array& x, const SiteView& at) {
        const auto h = wide(x, at, plane.vectors.shape(1), who);
        const auto to = swapped(mx::matmul(h, plane.inverse));
        return mx::astype(moved(h, plane, to, strength), x.dtype());
      },
      Intervention::Reach::value);
}

Intervention lens_clamp(
    mx::array source, mx::array target, mx::array clean, float strength) {
  constexpr const char* who = "lens_clamp";
  const auto plane = plane_of(source, target, who);
  if (clean.ndim() != 2 || clean.shape(1) != plane.vectors.shape(1))
    fail(
        ErrorKind::usage,
        "[{}] the clean run's values are no [pos, {}]",
        who,
        plane.vectors.shape(1));
  const auto to =
      swapped(mx::matmul(mx::astype(clean, mx::float32), plane.inverse));
  return Intervention(
      [plane, to, strength](const mx::array& x, const SiteView& at) {
        const auto h = wide(x, at, plane.vectors.shape(1), who);
        const int first = at.offset, known = to.shape(0);
        if (!at.positions.empty()) {
          // A selector's choice: a position of the clean run for each.
          std::vector<int> from;
          std::vector<float> acts;
          for (const int position : at.positions) {
            from.push_back(std::clamp(position, 0, known - 1));
            acts.push_back(position < known ? strength : 0.0f);
          }
          const auto rows = mx::take(to, int_array(from), 0);
          auto shape = h.shape();
          shape.back() = 2;
          const auto change = mx::subtract(
              mx::reshape(rows, shape), mx::matmul(h, plane.inverse));
          shape.back() = 1;
          const auto some = mx::array(acts.data(), shape);
          return mx::astype(
              mx::add(h, mx::matmul(mx::multiply(change, some), plane.vectors)),
              x.dtype());
        }
        const int n =
            std::clamp(known - first, 0, h.ndim() > 1 ? h.shape(-2) : 0);
        if (n == 0) return x;
        const auto pos = static_cast<size_t>(h.ndim() - 2);
        auto begin = mx::Shape(h.ndim(), 0), end = h.shape();
        end[pos] = n;
        const auto head = moved(
            mx::slice(h, begin, end),
            plane,
            mx::slice(to, {first, 0}, {first + n, 2}),
            strength);
        begin[pos] = n;
        end = h.shape();
        const auto out =
            n == h.shape(-2)
                ? head
                : mx::concatenate({head, mx::slice(h, begin, end)}, -2);
        return mx::astype(out, x.dtype());
      },
      Intervention::Reach::sequence);
}

mx::array lens_coordinates(
    const mx::array& h, const mx::array& source, const mx::array& target) {
  const auto plane = plane_of(source, target, "lens_coordinates");
  return mx::matmul(mx::astype(h, mx::float32), plane.inverse);
}

}  // namespace mlxterp
