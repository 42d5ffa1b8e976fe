// mlxterp/io/gguf.h: reads GGUF files, versions 2 and 3.

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

class InputFile;

/** A metadata value. Integers of every width arrive as int64_t (a uint64
 * above its range is an error), floats as double. */
using GgufValue = std::variant<
    int64_t,
    double,
    bool,
    std::string,
    std::vector<int64_t>,
    std::vector<double>,
    std::vector<bool>,
    std::vector<std::string>>;

/**
 * One GGUF file, open and fully checked, or all parts of one that was split
 * (NAME-00001-of-00003.gguf): the metadata of the first, the tensors of all.
 * Throws Error (bad_data, environment). Const members may be called from
 * several threads.
 */
class Gguf {
 public:
  /** Of a split file, `path` is any part; the others lie beside it. */
  static Gguf open(const std::filesystem::path& path);

  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  /** Copies one tensor out of the file, evaluated; a quantised one becomes
   * `dtype` (float32, float16 or bfloat16), another keeps its own dtype.
   * F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS,
   * MXFP4. */
  mlx::core::array read(const TensorInfo& tensor, mlx::core::Dtype dtype) const;

  /** Of the file, or of the first part. */
  const std::filesystem::path& path() const;

  /** Where the tensor lies. Throws unknown_name where it has none such. */
  const InputFile& file_of(const TensorInfo& tensor) const;

 private:
  static Gguf open_part(const std::filesystem::path& path);

  std::vector<std::shared_ptr<const InputFile>> files_;
  std::map<std::string, size_t> part_of_;  // tensors to files
  std::map<std::string, GgufValue> metadata_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace mlxterp
