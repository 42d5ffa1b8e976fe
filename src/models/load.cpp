#include "mlxterp/models/load.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "core/fail.h"
#include "core/machine.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/io/tensor_memory.h"
#include "mlxterp/models/family.h"
#include "models/loadable.h"
#include "models/original_name.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Shape = std::vector<int64_t>;

std::string listed(const std::vector<std::string>& names) {
  constexpr size_t shown = 10;
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), shown); ++i)
    out += fmt::format("{}{}", i ? ", " : "", printable(names[i]));
  if (names.size() > shown) out += ", ...";
  return out;
}

// Buffers that some exporters write and that the config says already.
bool derived(const std::string& name) {
  for (const auto* end :
       {"rotary_emb.inv_freq",
        ".attn.bias",
        ".attn.masked_bias",
        ".attn.causal_mask",
        ".attention.bias",
        ".attention.masked_bias",
        ".attention.rope.inv_freq"})
    if (name.ends_with(end)) return true;
  return false;
}

Shape shape_of(const mx::array& slot) {
  return {slot.shape().begin(), slot.shape().end()};
}

DecoderConfig config_of(const Checkpoint& checkpoint, const Family& family) {
  auto config = family.configure(checkpoint.config());
  if (family.tell) family.tell(config, checkpoint);
  return config;
}

// A parameter of the Decoder and what it is made from.
struct Slot {
  mx::array* value;
  nn::Matrix* matrix = nullptr;  // where it may be packed
  /** One tensor, or one for each expert; empty until the first is found. */
  std::vector<const TensorInfo*> from = {};
  /** The values of the latter, to be stacked; else empty. */
  std::vector<mx::array> stack = {};
};

// A tensor of the checkpoint and the slots it fills.
struct Job {
  const TensorInfo* tensor;
  std::vector<Slot*> slots;
  size_t index = 0;  // in a stack
  bool transposed = false;
  int blocks = 1;  // of a fused one,
  bool stacked = false;
};

// A new Decoder draws its parameters from MLX's global random state, which
// makes a chain of keys, one for each, that nothing evaluates: it would hold
// memory for ever, and what is drawn later would depend on what was loaded.
class KeepRandomState {
 public:
  KeepRandomState() = default;
  ~KeepRandomState() { mx::random::KeySequence::default_() = before_; }
  KeepRandomState(const KeepRandomState&) = delete;
  KeepRandomState& operator=(const KeepRandomState&) = delete;

