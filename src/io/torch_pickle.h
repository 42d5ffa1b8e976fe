// io/torch_pickle.h: tensors and plain values of what torch.save wrote, without
// torch and without running anything of the file.

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"

namespace mlxterp {

class InputFile;

/** Where the numbers of a tensor lie in the file. */
struct TorchTensor {
  std::string type;              ///< As safetensors call it: "BF16"; "F64" too.
  std::vector<int64_t> shape;    ///< Outermost first.
  std::vector<int64_t> strides;  ///< In numbers.
  uint64_t offset = 0;           ///< Of its first number in the file, in bytes.
  uint64_t numbers = 0;          ///< From there on in its storage.
};

struct TorchMember;

/** One value of a pickle. */
struct TorchValue {
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,
    list,  ///< A tuple or a torch.Size, too.
    /** An OrderedDict, too. A key that is an integer is named as it is written;
     * others that are no text are left out. */
    dict,
    tensor,
    other,  ///< A dtype, a device: known, and of no use here.
  };
  Kind kind = Kind::none;
  bool boolean = false;
  int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<TorchValue> items;     ///< list
  std::vector<TorchMember> members;  ///< dict
  TorchTensor tensor;

  /** The member of that name, or nullptr. */
  const TorchValue* find(std::string_view name) const;
};

struct TorchMember {
  std::string name;
  TorchValue value;
};

/**
 * A file of torch.save, the zip of today or the stream of before 1.6, open and
 * checked. Its pickle is interpreted as far as tensors, numbers, text, lists,
 * tuples and dicts go; whatever else it names is refused by name and nothing is
 * called. Throws Error (bad_data, environment). Immutable.
 */
class TorchFile {
 public:
  static TorchFile open(const std::filesystem::path& path);

  /** What was saved. */
  const TorchValue& value() const { return value_; }

  /** Copies a tensor out of the file, evaluated, as `dtype`, a float's; where
   * it is absent in its own, float64 as float32. `not_finite`, where it is
   * asked for, is set to how many numbers are NaN or Inf. */
  mlx::core::array read(
      const TorchTensor& tensor,
      const std::string& name,
      std::optional<mlx::core::Dtype> dtype = std::nullopt,
      uint64_t* not_finite = nullptr) const;

 private:
  std::shared_ptr<const InputFile> file_;
  TorchValue value_;
};

}  // namespace mlxterp
