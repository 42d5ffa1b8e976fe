// apps/mlxterp/interrupt.h: what Ctrl-C may not cut in two.

#pragma once

namespace mlxterp::cli {

/** While it lives, Ctrl-C waits for a file to be whole and only then ends the
 * program; a second one does so at once. */
class Uninterrupted {
 public:
  Uninterrupted();
  ~Uninterrupted();
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
};

}  // namespace mlxterp::cli
