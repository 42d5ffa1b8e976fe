#include "sae/weight_file.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "io/decode.h"
#include "io/input_file.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/io/npz.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr std::string_view caller = "load_sae";

void check_finite(
    uint64_t not_finite,
    std::string_view name,
    const std::filesystem::path& path) {
  if (not_finite == 0) return;
  fail(
      ErrorKind::bad_data,
      "[{}] {} of {} holds NaN or Inf {} times; take another copy or "
      "checkpoint of it",
      caller,
      printable(name),
      quoted(path),
      not_finite);
}

uint64_t count_not_finite(const mx::array& values) {
  if (!mx::issubdtype(values.dtype(), mx::floating)) return 0;
  const auto wide = mx::astype(values, mx::float32);
  const auto whole = mx::contiguous(wide);
  mx::eval(whole);
  const auto* at = whole.data<float>();
  return static_cast<uint64_t>(std::count_if(
      at, at + whole.size(), [](float x) { return !std::isfinite(x); }));
}

}  // namespace

WeightFile WeightFile::open(const std::filesystem::path& path) {
  WeightFile out;
  out.path_ = path;
  std::string start;
  {
    const auto file = InputFile::open(path, caller);
    start = file->text(0, telling_bytes, caller);
  }
  const bool zip = start.starts_with("PK\x03\x04");
  const auto suffix = path.extension().string();
  if (zip && suffix == ".npz") {
    out.kind_ = Kind::npz;
    for (auto& [name, array] : load_npz(path)) {
      out.names_.push_back(name);
      out.arrays_.emplace(name, std::move(array));
    }
  } else if (zip || start.starts_with("\x80\x02\x8a\x0a")) {
    out.kind_ = Kind::torch;
    out.torch_ = std::make_shared<const TorchFile>(TorchFile::open(path));
    const auto* dict = &out.torch_->value();
    // A checkpoint of a trainer keeps it one deeper.
    for (const char* inner : {"state_dict", "model_state_dict"})
      if (const auto* found = dict->find(inner);
          found && found->kind == TorchValue::Kind::dict)
        dict = found;
    if (dict->kind != TorchValue::Kind::dict)
      fail(
          ErrorKind::bad_data,
          "[{}] {} holds no dict of tensors; save the SAE's state dict",
          caller,
          quoted(path));
    for (const auto& [name, value] : dict->members) {
      if (value.kind == TorchValue::Kind::tensor) out.names_.push_back(name);
      out.values_.emplace(name, &value);
    }
  } else {
    out.safetensors_ =
        std::make_shared<const Safetensors>(Safetensors::open(path));
    for (const auto& tensor : out.safetensors_->tensors()) {
      out.names_.push_back(tensor.name);
      out.tensors_.emplace(tensor.name, tensor);
    }
  }
  std::ranges::sort(out.names_);
  return out;
}

bool WeightFile::has(std::string_view name) const {
  return std::ranges::binary_search(names_, name);
}

bool WeightFile::has_all(std::initializer_list<std::string_view> names) const {
  return std::ranges::all_of(names, [&](auto name) { return has(name); });
}

void WeightFile::fail_missing(std::string_view name) const {
  fail(
      ErrorKind::bad_data,
      "[{}] {} has no tensor '{}', it {}; is it an SAE, and whole?",
      caller,
      quoted(path_),
      printable(name),
      contents());
}

std::string WeightFile::contents() const {
  constexpr size_t most = 8;
  if (names_.empty()) return "has none";
  std::string out = "has ";
  for (size_t i = 0; i < std::min(most, names_.size()); ++i)
    out += (i > 0 ? ", " : "") + printable(names_[i], 40);
  if (names_.size() > most)
    out += fmt::format(" and {} more", names_.size() - most);
  return out;
}

std::vector<int64_t> WeightFile::shape(std::string_view name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end())
    return found->second.shape;
  if (const auto found = arrays_.find(name); found != arrays_.end()) {
    const auto& dims = found->second.shape();
    return {dims.begin(), dims.end()};
  }
  if (const auto* found = value(name);
      found && found->kind == TorchValue::Kind::tensor)
    return found->tensor.shape;
  fail_missing(name);
}

mx::array WeightFile::read(std::string_view name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end()) {
    const auto [values, bad] = decode(
        safetensors_->file(),
        found->second,
        {.caller = caller, .dtype = mx::float32});
    check_finite(bad, name, path_);
    return mx::astype(values, mx::float32);
  }
  if (const auto found = arrays_.find(name); found != arrays_.end()) {
    check_finite(count_not_finite(found->second), name, path_);
    return mx::astype(found->second, mx::float32);
  }
  const auto* found = value(name);
  if (!found || found->kind != TorchValue::Kind::tensor) fail_missing(name);
  uint64_t bad = 0;
  const auto values =
      torch_->read(found->tensor, std::string(name), mx::float32, &bad);
  check_finite(bad, name, path_);
  return mx::astype(values, mx::float32);
}

double WeightFile::number(std::string_view name) const {
  if (const auto* found = value(name)) {
    if (found->kind == TorchValue::Kind::integer)
      return static_cast<double>(found->integer);
    if (found->kind == TorchValue::Kind::real) return found->real;
  }
  const auto dims = shape(name);
  for (const auto dim : dims)
    if (dim != 1)
      fail(
          ErrorKind::bad_data,
          "[{}] '{}' of {} is {}, not one number; is it an SAE, and whole?",
          caller,
          printable(name),
          quoted(path_),
          shown(dims));
  return mx::astype(mx::reshape(read(name), {}), mx::float32).item<float>();
}

const TorchValue* WeightFile::value(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? nullptr : found->second;
}

}  // namespace mlxterp
