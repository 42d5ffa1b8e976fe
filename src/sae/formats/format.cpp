#include "sae/formats/format.h"

#include <cmath>
#include <regex>

#include "io/input_file.h"
#include "mlx/ops.h"
#include "sae/hooks.h"

namespace mx = mlx::core;

namespace mlxterp::sae_format {

namespace {

constexpr size_t longest_path = 4096;  // the regular expressions recurse

}  // namespace

std::string Input::where() const {
  std::error_code error;
  auto whole = std::filesystem::absolute(weights.path(), error);
  return (error ? weights.path() : whole).generic_string();
}

void Input::bad(const std::string& why) const {
  fail(
      ErrorKind::bad_data,
      "[{}] {}: {}; is it whole, and what it claims to be?",
      caller,
      quoted(config.is_null() ? weights.path() : config_path),
      why);
}

bool Input::has(std::string_view key) const {
  if (!config.is_object()) return false;
  const auto found = config.find(key);
  return found != config.end() && !found->is_null();
}

std::string Input::text(std::string_view key, std::string or_else) const {
  if (!has(key)) return or_else;
  const auto& value = *config.find(key);
  if (!value.is_string()) bad(fmt::format("'{}' is no text", key));
  return value.get<std::string>();
}

bool Input::boolean(std::string_view key, bool or_else) const {
  if (!has(key)) return or_else;
  const auto& value = *config.find(key);
  if (!value.is_boolean()) bad(fmt::format("'{}' is not true or false", key));
  return value.get<bool>();
}

double Input::number(std::string_view key) const {
  if (!has(key)) bad(fmt::format("'{}' is missing", key));
  const auto& value = *config.find(key);
  if (!value.is_number()) bad(fmt::format("'{}' is no number", key));
  return value.get<double>();
}

int Input::integer(std::string_view key) const {
  const double value = number(key);
  if (value != std::floor(value) || std::abs(value) > 2e9)
    bad(fmt::format("'{}' is {}, not a whole number", key, value));
  return static_cast<int>(value);
}

SaeSource source_of(
    const Input& input,
    std::string_view format,
    std::string architecture,
    std::string model,
    std::string hook_in,
    std::string hook_out) {
  const bool one = hook_out.empty();
  SaeSource out{
      .format = std::string(format),
      .architecture = std::move(architecture),
      .file = input.weights.path().string(),
      .model = std::move(model)};
  out.hook_out = one ? hook_in : std::move(hook_out);
  out.hook_in = std::move(hook_in);
  out.site_in = site_of_hook(out.hook_in, one ? "output" : "input");
  out.site_out = site_of_hook(out.hook_out);
  out.layer = layer_of_site(out.site_in);
  return out;
}

mx::array transposed(const mx::array& matrix) {
  return mx::transpose(matrix);
}

std::string matched(const std::string& text, const char* pattern) {
  if (text.size() > longest_path) return "";
  std::smatch found;
  return std::regex_search(text, found, std::regex(pattern)) ? found[1].str()
                                                             : "";
}

mx::array one_for_all(double threshold, int d_sae) {
  return mx::full({d_sae}, static_cast<float>(threshold), mx::float32);
}

}  // namespace mlxterp::sae_format
