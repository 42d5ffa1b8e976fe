#include <map>

#include "core/fail.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/tuned_lens.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/io/npz.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

std::string name_of(int layer, const char* part) {
  return fmt::format("translators_{}_{}", layer, part);
}

}  // namespace

void TunedLens::save(const std::filesystem::path& path, bool overwrite) const {
  const auto name = path.filename();
  if (name.empty() || name == "." || name == "..")
    fail(
        ErrorKind::usage,
        "[TunedLens] '{}' does not name a file",
        printable(path.string()));
  auto arrays = path, config = path;
  arrays.replace_extension(".npz");
  config.replace_extension(".json");
  std::error_code ignored;
  if (!overwrite && std::filesystem::exists(config, ignored))
    fail(
        ErrorKind::usage,
        "[TunedLens] '{}' exists; choose another name or ask for it to be "
        "overwritten",
        printable(config.string()));
  std::vector<std::pair<std::string, mx::array>> named;
  for (int i = 0; i < layers(); ++i) {
    check_translator(static_cast<size_t>(i));
    named.emplace_back(name_of(i, "weight"), weights[static_cast<size_t>(i)]);
    named.emplace_back(name_of(i, "bias"), biases[static_cast<size_t>(i)]);
  }
  save_npz(arrays, named, overwrite);
  const nlohmann::ordered_json json = {
      {"num_layers", layers()}, {"hidden_dim", d_model_}};
  write_file_atomically(config, json.dump(2), overwrite);
}

TunedLens TunedLens::load(const std::filesystem::path& path, const Warn& warn) {
  constexpr const char* function = "TunedLens";
  auto arrays = path, config = path;
  arrays.replace_extension(".npz");
  config.replace_extension(".json");
  const auto shown = printable(arrays.string());
  const auto json = parse_json(
      read_text(config, limits::config_bytes, function),
      function,
      fmt::format("'{}'", printable(config.string())));
  const auto number = [&](const char* key, int most) {
    const auto found = json.is_object() ? json.find(key) : json.end();
    if (!json.is_object() || found == json.end() ||
        !found->is_number_integer() || *found < 1 || *found > most)
      fail(
          ErrorKind::bad_data,
          "[TunedLens] '{}' has no {} from 1 to {}; is it a tuned lens?",
          printable(config.string()),
          key,
          most);
    return found->get<int>();
  };
  TunedLens lens(
      number("num_layers", limits::layers),
      number("hidden_dim", limits::d_model));
  std::map<std::string, mx::array> named;
  for (auto& [name, array] : load_npz(arrays))
    named.insert_or_assign(name, array);
  const auto take = [&](int layer, const char* part, mx::array& into) {
    const auto name = name_of(layer, part);
    const auto found = named.find(name);
    if (found == named.end())
      fail(
          ErrorKind::bad_data,
          "[TunedLens] '{}' has no {}; its .json says {} layers",
          shown,
          name,
          lens.layers());
    const auto& array = found->second;
    if (array.shape() != into.shape() ||
        !mx::issubdtype(array.dtype(), mx::floating))
      fail(
          ErrorKind::bad_data,
          "[TunedLens] {} in '{}' is not a {} of floating-point numbers; its "
          ".json says {} features",
          name,
          shown,
          into.ndim() == 2 ? "square matrix" : "vector",
          lens.d_model());
    into = mx::astype(array, mx::float32);
    if (!mx::all(mx::isfinite(into)).item<bool>())
      fail(
          ErrorKind::bad_data,
          "[TunedLens] {} in '{}' holds NaN or infinity; train it again with "
          "a smaller learning rate",
          name,
          shown);
  };
  for (int i = 0; i < lens.layers(); ++i) {
    take(i, "weight", lens.weights[static_cast<size_t>(i)]);
    take(i, "bias", lens.biases[static_cast<size_t>(i)]);
  }
  auto& weight = lens.weights.back();
  auto& bias = lens.biases.back();
  const auto identity = mx::eye(lens.d_model());
  const auto nothing = mx::zeros({lens.d_model()});
  if (!mx::logical_and(
           mx::array_equal(weight, identity), mx::array_equal(bias, nothing))
           .item<bool>()) {
    if (warn)
      warn(fmt::format(
          "'{}' has a translator for layer {}, the last one; it is ignored: "
          "that layer's prediction is the model's own",
          shown,
          lens.layers() - 1));
    weight = identity;
    bias = nothing;
  }
  return lens;
}

}  // namespace mlxterp
