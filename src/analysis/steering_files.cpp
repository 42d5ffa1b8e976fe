#include <algorithm>
#include <cmath>
#include <map>

#include "analysis/steering_checks.h"
#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* caller = "SteeringVector";
constexpr std::string_view prefix = "layers.";
constexpr const char* kind = "steering_vector";

[[noreturn]] void broken(
    const std::filesystem::path& path, const std::string& why) {
  fail(
      ErrorKind::bad_data,
      "[{}] {} {}; is it a steering vector? (of GGUF, import it)",
      caller,
      quoted(path),
      why);
}

}  // namespace

std::optional<int> layer_of(std::string_view name, std::string_view before) {
  if (!name.starts_with(before)) return {};
  const auto digits = name.substr(before.size());
  int layer = 0;
  const auto parsed =
      std::from_chars(digits.data(), digits.data() + digits.size(), layer);
  if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size() ||
      layer < 0 || layer >= limits::layers)
    return {};
  // One spelling of each.
  return fmt::format("{}", layer) == digits ? std::optional(layer)
                                            : std::nullopt;
}

std::optional<SteeringOperation> operation_of(std::string_view text) {
  for (const auto operation :
       {SteeringOperation::add,
        SteeringOperation::project_out,
        SteeringOperation::clamp,
        SteeringOperation::ablate})
    if (text == name(operation)) return operation;
  return {};
}

std::string direction_fault(const mx::array& direction, int width) {
  if (direction.ndim() != 1 || direction.size() == 0 ||
      direction.size() > static_cast<size_t>(limits::d_model))
    return "is no vector";
  if (width > 0 && direction.shape(0) != width)
    return fmt::format(
        "has {} numbers, others have {}", direction.shape(0), width);
  if (!mx::issubdtype(direction.dtype(), mx::floating))
    return "holds no floating-point numbers";
  const auto wide = mx::astype(direction, mx::float32);
  if (!mx::all(mx::isfinite(wide)).item<bool>()) return "holds NaN or infinity";
  return mx::any(mx::not_equal(wide, mx::array(0.0f))).item<bool>() ? ""
                                                                    : "is zero";
}

void SteeringVector::check() const {
  if (layers.empty()) fail(ErrorKind::usage, "[{}] it has no layers", caller);
  const auto refuse = [](const std::string& what) {
    fail(ErrorKind::usage, "[{}] {}", caller, what);
  };
  if (model_layers < 0 || model_layers > limits::layers)
    refuse(fmt::format(
        "a model of {} layers; give 0 to {}", model_layers, limits::layers));
  if (pairs > limits::prompts)
    refuse(fmt::format("{} pairs; give up to {}", pairs, limits::prompts));
  for (const int position : positions)
    if (position < -limits::vocab || position > limits::vocab)
      refuse(fmt::format("position {}; give one of a prompt", position));
  int last = -1;
  for (const auto& it : layers) {
    if (it.layer < 0 || it.layer >= limits::layers)
      refuse(fmt::format(
          "a direction for layer {}; layers are 0 to {}, counted from the "
          "model's first",
          it.layer,
          limits::layers - 1));
    if (!std::isnan(it.residual_norm) &&
        !(it.residual_norm > 0 && std::isfinite(it.residual_norm)))
      refuse(fmt::format(
          "the residual stream's mean length at layer {} is {}; give a finite "
          "one above 0, or none (NaN) and measure it (with_norms)",
          it.layer,
          it.residual_norm));
    if (it.layer <= last)
      fail(
          ErrorKind::usage,
          "[{}] layer {} after layer {}; give each once, from 0 on, in order",
          caller,
          it.layer,
          last);
    last = it.layer;
    const auto fault = direction_fault(it.direction, d_model());
    if (!fault.empty())
      fail(
          ErrorKind::usage,
          "[{}] the direction of layer {} {}",
          caller,
          it.layer,
          fault);
  }
}

