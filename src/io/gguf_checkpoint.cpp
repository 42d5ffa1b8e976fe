#include "io/gguf_checkpoint.h"

#include <algorithm>
#include <array>
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
#include "io/gguf_rotation.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

/** A name taken apart: blk.3.attn_q.weight. */
struct TensorName {
  std::optional<int64_t> block;
  std::string_view part;
  std::string_view suffix;  ///< With its point; empty where there is none.
};

TensorName take_apart(std::string_view name) {
  TensorName result;
  constexpr std::string_view prefix = "blk.";
  if (name.starts_with(prefix)) {
    const auto rest = name.substr(prefix.size());
    const auto digits = rest.substr(0, rest.find('.'));
    int64_t block = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), block);
    const bool canonical = error == std::errc() &&
                           end == digits.data() + digits.size() &&
                           std::to_string(block) == digits && block >= 0;
    if (canonical && digits.size() + 1 < rest.size()) {
      result.block = block;
      name = rest.substr(digits.size() + 1);
    }
  }
  const size_t point = name.rfind('.');
  result.part = name.substr(0, point);
  if (point != name.npos) result.suffix = name.substr(point);
  return result;
}

/** Renames the tensors of one file. */
class Renamer {
 public:
  Renamer(const GgufMetadata& metadata, const GgufArchitecture& architecture)
      : metadata_(metadata), architecture_(architecture) {}

  /** Under the names of the checkpoint: itself, or its parts. */
  std::vector<RenamedTensor> rename(TensorInfo tensor) const {
    const std::string gguf_name = tensor.name;
    const TensorName name = take_apart(gguf_name);
    const auto* found = find_renaming(
        architecture_, name.block.has_value(), name.part, name.suffix);
    // What has no name there keeps its own; the model says whether it minds.
    if (!found) return {{std::move(tensor)}};
    const bool whole = found->gguf.ends_with(name.suffix);
    tensor.name = fmt::format(
        "{}{}{}",
        name.block ? prefix(*name.block) : "",
        found->checkpoint,
        whole ? "" : name.suffix);
    const Stored stored = found->stored;
    if (stored == Stored::q_k_v || stored == Stored::delta_q_k_v)
      return parts_of(tensor, gguf_name, name, stored);
    RenamedTensor renamed{std::move(tensor)};
    if (stored == Stored::query_rows || stored == Stored::key_rows) {
      const int64_t heads = stored == Stored::key_rows
                                ? key_heads(name.block.value_or(0))
                                : query_heads();
      check_rows(renamed.info, gguf_name, heads);
      renamed.change.interleaved_heads = heads;
    }
    renamed.change.one_added =
        stored == Stored::one_added && name.suffix == ".weight";
    renamed.change.log_of_negative = stored == Stored::log_of_negative ||
                                     stored == Stored::tiled_log_of_negative;
    renamed.change.tiled = tiled(stored);
    auto& shape = renamed.info.shape;
    check_tiled(renamed, gguf_name);
    if (stored == Stored::flat || stored == Stored::log_of_negative)
      shape = {static_cast<int64_t>(count_numbers(shape).value_or(0))};
    if (stored == Stored::transposed && shape.size() == 2) {
      renamed.change.transposed = true;
      std::swap(shape[0], shape[1]);
    }
    return {std::move(renamed)};
  }

  /** What the metadata has of each of so many blocks. */
  std::vector<RenamedTensor> numbers(int64_t blocks) const {
    std::vector<RenamedTensor> all;
    for (const auto& [name, checkpoint, stored] : architecture_.numbers) {
      const std::string key(name);
      const auto* values =
          metadata_.find<std::vector<double>>(key, "a list of floats");
      if (!values || std::cmp_not_equal(values->size(), blocks))
        metadata_.bad(
            "{} has {} numbers in {}, one for each of its {} blocks is needed",
            metadata_.name(),
            values ? values->size() : 0,
            key,
            blocks);
      for (int64_t i = 0; i < blocks; ++i) {
        RenamedTensor& one = all.emplace_back();
        one.info.name = fmt::format("{}{}", prefix(i), checkpoint);
        one.info.type = "F32";
        one.info.shape = {1};
        one.info.bytes = sizeof(float);
        one.change.number =
            static_cast<float>((*values)[static_cast<size_t>(i)]);
      }
    }
    return all;
  }

 private:
  std::string prefix(int64_t block) const {
    return fmt::format("{}.{}.", architecture_.layers, block);
  }

  std::string key(std::string_view field) const {
    return fmt::format("{}.{}", architecture_.name, field);
  }

  int64_t query_heads() const {
    return metadata_.integer(key("attention.head_count"), 1, limits::heads);
  }

  // The config was made of the same numbers, which were held against limits.
  int64_t key_heads(int64_t block) const {
    const auto field = key("attention.head_count_kv");
    if (const auto* each = metadata_.find_any<std::vector<int64_t>>(field)) {
      const auto at = static_cast<size_t>(block);
      return at < each->size() && (*each)[at] > 0 ? (*each)[at] : 1;
    }
    return metadata_.find_integer(field, 1, limits::heads)
        .value_or(query_heads());
  }

