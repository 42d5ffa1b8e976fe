#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "analysis/any_model.h"
#include "analysis/fingerprint.h"
#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlx/linalg.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/core/limits.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Row = std::vector<double>;

double dot(const Row& a, const Row& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

double length(const Row& a) {
  return std::sqrt(dot(a, a));
}

// Rows of numbers, one a prompt and position: float32 [row, d].
std::vector<Row> rows_of(const mx::array& x) {
  auto flat = mx::contiguous(mx::astype(x, mx::float32));
  flat.eval();
  std::vector<Row> out;
  const auto* at = flat.data<float>();
  for (int r = 0; r < x.shape(0); ++r, at += x.shape(1))
    out.emplace_back(at, at + x.shape(1));
  return out;
}

mx::array array_of(const std::vector<Row>& rows) {
  std::vector<float> flat;
  for (const auto& row : rows)
    for (const double x : row)
      flat.push_back(static_cast<float>(x));
  return mx::array(
      flat.data(),
      {static_cast<int>(rows.size()), static_cast<int>(rows[0].size())},
      mx::float32);
}

Row mean_of(const std::vector<Row>& rows) {
  Row out(rows[0].size(), 0);
  for (const auto& row : rows)
    for (size_t i = 0; i < out.size(); ++i)
      out[i] += row[i] / static_cast<double>(rows.size());
  return out;
}

Row scaled(Row row, double factor) {
  for (auto& x : row)
    x *= factor;
  return row;
}

// The axis of the largest second moment, of length 1, in the sense that most
// rows point; where as many point either way, in that of their mean.
Row first_component(const std::vector<Row>& rows) {
  const auto x = array_of(rows);
  const bool few = rows.size() < rows[0].size();
  const auto gram =
      few ? mx::matmul(x, mx::transpose(x)) : mx::matmul(mx::transpose(x), x);
  // Of the last, largest eigenvalue. LAPACK runs on the CPU alone.
  const auto vectors = mx::linalg::eigh(gram, "L", mx::Device::cpu).second;
  auto best = mx::take(vectors, vectors.shape(1) - 1, 1);
  if (few) best = mx::matmul(mx::expand_dims(best, 0), x);
  auto axis = rows_of(mx::reshape(best, {1, -1}))[0];
  axis = scaled(axis, 1 / length(axis));
  long up = 0;
  for (const auto& row : rows)
    up += dot(row, axis) > 0 ? 1 : dot(row, axis) < 0 ? -1 : 0;
  const bool down = up < 0 || (up == 0 && dot(mean_of(rows), axis) < 0);
  return down ? scaled(axis, -1) : axis;
}

// Weights of length 1 that tell the first `n` rows from the others: the
// minimum of |w|^2 / 2 + sum log(1 + exp(-y (x w + b))), by accelerated
// gradient descent, which knows how steep and how curved that is.
Row logistic_weights(const std::vector<Row>& rows, size_t n) {
  const auto middle = mean_of(rows);
  double squares = 0;
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i)
      squares += (row[i] - middle[i]) * (row[i] - middle[i]);
  const double size =
      std::max(std::sqrt(squares / static_cast<double>(rows.size())), 1e-30);
  auto centred = rows;
  for (auto& row : centred)
    for (size_t i = 0; i < row.size(); ++i)
      row[i] = (row[i] - middle[i]) / size;
  const auto x = array_of(centred);
  const auto turned = mx::transpose(x);
  const int count = x.shape(0);
  std::vector<float> wanted(rows.size(), 0);
  std::fill_n(wanted.begin(), n, 1.0f);
  const mx::array y(wanted.data(), {count, 1}, mx::float32);
  // The largest curvature: 1 of the weights' own, a quarter of all squared
  // lengths, which add up to `count`, and as much of the intercept.
  const float rate = 1 / (1 + 0.5f * static_cast<float>(count));
  const float momentum =
      (1 - std::sqrt(rate)) / (1 + std::sqrt(rate));  // for a curvature of 1
  auto w = mx::zeros({x.shape(1), 1}), b = mx::array(0.0f);
  auto v = w, c = b;
  constexpr int most = 20'000, between = 50;
  for (int step = 0; step < most; ++step) {
    const auto wrong =
        mx::subtract(mx::sigmoid(mx::add(mx::matmul(x, v), c)), y);
    const auto slope = mx::add(mx::matmul(turned, wrong), v);
    const auto slope_b = mx::sum(wrong);
    const auto next = mx::subtract(v, mx::multiply(mx::array(rate), slope));
    const auto next_b = mx::subtract(c, mx::multiply(mx::array(rate), slope_b));
    v = mx::add(next, mx::multiply(mx::array(momentum), mx::subtract(next, w)));
    c = mx::add(
        next_b, mx::multiply(mx::array(momentum), mx::subtract(next_b, b)));
    w = next;
    b = next_b;
    if (step % between != 0) continue;
    mx::eval(w, b, v, c);
    const float steep = mx::linalg::norm(slope).item<float>();
    const float now = mx::linalg::norm(w).item<float>();
    if (step > 0 && steep <= 1e-6f * std::max(now, 1e-6f)) break;
  }
  // Of rows that cannot be told apart rounding is all that is left.
  const auto found = rows_of(mx::transpose(w))[0];
  constexpr double rounding = 1e-6;
  const double far = length(found);
  return scaled(found, far > rounding ? 1 / far : 0);
}

