#include "io/digest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <new>

#ifdef __APPLE__
#include <CommonCrypto/CommonDigest.h>
#else
#include <openssl/evp.h>
#endif

namespace mlxterp {

#ifdef __APPLE__

struct Digest::State {
  Kind kind;
  CC_SHA256_CTX sha256;
  CC_SHA1_CTX sha1;
};

Digest::Digest(Kind kind) : state_(std::make_unique<State>()) {
  state_->kind = kind;
  CC_SHA256_Init(&state_->sha256);
  CC_SHA1_Init(&state_->sha1);
}

void Digest::update(std::string_view bytes) {
  constexpr size_t most = 1u << 30;  // it counts in 32 bits
  while (!bytes.empty()) {
    const auto part = bytes.substr(0, most);
    const auto size = static_cast<CC_LONG>(part.size());
    if (state_->kind == Kind::sha256)
      CC_SHA256_Update(&state_->sha256, part.data(), size);
    else
      CC_SHA1_Update(&state_->sha1, part.data(), size);
    bytes.remove_prefix(part.size());
  }
}

std::string Digest::hex() {
  std::array<unsigned char, 32> digest{};
  if (state_->kind == Kind::sha256)
    CC_SHA256_Final(digest.data(), &state_->sha256);
  else
    CC_SHA1_Final(digest.data(), &state_->sha1);
  const size_t size = state_->kind == Kind::sha256 ? 32 : 20;
  return fmt::format(
      "{:02x}", fmt::join(digest.begin(), digest.begin() + size, ""));
}

#else

struct Digest::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { EVP_MD_CTX_free(context); }
};

// Nothing but memory can be missing.
Digest::Digest(Kind kind) : state_(std::make_unique<State>()) {
  const auto* which = kind == Kind::sha256 ? EVP_sha256() : EVP_sha1();
  if (!state_->context ||
      EVP_DigestInit_ex(state_->context, which, nullptr) != 1)
    throw std::bad_alloc();
}

void Digest::update(std::string_view bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Digest::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(state_->context, digest.data(), &size);
  return fmt::format(
      "{:02x}", fmt::join(digest.begin(), digest.begin() + size, ""));
}

#endif

Digest::~Digest() = default;

}  // namespace mlxterp
