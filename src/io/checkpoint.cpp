#include "mlxterp/io/checkpoint.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

#include "core/fail.h"
#include "io/decode.h"
#include "io/gguf_affine.h"
#include "io/gguf_checkpoint.h"
#include "io/input_file.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "io/quantized.h"
#include "io/shard_index.h"
#include "io/text_tower.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/gguf.h"
#include "mlxterp/io/safetensors.h"

namespace mlxterp {

namespace fs = std::filesystem;
namespace mx = mlx::core;
using nlohmann::json;

struct Checkpoint::Files {
  /** Where one tensor lies. */
  struct Source {
    const InputFile* file;
    GgufChange change = {};
    std::shared_ptr<const QuantizedMatrix> packed = nullptr;
  };

  fs::path path;
  std::string config;
  std::vector<TensorInfo> tensors;
  std::vector<Source> sources;  // of `tensors`, in their order
  std::unordered_map<std::string, size_t> by_name;
  std::optional<Gguf> gguf;
  std::vector<Safetensors> shards;
  std::optional<uint64_t> total_size;  // what the index says
  std::vector<LeftOut> left_out;

  void add(TensorInfo tensor, Source source) {
    by_name.emplace(tensor.name, tensors.size());
    tensors.push_back(std::move(tensor));
    sources.push_back(std::move(source));
  }
};

namespace {

constexpr std::string_view opening = "Checkpoint::open";
constexpr std::string_view config_name = "config.json";
constexpr std::string_view single_name = "model.safetensors";
constexpr std::string_view index_name = "model.safetensors.index.json";

bool is_pickle(const fs::path& path) {
  const auto extension = path.extension();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" ||
         extension == ".pkl" || extension == ".ckpt" || extension == ".npz";
}

json read_config(const ModelFolder& folder, std::string& text) {
  if (!folder.has(config_name)) {
    std::string hint;
    for (const auto& name : folder.names())
      if (fs::path(name).extension() == ".gguf")
        hint = fmt::format(" (it holds {})", printable(name));
    fail(
        ErrorKind::bad_data,
        "[{}] {} has no config.json{}; name a Hugging Face model folder or a "
        ".gguf file",
        opening,
        quoted(folder.path()),
        hint);
  }
  const auto path = folder.file(config_name);
  text = with_quoted_infinities(read_text(path, limits::config_bytes, opening));
  json config = parse_json(text, opening, quoted(path));
  if (!config.is_object())
    fail(
        ErrorKind::bad_data,
        "[{}] {} is a JSON {}, not an object; download it again",
        opening,
        quoted(path),
        config.type_name());
  return config;
}

// A file called like a shard that is none would be silently left out.
void check_strays(
    const ModelFolder& folder, const std::set<std::string>& shards) {
  for (const auto& name : folder.names()) {
    const bool shard = name.starts_with("model-") &&
                       fs::path(name).extension() == ".safetensors";
    if ((shard || name == single_name) && !shards.contains(name))
      fail(
          ErrorKind::bad_data,
          "[{}] {} holds {}, which is not part of the model ({}); remove it or "
          "download the model again",
          opening,
          quoted(folder.path()),
          printable(name),
          folder.has(index_name) ? "the index does not name it"
                                 : "there is no index");
  }
}

[[noreturn]] void fail_no_weights(const ModelFolder& folder) {
  std::string pickle;
  std::string other;
  for (const auto& name : folder.names()) {
    if (is_pickle(name)) pickle = printable(name);
    if (fs::path(name).extension() == ".safetensors") other = printable(name);
  }
  if (!other.empty())
    fail(
        ErrorKind::bad_data,
        "[{}] {} has no model.safetensors and no {}, but {}; rename it or "
        "download the missing files",
        opening,
        quoted(folder.path()),
        index_name,
        other);
  if (!pickle.empty())
    fail(
        ErrorKind::bad_data,
        "[{}] {} has its weights as a pickle ({}), which can run any code when "
        "read; convert to safetensors",
        opening,
        quoted(folder.path()),
        pickle);
  fail(
      ErrorKind::bad_data,
      "[{}] {} has no weights; put model.safetensors or {} and its shards "
      "there",
      opening,
      quoted(folder.path()),
      index_name);
}

void check_shard(
    const Safetensors& shard, const std::string& name, const WeightMap& map) {
  for (const TensorInfo& tensor : shard.tensors()) {
    const auto found = map.find(tensor.name);
    if (found != map.end() && found->second == name) continue;
    fail(
        ErrorKind::bad_data,
        "[{}] {} holds {}, which the index {}; download the model again",
        opening,
        quoted(shard.file().path()),
        printable(tensor.name),
        found == map.end()
            ? "does not name"
            : fmt::format("says is in {}", printable(found->second)));
  }
}

void check_all_there(const Checkpoint::Files& files, const WeightMap& map) {
  for (const auto& [tensor, shard] : map)
    if (!files.by_name.contains(tensor))
      fail(
          ErrorKind::bad_data,
          "[{}] the index of {} says that {} is in {}, which does not hold it; "
          "download the model again",
          opening,
          quoted(files.path),
          printable(tensor),
          printable(shard));
}

void add_shard(
    const ModelFolder& folder,
    const std::string& name,
    const WeightMap* map,
    Checkpoint::Files& files) {
  if (!folder.has(name))
    fail(
        ErrorKind::bad_data,
        "[{}] {} lacks the shard {} that its index names; download it",
        opening,
        quoted(folder.path()),
        printable(name));
  files.shards.push_back(Safetensors::open(folder.file(name)));
  const Safetensors& shard = files.shards.back();
  if (map) check_shard(shard, name, *map);
  for (const TensorInfo& tensor : shard.tensors())
    files.add(tensor, {&shard.file()});
}

void add_shards(const ModelFolder& folder, Checkpoint::Files& files) {
  if (folder.has(index_name)) {
    const ShardIndex index = read_shard_index(folder.file(index_name), opening);
    const WeightMap& map = index.map;
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : map)
      shards.insert(shard);
    check_strays(folder, shards);
    for (const auto& shard : shards)
      add_shard(folder, shard, &map, files);
    check_all_there(files, map);
    files.total_size = index.total_size;
    return;
  }
  if (folder.has(single_name)) check_strays(folder, {std::string(single_name)});
  if (!folder.has(single_name)) fail_no_weights(folder);
  add_shard(folder, std::string(single_name), nullptr, files);
}

// MLX's packed matrices take the place of their parts.
void join_packed(const json& config, Checkpoint::Files& files) {
  std::vector<TensorInFile> all;
  for (size_t i = 0; i < files.tensors.size(); ++i)
    all.push_back({files.tensors[i], files.sources[i].file});
  std::unordered_map<std::string, std::shared_ptr<QuantizedMatrix>> part_of;
  for (auto& matrix : find_quantized(files.path, config, all)) {
    const auto shared = std::make_shared<QuantizedMatrix>(std::move(matrix));
    part_of.emplace(shared->weight.info.name, shared);
    part_of.emplace(shared->scales.info.name, shared);
    for (const auto* part : {&shared->biases, &shared->global_scale})
      if (*part) part_of.emplace((*part)->info.name, shared);
  }
  files.tensors.clear();
  files.sources.clear();
  files.by_name.clear();
  for (auto& [info, file] : all) {
    const auto found = part_of.find(info.name);
    if (found == part_of.end())
      files.add(std::move(info), {file});
    else if (const auto& matrix = found->second;
             info.name == matrix->weight.info.name)
      files.add(matrix->info, {file, {}, matrix});
  }
}

// Of a checkpoint that holds more, the language model alone goes on, under the
// names that it has by itself.
void keep_text_tower(const json& config, Checkpoint::Files& files) {
  std::vector<std::string> names;
  for (const auto& tensor : files.tensors)
    names.push_back(tensor.name);
  const TextTower tower(config, names, quoted(files.path));
  if (tower.nested()) files.config = tower.config().dump();
  auto tensors = std::exchange(files.tensors, {});
  auto sources = std::exchange(files.sources, {});
  files.by_name.clear();
  for (size_t i = 0; i < tensors.size(); ++i) {
    auto& tensor = tensors[i];
    if (const auto part = tower.part(tensor.name); !part.empty()) {
      auto found = std::ranges::find(files.left_out, part, &LeftOut::part);
      if (found == files.left_out.end())
        found = files.left_out.insert(found, {std::string(part)});
      ++found->tensors;
      found->bytes += tensor.bytes;
      continue;
    }
    tensor.name = tower.name(tensor.name);
    files.add(std::move(tensor), std::move(sources[i]));
  }
}

void open_folder(Checkpoint::Files& files) {
  const ModelFolder folder(files.path, opening);
  const json config = read_config(folder, files.config);
  add_shards(folder, files);
  join_packed(config, files);
  keep_text_tower(config, files);
}

void open_gguf(Checkpoint::Files& files) {
  files.gguf = Gguf::open(files.path);
  GgufCheckpoint model = to_checkpoint(*files.gguf);
  files.config = std::move(model.config);
  for (auto& tensor : model.tensors)
    files.add(std::move(tensor.info), {tensor.file, tensor.change});
  if (model.drafts) files.left_out.push_back(*model.drafts);
}

void check_file_kind(const fs::path& path) {
  if (is_pickle(path))
    fail(
        ErrorKind::bad_data,
        "[{}] {} is a pickle, which can run any code when read; convert to "
        "safetensors",
        opening,
        quoted(path));
  if (path.extension() == ".safetensors")
    fail(
        ErrorKind::bad_data,
        "[{}] {} is weights without a config.json; name the folder that holds "
        "both",
        opening,
        quoted(path));
}

using Warnings = std::vector<std::string>;

void check_total_size(const Checkpoint::Files& files, Warnings& warnings) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : files.tensors)
    bytes += tensor.bytes;
  for (const LeftOut& part : files.left_out)
    bytes += part.bytes;
  if (files.total_size.value_or(bytes) != bytes)
    warnings.push_back(fmt::format(
        "the index of {} says that its tensors have {} bytes, they have {}",
        quoted(files.path),
        *files.total_size,
        bytes));
}

