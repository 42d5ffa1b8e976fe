// io/digest.h: the SHA-256 or SHA-1 of bytes that come in pieces.

#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace mlxterp {

/** Of OpenSSL, on a Mac of the system. One thread at a time. */
class Digest {
 public:
  enum class Kind { sha256, sha1 };

  explicit Digest(Kind kind);
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;
  ~Digest();

  void update(std::string_view bytes);

  /** 64 or 40 lower-case hexadecimal digits; nothing may be added after it. */
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mlxterp
