#include "io/quantized.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_map>

#include "core/fail.h"
#include "io/input_file.h"
#include "io/mxfp4_blocks.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Mode = Packing::Mode;

constexpr std::string_view opening = "Checkpoint::open";
constexpr std::string_view field = "quantization";
constexpr std::array affine_bits{2, 3, 4, 5, 6, 8};
constexpr std::array affine_groups{32, 64, 128};
constexpr std::array fixed_packings{
    Packing{Mode::mxfp4, 32, 4},
    Packing{Mode::mxfp8, 32, 8},
    Packing{Mode::nvfp4, 16, 4}};

std::string shown(const json& value) {
  return printable(
      value.dump(-1, ' ', true, json::error_handler_t::replace), 60);
}

/** config.json's "quantization": one packing for all, and exceptions. */
class Settings {
 public:
  Settings(const fs::path& folder, const json& quantization)
      : folder_(folder), json_(quantization) {
    if (!json_.is_object()) bad(field, json_, "a JSON object");
    for (const char* needed : {"group_size", "bits"})
      if (!json_.contains(needed))
        fail(
            ErrorKind::bad_data,
            "[{}] config.json of {} has no '{}.{}'; convert the model again",
            opening,
            quoted(folder_),
            field,
            needed);
    common_ = packing(json_, std::string(field));
    for (const auto& [key, value] : json_.items()) {
      if (own(key)) continue;
      const auto name = fmt::format("{}.{}", field, printable(key));
      if (value.is_object())
        check_fields(value, name);
      else if (!value.is_boolean())
        bad(name, value, "an object or a boolean for the module of that name");
      modules_.emplace(
          key,
          value.is_object()   ? packing(value, name)
          : value.get<bool>() ? std::optional(common_)
                              : std::nullopt);
    }
  }

  /** Absent where the module is not to be packed. */
  std::optional<Packing> of(const std::string& module) const {
    const auto found = modules_.find(module);
    return found == modules_.end() ? common_ : found->second;
  }

  const auto& modules() const { return modules_; }

 private:
  static bool own(const std::string& key) {
    return key == "group_size" || key == "bits" || key == "mode";
  }

  [[noreturn]] void bad(
      std::string_view name,
      const json& value,
      const std::string& expected) const {
    fail(
        ErrorKind::bad_data,
        "[{}] config.json of {}: '{}' is {}; expected {}",
        opening,
        quoted(folder_),
        name,
        shown(value),
        expected);
  }

  void check_fields(const json& module, const std::string& name) const {
    for (const auto& [key, value] : module.items()) {
      // Says only that there is such a tensor.
      const bool scale = key == "global_scale" && value.is_boolean();
      if (!own(key) && !scale)
        bad(fmt::format("{}.{}", name, printable(key)),
            value,
            "only group_size, bits, mode and global_scale there");
    }
  }

  template <typename Allowed>
  int number(
      const json& from,
      const char* key,
      const std::string& name,
      const Allowed& allowed,
      std::string_view mode,
      int fallback) const {
    const auto found = from.find(key);
    if (found == from.end()) return fallback;
    const bool fits = std::any_of(
        allowed.begin(), allowed.end(), [&](int v) { return *found == v; });
    if (!fits || !found->is_number_integer())
      bad(fmt::format("{}.{}", name, key),
          *found,
          fmt::format("{} ({})", fmt::join(allowed, ", "), mode));
    return found->template get<int>();
  }

  // What is left out of a module's own settings is MLX's default, not what
  // the rest of the model has.
  Packing packing(const json& from, const std::string& name) const {
    const json mode = from.value("mode", json("affine"));
    if (mode == "affine")
      return {
          Mode::affine,
          number(from, "group_size", name, affine_groups, "affine", 64),
          number(from, "bits", name, affine_bits, "affine", 4)};
    for (const auto& fixed : fixed_packings)
      if (mode == fixed.name())
        return {
            fixed.mode,
            number(
                from,
                "group_size",
                name,
                std::array{fixed.group},
                fixed.name(),
                fixed.group),
            number(
                from,
                "bits",
                name,
                std::array{fixed.bits},
                fixed.name(),
                fixed.bits)};
    bad(name + ".mode", mode, "affine, mxfp4, mxfp8 or nvfp4");
  }