bool only_zeros(const InputFile& file, const TensorInfo& tensor) {
  constexpr uint64_t step = 1u << 20;
  std::vector<std::byte> bytes;
  for (uint64_t at = 0; at < tensor.bytes; at += bytes.size()) {
    // Most tensors tell by their first bytes.
    bytes.resize(std::min(tensor.bytes - at, at == 0 ? telling_bytes : step));
    file.read(tensor.offset + at, bytes, "Checkpoint::warnings");
    const bool zeros = std::all_of(bytes.begin(), bytes.end(), [](std::byte b) {
      return b == std::byte{};
    });
    if (!zeros) return false;
  }
  return true;
}

// What a placeholder, or weights that were never trained, look like. A vector
// may well be zero: many a bias is.
void check_zeros(const Checkpoint::Files& files, Warnings& warnings) {
  constexpr size_t shown = 3;
  size_t matrices = 0, zeros = 0;
  std::string names;
  for (size_t i = 0; i < files.tensors.size(); ++i) {
    const TensorInfo& tensor = files.tensors[i];
    // The bytes of a packed matrix lie in several places.
    if (tensor.shape.size() < 2 || tensor.bytes == 0 || files.sources[i].packed)
      continue;
    ++matrices;
    if (!only_zeros(*files.sources[i].file, tensor)) continue;
    if (zeros < shown)
      names += (zeros ? ", " : "") + printable(tensor.name);
    else if (zeros == shown)
      names += ", ...";
    ++zeros;
  }
  if (zeros > 0)
    warnings.push_back(fmt::format(
        "{} of the {} matrices in {} hold nothing but zeros ({})",
        zeros,
        matrices,
        quoted(files.path),
        names));
}

