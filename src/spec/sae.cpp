#include "mlxterp/spec/sae.h"

#include <filesystem>

#include "spec/text.h"

namespace mlxterp::spec {

SaePlace parse_sae(std::string_view text, std::string_view name) {
  const auto equals = text.find('=');
  std::error_code error;
  const bool named = equals != text.npos &&
                     text.substr(0, equals).find('/') == text.npos &&
                     !std::filesystem::exists(text, error);
  SaePlace out{.file = std::string(text)};
  if (named) {
    out.site = text.substr(0, equals);
    out.file = text.substr(equals + 1);
  }
  if (out.file.empty() || (named && out.site.empty()))
    fail(
        ErrorKind::usage,
        "{} '{}': expected FILE, or SITE=FILE as in "
        "layers.12.resid_post=my_sae",
        name,
        printable(text));
  return out;
}

AttachOptions::Mode parse_attach_mode(
    std::string_view text, std::string_view name) {
  using enum AttachOptions::Mode;
  if (text == "read") return read;
  if (text == "replace") return replace;
  if (text == "replace_with_error") return replace_with_error;
  fail(
      ErrorKind::usage,
      "{} '{}' is not one of read, replace, replace_with_error",
      name,
      printable(text));
}

SaeActivation parse_sae_activation(
    std::string_view text, std::string_view name) {
  using enum SaeActivation;
  for (const auto it :
       {relu, topk, signed_topk, abs_topk, group_max, jump_relu})
    if (text == name_of(it)) return it;
  fail(
      ErrorKind::usage,
      "{} '{}' is not one of relu, topk, signed_topk, abs_topk, group_max, "
      "jump_relu",
      name,
      printable(text));
}

}  // namespace mlxterp::spec