void SteeringVector::save(
    const std::filesystem::path& path, bool overwrite) const {
  check();
  std::vector<std::pair<std::string, mx::array>> tensors;
  nlohmann::ordered_json norms = nlohmann::ordered_json::object();
  for (const auto& it : layers) {
    tensors.emplace_back(
        fmt::format("{}{}", prefix, it.layer),
        mx::astype(it.direction, mx::float32));
    if (std::isfinite(it.residual_norm))
      norms[fmt::format("{}", it.layer)] = it.residual_norm;
  }
  const nlohmann::ordered_json read = positions;
  save_safetensors(
      path,
      tensors,
      {{"mlxterp_kind", kind},
       {"site", "resid_post"},
       {"operation", name(operation)},
       {"method", method},
       {"model", model},
       {"model_type", model_type},
       {"model_layers", fmt::format("{}", model_layers)},
       {"tokenizer", tokenizer},
       {"pairs", fmt::format("{}", pairs)},
       {"positions", read.dump()},
       {"residual_norms", norms.dump()}},
      overwrite);
}

SteeringVector SteeringVector::load(const std::filesystem::path& path) {
  const auto file = Safetensors::open(path);
  const auto& all = file.metadata();
  const auto text = [&](const char* key) {
    const auto found = all.find(key);
    return found == all.end() ? std::string() : found->second;
  };
  const auto number = [&](const char* key, uint64_t most) -> uint64_t {
    const auto written = text(key);
    uint64_t value = 0;
    const auto* end = written.data() + written.size();
    const auto parsed = std::from_chars(written.data(), end, value);
    if (!written.empty() &&
        (parsed.ec != std::errc() || parsed.ptr != end || value > most))
      broken(path, fmt::format("has the {} '{}'", key, printable(written)));
    return value;
  };
  const auto json = [&](const char* key, const char* otherwise) {
    const auto written = text(key);
    return parse_json(
        written.empty() ? otherwise : written,
        caller,
        fmt::format("{} of {}", key, quoted(path)));
  };
  if (text("mlxterp_kind") != kind)
    broken(path, "does not say that it is one (mlxterp_kind)");
  if (text("site") != "resid_post")
    broken(
        path,
        fmt::format(
            "is of the site '{}', not resid_post", printable(text("site"))));
  SteeringVector out;
  const auto operation = operation_of(text("operation"));
  if (!operation)
    broken(
        path,
        fmt::format(
            "is meant for the operation '{}', not add, project_out, clamp or "
            "ablate",
            printable(text("operation"))));
  out.operation = *operation;
  out.method = text("method");
  out.model = text("model");
  out.model_type = text("model_type");
  out.tokenizer = text("tokenizer");
  out.model_layers = static_cast<int>(number("model_layers", limits::layers));
  out.pairs = number("pairs", limits::prompts);
  const auto read = json("positions", "[]");
  if (!read.is_array()) broken(path, "has positions that are no list");
  for (const auto& position : read) {
    if (!position.is_number_integer() || position < -limits::vocab ||
        position > limits::vocab)
      broken(path, "has positions that are no whole numbers");
    out.positions.push_back(position.get<int>());
  }
  const auto norms = json("residual_norms", "{}");
  if (!norms.is_object()) broken(path, "has residual_norms that are no object");
  for (const auto& tensor : file.tensors()) {
    const auto layer = layer_of(tensor.name, prefix);
    if (!layer)
      broken(
          path,
          fmt::format(
              "has a tensor '{}', not layers.N", printable(tensor.name)));
    const auto direction = file.read(tensor);
    const auto fault = direction_fault(direction, out.d_model());
    if (!fault.empty())
      broken(path, fmt::format("has a '{}' that {}", tensor.name, fault));
    Layer it{*layer, mx::astype(direction, mx::float32)};
    if (const auto norm = norms.find(fmt::format("{}", *layer));
        norm != norms.end()) {
      const auto held = norm->is_number() ? norm->get<float>() : 0;
      if (!(held > 0) || !std::isfinite(held))
        broken(
            path,
            fmt::format(
                "has a residual norm of layer {} that is no number above 0 "
                "which float32 holds",
                *layer));
      it.residual_norm = held;
    }
    out.layers.push_back(std::move(it));
  }
  if (out.layers.empty()) broken(path, "has no directions");
  std::ranges::sort(out.layers, {}, &Layer::layer);
  return out;
}

}  // namespace mlxterp