// Whether a code of what is packed stands for NaN.
bool holds_nan(const Packed& packed) {
  const auto any = [](const mx::array& codes, uint8_t mask, uint8_t nan) {
    const auto masked = mx::bitwise_and(codes, mx::array(mask, mx::uint8));
    return mx::any(mx::equal(masked, mx::array(nan, mx::uint8))).item<bool>();
  };
  if (packed.mode == "affine") return false;
  if (packed.mode == "nvfp4") return any(packed.scales, 127, 127);
  return any(packed.scales, 255, 255) ||
         (packed.bits == 8 && any(mx::view(packed.words, mx::uint8), 127, 127));
}

// As the checkpoint has its heads; of a packed matrix as many numbers as a word
// or a scale stands for are one.
mx::array untiled(const mx::array& x, const TiledHeads& heads) {
  if (heads.groups == 0 || heads.each == 1) return x;
  const int axis = heads.columns ? static_cast<int>(x.ndim()) - 1 : 0;
  const auto first = static_cast<int>(heads.first);
  const auto parts = mx::split(x, mx::Shape{first}, axis);
  const auto& tail = parts.back();
  auto shape = tail.shape();
  const auto groups = static_cast<int>(heads.groups),
             each = static_cast<int>(heads.each);
  shape[static_cast<size_t>(axis)] /= groups * each;
  shape.insert(shape.begin() + axis, {each, groups});
  const auto own = mx::reshape(
      mx::swapaxes(mx::reshape(tail, shape), axis, axis + 1), tail.shape());
  return mx::contiguous(
      first > 0 ? mx::concatenate({parts.front(), own}, axis) : own);
}