  int64_t delta_size(std::string_view field) const {
    return metadata_.integer(key(field), 1, limits::d_mlp);
  }

  TiledHeads tiled(Stored stored) const {
    const bool tail = stored == Stored::tiled_tail;
    const bool columns = stored == Stored::tiled_columns;
    if (!tail && !columns && stored != Stored::tiled_rows &&
        stored != Stored::tiled_log_of_negative)
      return {};
    const auto groups = delta_size("ssm.group_count");
    const auto heads = delta_size("ssm.time_step_rank");
    if (heads % groups != 0)
      metadata_.bad(
          "{} has {} heads of values for {} key heads, not a multiple",
          metadata_.name(),
          heads,
          groups);
    const auto keys = 2 * groups * delta_size("ssm.state_size");
    return {groups, heads / groups, tail ? keys : 0, columns};
  }

  void check_tiled(
      const RenamedTensor& tensor, const std::string& gguf_name) const {
    const auto& [groups, each, first, columns] = tensor.change.tiled;
    if (groups == 0) return;
    const auto& shape = tensor.info.shape;
    const int64_t size = shape.empty() ? 0
                         : columns     ? shape.back()
                                       : shape.front();
    if (size > first && (size - first) % (groups * each) == 0) return;
    metadata_.bad(
        "{} of {} has shape {}, its {} behind the first {} are not {} heads",
        gguf_name,
        metadata_.name(),
        shown(shape),
        columns ? "columns" : "rows",
        first,
        groups * each);
  }

  // How many rows each part has of so many.
  std::array<int64_t, 3> rows_of_parts(
      Stored stored, int64_t block, int64_t rows) const {
    if (stored == Stored::delta_q_k_v) {
      const auto keys =
          delta_size("ssm.group_count") * delta_size("ssm.state_size");
      return {keys, keys, delta_size("ssm.inner_size")};
    }
    const int64_t heads = query_heads(), kv_heads = key_heads(block);
    const int64_t width = rows / (heads + 2 * kv_heads);
    return {heads * width, kv_heads * width, kv_heads * width};
  }

  // The rows of each are rows of the file.
  std::vector<RenamedTensor> parts_of(
      const TensorInfo& whole,
      const std::string& gguf_name,
      const TensorName& name,
      Stored stored) const {
    const int64_t rows = whole.shape.empty() ? 0 : whole.shape.front();
    const auto [q, k, v] = rows_of_parts(stored, name.block.value_or(0), rows);
    if (rows == 0 || q + k + v != rows)
      metadata_.bad(
          "{} of {} has shape {}, its rows are not those of queries, keys and "
          "values, {}, {} and {}",
          gguf_name,
          metadata_.name(),
          shown(whole.shape),
          q,
          k,
          v);
    const uint64_t row_bytes = whole.bytes / static_cast<uint64_t>(rows);
    const std::string path =
        whole.name.substr(0, whole.name.size() - name.suffix.size());
    std::vector<RenamedTensor> parts;
    uint64_t offset = whole.offset;
    for (const auto& [part, own_rows] :
         {std::pair{'q', q}, {'k', k}, {'v', v}}) {
      TensorInfo& own = parts.emplace_back(RenamedTensor{whole}).info;
      own.name = fmt::format("{}.{}_proj{}", path, part, name.suffix);
      own.shape.front() = own_rows;
      own.offset = offset;
      own.bytes = row_bytes * static_cast<uint64_t>(own_rows);
      offset += own.bytes;
    }
    return parts;
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
  const auto add = [&](RenamedTensor renamed, std::string_view from) {
    if (!names.insert(renamed.info.name).second)
      metadata.bad(
          "{} holds {} twice, once under the name {}",
          metadata.name(),
          renamed.info.name,
          from);
    result.tensors.push_back(std::move(renamed));
  };
  const auto blocks = metadata.integer(
      fmt::format("{}.block_count", architecture.name), 1, limits::layers);
  const auto layers = blocks - draft_blocks(metadata, architecture);
  for (const TensorInfo& tensor : gguf.tensors()) {
    if (is_in_config(tensor.name)) continue;
    const auto block = take_apart(tensor.name).block;
    if (block && *block >= layers && *block < blocks) {
      auto& drafts = result.drafts;
      if (!drafts) drafts.emplace(LeftOut{"draft"});
      ++drafts->tensors;
      drafts->bytes += tensor.bytes;
      continue;
    }
    for (auto& renamed : renamer.rename(tensor)) {
      renamed.file = &gguf.file_of(tensor);
      add(std::move(renamed), tensor.name);
    }
  }
  for (auto& number : renamer.numbers(blocks))
    add(std::move(number), "of a list");
  return result;
}

}  // namespace mlxterp
