#include "io/sha256.h"

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

struct Sha256::State {
  CC_SHA256_CTX context;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  CC_SHA256_Init(&state_->context);
}

void Sha256::update(std::string_view bytes) {
  constexpr size_t most = 1u << 30;  // it counts in 32 bits
  while (!bytes.empty()) {
    const auto part = bytes.substr(0, most);
    CC_SHA256_Update(
        &state_->context, part.data(), static_cast<CC_LONG>(part.size()));
    bytes.remove_prefix(part.size());
  }
}

std::string Sha256::hex() {
  std::array<unsigned char, 32> digest;
  CC_SHA256_Final(digest.data(), &state_->context);
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

#else

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { EVP_MD_CTX_free(context); }
};

// Nothing but memory can be missing.
Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (!state_->context ||
      EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) != 1)
    throw std::bad_alloc();
}

void Sha256::update(std::string_view bytes) {
  EVP_DigestUpdate(state_->context, bytes.data(), bytes.size());
}

std::string Sha256::hex() {
  std::array<unsigned char, 32> digest{};
  EVP_DigestFinal_ex(state_->context, digest.data(), nullptr);
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

#endif

Sha256::~Sha256() = default;

}  // namespace mlxterp
