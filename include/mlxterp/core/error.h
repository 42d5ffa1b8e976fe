// mlxterp/core/error.h: the one exception type of the library.

#pragma once

#include <stdexcept>
#include <string>

namespace mlxterp {

/** The kind of failure, and so who can fix it. */
enum class ErrorKind {
  usage,         ///< The call itself: wrong shape, wrong combination.
  unknown_name,  ///< No site, module, tensor or token of that name.
  out_of_range,  ///< An index or position outside its axis.
  bad_data,      ///< A file or checkpoint that is not what it claims to be.
  environment,   ///< The machine: a missing file, memory, a full disk.
};

/**
 * Thrown by everything in mlxterp. The message reads
 * `[function] what, with the values; what to do`. It is valid UTF-8.
 */
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message)
      : std::runtime_error(message), kind_(kind) {}

  ErrorKind kind() const noexcept { return kind_; }

  /** The command's exit code: 2 usage, 3 bad data, 4 environment. */
  int exit_code() const noexcept {
    switch (kind_) {
      case ErrorKind::bad_data:
        return 3;
      case ErrorKind::environment:
        return 4;
      default:
        return 2;
    }
  }

 private:
  ErrorKind kind_;
};

}  // namespace mlxterp
