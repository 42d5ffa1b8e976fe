// apps/mlxterp/interrupt.h: what Ctrl-C may not cut in two.

#pragma once

namespace mlxterp::cli {

/** While it lives, Ctrl-C waits for a file to be whole and only then ends the
 * program; a second one does so at once. One at a time. */
class Uninterrupted {
 public:
  /** `told`: written to stderr at Ctrl-C, if any; a string literal. */
  explicit Uninterrupted(const char* told = nullptr);
  ~Uninterrupted();
  /** Whether Ctrl-C is waiting. */
  bool asked() const;
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
};

}  // namespace mlxterp::cli