 private:
  mx::random::KeySequence before_ = mx::random::KeySequence::default_();
};

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const Family& family)
      : checkpoint_(checkpoint),
        family_(family),
        decoder_(std::make_shared<Decoder>(config_of(checkpoint, family))) {
    for (const auto& [path, parameter] : decoder_->mutable_parameters())
      slots_.emplace(path, Slot{parameter});
    for (const auto& [path, matrix] : decoder_->mutable_matrices())
      slots_.at(path).matrix = matrix;
  }

  // Keys and values that checkpoints keep where another layer's are read.
  bool unread(const std::string& path) const {
    const auto& layers = decoder_->layers;
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto* attn = layers[i]->attention();
      if (!attn || attn->config().own_kv) continue;
      for (const auto* part : {"k_proj", "v_proj", "k_norm", "v_norm"})
        if (path.starts_with(fmt::format("layers.{}.attn.{}.", i, part)))
          return true;
    }
    return false;
  }

  // Everything is checked before the first weight is read.
  void plan() {
    std::vector<std::string> extra;
    for (const auto& tensor : checkpoint_.tensors()) {
      const auto path = rename(tensor.name, family_.renames);
      if (one(tensor, path) || several(tensor, path) || part(tensor, path))
        continue;
      if (path == "unembed.weight" && decoder_->config().tied)
        fill_once(second_unembedding_, tensor, path);
      else if (!derived(tensor.name) && !unread(path))
        extra.push_back(tensor.name);
    }
    const auto missing = missing_tensors();
    const auto file = printable(checkpoint_.path().string());
    if (const auto prefix = prefix_of(missing); !prefix.empty())
      fail(
          ErrorKind::bad_data,
          "[load] the tensors of {} are under '{}', but its config.json has no "
          "text_config: only a config that nests that of its language model, "
          "under 'language_model.' or 'text_model.', has such a prefix; give "
          "it the config.json that belongs to these weights",
          file,
          printable(prefix));
    if (!missing.empty())
      fail(
          ErrorKind::bad_data,
          "[load] {} lacks {} tensor(s) that its config asks for: {}",
          file,
          missing.size(),
          listed(missing));
    if (!extra.empty())
      fail(
          ErrorKind::bad_data,
          "[load] {} holds {} tensor(s) that a {} model of this config has no "
          "place for: {}",
          file,
          extra.size(),
          family_.model_type,
          listed(extra));
  }

  std::shared_ptr<Decoder> read(const LoadOptions& options) {
    const auto& progress = options.progress;
    double total = 0, done = 0;
    for (const auto& job : jobs_)
      total += static_cast<double>(job.tensor->bytes);
    for (const auto& job : jobs_) {
      if (progress) progress("Reading weights", done / total);
      if (!keep_packed(job, options)) fill(job, value_of(job, options));
      done += static_cast<double>(job.tensor->bytes);
    }
    for (auto& [path, slot] : slots_) {
      if (!slot.stack.empty()) {
        *slot.value = mx::stack(slot.stack);
        slot.value->eval();
        slot.stack.clear();
      }
      if (options.half && options.dtype && slot.matrix &&
          !slot.matrix->is_packed())
        slot.matrix->read_as(*options.dtype);
    }
    if (second_unembedding_) check_tie(options);
    if (progress) progress("Reading weights", 1.0);
    return decoder_;
  }

 private:
  mx::array value_of(const Job& job, const LoadOptions& options) {
    const bool half = keeps_half(*job.tensor, options) &&
                      std::ranges::all_of(job.slots, [](const auto* slot) {
                        return slot->matrix;
                      });
    // What is split, transposed or stacked lies elsewhere in the end.
    const bool stays = on_cpu_ && job.slots.size() == 1 && !job.transposed &&
                       job.slots.front()->stack.empty();
    return checkpoint_.read(
        *job.tensor,
        half ? std::nullopt : options.dtype,
        options.allow_not_finite,
        stays ? &memory_ : nullptr);
  }

  Slot* find(const std::string& path) {
    const auto found = slots_.find(path);
    return found == slots_.end() ? nullptr : &found->second;
  }

  // As the checkpoint would call them; a fused one once.
  std::vector<std::string> missing_tensors() const {
    const OriginalNames names(checkpoint_, family_);
    std::set<std::string> all;
    for (const auto& [path, slot] : slots_) {
      if (slot.from.empty()) all.insert(names.of(path));
      for (size_t i = 0; i < slot.from.size(); ++i)
        if (!slot.from[i])
          all.insert(
              slot.from.size() > 1 ? names.of_part(path, i) : names.of(path));
    }
    return {all.begin(), all.end()};
  }

  // What stands before the name of every missing tensor in the file.
  std::string prefix_of(const std::vector<std::string>& missing) const {
    if (missing.empty()) return "";
    std::set<std::string_view> names;
    for (const auto& tensor : checkpoint_.tensors())
      names.insert(tensor.name);
    const auto end = "." + missing.front();
    const auto first = std::ranges::find_if(
        names, [&](std::string_view name) { return name.ends_with(end); });
    if (first == names.end()) return "";
    const std::string prefix(
        first->substr(0, first->size() - missing.front().size()));
    const bool all = std::ranges::all_of(missing, [&](const auto& name) {
      return names.contains(prefix + name);
    });
    return all ? prefix : "";
  }

  // Which of two is meant, nobody can tell.
  static void fill_once(
      const TensorInfo*& place,
      const TensorInfo& tensor,
      const std::string& path) {
    if (place)
      fail(
          ErrorKind::bad_data,
          "[load] tensors '{}' and '{}' are both {}; remove one of them",
          printable(place->name),
          printable(tensor.name),
          path);
    place = &tensor;
  }

  static void fill_whole(
      Slot& slot, const TensorInfo& tensor, const std::string& path) {
    // Parts of a stack may have come before it.
    slot.from.resize(std::max<size_t>(slot.from.size(), 1));
    for (auto*& place : slot.from)
      fill_once(place, tensor, path);
  }

  // "layers.3.attn.o_proj.weight" is of the part "attn.o_proj".
  bool transposed(const TensorInfo& tensor, const std::string& path) const {
    if (const auto prefix = family_.already_transposed_prefix;
        !prefix.empty() && tensor.name.starts_with(prefix))
      return false;
    if (const auto suffix = family_.already_transposed_suffix;
        !suffix.empty() && tensor.name.ends_with(suffix))
      return false;
    return names_one(family_.transposed, path);
  }

  static bool names_one(
      std::span<const std::string_view> parts, const std::string& path) {
    return std::ranges::any_of(parts, [&](std::string_view part) {
      return path.ends_with(fmt::format(".{}.weight", part));
    });
  }

  void check_shape(
      const TensorInfo& tensor,
      const std::string& path,
      const Shape& own) const {
    auto expected = own;
    if (transposed(tensor, path) && expected.size() >= 2)
      std::swap(expected[expected.size() - 2], expected.back());
    if (tensor.shape == expected) return;
    // Of all heads in a row, where ours are one by one.
    if (names_one(family_.by_head, path) && own.size() == 2 &&
        tensor.shape == Shape{own[0] * own[1]})
      return;
    if (tensor.shape.size() == 3 && names_one(family_.by_head, path)) {
      const auto& by = tensor.shape;
      const bool turned = transposed(tensor, path);
      const Shape rows_of_all{by[0] * by[turned ? 2 : 1], by[turned ? 1 : 2]};
      if (rows_of_all == own) return;
    }
    if (tensor.shape.empty() && expected == Shape{1}) return;
    // A number of each expert's may be in a group, of which there is one.
    if (path.ends_with(".score_correction") &&
        tensor.shape == Shape{1, expected[0]})
      return;
    // Filters have an axis of channels besides, of which each feature has one.
    if (tensor.shape.size() == 3 && expected.size() == 2) {
      auto plain = tensor.shape;
      if (const auto one = std::find(plain.begin() + 1, plain.end(), 1);
          one != plain.end())
        plain.erase(one);
      if (plain == expected) return;
    }
    fail(
        ErrorKind::bad_data,
        "[load] tensor '{}' has shape ({}), but the config asks for {} ({})",
        printable(tensor.name),
        fmt::join(tensor.shape, ", "),
        path,
        fmt::join(expected, ", "));
  }

  bool one(const TensorInfo& tensor, const std::string& path) {
    auto* slot = find(path);
    if (!slot) return false;
    check_shape(tensor, path, shape_of(*slot->value));
    fill_whole(*slot, tensor, path);
    jobs_.push_back({&tensor, {slot}, 0, transposed(tensor, path)});
    return true;
  }

  // A fused tensor fills the slots of its parts.
  bool several(const TensorInfo& tensor, const std::string& path) {
    for (const auto& fused : family_.fused) {
      const auto at = path.find(fmt::format(".{}.", fused.part));
      if (at == path.npos) continue;
      const auto end = path.substr(at + 1 + fused.part.size());
      Job job{
          &tensor,
          {},
          0,
          transposed(tensor, path),
          fused.blocks,
          fused.stacked};
      if (fused.blocks_of)
        job.blocks = fused.blocks_of(*decoder_);
      else if (fused.blocks == Fused::per_kv_head)
        job.blocks = decoder_->config().n_kv_heads;
      const size_t axis = fused.stacked ? 1 : 0;  // of rows
      Shape whole;
      for (const auto into : fused.into) {
        auto* slot =
            find(fmt::format("{}.{}{}", path.substr(0, at), into, end));
        if (!slot) return false;
        const auto shape = shape_of(*slot->value);
        if (whole.empty())
          whole = shape;
        else
          whole[axis] += shape[axis];
        fill_whole(*slot, tensor, path);
        job.slots.push_back(slot);
      }
      check_shape(tensor, path, whole);
      jobs_.push_back(std::move(job));
      return true;
    }
    return false;
  }

  // One of a stack: layers.0.mlp.experts.3.up_proj.weight is number 3 of
  // layers.0.mlp.experts.up_proj.weight.
  bool part(const TensorInfo& tensor, const std::string& path) {
    // No path of a Decoder is deeper; each step is a look-up of its own.
    constexpr std::ptrdiff_t deepest = 16;
    if (std::ranges::count(path, '.') > deepest) return false;
    for (size_t begin = path.find('.'); begin != path.npos;
         begin = path.find('.', begin + 1)) {
      const auto end = path.find('.', begin + 1);
      if (end == path.npos) break;
      size_t index = 0;
      const auto parsed =
          std::from_chars(path.data() + begin + 1, path.data() + end, index);
      if (parsed.ec != std::errc() || parsed.ptr != path.data() + end) continue;
      auto* slot = find(path.substr(0, begin) + path.substr(end));
      if (!slot) continue;
      auto shape = shape_of(*slot->value);
      if (shape.empty() || index >= static_cast<size_t>(shape[0])) return false;
      const auto count = static_cast<size_t>(shape[0]);
      shape.erase(shape.begin());
      check_shape(tensor, path, shape);
      if (slot->from.empty()) {
        slot->from.resize(count);
        slot->stack.assign(count, mx::array(0));
      }
      // A whole one may have come before it.
      const size_t place = slot->stack.empty() ? 0 : index;
      fill_once(slot->from[place], tensor, path);
      jobs_.push_back({&tensor, {slot}, index});
      return true;
    }
    return false;
  }

  void fill(const Job& job, mx::array whole) {
    if (job.transposed && whole.ndim() >= 2)
      whole = mx::swapaxes(whole, -1, -2);
    if (job.slots.size() == 1) {
      auto value = job.transposed ? mx::contiguous(whole) : whole;
      const auto slot_shape = job.slots.front()->value->shape();
      if (value.ndim() == 0) value = mx::reshape(value, {1});
      const bool whole_slot = job.slots.front()->stack.empty();
      if (whole_slot && value.ndim() != slot_shape.size() &&
          slot_shape.size() <= 2)
        value = mx::reshape(value, slot_shape);
      value.eval();
      auto& slot = *job.slots.front();
      (slot.stack.empty() ? *slot.value : slot.stack[job.index]) = value;
      return;
    }
    for (size_t i = 0; i < job.slots.size(); ++i) {
      auto& slot = *job.slots[i]->value;
      slot = split(job, whole, i);
      slot.eval();
    }
  }

  // What one slot has of a fused tensor, whose last axis may be packed.
  static mx::array split(const Job& job, const mx::array& whole, size_t i) {
    const auto rows_of = [&](const mx::array& x) {
      return job.stacked ? x.shape(0) * x.shape(1) : x.shape(0);
    };
    const int blocks = job.blocks == Fused::by_turns
                           ? rows_of(*job.slots.front()->value)
                           : job.blocks;
    // [block, row, ...]: one part's rows of every block.
    const auto in_blocks =
        mx::reshape(whole, {blocks, rows_of(whole) / blocks, -1});
    int from = 0;
    for (size_t before = 0; before < i; ++before)
      from += rows_of(*job.slots[before]->value) / blocks;
    auto shape = job.slots[i]->value->shape();
    const int rows = rows_of(*job.slots[i]->value) / blocks;
    const auto part = mx::slice(
        in_blocks, {0, from, 0}, {blocks, from + rows, in_blocks.shape(2)});
    // Of a matrix, or of each of a stack.
    const bool columns = shape.size() > (job.stacked ? 2 : 1);
    if (columns) shape.back() = whole.shape(-1);
    return mx::contiguous(mx::reshape(part, shape));
  }

  // Leaves the tensor packed, or says that it cannot: rows move as they are,
  // columns do not.
  bool keep_packed(const Job& job, const LoadOptions& options) const {
    if (!options.packed.value_or(false) || job.transposed) return false;
    for (const auto* slot : job.slots)
      if (!slot->matrix || !slot->stack.empty()) return false;
    const auto whole =
        checkpoint_.read_packed(*job.tensor, options.allow_not_finite);
    if (!whole) return false;
    const bool by_head = job.slots.size() == 1 && whole->words.ndim() == 3 &&
                         job.slots[0]->value->ndim() == 2;
    if (by_head && whole->global_scale) return false;  // one for each head
    const auto own = whole->mode != "affine"  ? mx::bfloat16
                     : whole->scale_of_scales ? mx::float16
                                              : whole->scales.dtype();
    const auto dtype = options.dtype.value_or(own);
    std::vector<nn::Matrix> parts;
    for (size_t i = 0; i < job.slots.size(); ++i) {
      auto part = *whole;
      if (job.slots.size() > 1)
        part = part.each([&](const mx::array& x) {
          auto some = split(job, x, i);
          some.eval();
          return some;
        });
      else if (by_head)
        part = part.each([](const mx::array& x) {
          return mx::reshape(x, {-1, x.shape(-1)});
        });
      parts.emplace_back(std::move(part), dtype);
    }
    for (size_t i = 0; i < parts.size(); ++i)
      *job.slots[i]->matrix = std::move(parts[i]);
    return true;
  }

  // Some exporters write a tied matrix twice. Two that differ are no tie.
  void check_tie(const LoadOptions& options) const {
    const auto& ours = decoder_->embed.weight;
    const auto packed =
        ours.is_packed() ? checkpoint_.read_packed(*second_unembedding_, true)
                         : std::nullopt;
    const auto other = packed ? nn::Matrix(*packed, ours.dtype()).numbers()
                              : checkpoint_.read(
                                    *second_unembedding_,
                                    options.dtype,
                                    options.allow_not_finite);
    const auto embedding = ours.numbers();
    if (!mx::array_equal(other, embedding, /*equal_nan=*/true).item<bool>())
      fail(
          ErrorKind::bad_data,
          "[load] the config ties the unembedding to the embedding, but '{}' "
          "differs from it; set tie_word_embeddings to false",
          printable(second_unembedding_->name));
  }

  const Checkpoint& checkpoint_;
  Family family_;
  std::shared_ptr<Decoder> decoder_;
  std::map<std::string, Slot> slots_;
  std::vector<Job> jobs_;
  const TensorInfo* second_unembedding_ = nullptr;
  // Elsewhere MLX has large pages of its own.
  const bool on_cpu_ = mx::default_device() == mx::Device::cpu;
  TensorMemory memory_;
};

}  // namespace

DecoderConfig config_of(
    const Checkpoint& checkpoint, std::span<const Family> own) {
  return config_of(checkpoint, family_of(checkpoint.config(), own));
}

void check_tensors(const Checkpoint& checkpoint, std::span<const Family> own) {
  const KeepRandomState keep;
  Loader(checkpoint, family_of(checkpoint.config(), own)).plan();
}

std::shared_ptr<Decoder> load_decoder(
    const Checkpoint& checkpoint, const LoadOptions& options) {
  check_loadable(checkpoint, options);
  const bool cpu = mx::default_device() == mx::Device::cpu;
  if (cpu) require_right_products(blas());
  // While weights are read there are no products.
  const CoreWatch cores;
  const KeepRandomState keep;
  Loader loader(checkpoint, family_of(checkpoint.config(), options.families));
  loader.plan();
  auto how = options;
  how.dtype = computed_as(options);
  how.packed = keeps_packed(checkpoint, options);
  auto decoder = loader.read(how);
  if (cpu) bound_blas_threads(static_cast<int>(cores.free()));
  return decoder;
}

}  // namespace mlxterp
