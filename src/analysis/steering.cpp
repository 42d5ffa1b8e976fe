#include "mlxterp/analysis/steering.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "analysis/any_model.h"
#include "analysis/fingerprint.h"
#include "analysis/steering_checks.h"
#include "core/fail.h"
#include "io/gguf_architecture.h"
#include "mlx/linalg.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Of length 1 and at right angles, float32 [n, feature]. `spanning`: those that
// lie in the space of the ones before them are left out, not refused.
mx::array orthonormal(
    const mx::array& directions, const char* who, bool spanning = false) {
  if (directions.ndim() < 1 || directions.ndim() > 2 || directions.size() == 0)
    fail(
        ErrorKind::usage,
        "[{}] the directions are of shape ({}); give [feature] or [n, "
        "feature]",
        who,
        fmt::join(directions.shape().begin(), directions.shape().end(), ", "));
  const auto width = static_cast<size_t>(directions.shape(-1));
  auto flat = mx::contiguous(mx::reshape(
      mx::astype(directions, mx::float32), {-1, directions.shape(-1)}));
  flat.eval();
  const auto* given = flat.data<float>();
  std::vector<std::vector<double>> rows;
  const auto dot = [](const auto& a, const auto& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i)
      sum += a[i] * b[i];
    return sum;
  };
  for (int r = 0; r < flat.shape(0); ++r) {
    const auto* begin = given + static_cast<size_t>(r) * width;
    std::vector<double> row(begin, begin + width);
    const double length = std::sqrt(dot(row, row));
    if (!std::isfinite(length))
      fail(ErrorKind::usage, "[{}] direction {} holds NaN or infinity", who, r);
    for (int twice = 0; twice < 2; ++twice)
      for (const auto& other : rows) {
        const double along = dot(row, other);
        for (size_t i = 0; i < width; ++i)
          row[i] -= along * other[i];
      }
    const double left = std::sqrt(dot(row, row));
    const bool fresh = left > 1e-4 * length;
    if (!fresh && spanning && length > 0) continue;
    if (!fresh)
      fail(
          ErrorKind::usage,
          "[{}] direction {} {}; leave it out",
          who,
          r,
          length > 0 ? "lies in the space of those before it" : "is zero");
    for (auto& x : row)
      x /= left;
    rows.push_back(std::move(row));
  }
  std::vector<float> all;
  for (const auto& row : rows)
    for (const double x : row)
      all.push_back(static_cast<float>(x));
  return mx::array(
      all.data(),
      {static_cast<int>(rows.size()), static_cast<int>(width)},
      mx::float32);
}

// x in float32, of a site that the directions fit.
mx::array fitting(
    const mx::array& x,
    const SiteView& at,
    const mx::array& basis,
    const char* who) {
  if (!mx::issubdtype(x.dtype(), mx::floating))
    fail(
        ErrorKind::usage,
        "[{}] site '{}' holds no floating-point numbers",
        who,
        at.name);
  if (x.ndim() == 0 || x.shape(-1) != basis.shape(1))
    fail(
        ErrorKind::usage,
        "[{}] a direction has {} numbers, site '{}' {}",
        who,
        basis.shape(1),
        at.name,
        x.ndim() == 0 ? 1 : x.shape(-1));
  return mx::astype(x, mx::float32);
}

// Whether one is what config.json says and the other what GGUF says, or both
// the same.
bool same_type(const std::string& a, const std::string& b) {
  if (a == b) return true;
  return std::ranges::any_of(gguf_architectures(), [&](const auto& known) {
    return (known.name == a && known.model_type == b) ||
           (known.name == b && known.model_type == a);
  });
}

bool takes_out(SteeringOperation operation) {
  return operation == SteeringOperation::project_out ||
         operation == SteeringOperation::ablate;
}

// Negative ones from the end of the model.
std::vector<int> counted(std::vector<int> layers, int model_layers) {
  for (auto& layer : layers)
    if (layer < 0 && model_layers > 0) layer += model_layers;
  return layers;
}

std::vector<double> numbers_of(const mx::array& direction) {
  auto flat = mx::contiguous(mx::astype(direction, mx::float32));
  flat.eval();
  const auto* begin = flat.data<float>();
  return {begin, begin + flat.size()};
}

// In float64, which holds the square of any float32.
double length_of(const std::vector<double>& numbers) {
  double squares = 0;
  for (const double it : numbers)
    squares += it * it;
  return std::sqrt(squares);
}

}  // namespace

double length_of(const mx::array& direction) {
  return length_of(numbers_of(direction));
}

mx::array unit_of(const mx::array& direction, const char* who) {
  const auto numbers = numbers_of(direction);
  const double length = length_of(numbers);
  if (!std::isfinite(length) || !(length > 0))
    fail(
        ErrorKind::usage,
        "[{}] a direction of length {} points nowhere; give finite numbers, "
        "not all 0",
        who,
        length);
  std::vector<float> unit;
  for (const double it : numbers)
    unit.push_back(static_cast<float>(it / length));
  return mx::array(unit.data(), direction.shape(), mx::float32);
}

