// mlxterp/io/tensor_info.h: what a file says of one tensor.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mlxterp {

struct TensorInfo {
  std::string name;
  std::string type;            ///< As the file writes it: "BF16", "Q4_K", ...
  std::vector<int64_t> shape;  ///< Outermost first, [rows, columns].
  uint64_t offset = 0;         ///< Of its first byte in the file.
  uint64_t bytes = 0;
};

}  // namespace mlxterp
