// sae/weight_file.h: named tensors, whichever kind of file they lie in.

#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "io/torch_pickle.h"
#include "mlx/array.h"
#include "mlxterp/io/safetensors.h"

namespace mlxterp {

/** A .safetensors, .npz or torch file, told by its first bytes. Immutable. */
class WeightFile {
 public:
  static WeightFile open(const std::filesystem::path& path);

  enum class Kind { safetensors, npz, torch };
  Kind kind() const { return kind_; }
  const std::filesystem::path& path() const { return path_; }

  const std::vector<std::string>& names() const { return names_; }
  bool has(std::string_view name) const;
  bool has_all(std::initializer_list<std::string_view> names) const;

  /** Throws bad_data where there is no tensor of that name. */
  std::vector<int64_t> shape(std::string_view name) const;
  /** Evaluated, float32. Throws bad_data on NaN, Inf or a missing name. */
  mlx::core::array read(std::string_view name) const;
  /** The only number of a tensor, or of a torch file's plain value. */
  double number(std::string_view name) const;
  /** What a torch file has beside tensors; nullptr: nothing. */
  const TorchValue* value(std::string_view name) const;

  /** "has W_enc, b_enc, ... (7 tensors)", for messages. */
  std::string contents() const;

 private:
  [[noreturn]] void fail_missing(std::string_view name) const;

  Kind kind_ = Kind::safetensors;
  std::filesystem::path path_;
  std::vector<std::string> names_;
  std::shared_ptr<const Safetensors> safetensors_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
  std::map<std::string, mlx::core::array, std::less<>> arrays_;
  std::set<std::string, std::less<>> checked_;  // arrays without NaN and Inf
  std::shared_ptr<const TorchFile> torch_;
  std::map<std::string, const TorchValue*, std::less<>> values_;
};

}  // namespace mlxterp