// The area under the ROC curve of the first `n` values against the others.
double area(const std::vector<double>& values, size_t n) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return values[i]; });
  double ranks = 0;
  for (size_t i = 0; i < order.size();) {
    size_t j = i;
    while (j < order.size() && values[order[j]] == values[order[i]])
      ++j;
    const double rank = static_cast<double>(i + j + 1) / 2;  // shared by ties
    for (; i < j; ++i)
      if (order[i] < n) ranks += rank;
  }
  const auto a = static_cast<double>(n);
  const auto b = static_cast<double>(values.size() - n);
  return (ranks - a * (a + 1) / 2) / (a * b);
}

DirectionQuality quality(
    const std::vector<Row>& rows,
    const std::vector<Row>& differences,
    const Row& direction) {
  const size_t n = differences.size();
  const double norm = length(direction);
  DirectionQuality out;
  out.norm = static_cast<float>(norm);
  double lengths = 0, cosines = 0;
  std::vector<double> along;
  for (const auto& row : rows) {
    lengths += length(row);
    along.push_back(dot(row, direction) / norm);
  }
  for (const auto& row : differences)
    if (const double own = length(row); own > 0)
      cosines += dot(row, direction) / norm / own;
  const auto side = [&](size_t from, size_t to) {
    const auto count = static_cast<double>(to - from);
    double mean = 0, spread = 0;
    for (size_t i = from; i < to; ++i)
      mean += along[i] / count;
    for (size_t i = from; i < to; ++i)
      spread +=
          (along[i] - mean) * (along[i] - mean) / std::max(count - 1, 1.0);
    return std::pair(mean, spread);
  };
  const auto [high, spread_high] = side(0, n);
  const auto [low, spread_low] = side(n, rows.size());
  out.residual_norm =
      static_cast<float>(lengths / static_cast<double>(rows.size()));
  out.cosine = static_cast<float>(cosines / static_cast<double>(n));
  out.auc = static_cast<float>(area(along, n));
  out.d_prime = static_cast<float>(
      (high - low) / std::sqrt((spread_high + spread_low) / 2));
  return out;
}

// Of each prompt the rows of the positions asked for, prompt by prompt.
class Activations {
 public:
  Activations(
      const InterpretableModel& model,
      const SteerTrainOptions& options,
      const Inputs::Rows& prompts,
      const std::vector<std::string>& sites)
      : last_(options.positions == std::vector<int>{-1}),
        kept_(collect_activations(
            model,
            prompts,
            sites,
            {.positions = last_ ? CollectOptions::Positions::last
                                : CollectOptions::Positions::all,
             .batch_size = options.batch_size,
             .progress = options.progress})) {
    int first = 0;
    for (const auto& prompt : prompts) {
      const int n = static_cast<int>(prompt.size());
      if (!last_)
        for (const int position : options.positions)
          chosen_.push_back(first + (position < 0 ? n + position : position));
      first += n;
    }
  }

  std::vector<Row> of(const std::string& site) const {
    const auto x = kept_[site];
    if (last_) return rows_of(x);
    return rows_of(mx::take(
        x,
        mx::array(
            chosen_.data(), {static_cast<int>(chosen_.size())}, mx::int32),
        0));
  }

 private:
  bool last_;
  ActivationCache kept_;
  std::vector<int> chosen_;
};

Inputs::Rows checked_pairs(
    const InterpretableModel& model, const SteerTrainOptions& options) {
  auto rows = model.token_ids(options.positive);
  const auto negative = model.token_ids(options.negative);
  if (rows.empty() || rows.size() != negative.size())
    fail(
        ErrorKind::usage,
        "[steer_train] {} positive and {} negative prompts; give as many of "
        "each, two pairs at least",
        rows.size(),
        negative.size());
  if (rows.size() < 2)
    fail(
        ErrorKind::usage,
        "[steer_train] one pair; give two at least, some 50 as a rule");
  rows.insert(rows.end(), negative.begin(), negative.end());
  if (options.positions.empty())
    fail(
        ErrorKind::usage,
        "[steer_train] no positions; -1 is the last of each prompt");
  const size_t n = rows.size() / 2;
  for (size_t i = 0; i < rows.size(); ++i)
    for (const int position : options.positions) {
      const int size = static_cast<int>(rows[i].size());
      if (position < -size || position >= size)
        fail(
            ErrorKind::out_of_range,
            "[steer_train] position {} of {} prompt {}, which has {} tokens",
            position,
            i < n ? "positive" : "negative",
            i % n,
            size);
    }
  return rows;
}

}  // namespace

