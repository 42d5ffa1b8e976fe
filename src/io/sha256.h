// io/sha256.h: the SHA-256 of bytes that come in pieces.

#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace mlxterp {

/** Of OpenSSL, on a Mac of the system. One thread at a time. */
class Sha256 {
 public:
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  ~Sha256();

  void update(std::string_view bytes);

  /** 64 lower-case hexadecimal digits; nothing may be added after it. */
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mlxterp
