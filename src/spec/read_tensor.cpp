#include "io/input_file.h"
#include "mlxterp/io/npz.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/spec/edit.h"
#include "spec/text.h"

namespace mx = mlx::core;

namespace mlxterp::spec {

namespace {

// Of a file that can be opened.
std::string beginning(const std::string& path) {
  return InputFile::open(path, "read_tensor")->text(0, 6, "read_tensor");
}

}  // namespace

mx::array read_tensor(const std::string& path, const std::string& name) {
  constexpr size_t most = 5;
  std::string known;
  size_t count = 0;
  const auto wanted = [&](const std::string& tensor) {
    if (!name.empty() && tensor == name) return true;
    if (count++ < most)
      known += (known.empty() ? "" : ", ") + printable(tensor);
    return false;
  };
  if (const auto start = beginning(path); start.starts_with("\x93NUMPY")) {
    if (!name.empty())
      fail(
          ErrorKind::usage,
          "[read_tensor] {} is a .npy, whose array has no name; leave out "
          "':{}'",
          printable(path),
          printable(name));
    return load_npy(path);
  } else if (start.starts_with("PK")) {
    const auto arrays = load_npz(path);
    for (const auto& [tensor, array] : arrays)
      if (wanted(tensor) || (name.empty() && arrays.size() == 1)) return array;
  } else {
    const auto file = Safetensors::open(path);
    for (const auto& tensor : file.tensors())
      if (wanted(tensor.name) || (name.empty() && file.tensors().size() == 1))
        return file.read(tensor);
  }
  if (count > most) known += ", ...";
  if (known.empty()) known = "none";
  if (name.empty())
    fail(
        ErrorKind::unknown_name,
        "[read_tensor] {} has {} tensors: {}; name one, as in {}:NAME",
        printable(path),
        count,
        known,
        printable(path));
  fail(
      ErrorKind::unknown_name,
      "[read_tensor] {} has no tensor '{}'; it has {}",
      printable(path),
      printable(name),
      known);
}

}  // namespace mlxterp::spec