void check_length(float length, const char* who) {
  if (!std::isfinite(length))
    fail(
        ErrorKind::usage,
        "[{}] the strength times the residual stream's mean length is {}, "
        "beyond float32; use a smaller one",
        who,
        length);
}

void check_norm(const SteeringVector::Layer& it, const char* who) {
  if (!(it.residual_norm > 0))
    fail(
        ErrorKind::usage,
        "[{}] the residual stream's mean length at layer {}, in which "
        "strengths count, is not known; measure it (with_norms)",
        who,
        it.layer);
}

const char* const neutral_text =
    "The harbour lies at the mouth of the river, where two roads meet. In the "
    "morning fishermen mend their nets, and boats bring timber, grain and "
    "salt. A bridge of stone was built across the river two hundred years ago "
    "and is still in use.";

namespace {

// x without what lies in the space of the orthonormal rows of `basis`.
Intervention without(const mx::array& basis) {
  return {
      [basis](const mx::array& x, const SiteView& at) {
        const auto wide = fitting(x, at, basis, "project_out");
        const auto along =
            mx::matmul(mx::matmul(wide, mx::transpose(basis)), basis);
        return mx::astype(mx::subtract(wide, along), x.dtype());
      },
      Intervention::Reach::value};
}

}  // namespace

Intervention project_out(mx::array directions) {
  return without(orthonormal(directions, "project_out"));
}

Intervention clamp_along(mx::array direction, float value) {
  if (direction.ndim() != 1 || !std::isfinite(value))
    fail(
        ErrorKind::usage,
        "[clamp_along] one direction [feature] of {} axes and the value {}; "
        "give one axis and a finite value",
        direction.ndim(),
        value);
  const auto basis = orthonormal(direction, "clamp_along");
  return {
      [basis, value](const mx::array& x, const SiteView& at) {
        const auto wide = fitting(x, at, basis, "clamp_along");
        const auto missing = mx::subtract(
            mx::array(value), mx::matmul(wide, mx::transpose(basis)));
        return mx::astype(mx::add(wide, mx::matmul(missing, basis)), x.dtype());
      },
      Intervention::Reach::value};
}

const char* name(SteeringMethod method) {
  switch (method) {
    case SteeringMethod::mean_difference:
      return "mean";
    case SteeringMethod::pca:
      return "pca";
    default:
      return "logistic";
  }
}

const char* name(SteeringOperation operation) {
  switch (operation) {
    case SteeringOperation::add:
      return "add";
    case SteeringOperation::project_out:
      return "project_out";
    case SteeringOperation::ablate:
      return "ablate";
    default:
      return "clamp";
  }
}

int SteeringVector::d_model() const {
  return layers.empty() ? 0 : layers[0].direction.shape(-1);
}

