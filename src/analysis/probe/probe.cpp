#include "mlxterp/analysis/probe.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* function = "Probe";
constexpr const char* format = "mlxterp-probe-1";
// What of the metadata are members; the rest are facts.
constexpr const char* known[] = {
    "format", "kind", "classes", "coordinates", "site", "spread"};

const char* word(ProbeKind kind) {
  return kind == ProbeKind::logistic ? "logistic" : "ridge";
}

mx::array vector_of(const std::vector<float>& values) {
  return mx::array(
      values.data(), {static_cast<int>(values.size())}, mx::float32);
}

}  // namespace

mx::array Probe::operator()(const mx::array& x) const {
  if (x.ndim() < 1 || x.shape(-1) != static_cast<int>(weight.size()))
    fail(
        ErrorKind::usage,
        "[{}] it reads {} numbers a position{}, the value has {}; use it at "
        "the site it was trained at",
        function,
        weight.size(),
        site.empty() ? "" : fmt::format(" (of '{}')", site),
        x.ndim() < 1 ? 0 : x.shape(-1));
  const auto said =
      mx::sum(mx::multiply(mx::astype(x, mx::float32), vector_of(weight)), -1);
  return mx::add(said, mx::array(bias));
}

mx::array Probe::direction() const {
  double squares = 0;
  for (const float it : weight)
    squares += static_cast<double>(it) * static_cast<double>(it);
  if (!(squares > 0))
    fail(
        ErrorKind::usage,
        "[{}] every weight is 0, so it points nowhere; use a smaller l2, or "
        "labels that the site tells apart",
        function);
  const double factor = static_cast<double>(spread) / std::sqrt(squares);
  auto out = weight;
  for (auto& it : out)
    it = static_cast<float>(static_cast<double>(it) * factor);
  return vector_of(out);
}

void Probe::save(const std::filesystem::path& path, bool overwrite) const {
  using Json = nlohmann::json;
  std::map<std::string, std::string> metadata = facts;
  metadata["format"] = Json(format).dump();
  metadata["kind"] = Json(word(kind)).dump();
  metadata["classes"] = Json(classes).dump();
  metadata["coordinates"] = Json(coordinates).dump();
  metadata["site"] = Json(site).dump();
  metadata["spread"] = Json(spread).dump();
  save_safetensors(
      path,
      {{"weight", vector_of(weight)},
       {"bias", vector_of({bias})},
       {"direction", direction()}},
      metadata,
      overwrite);
}

Probe Probe::load(const std::filesystem::path& path) {
  const auto file = Safetensors::open(path);
  const auto shown = printable(path.string(), 400);
  const auto bad = [&](const char* what) {
    fail(
        ErrorKind::bad_data,
        "[{}] '{}' {}; is it a file that `probe train` wrote?",
        function,
        shown,
        what);
  };
  const auto& metadata = file.metadata();
  const auto member = [&](const char* name) {
    const auto found = metadata.find(name);
    if (found == metadata.end()) bad("does not say what probe it is");
    return parse_json(found->second, function, fmt::format("'{}'", shown));
  };
  if (member("format") != format) bad("is of another format");
  Probe out;
  const auto kind = member("kind");
  if (kind == word(ProbeKind::ridge))
    out.kind = ProbeKind::ridge;
  else if (kind != word(ProbeKind::logistic))
    bad("is neither logistic nor ridge");
  const auto classes = member("classes"), site = member("site"),
             coordinates = member("coordinates"), spread = member("spread");
  const auto all = [](const nlohmann::json& list, auto is) {
    return list.is_array() && std::ranges::all_of(list, is);
  };
  if (!all(classes, [](const auto& it) { return it.is_string(); }) ||
      !site.is_string() || !spread.is_number())
    bad("names no classes, site or spread");
  out.classes = classes.get<std::vector<std::string>>();
  if (out.classes.size() != (out.kind == ProbeKind::logistic ? 2 : 0))
    bad("has another number of classes than its kind");
  out.site = site.get<std::string>();
  out.spread = spread.get<float>();
  if (!std::isfinite(out.spread) || out.spread < 0)
    bad("has a spread that is no number from 0 on which float32 holds");
  bool biased = false;
  for (const auto& tensor : file.tensors()) {
    const bool weight = tensor.name == "weight";
    if (!weight && tensor.name != "bias") continue;
    if (tensor.shape.size() != 1 || tensor.shape[0] < 1 ||
        tensor.shape[0] > (weight ? limits::d_mlp : 1))
      bad("has a weight that is no vector, or a bias that is not one number");
    biased |= !weight;
    const auto values = mx::astype(file.read(tensor), mx::float32);
    if (!mx::all(mx::isfinite(values)).item<bool>())
      bad("holds NaN or infinity");
    auto plain = mx::contiguous(values);
    plain.eval();
    if (weight)
      out.weight.assign(
          plain.data<float>(), plain.data<float>() + plain.size());
    else
      out.bias = plain.data<float>()[0];
  }
  if (out.weight.empty() || !biased) bad("has no weight or no bias");
  const auto width = out.weight.size();
  if (!all(coordinates, [&](const auto& it) {
        return it.is_number_unsigned() && it.template get<uint64_t>() < width;
      }))
    bad("names coordinates that it does not have");
  out.coordinates = coordinates.get<std::vector<int>>();
  for (const auto& [name, value] : metadata)
    if (std::ranges::find(known, name) == std::end(known))
      out.facts[name] = value;
  return out;
}

}  // namespace mlxterp
