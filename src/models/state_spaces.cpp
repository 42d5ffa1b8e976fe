#include "models/state_spaces.h"

#include <cmath>
#include <limits>
#include <optional>

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

bool says(const nlohmann::json& value, std::string_view word) {
  return value.is_string() && value.get_ref<const std::string&>() == word;
}

// A bound of a time step: 0, a positive float32, or the infinity that
// transformers writes as {"__float__": "Infinity"}.
std::optional<float> bound(const nlohmann::json& value) {
  if (value.is_object() && value.size() == 1 && value.contains("__float__") &&
      says(value["__float__"], "Infinity"))
    return std::numeric_limits<float>::infinity();
  if (!value.is_number()) return std::nullopt;
  const auto wide = value.get<double>();
  const auto narrow = static_cast<float>(wide);
  const bool fits = wide == 0 || (narrow >= std::numeric_limits<float>::min() &&
                                  std::isfinite(narrow));
  return fits ? std::optional(narrow) : std::nullopt;
}

void set_bounds(const ConfigReader& config, nn::StateSpaceConfig& out) {
  if (!config.has("time_step_limit")) return;
  const auto& limit = config.json()["time_step_limit"];
  const auto least = limit.is_array() && limit.size() == 2 ? bound(limit[0])
                                                           : std::nullopt,
             most = least ? bound(limit[1]) : std::nullopt;
  if (!most || *most < *least)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'time_step_limit' is {}; give the least and the most, "
        "0 or above",
        printable(limit.dump()));
  out.dt_least = *least;
  out.dt_most = *most;
}

}  // namespace

nn::StateSpaceConfig state_space_of(
    const ConfigReader& config,
    const DecoderConfig& decoder,
    const StateSpaceFields& fields) {
  const auto size = [&](const StateSpaceFields::Size& field, int most) {
    return field.usual > 0 ? config.integer_or(field.name, field.usual, 1, most)
                           : config.integer(field.name, 1, most);
  };
  nn::StateSpaceConfig out;
  out.d_model = decoder.d_model;
  out.n_heads = size(fields.n_heads, limits::heads);
  out.n_groups = size(fields.n_groups, limits::heads);
  out.d_state = size(fields.d_state, limits::d_model);
  out.conv_width = size(fields.conv_width, limits::heads);
  out.conv_bias = config.boolean(fields.conv_bias, true);
  out.bias = config.boolean(fields.bias, false);
  out.activation = decoder.activation;
  out.norm.eps = decoder.norm.eps;
  const int inner = size(fields.expand, limits::heads) * decoder.d_model;
  const bool said = config.json().contains(fields.d_head.name) &&
                    !says(config.json()[fields.d_head.name], "auto");
  if (said)
    out.d_head = config.integer(fields.d_head.name, 1, limits::d_model);
  else
    out.d_head =
        fields.d_head.usual > 0 ? fields.d_head.usual : inner / out.n_heads;
  if (out.d_head * out.n_heads != inner || out.n_heads % out.n_groups != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] {} {} of {} {} in {} {} are not {} * hidden_size, {}, "
        "in whole groups",
        fields.n_heads.name,
        out.n_heads,
        fields.d_head.name,
        out.d_head,
        fields.n_groups.name,
        out.n_groups,
        fields.expand.name,
        inner);
  set_bounds(config, out);
  return out;
}

}  // namespace mlxterp
