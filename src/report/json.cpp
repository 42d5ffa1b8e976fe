#include "report/json.h"

#include <cmath>

#include "core/fail.h"
#include "core/utf8.h"

namespace mlxterp::report {

namespace {

// C1 controls, DEL, and marks that end a line or turn the text around.
bool acts(uint32_t code) {
  return (code >= 0x7F && code <= 0x9F) || code == 0x61C || code == 0x200E ||
         code == 0x200F || (code >= 0x2028 && code <= 0x202E) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0xFEFF;
}

// Of a well-formed character of two or three bytes.
uint32_t code_of(std::string_view c) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(c[i]));
  };
  if (c.size() == 1) return byte(0);
  uint32_t code = byte(0) & (0xFFu >> (c.size() + 1));
  for (size_t i = 1; i < c.size(); ++i)
    code = code << 6 | (byte(i) & 0x3Fu);
  return code;
}

}  // namespace

Json number(float value) {
  if (!std::isfinite(value)) return nullptr;
  // Its digits, not those of the double that is nearest to it.
  return Json::parse(fmt::format("{}", value)).get<double>();
}

Json number(double value) {
  if (!std::isfinite(value)) return nullptr;
  return value;
}

Json numbers(const std::vector<float>& values) {
  auto out = Json::array();
  for (const float value : values)
    out.push_back(number(value));
  return out;
}

Json json_of(const Value& value) {
  return std::visit(
      [](const auto& it) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(it)>, double>)
          return number(it);
        else
          return it;
      },
      value);
}

Json json_of(const NamedToken& token) {
  return {{"id", token.id}, {"text", token.text}};
}

Json json_of(const std::vector<NamedToken>& tokens) {
  auto out = Json::array();
  for (const auto& token : tokens)
    out.push_back(json_of(token));
  return out;
}

std::string text_of(const Json& json, int indent) {
  const auto text =
      json.dump(indent, ' ', false, Json::error_handler_t::replace);
  std::string out;
  out.reserve(text.size());
  // What is not ASCII stands in strings only.
  for (size_t i = 0; i < text.size();) {
    const std::string_view rest = std::string_view(text).substr(i);
    const auto length = std::max<size_t>(utf8_length(rest), 1);
    const auto c = rest.substr(0, length);
    if (const auto code = code_of(c); acts(code))
      out += fmt::format("\\u{:04x}", code);
    else
      out += c;
    i += length;
  }
  return out;
}

std::map<std::string, std::string> metadata(const Facts& facts) {
  std::map<std::string, std::string> out;
  for (const auto& [key, value] : facts)
    out[key] = text_of(json_of(value), -1);
  return out;
}

}  // namespace mlxterp::report
