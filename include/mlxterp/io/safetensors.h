// mlxterp/io/safetensors.h: reads and writes safetensors files.

#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

class InputFile;

/**
 * One safetensors file, open and fully checked: bounds, types,
 * overlaps, holes, duplicate names. Throws Error (bad_data, environment).
 * Const members may be called from several threads.
 */
class Safetensors {
 public:
  static Safetensors open(const std::filesystem::path& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }

  /** Copies one tensor out of the file, evaluated, in its own dtype.
   * Throws where the file shrank since it was opened. */
  mlx::core::array read(const TensorInfo& tensor) const;

  const InputFile& file() const { return *file_; }

 private:
  std::shared_ptr<const InputFile> file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

/**
 * Writes named arrays to `path` (evaluates them first). The file appears whole
 * or not at all: a temporary file beside it, flushed, then renamed. Refuses an
 * existing `path` unless `overwrite`.
 */
void save_safetensors(
    const std::filesystem::path& path,
    const std::vector<std::pair<std::string, mlx::core::array>>& tensors,
    const std::map<std::string, std::string>& metadata = {},
    bool overwrite = false);

}  // namespace mlxterp
