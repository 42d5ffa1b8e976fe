#include "mlxterp/spec/sae.h"

#include <filesystem>

#include "mlxterp/sae/dashboard.h"
#include "mlxterp/spec/range.h"
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

std::vector<int> parse_features(
    const std::vector<std::string>& texts,
    const Sae& sae,
    uint64_t seed,
    std::string_view name) {
  constexpr std::string_view random = "random:";
  const auto only = texts.size() == 1 ? trimmed(texts[0]) : std::string_view();
  if (only == "all") return random_features(sae, sae.d_sae(), seed);
  if (only.starts_with(random)) {
    const auto n = whole_number<int>(only.substr(random.size()));
    if (!n || *n < 1)
      fail(
          ErrorKind::usage,
          "{} '{}': expected random:N with N at least 1",
          name,
          printable(only));
    return random_features(sae, *n, seed);
  }
  auto features = parse_numbers(texts, name);
  for (const int feature : features)
    if (feature < 0 || feature >= sae.d_sae())
      fail(
          ErrorKind::out_of_range,
          "{} {} is out of range; the SAE has {} features, numbered from 0",
          name,
          feature,
          sae.d_sae());
  return features;
}

}  // namespace mlxterp::spec