const SteeringVector::Layer& SteeringVector::at(int layer) const {
  for (const auto& it : layers)
    if (it.layer == layer) return it;
  std::vector<int> known;
  for (const auto& it : layers)
    known.push_back(it.layer);
  fail(
      ErrorKind::out_of_range,
      "[SteeringVector] it has no direction for layer {}; it has {}",
      layer,
      known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")));
}

SteeringVector SteeringVector::of_layers(const std::vector<int>& chosen) const {
  if (chosen.empty()) return *this;
  auto out = *this;
  out.layers.clear();
  auto wanted = counted(chosen, model_layers);
  std::ranges::sort(wanted);
  for (size_t i = 0; i < wanted.size(); ++i)
    if (i == 0 || wanted[i] != wanted[i - 1])
      out.layers.push_back(at(wanted[i]));
  return out;
}

SteeringVector SteeringVector::of_strength(float strength) const {
  if (!std::isfinite(strength) || strength == 0)
    fail(
        ErrorKind::usage,
        "[SteeringVector] the strength is {}; give a finite number, not 0",
        strength);
  auto out = *this;
  for (auto& it : out.layers) {
    check_norm(it, "SteeringVector");
    const float length = strength * it.residual_norm;
    check_length(length, "SteeringVector");
    it.direction = mx::multiply(
        unit_of(it.direction, "SteeringVector"), mx::array(length));
  }
  return out;
}

void SteeringVector::check_fits(
    const InterpretableModel& its, bool any_model) const {
  check();
  const int width = residual_width(its), count = layer_count(its);
  if (d_model() != width)
    fail(
        ErrorKind::usage,
        "[SteeringVector] its directions have {} numbers, the model's residual "
        "stream has {}; it was made for another model",
        d_model(),
        width);
  if (layers.back().layer >= count || layers.front().layer < 0)
    fail(
        ErrorKind::out_of_range,
        "[SteeringVector] it has a direction for layer {}, the model's layers "
        "are 0 to {}",
        layers.front().layer < 0 ? layers.front().layer : layers.back().layer,
        count - 1);
  if (any_model) return;
  const auto other = [](const char* what,
                        const std::string& made,
                        const std::string& used) {
    fail(
        ErrorKind::usage,
        "[SteeringVector] it was made with another model: {} {}, this one has "
        "{}; ask for any model to use it all the same",
        what,
        printable(made),
        printable(used));
  };
  if (model_layers > 0 && model_layers != count)
    other(
        "number of layers",
        fmt::format("{}", model_layers),
        fmt::format("{}", count));
  const auto* decoder = decoder_of(its);
  const auto type = decoder ? decoder->config().model_type : std::string();
  if (!model_type.empty() && !type.empty() && !same_type(model_type, type))
    other("type", "'" + model_type + "'", "'" + type + "'");
  if (tokenizer.empty()) return;
  const auto digest = tokenizer_digest(its);
  if (!digest.empty() && digest != tokenizer)
    other("tokenizer", tokenizer.substr(0, 12), digest.substr(0, 12));
}

SteeringVector with_norms(
    SteeringVector vector,
    const InterpretableModel& model,
    const Inputs& prompts) {
  std::vector<std::string> names;
  for (const auto& layer : vector.layers)
    names.push_back(fmt::format("layers.{}.resid_post", layer.layer));
  std::vector<double> sums(names.size(), 0);
  size_t positions = 0;
  for (const auto& ids : model.token_ids(prompts)) {
    if (ids.size() < 2) continue;
    const auto run = model.run(ids, {.save = names});
    for (size_t i = 0; i < names.size(); ++i) {
      const auto x = mx::astype(run[names[i]], mx::float32);
      const auto rest = mx::slice(x, {0, 1, 0}, {1, x.shape(1), x.shape(2)});
      const auto lengths = mx::linalg::norm(rest, std::vector<int>{-1});
      sums[i] += static_cast<double>(mx::sum(lengths).item<float>());
    }
    positions += ids.size() - 1;
  }
  if (positions == 0)
    fail(
        ErrorKind::usage,
        "[with_norms] no prompt has two tokens; give a longer text");
  for (size_t i = 0; i < names.size(); ++i)
    vector.layers[i].residual_norm =
        static_cast<float>(sums[i] / static_cast<double>(positions));
  return vector;
}

namespace {

// Wherever the stream is read, it has been written to since.
Steering ablated(
    const InterpretableModel& model, const SteeringVector& vector) {
  std::vector<mx::array> directions;
  std::vector<std::string> layers;
  Steering out;
  for (const auto& it : vector.layers) {
    directions.push_back(unit_of(it.direction, "steer"));
    layers.push_back(fmt::format("{}", it.layer));
    out.layers.push_back({it.layer, it.residual_norm});
  }
  const auto apply = without(orthonormal(mx::stack(directions), "steer", true));
  const auto edit = [&](std::string site) {
    if (model.sites().contains(site))
      out.edits.push_back({std::move(site), apply});
  };
  edit(first_stream);
  for (int layer = 0; layer < layer_count(model); ++layer) {
    edit(fmt::format("layers.{}.resid_mid", layer));
    edit(fmt::format("layers.{}.resid_post", layer));
  }
  out.told = {fmt::format(
      "every layer: takes out what lies in the space of {} direction{}, "
      "layer{} "
      "{}",
      layers.size(),
      layers.size() == 1 ? "" : "s",
      layers.size() == 1 ? "" : "s",
      fmt::join(layers, ", "))};
  return out;
}

}  // namespace

Steering steer(
    const InterpretableModel& model,
    const SteeringVector& vector,
    const SteerOptions& options) {
  const auto asked = options.operation;
  if (asked != vector.operation &&
      !(takes_out(asked) && takes_out(vector.operation)))
    fail(
        ErrorKind::usage,
        "[steer] the vector is meant for '{}', not for '{}'; train one with "
        "that operation",
        name(vector.operation),
        name(asked));
  vector.check_fits(model, options.any_model);
  if (!std::isfinite(options.strength))
    fail(
        ErrorKind::usage,
        "[steer] the strength is {}; give a finite number",
        options.strength);
  const auto chosen =
      vector.of_layers(counted(options.layers, layer_count(model)));
  if (asked == SteeringOperation::ablate) return ablated(model, chosen);
  Steering out;
  for (const auto& it : chosen.layers) {
    const auto site = fmt::format("layers.{}.resid_post", it.layer);
    if (asked == SteeringOperation::project_out) {
      out.edits.push_back({site, project_out(it.direction)});
      out.told.push_back(
          fmt::format("{}: takes out what lies along the direction", site));
      out.layers.push_back({it.layer, it.residual_norm});
      continue;
    }
    check_norm(it, "steer");
    const float length = options.strength * it.residual_norm;
    check_length(length, "steer");
    const bool adds = asked == SteeringOperation::add;
    const auto unit = unit_of(it.direction, "steer");
    out.edits.push_back(
        {site,
         adds ? add_vector(mx::multiply(unit, mx::array(length)))
              : clamp_along(it.direction, length)});
    out.told.push_back(fmt::format(
        "{}: {} {:.4g} x {:.4g}, the residual's mean length, = {:.4g}",
        site,
        adds ? "adds" : "sets the coordinate along the direction to",
        options.strength,
        it.residual_norm,
        length));
    out.layers.push_back({it.layer, it.residual_norm, length});
  }
  return out;
}

}  // namespace mlxterp
