// mlxterp/core/limits.h: how large anything read from outside may be. Every
// number in a file or an argument is held against these before it sizes
// anything.

#pragma once

#include <cstddef>
#include <cstdint>

namespace mlxterp::limits {

// safetensors
inline constexpr uint64_t safetensors_header_bytes = 100'000'000;
inline constexpr size_t tensor_name_bytes = 1024;
inline constexpr size_t tensors = 200'000;
inline constexpr size_t tensor_dims = 8;
inline constexpr uint64_t dim = 2'147'483'647;  // MLX's shapes are int32

// npz
inline constexpr size_t npy_header_bytes = 65'536;

// GGUF
inline constexpr uint64_t gguf_metadata = 65'536;
inline constexpr uint64_t gguf_tensors = 65'536;
inline constexpr uint64_t gguf_key_bytes = 65'535;
inline constexpr uint64_t gguf_string_bytes = 16ull << 20;
inline constexpr uint64_t gguf_array_elements = 1ull << 27;
inline constexpr uint32_t gguf_alignment_min = 8;
inline constexpr uint32_t gguf_alignment_max = 65'536;

// config.json, index, tokenizer.json
inline constexpr uint64_t config_bytes = 1ull << 20;
inline constexpr uint64_t index_bytes = 64ull << 20;
inline constexpr uint64_t tokenizer_bytes = 64ull << 20;
inline constexpr int json_depth = 64;
inline constexpr int layers = 512;
inline constexpr int heads = 1024;
inline constexpr int d_model = 65'536;
inline constexpr int d_mlp = 1 << 20;
inline constexpr int vocab = 1 << 22;
inline constexpr size_t token_bytes = 1024;  // of one in a GGUF vocabulary

// Hugging Face hub
inline constexpr uint64_t hub_answer_bytes = 32ull << 20;  // about a repository
inline constexpr size_t hub_files = 200'000;
inline constexpr uint64_t hub_file_bytes = 1ull << 40;
inline constexpr size_t hub_name_bytes = 96;  // of an owner, a model, a file
inline constexpr size_t hub_token_bytes = 4096;

// what a user hands in
inline constexpr size_t prompt_bytes = 1ull << 20;

}  // namespace mlxterp::limits
