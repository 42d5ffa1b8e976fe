#include "mlxterp/sae/load.h"

#include <algorithm>
#include <array>
#include <vector>

#include "io/input_file.h"
#include "mlx/transforms.h"
#include "sae/formats/format.h"
#include "sae/place.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

namespace {

using sae_format::caller;
using sae_format::Input;
using sae_format::Reader;

constexpr std::array readers = {
    &sae_format::saelens,
};

std::string format_names() {
  std::string out;
  for (const auto* reader : readers)
    out += fmt::format("{}{}", out.empty() ? "" : ", ", reader->format.name);
  return out;
}

const Reader& reader_named(const std::string& name) {
  for (const auto* reader : readers)
    if (reader->format.name == name) return *reader;
  fail(
      ErrorKind::usage,
      "[{}] there is no format '{}'; take one of {}",
      caller,
      printable(name),
      format_names());
}

const Reader& reader_for(const Input& input) {
  if (!input.options.format.empty()) return reader_named(input.options.format);
  for (const auto* reader : readers)
    if (reader->is(input)) return *reader;
  fail(
      ErrorKind::bad_data,
      "[{}] {} {}, which is no SAE of a kind that is known here; name its "
      "format where it is one all the same: {}",
      caller,
      quoted(input.weights.path()),
      input.weights.contents(),
      format_names());
}

}  // namespace

std::span<const SaeFormat> sae_formats() {
  static const auto formats = [] {
    std::vector<SaeFormat> all;
    for (const auto* reader : readers)
      all.push_back(reader->format);
    return all;
  }();
  return formats;
}

fs::path find_sae(const std::string& name, const SaeLoadOptions&) {
  return name;
}

Sae load_sae(const std::string& name, const SaeLoadOptions& options) {
  if (!options.format.empty()) reader_named(options.format);
  const auto input = open_place(find_sae(name, options), options);
  auto sae = reader_for(input).read(input);
  check(sae);
  return sae;
}

}  // namespace mlxterp
