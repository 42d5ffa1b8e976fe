#include "sae/train/long_rows.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

// Squared lengths of each part of each row, a part after the other.
std::vector<std::vector<float>> squares_of(const Rows& rows, int blocks) {
  std::vector<std::vector<float>> out;
  const auto add = [&](const mx::array& x, int parts) {
    const int n = x.shape(0);
    for (int i = 0; i < parts; ++i) {
      const int width = x.shape(1) / parts;
      const auto part = mx::slice(x, {0, i * width}, {n, (i + 1) * width});
      auto squares = mx::sum(mx::square(part), 1);
      squares.eval();
      out.emplace_back(
          squares.data<float>(), squares.data<float>() + squares.size());
    }
  };
  add(rows.x, std::max(blocks, 1));
  if (blocks > 0 && rows.y) add(*rows.y, blocks);
  return out;
}

double limit_of(std::vector<float> squares, double times) {
  const auto middle = squares.begin() + static_cast<long>(squares.size() / 2);
  std::nth_element(squares.begin(), middle, squares.end());
  const double median = std::sqrt(static_cast<double>(*middle));
  return std::isfinite(median) ? times * median : 0;
}

mx::array taken(const mx::array& x, const mx::array& which) {
  auto out = mx::take(x, which, 0);
  out.eval();
  return out;
}

}  // namespace

void LongRows::learn(const Rows& rows) {
  known_ = true;
  limits_.clear();
  if (times_ <= 0) return;
  for (const auto& squares : squares_of(rows, blocks_))
    limits_.push_back(limit_of(squares, times_));
}

Rows LongRows::without(const Rows& rows) const {
  if (std::ranges::none_of(limits_, [](double it) { return it > 0; }))
    return rows;
  const auto all = squares_of(rows, blocks_);
  std::vector<int> kept;
  if (all.size() != limits_.size())
    fail(
        ErrorKind::bad_data,
        "[train_sae] the trainer's state says {} limits of {}; train anew into "
        "another folder",
        limits_.size(),
        all.size());
  for (size_t i = 0; i < static_cast<size_t>(rows.size()); ++i) {
    bool longer = false, finite = true;
    for (size_t part = 0; part < limits_.size(); ++part) {
      const auto square = all[part][i];
      finite &= std::isfinite(square);
      longer |= limits_[part] > 0 &&
                std::sqrt(static_cast<double>(square)) > limits_[part];
    }
    if (!longer || !finite) kept.push_back(static_cast<int>(i));
  }
  if (kept.size() == static_cast<size_t>(rows.size())) return rows;
  const mx::array which(
      kept.data(), {static_cast<int>(kept.size())}, mx::int32);
  Rows out{taken(rows.x, which)};
  if (rows.y) out.y = taken(*rows.y, which);
  return out;
}

Json LongRows::to_json() const {
  // One number where there is one part, as states have had it.
  if (blocks_ == 0) return limits_.empty() ? 0.0 : limits_.front();
  return limits_;
}

void LongRows::from_json(const nlohmann::json& place) {
  known_ = true;
  limits_.clear();
  if (blocks_ == 0) {
    limits_.push_back(number_in(place, "limit"));
    return;
  }
  // Of what is read, or of both sides.
  const auto parts = static_cast<size_t>(blocks_);
  const auto found = place.find("limit");
  if (found != place.end() && found->is_array() &&
      (found->size() == parts || found->size() == 2 * parts ||
       found->empty()) &&
      std::ranges::all_of(
          *found, [](const auto& it) { return it.is_number(); })) {
    limits_ = found->get<std::vector<double>>();
    return;
  }
  fail(
      ErrorKind::bad_data,
      "[train_sae] the trainer's state does not say its {} limits; train anew "
      "into another folder",
      parts);
}

}  // namespace mlxterp::sae_train