  const fs::path& folder_;
  const json& json_;
  Packing common_;
  std::unordered_map<std::string, std::optional<Packing>> modules_;
};

/** Finds a folder's packed matrices. */
class Finder {
 public:
  Finder(const fs::path& folder, const std::vector<TensorInFile>& tensors)
      : folder_(folder), tensors_(tensors) {
    for (const auto& tensor : tensors)
      by_name_.emplace(tensor.info.name, &tensor);
  }

  std::vector<QuantizedMatrix> find(const Settings& settings) const {
    for (const auto& [module, packing] : settings.modules())
      if (!part(module, "weight"))
        fail(
            ErrorKind::bad_data,
            "[{}] config.json of {}: '{}' has settings for {}, but there is no "
            "tensor {}.weight",
            opening,
            quoted(folder_),
            field,
            printable(module),
            printable(module));
    std::vector<QuantizedMatrix> matrices;
    for (const auto& tensor : tensors_) {
      const auto& name = tensor.info.name;
      if (name.ends_with(".scales") && !part(stem(name), "weight"))
        bad(name, "is there without the packed weight");
      if (!name.ends_with(".weight")) continue;
      const auto module = stem(name);
      const auto packing = settings.of(module);
      const bool packed = part(module, "scales") || tensor.info.type == "U32" ||
                          (packing && settings.modules().contains(module));
      if (!packed) continue;
      if (!packing) bad(name, "is packed, but config.json says that it is not");
      matrices.push_back(matrix(module, tensor, *packing));
    }
    return matrices;
  }

  /** A config without "quantization" must not have packed matrices. */
  void check_none() const {
    for (const auto& tensor : tensors_) {
      const auto& name = tensor.info.name;
      if (tensor.info.type == "U32" && name.ends_with(".weight") &&
          part(stem(name), "scales"))
        bad(name,
            "is packed, but config.json has no 'quantization' that says how");
      constexpr std::string_view blocks = "_blocks";
      if (tensor.info.type == "U8" && name.ends_with(blocks) &&
          by_name_.contains(
              name.substr(0, name.size() - blocks.size()) + "_scales"))
        bad(name,
            "is packed in MXFP4, but config.json has no 'quantization_config' "
            "that says so");
    }
  }

 private:
  static std::string stem(const std::string& name) {
    return name.substr(0, name.rfind('.'));
  }

  const TensorInFile* part(const std::string& module, const char* what) const {
    const auto found = by_name_.find(fmt::format("{}.{}", module, what));
    return found == by_name_.end() ? nullptr : found->second;
  }

  [[noreturn]] void bad(
      const std::string& name, const std::string& what) const {
    fail(
        ErrorKind::bad_data,
        "[{}] tensor {} of {} {}; convert the model again",
        opening,
        printable(name),
        quoted(folder_),
        what);
  }

  static std::string text(const TensorInfo& info) {
    return fmt::format("{} {}", info.type, mlxterp::shown(info.shape));
  }

