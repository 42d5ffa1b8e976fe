// tests/io/file_bytes.h: safetensors and GGUF files byte by byte, right ones
// and wrong ones.

#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mlxterp::testing {

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string floats(size_t n, float value = 1) {
  std::string bytes;
  for (size_t i = 0; i < n; ++i)
    bytes += raw(value);
  return bytes;
}

inline std::string safetensors_bytes(
    std::string_view header,
    std::string_view data,
    std::optional<uint64_t> length = std::nullopt) {
  return raw(length.value_or(header.size())) + std::string(header) +
         std::string(data);
}

namespace gguf {

enum Type : uint32_t {
  uint8 = 0,
  uint32 = 4,
  int32 = 5,
  float32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  uint64 = 10,
};

inline std::string text(std::string_view value) {
  return raw(uint64_t{value.size()}) + std::string(value);
}

inline std::string entry(
    std::string_view key, uint32_t type, std::string_view value) {
  return text(key) + raw(type) + std::string(value);
}

inline std::string number(std::string_view key, uint32_t value) {
  return entry(key, uint32, raw(value));
}

inline std::string real(std::string_view key, float value) {
  return entry(key, float32, raw(value));
}

inline std::string word(std::string_view key, std::string_view value) {
  return entry(key, string, text(value));
}

inline std::string words(
    std::string_view key, const std::vector<std::string>& values) {
  std::string bytes = raw(uint32_t{string}) + raw(uint64_t{values.size()});
  for (const auto& value : values)
    bytes += text(value);
  return entry(key, array, bytes);
}

/** `dims` as the file has them, innermost first. */
inline std::string tensor(
    std::string_view name,
    const std::vector<uint64_t>& dims,
    uint32_t type,
    uint64_t offset) {
  std::string bytes = text(name) + raw(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims)
    bytes += raw(dim);
  return bytes + raw(type) + raw(offset);
}

struct File {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> tensor_count = std::nullopt;
  std::optional<uint64_t> entry_count = std::nullopt;
  std::vector<std::string> entries = {};
  std::vector<std::string> tensors = {};
  std::string data = {};
  uint64_t alignment = 32;

  std::string bytes() const {
    std::string all = magic + raw(version) +
                      raw(tensor_count.value_or(tensors.size())) +
                      raw(entry_count.value_or(entries.size()));
    for (const auto& bytes_of : entries)
      all += bytes_of;
    for (const auto& bytes_of : tensors)
      all += bytes_of;
    all.resize((all.size() + alignment - 1) / alignment * alignment);
    return all + data;
  }
};

/** A Llama of one layer: width 8, two heads of 4, one key head, 16 wide
 * inside, 6 tokens, all float32. Each tensor's numbers count up from 0. */
struct Llama {
  std::map<std::string, std::string> metadata{
      {"general.architecture", word("general.architecture", "llama")},
      {"block_count", number("llama.block_count", 1)},
      {"context_length", number("llama.context_length", 32)},
      {"embedding_length", number("llama.embedding_length", 8)},
      {"feed_forward_length", number("llama.feed_forward_length", 16)},
      {"head_count", number("llama.attention.head_count", 2)},
      {"head_count_kv", number("llama.attention.head_count_kv", 1)},
      {"eps", real("llama.attention.layer_norm_rms_epsilon", 1e-5f)},
      {"tokens",
       words("tokenizer.ggml.tokens", {"a", "b", "c", "d", "e", "f"})},
  };
  std::map<std::string, std::vector<uint64_t>> tensors{
      {"token_embd.weight", {8, 6}},
      {"output_norm.weight", {8}},
      {"blk.0.attn_norm.weight", {8}},
      {"blk.0.attn_q.weight", {8, 8}},
      {"blk.0.attn_k.weight", {8, 4}},
      {"blk.0.attn_v.weight", {8, 4}},
      {"blk.0.attn_output.weight", {8, 8}},
      {"blk.0.ffn_norm.weight", {8}},
      {"blk.0.ffn_gate.weight", {8, 16}},
      {"blk.0.ffn_up.weight", {8, 16}},
      {"blk.0.ffn_down.weight", {16, 8}},
  };

  std::string bytes() const {
    File file;
    for (const auto& [name, bytes_of] : metadata)
      if (!bytes_of.empty()) file.entries.push_back(bytes_of);
    for (const auto& [name, dims] : tensors) {
      size_t n = 1;
      for (const uint64_t dim : dims)
        n *= dim;
      file.tensors.push_back(tensor(name, dims, 0, file.data.size()));
      for (size_t i = 0; i < n; ++i)
        file.data += raw(static_cast<float>(i));
      file.data.resize((file.data.size() + 31) / 32 * 32);
    }
    return file.bytes();
  }
};

}  // namespace gguf

}  // namespace mlxterp::testing
