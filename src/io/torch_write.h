// io/torch_write.h: files that torch.load reads, without torch.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"

namespace mlxterp {

/**
 * One value for torch.save's zip, written part by part in the order a pickle
 * has it: a dict is begun, gets keys each followed by its value, and is ended.
 * Tensors are float32, float16 or bfloat16 (throws usage for others), kept
 * until the file is written. One thread.
 */
class TorchWriter {
 public:
  TorchWriter();

  void begin_dict();
  void end_dict();
  void begin_list();
  void end_list();
  void text(std::string_view value);
  void integer(int64_t value);
  void boolean(bool value);
  void none();
  void tensor(const mlx::core::array& value);

  /** Evaluates. Whole or not at all. Throws usage where `path` exists and may
   * not be overwritten, or all tensors take 4 GiB or more, which this zip
   * cannot name; environment. */
  void save(const std::filesystem::path& path, bool overwrite);

 private:
  void global(std::string_view module, std::string_view name);
  void little(uint64_t value, int bytes);

  std::string pickle_;
  std::vector<mlx::core::array> tensors_;
};

}  // namespace mlxterp