  QuantizedMatrix matrix(
      const std::string& module,
      const TensorInFile& weight,
      const Packing& packing) const {
    const auto& name = weight.info.name;
    const auto shape = unpacked_shape(weight.info, packing);
    auto groups = shape;
    groups.back() /= packing.group;

    const auto* scales = part(module, "scales");
    const auto* biases = part(module, "biases");
    const bool affine = packing.mode == Mode::affine;
    if (!scales)
      bad(name,
          fmt::format("is packed, but has no {}.scales", printable(module)));
    if (affine && !biases)
      bad(name,
          fmt::format("is packed, but has no {}.biases", printable(module)));
    if (!affine && biases)
      bad(biases->info.name,
          fmt::format("is there, but {} has no biases", packing.name()));
    const auto& type = scales->info.type;
    const bool floats = type == "F32" || type == "F16" || type == "BF16";
    if (affine ? !floats : type != "U8")
      bad(scales->info.name,
          fmt::format(
              "is {}; {} scales are {}",
              printable(type),
              packing.name(),
              affine ? "F32, F16 or BF16" : "U8"));
    for (const auto* tensor : {scales, biases}) {
      if (!tensor) continue;
      if (tensor->info.shape != groups || tensor->info.type != type)
        bad(tensor->info.name,
            fmt::format(
                "is {}, but {} of {} bits in groups of {} need {} {}",
                text(tensor->info),
                text(weight.info),
                packing.bits,
                packing.group,
                type,
                mlxterp::shown(groups)));
    }
    QuantizedMatrix out{packing, weight, *scales, {}, {}, weight.info};
    out.info.shape = shape;
    out.info.type =
        affine ? fmt::format("MLX {}-bit group {}", packing.bits, packing.group)
               : fmt::format("MLX {}", packing.name());
    out.info.bytes += scales->info.bytes;
    if (biases) {
      out.biases = *biases;
      out.info.bytes += biases->info.bytes;
    }
    if (const auto* by = part(module, "global_scale")) {
      // One number of each matrix in a stack.
      const std::vector<int64_t> each(shape.begin(), shape.end() - 2);
      if (packing.mode != Mode::nvfp4)
        bad(by->info.name,
            fmt::format("is there, but {} has none", packing.name()));
      if (by->info.type != "F32" || by->info.shape != each)
        bad(by->info.name,
            fmt::format(
                "is {}, but {} needs F32 {}",
                text(by->info),
                text(weight.info),
                mlxterp::shown(each)));
      out.global_scale = *by;
      out.info.bytes += by->info.bytes;
    }
    return out;
  }

  std::vector<int64_t> unpacked_shape(
      const TensorInfo& weight, const Packing& packing) const {
    auto shape = weight.shape;
    const bool has_rows = shape.size() >= 2 && count_numbers(shape) > 0u;
    if (weight.type != "U32" || !has_rows)
      bad(weight.name,
          fmt::format(
              "is {}; a matrix packed in {} bits is U32 [rows, words]",
              text(weight),
              packing.bits));
    const int64_t bits = shape.back() * 32;
    const int64_t columns = bits / packing.bits;
    if (bits % packing.bits || columns % packing.group ||
        columns > static_cast<int64_t>(limits::dim))
      bad(weight.name,
          fmt::format(
              "is {}, which at {} bits is not a whole number of groups of {} "
              "in a row",
              text(weight),
              packing.bits,
              packing.group));
    shape.back() = columns;
    return shape;
  }

  const fs::path& folder_;
  const std::vector<TensorInFile>& tensors_;
  std::unordered_map<std::string, const TensorInFile*> by_name_;
};

[[noreturn]] void fail_other_maker(
    const fs::path& folder, const json& quantization) {
  std::string maker = "an unnamed method";
  if (quantization.is_object() && quantization.contains("quant_method"))
    maker = shown(quantization["quant_method"]);
  fail(
      ErrorKind::bad_data,
      "[{}] {} is quantised by {} (quantization_config.quant_method in its "
      "config.json), which is not supported; take the model unquantised, or "
      "as GGUF or MLX conversion",
      opening,
      quoted(folder),
      maker);
}

}  // namespace

std::string_view Packing::name() const {
  switch (mode) {
    case Mode::affine:
      return "affine";
    case Mode::mxfp4:
      return "mxfp4";
    case Mode::mxfp8:
      return "mxfp8";
    case Mode::nvfp4:
      break;
  }
  return "nvfp4";
}

std::vector<QuantizedMatrix> find_quantized(
    const fs::path& folder,
    const json& config,
    const std::vector<TensorInFile>& tensors) {
  const Finder finder(folder, tensors);
  // MLX writes the same under both names; others only the second.
  const auto found = config.find(field);
  if (found != config.end() && !found->is_null())
    return finder.find(Settings(folder, *found));
  const auto other = config.find("quantization_config");
  if (other != config.end() && !other->is_null()) {
    if (other->is_object() && other->value("quant_method", json()) == "mxfp4")
      return find_mxfp4_blocks(folder, tensors);
    fail_other_maker(folder, *other);
  }
  finder.check_none();
  return {};
}

}  // namespace mlxterp
