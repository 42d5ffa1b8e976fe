#include "io/gguf_checkpoint.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "core/fail.h"
#include "io/decode.h"
#include "io/gguf_architecture.h"
#include "io/gguf_config.h"
#include "io/gguf_keys.h"
#include "io/gguf_metadata.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

/** A name taken apart: blk.3.attn_q.weight. */
struct TensorName {
  std::optional<int64_t> block;
  std::string_view part;
  std::string_view suffix;  ///< With its point.
};

TensorName take_apart(std::string_view name) {
  TensorName result;
  const size_t point = name.rfind('.');
  if (point != name.npos) {
    result.suffix = name.substr(point);
    name = name.substr(0, point);
  }
  result.part = name;
  constexpr std::string_view prefix = "blk.";
  if (name.substr(0, prefix.size()) != prefix) return result;
  const auto digits = name.substr(prefix.size(), name.find('.', 4) - 4);
  int64_t block = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), block);
  const bool canonical = error == std::errc() &&
                         end == digits.data() + digits.size() &&
                         std::to_string(block) == digits && block >= 0;
  if (!canonical || digits.size() + 5 > name.size()) return result;
  result.block = block;
  result.part = name.substr(digits.size() + 5);
  return result;
}

/** Renames the tensors of one file. */
class Renamer {
 public:
  Renamer(const GgufMetadata& metadata, const GgufArchitecture& architecture)
      : metadata_(metadata), architecture_(architecture) {}

  RenamedTensor rename(TensorInfo tensor) const {
    const std::string gguf_name = tensor.name;
    const TensorName name = take_apart(gguf_name);
    const auto* found = find_renaming(
        architecture_, name.block.has_value(), name.part, name.suffix);
    // What has no name there keeps its own; the model says whether it minds.
    if (!found) return {std::move(tensor)};
    const std::string prefix =
        name.block ? fmt::format("{}.{}.", architecture_.layers, *name.block)
                   : "";
    const bool whole = found->gguf.ends_with(name.suffix);
    tensor.name = fmt::format(
        "{}{}{}", prefix, found->checkpoint, whole ? "" : name.suffix);
    RenamedTensor renamed{std::move(tensor)};
    const Stored stored = found->stored;
    if (stored == Stored::query_rows || stored == Stored::key_rows) {
      const int64_t heads = heads_of(stored);
      check_rows(renamed.info, gguf_name, heads);
      renamed.change.interleaved_heads = heads;
    }
    renamed.change.one_added =
        stored == Stored::one_added && name.suffix == ".weight";
    auto& shape = renamed.info.shape;
    if (stored == Stored::transposed && shape.size() == 2) {
      renamed.change.transposed = true;
      std::swap(shape[0], shape[1]);
    }
    return renamed;
  }

 private:
  int64_t heads_of(Stored stored) const {
    const auto key = [&](std::string_view field) {
      return fmt::format("{}.{}", architecture_.name, field);
    };
    if (stored == Stored::key_rows)
      if (const auto heads = metadata_.find_integer(
              key("attention.head_count_kv"), 1, limits::heads))
        return *heads;
    return metadata_.integer(key("attention.head_count"), 1, limits::heads);
  }

  void check_rows(
      const TensorInfo& tensor,
      const std::string& gguf_name,
      int64_t heads) const {
    const int64_t rows = tensor.shape.empty() ? 0 : tensor.shape.front();
    if (rows > 0 && rows % (2 * heads) == 0) return;
    metadata_.bad(
        "{} of {} has shape {}, its rows are not {} even heads",
        gguf_name,
        metadata_.name(),
        shown(tensor.shape),
        heads);
  }

  const GgufMetadata& metadata_;
  const GgufArchitecture& architecture_;
};

}  // namespace

GgufCheckpoint to_checkpoint(const Gguf& gguf) {
  const GgufMetadata metadata(gguf);
  const GgufArchitecture& architecture = find_architecture(gguf, metadata);
  GgufCheckpoint result;
  check_keys(gguf, metadata, architecture);
  result.config = make_config(gguf, metadata, architecture);
  const Renamer renamer(metadata, architecture);
  std::set<std::string> names;
  for (const TensorInfo& tensor : gguf.tensors()) {
    if (is_in_config(tensor.name)) continue;
    result.tensors.push_back(renamer.rename(tensor));
    result.tensors.back().file = &gguf.file_of(tensor);
    const std::string& name = result.tensors.back().info.name;
    if (!names.insert(name).second)
      metadata.bad(
          "{} holds {} twice, once under the name {}",
          metadata.name(),
          name,
          tensor.name);
  }
  return result;
}

}  // namespace mlxterp
