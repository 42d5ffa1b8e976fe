#include "mlxterp/view/html.h"

#include <fmt/format.h>

#include "mlxterp/view/terminal.h"

namespace mlxterp::view {

std::string html(std::string_view text) {
  std::string out;
  for (const char c : escape(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string script_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : escape(text)) {
    switch (c) {
      case '<':
      case '>':
      case '&':
      case '\'':
        out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        break;
      case '"':
      case '\\':
        out += '\\';
        [[fallthrough]];
      default:
        out += c;
    }
  }
  return out + '"';
}

std::string page(
    std::string_view title,
    std::string_view style,
    std::string_view body,
    std::string_view script) {
  return fmt::format(
      R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'nonce-mlxterp'; script-src 'nonce-mlxterp'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{}</title>
<style nonce="mlxterp">
{}</style>
</head>
<body>
{}<script nonce="mlxterp">
{}</script>
</body>
</html>
)",
      html(title),
      style,
      body,
      script);
}

}  // namespace mlxterp::view