// Whether what is packed together is of one head's columns alone.
bool packs_whole_heads(const TensorInfo& tensor, const TiledHeads& heads) {
  if (heads.groups == 0 || !heads.columns) return true;
  const int64_t together = find_encoding(tensor.type)->block;
  return tensor.shape.back() / (heads.groups * heads.each) % together == 0;
}

[[noreturn]] void fail_not_finite(
    const TensorInfo& tensor, uint64_t count, uint64_t size) {
  fail(
      ErrorKind::bad_data,
      "[Checkpoint::read] {} holds {} values of {} that are NaN or infinite; "
      "the file is damaged or was never fit for use",
      printable(tensor.name),
      count,
      size);
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& path) {
  auto files = std::make_shared<Files>();
  files->path = path;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    open_folder(*files);
  } else {
    check_file_kind(path);
    open_gguf(*files);
  }
  Checkpoint result;
  result.files_ = std::move(files);
  return result;
}

const fs::path& Checkpoint::path() const {
  return files_->path;
}

const std::string& Checkpoint::config() const {
  return files_->config;
}

const std::vector<TensorInfo>& Checkpoint::tensors() const {
  return files_->tensors;
}

const std::vector<LeftOut>& Checkpoint::left_out() const {
  return files_->left_out;
}

std::vector<std::string> Checkpoint::warnings() const {
  Warnings warnings;
  check_total_size(*files_, warnings);
  check_zeros(*files_, warnings);
  return warnings;
}

const TensorInfo* Checkpoint::find(const std::string& name) const {
  const auto found = files_->by_name.find(name);
  return found == files_->by_name.end() ? nullptr
                                        : &files_->tensors[found->second];
}

