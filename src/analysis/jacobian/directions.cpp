#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "analysis/int_array.h"
#include "analysis/jacobian/source.h"
#include "analysis/jacobian/sums.h"
#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;

namespace mlxterp {

using namespace jacobian;  // NOLINT(google-build-using-namespace): its own

namespace {

constexpr const char* directions_kind = "lens_directions";
constexpr const char* directions_prefix = "directions.";
constexpr const char* tokens_key = "tokens";

[[noreturn]] void broken(const std::string& shown, const std::string& why) {
  fail(
      ErrorKind::bad_data,
      "[{}] {} {}; is it of mlxterp jlens directions?",
      caller,
      shown,
      why);
}

std::vector<int> tokens_of(
    const std::map<std::string, std::string>& metadata,
    const std::string& shown) {
  const auto found = metadata.find(tokens_key);
  if (found == metadata.end()) broken(shown, "names no tokens");
  const auto json = parse_json(found->second, caller, shown);
  std::vector<int> out;
  if (json.is_array())
    for (const auto& id : json) {
      if (!id.is_number_integer() || id < 0 || id >= limits::vocab)
        broken(shown, "names something that is no token");
      out.push_back(id.get<int>());
    }
  if (out.empty()) broken(shown, "names no tokens");
  return out;
}

}  // namespace

void LensDirections::save(
    const std::filesystem::path& path, bool overwrite) const {
  std::vector<std::pair<std::string, mx::array>> tensors;
  for (size_t i = 0; i < layers.size(); ++i)
    tensors.emplace_back(
        fmt::format("{}{}", directions_prefix, layers[i]), directions[i]);
  auto metadata = to_metadata(source);
  metadata.emplace(kind_key, directions_kind);
  metadata.emplace(tokens_key, nlohmann::json(tokens).dump());
  save_safetensors(path, tensors, metadata, overwrite);
}

bool LensDirections::is_file(const std::filesystem::path& path) {
  const auto file = InputFile::open(path, caller);
  const auto head = file->text(0, 4, caller);
  if (head.starts_with("PK") || head.starts_with("\x80\x02")) return false;
  const auto tensors = Safetensors::open(path);
  const auto kind = tensors.metadata().find(kind_key);
  return kind != tensors.metadata().end() && kind->second == directions_kind;
}

LensDirections LensDirections::load(const std::filesystem::path& path) {
  const auto file = Safetensors::open(path);
  const auto shown = quoted(path);
  LensDirections out{
      .layers = {},
      .tokens = tokens_of(file.metadata(), shown),
      .directions = {},
      .source = from_metadata(file.metadata(), shown)};
  std::map<int, mx::array> by_layer;
  for (const auto& tensor : file.tensors())
    if (const auto layer = layer_named(tensor.name, directions_prefix))
      by_layer.insert_or_assign(*layer, file.read(tensor));
  if (by_layer.empty()) broken(shown, "has no tensors directions.N");
  const int n = static_cast<int>(out.tokens.size());
  for (auto& [layer, values] : by_layer) {
    const auto& first = by_layer.begin()->second;
    if (values.ndim() != 2 || values.shape() != first.shape() ||
        values.shape(0) != n || values.shape(1) < 1 ||
        !mx::issubdtype(values.dtype(), mx::floating))
      broken(
          shown,
          fmt::format("has in layer {} no vector for each token", layer));
    values = mx::astype(values, mx::float32);
    if (!mx::all(mx::isfinite(values)).item<bool>())
      broken(shown, fmt::format("has NaN or infinity in layer {}", layer));
    out.layers.push_back(layer);
    out.directions.push_back(values);
  }
  return out;
}

mx::array LensDirections::at(const std::vector<int>& asked, int layer) const {
  const auto found = std::ranges::find(layers, layer);
  if (found == layers.end())
    fail(
        ErrorKind::out_of_range,
        "[{}] the directions have no layer {}; they have {}",
        caller,
        layer,
        fmt::join(layers, ", "));
  std::vector<int> rows;
  for (const int token : asked) {
    const auto row = std::ranges::find(tokens, token);
    if (row == tokens.end())
      fail(
          ErrorKind::usage,
          "[{}] there is no direction of token {}; there are those of {}",
          caller,
          token,
          fmt::join(tokens, ", "));
    rows.push_back(static_cast<int>(row - tokens.begin()));
  }
  return mx::take(
      directions[static_cast<size_t>(found - layers.begin())],
      int_array(rows),
      0);
}

void LensDirections::check_fits(
    const InterpretableModel& model, bool any_model) const {
  jacobian::check_fits(
      source, layers, directions[0].shape(1), model, any_model);
}

}  // namespace mlxterp
