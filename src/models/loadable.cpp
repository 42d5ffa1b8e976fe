#include "models/loadable.h"

#include <algorithm>

#include "core/fail.h"
#include "core/limited_memory.h"
#include "core/machine.h"
#include "io/decode.h"
#include "mlx/device.h"
#include "mlx/utils.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// MLX on a CPU dies where memory cannot be had, or the system ends us later.
void check_memory(const Checkpoint& checkpoint, const LoadOptions& options) {
  const auto bytes =
      bytes_in_memory(checkpoint, options, keeps_packed(checkpoint, options));
  const auto limit = static_cast<double>(machine_memory());
  if (bytes > limit)
    fail(
        ErrorKind::environment,
        "[load] the weights of {} take {:.1f} GB, this machine has {:.1f} GB; "
        "use a smaller model or dtype",
        printable(checkpoint.path().string()),
        bytes / 1e9,
        limit / 1e9);
  // A pass that cannot have its memory would end the process.
  constexpr double for_a_pass = 1e9;
  const auto left = static_cast<double>(address_space_left());
  if (bytes + for_a_pass > left)
    fail(
        ErrorKind::environment,
        "[load] the weights of {} take {:.1f} GB and a pass about {:.1f} GB "
        "more; `ulimit -v` leaves this process {:.1f} GB, raise it",
        printable(checkpoint.path().string()),
        bytes / 1e9,
        for_a_pass / 1e9,
        left / 1e9);
  prepare_for_limited_memory();
}

bool holds_packed(const Checkpoint& checkpoint) {
  return std::ranges::any_of(checkpoint.tensors(), [&](const auto& tensor) {
    return checkpoint.is_packed(tensor);
  });
}

}  // namespace

bool keeps_packed(const Checkpoint& checkpoint, const LoadOptions& options) {
  if (!options.packed.value_or(true) || !holds_packed(checkpoint)) return false;
  if (options.packed) return true;
  if (mx::default_device() == mx::Device::gpu) return true;
  return bytes_in_memory(checkpoint, options, false) >
         static_cast<double>(machine_memory());
}

std::optional<mx::Dtype> computed_as(const LoadOptions& options) {
  if (options.dtype || mx::default_device() == mx::Device::gpu)
    return options.dtype;
  return mx::float32;
}

bool keeps_half(const TensorInfo& tensor, const LoadOptions& options) {
  return options.half && computed_as(options) == mx::float32 &&
         (tensor.type == "F16" || tensor.type == "BF16") &&
         tensor.shape.size() > 1;
}

double bytes_in_memory(
    const Checkpoint& checkpoint, const LoadOptions& options, bool packed) {
  const auto dtype = computed_as(options);
  double bytes = 0;
  for (const auto& tensor : checkpoint.tensors()) {
    const auto* encoding = find_encoding(tensor.type);
    const bool floats = !encoding || encoding->unpack;  // none: packed floats
    const auto numbers =
        static_cast<double>(count_numbers(tensor.shape).value_or(0));
    const bool as_in_file = !floats || keeps_half(tensor, options) ||
                            (packed && checkpoint.is_packed(tensor));
    bytes += as_in_file
                 ? static_cast<double>(tensor.bytes)
                 : numbers * static_cast<double>(mx::size_of(dtype.value_or(
                                 encoding ? encoding->dtype : mx::float16)));
  }
  return bytes;
}

void check_loadable(const Checkpoint& checkpoint, const LoadOptions& options) {
  check_memory(checkpoint, options);
  if (!options.warn) return;
  for (const auto& sentence : checkpoint.warnings())
    options.warn(sentence);
  if (options.packed.value_or(false) && !holds_packed(checkpoint))
    options.warn(fmt::format(
        "no matrix of {} is quantised in a way that can stay packed; its "
        "weights are loaded as numbers",
        printable(checkpoint.path().string())));
  const bool any_half = std::ranges::any_of(
      checkpoint.tensors(),
      [&](const auto& tensor) { return keeps_half(tensor, options); });
  if (options.half && computed_as(options) == mx::float32 && !any_half)
    options.warn(fmt::format(
        "no matrix of {} is in half precision; its weights are loaded as "
        "float32",
        printable(checkpoint.path().string())));
}

}  // namespace mlxterp