SteeringPairs read_steering_pairs(const std::filesystem::path& path) {
  constexpr const char* caller = "read_steering_pairs";
  const auto text =
      InputFile::open(path, caller)->all(limits::text_file_bytes, caller);
  SteeringPairs out;
  std::istringstream lines(text);
  size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto where = fmt::format("{}, line {}", quoted(path), number);
    const auto json = parse_json(line, caller, where);
    for (auto [key, into] :
         {std::pair{"positive", &out.positive},
          std::pair{"negative", &out.negative}}) {
      const auto found = json.is_object() ? json.find(key) : json.end();
      if (!json.is_object() || found == json.end() || !found->is_string())
        fail(
            ErrorKind::bad_data,
            "[{}] {} has no text \"{}\"; each line is an object like "
            "{{\"positive\": \"I love it\", \"negative\": \"I hate it\"}}",
            caller,
            where,
            key);
      into->push_back(found->get<std::string>());
    }
    if (out.positive.size() > limits::prompts)
      fail(
          ErrorKind::usage,
          "[{}] {} has more than {} pairs",
          caller,
          quoted(path),
          limits::prompts);
  }
  if (out.positive.empty())
    fail(
        ErrorKind::usage,
        "[{}] {} holds no pairs; write one a line, as {{\"positive\": \"I love "
        "it\", \"negative\": \"I hate it\"}}",
        caller,
        quoted(path));
  return out;
}

SteeringTraining steer_train(
    const InterpretableModel& model, const SteerTrainOptions& options) {
  const auto prompts = checked_pairs(model, options);
  const int count = layer_count(model);
  std::vector<int> layers = options.layers;
  if (layers.empty()) {
    layers.resize(static_cast<size_t>(count));
    std::iota(layers.begin(), layers.end(), 0);
  }
  for (auto& layer : layers) {
    if (layer < -count || layer >= count)
      fail(
          ErrorKind::out_of_range,
          "[steer_train] layer {}; the model has {}",
          layer,
          count);
    if (layer < 0) layer += count;
  }
  std::ranges::sort(layers);
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  const auto site = [](int layer) {
    return fmt::format("layers.{}.resid_post", layer);
  };
  std::vector<std::string> sites;
  for (const int layer : layers)
    sites.push_back(site(layer));
  const Activations activations(model, options, prompts, sites);

  SteeringTraining out;
  auto& vector = out.vector;
  vector.operation = options.operation;
  vector.method = name(options.method);
  vector.model = options.model;
  if (const auto* decoder = decoder_of(model))
    vector.model_type = decoder->config().model_type;
  vector.model_layers = count;
  vector.tokenizer = tokenizer_digest(model);
  vector.pairs = prompts.size() / 2;
  vector.positions = options.positions;
  for (const int layer : layers) {
    const auto rows = activations.of(site(layer));
    const size_t n = rows.size() / 2;
    std::vector<Row> differences;
    double largest = 0;
    for (size_t i = 0; i < n; ++i) {
      auto& row = differences.emplace_back(rows[i]);
      for (size_t j = 0; j < row.size(); ++j)
        row[j] -= rows[n + i][j];
      largest = std::max(largest, length(row));
    }
    if (!std::isfinite(largest))
      fail(
          ErrorKind::bad_data,
          "[steer_train] the residual stream at layer {} is NaN or infinite; "
          "load the model in float32",
          layer);
    const auto mean = mean_of(differences);
    const bool by_mean = options.method == SteeringMethod::mean_difference;
    if (!(largest > 0) || (by_mean && !(length(mean) > 0)))
      fail(
          ErrorKind::usage,
          "[steer_train] positive and negative prompts are the same at the "
          "positions read, at layer {}; let the texts differ before their end, "
          "or read other positions",
          layer);
    const auto direction = by_mean ? mean
                           : options.method == SteeringMethod::pca
                               ? first_component(differences)
                               : logistic_weights(rows, n);
    if (!(length(direction) > 0))
      fail(
          ErrorKind::usage,
          "[steer_train] nothing tells the positive prompts from the negative "
          "at layer {}: pairs turned round, perhaps; put each pair the same "
          "way round, or use the method pca",
          layer);
    auto found = quality(rows, differences, direction);
    found.layer = layer;
    out.layers.push_back(found);
    vector.layers.push_back(
        {layer, mx::reshape(array_of({direction}), {-1}), found.residual_norm});
  }
  return out;
}

}  // namespace mlxterp