mx::array Checkpoint::read(
    const TensorInfo& tensor,
    std::optional<mx::Dtype> dtype,
    bool allow_not_finite,
    TensorMemory* memory) const {
  const auto found = files_->by_name.find(tensor.name);
  if (found == files_->by_name.end())
    fail(
        ErrorKind::unknown_name,
        "[Checkpoint::read] {} has no tensor {}; tensors() lists them",
        quoted(files_->path),
        printable(tensor.name));
  const auto& source = files_->sources[found->second];
  const GgufChange& change = source.change;
  TensorInfo own = files_->tensors[found->second];
  if (change.transposed) std::swap(own.shape[0], own.shape[1]);
  // What is made anew below would leave its first memory taken.
  const bool remade = change.one_added || change.log_of_negative ||
                      change.transposed || change.tiled.groups > 0;
  const DecodeOptions options{
      "Checkpoint::read",
      dtype,
      change.interleaved_heads,
      remade ? nullptr : memory};
  const auto decode_as = [&](const DecodeOptions& how) {
    if (change.number)
      return decode_made(
          own, mx::float32, how, [&](size_t, size_t n, float* out) {
            std::fill_n(out, n, *change.number);
          });
    return source.packed ? dequantize(*source.packed, how)
                         : decode(*source.file, own, how);
  };
  DecodeOptions wide = options;
  wide.dtype = mx::float32;
  wide.memory = nullptr;
  Decoded decoded = decode_as(options);
  if (decoded.not_finite > 0 && !allow_not_finite) {
    // Was it so in the file, or only made so by a narrow float16?
    const uint64_t in_file = decode_as(wide).not_finite;
    if (in_file > 0) fail_not_finite(own, in_file, decoded.values.size());
    fail(
        ErrorKind::bad_data,
        "[Checkpoint::read] {} holds {} values above 65504, the largest "
        "float16; read it as float32 or bfloat16",
        printable(own.name),
        decoded.not_finite);
  }
  auto values = decoded.values;
  // Near 1 a narrow type has lost what the difference would show.
  if (change.one_added)
    values = mx::astype(
        mx::subtract(decode_as(wide).values, mx::array(1.0f)), values.dtype());
  if (change.log_of_negative) {
    values = mx::astype(
        mx::log(mx::negative(decode_as(wide).values)), values.dtype());
    if (!allow_not_finite && !mx::all(mx::isfinite(values)).item<bool>())
      fail(
          ErrorKind::bad_data,
          "[Checkpoint::read] {} is not negative throughout, as what its file "
          "holds in its place must be; convert the model again or take another "
          "file",
          printable(own.name));
  }
  values = untiled(values, change.tiled);
  if (change.transposed) values = mx::contiguous(mx::transpose(values));
  values.eval();
  return values;
}

bool Checkpoint::is_packed(const TensorInfo& tensor) const {
  const auto found = files_->by_name.find(tensor.name);
  if (found == files_->by_name.end()) return false;
  const auto& source = files_->sources[found->second];
  const auto& own = files_->tensors[found->second];
  return source.packed || (own.shape.size() >= 2 && is_affine(own.type) &&
                           !source.change.transposed &&
                           packs_whole_heads(own, source.change.tiled));
}

std::optional<Packed> Checkpoint::read_packed(
    const TensorInfo& tensor, bool allow_not_finite) const {
  if (!is_packed(tensor)) return std::nullopt;
  constexpr std::string_view caller = "Checkpoint::read_packed";
  const size_t place = files_->by_name.at(tensor.name);
  const auto& source = files_->sources[place];
  if (!source.packed) {
    auto made = affine_from_gguf(
        *source.file,
        files_->tensors[place],
        source.change.interleaved_heads,
        caller);
    // Whoever reads the numbers says where they are not finite.
    if (!made && !allow_not_finite) read(tensor, mx::float32);
    if (!made) return made;
    return made->each(
        [&](const auto& x) { return untiled(x, source.change.tiled); });
  }
  const auto& packed = *source.packed;
  uint64_t not_finite = 0;
  const auto part = [&](const TensorInFile& stored) {
    const auto decoded = decode(*stored.file, stored.info, {.caller = caller});
    stored.file->check_unchanged(caller);
    not_finite += decoded.not_finite;
    return decoded.values;
  };
  Packed out{part(packed.weight), part(packed.scales)};
  if (packed.biases) out.biases = part(*packed.biases);
  if (packed.global_scale) out.global_scale = part(*packed.global_scale);
  out.group = packed.packing.group;
  out.bits = packed.packing.bits;
  out.mode = packed.packing.name();
  // Whoever reads the numbers says which they are.
  const bool finite = not_finite == 0 && !holds_nan(out);
  if (!finite && !allow_not_finite) read(tensor, mx::float32);
  return out;
}

const Gguf* Checkpoint::gguf() const {
  return files_->gguf ? &*files_->gguf : nullptr;
}

}  // namespace mlxterp
