#include "sae/set_config.h"

#include <algorithm>
#include <charconv>

#include "core/fail.h"
#include "io/input_file.h"
#include "mlxterp/core/limits.h"
#include "sae/yaml.h"

namespace mlxterp {

namespace {

constexpr std::string_view caller = "load_sae";

std::optional<int> number_of(const std::string& text) {
  int value = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return {};
  return value;
}

// In the order of "layer", or of the list where nothing says it.
std::vector<std::string> layers_of(
    const FlatYaml& yaml, const std::string& what) {
  const auto found = yaml.lists.find("transcoders");
  if (found == yaml.lists.end()) return {};
  std::vector<std::string> out(found->second.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const auto& item = found->second[i];
    size_t at = i;
    if (const auto layer = item.find("layer"); layer != item.end())
      at = static_cast<size_t>(number_of(layer->second).value_or(-1));
    const auto path = item.contains("") ? item.find("") : item.find("filepath");
    if (at >= out.size() || !out[at].empty() || path == item.end() ||
        path->second.empty())
      fail(
          ErrorKind::bad_data,
          "[{}] {} gives no path for each of the layers 0 to {}; is it whole?",
          caller,
          what,
          out.size() - 1);
    out[at] = path->second;
  }
  return out;
}

}  // namespace

std::string SetConfig::hook(const std::string& name, int layer) {
  return name.empty() || name.starts_with("blocks.")
             ? name
             : fmt::format("blocks.{}.{}", layer, name);
}

std::optional<SetConfig> read_set_config(const std::filesystem::path& folder) {
  const auto path = folder / "config.yaml";
  const auto text = text_of(path, limits::config_bytes, caller);
  if (!text) return {};
  const auto what = quoted(path);
  const auto yaml = parse_flat_yaml(*text, what);
  SetConfig out;
  out.model = yaml.text("model_name");
  out.hook_in = yaml.text("feature_input_hook");
  out.hook_out = yaml.text("feature_output_hook");
  out.scan = yaml.text("scan");
  out.activation = yaml.text("activation");
  out.k = number_of(yaml.text("k"));
  out.cross_layer = yaml.text("model_kind") == "cross_layer_transcoder";
  out.layers = layers_of(yaml, what);
  if (out.layers.size() > static_cast<size_t>(limits::layers))
    fail(
        ErrorKind::bad_data,
        "[{}] {} names {} layers; at most {} are read",
        caller,
        what,
        out.layers.size(),
        limits::layers);
  return out;
}

}  // namespace mlxterp
