#include "mlxterp/sae/load.h"

#include <algorithm>
#include <array>
#include <vector>

#include "io/input_file.h"
#include "mlxterp/sae/set.h"
#include "sae/formats/format.h"
#include "sae/place.h"

namespace fs = std::filesystem;

namespace mlxterp {

namespace {

using sae_format::caller;
using sae_format::Input;
using sae_format::Reader;

// In the order in which they are asked whether it is theirs: those that look
// for a word of their own before those that are two matrices and two biases.
constexpr std::array readers = {
    &sae_format::saelens,
    &sae_format::sparsify,
    &sae_format::llama_scope,
    &sae_format::gemma_scope,
    &sae_format::gemma_scope_2,
    &sae_format::openai,
    &sae_format::dictionary_learning,
    &sae_format::goodfire,
    &sae_format::deepseek,
    &sae_format::qwen_scope,
    &sae_format::connor_rob,
    &sae_format::circuit_tracer,
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

// What it is instead, where that can be told.
std::string instead(const WeightFile& weights) {
  if (weights.has_all({"D", "b"}))
    return " (it looks like a temporal SAE, which is not read)";
  for (const auto& name : weights.names())
    if (name.find("attn") != name.npos || name.find("layers.0.") != name.npos)
      return " (it looks like a language model)";
  return "";
}

const Reader& reader_for(const Input& input) {
  if (!input.options.format.empty()) return reader_named(input.options.format);
  for (const auto* reader : readers)
    if (reader->is(input)) return *reader;
  fail(
      ErrorKind::bad_data,
      "[{}] {} {}, which is no SAE of a kind that is known here{}; name its "
      "format where it is one all the same: {}",
      caller,
      quoted(input.weights.path()),
      input.weights.contents(),
      instead(input.weights),
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

fs::path find_sae(const std::string& name, const SaeLoadOptions& options) {
  return find_place(name, options).path;
}

Sae load_sae(const std::string& name, const SaeLoadOptions& options) {
  if (!options.format.empty()) reader_named(options.format);
  const auto found = find_place(name, options);
  if (is_set(found)) {
    const auto set = SaeSet::open(name, options);
    if (options.layer < 0)
      fail(
          ErrorKind::usage,
          "[{}] {} is a set of transcoders; name a layer from 0 to {} "
          "(--layer, SaeLoadOptions::layer)",
          caller,
          printable(name),
          set.layers() - 1);
    return set.layer(options.layer);
  }
  return load_sae_at(found.path, options);
}

Sae load_sae_at(const fs::path& place, const SaeLoadOptions& options) {
  const auto input = open_place(place, options);
  auto sae = reader_for(input).read(input);
  check(sae);
  return sae;
}

}  // namespace mlxterp
