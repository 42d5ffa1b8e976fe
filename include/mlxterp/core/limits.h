// mlxterp/core/limits.h: how large anything read from outside may be. Every
// number in a file or an argument is checked against these before it sizes
// anything.

#pragma once

#include <cstddef>
#include <cstdint>

namespace mlxterp::limits {

// safetensors
// A parsed header takes nearly thirty times its bytes; 200,000 tensors fit.
inline constexpr uint64_t safetensors_header_bytes = 32ull << 20;
inline constexpr size_t tensor_name_bytes = 1024;
inline constexpr size_t tensors = 200'000;
inline constexpr size_t tensor_dims = 8;
inline constexpr uint64_t dim = 2'147'483'647;  // MLX's shapes are int32

// npz
inline constexpr size_t npy_header_bytes = 65'536;
// What it unpacks to: so many times the file, and so much more. Weights hardly
// compress, a bomb does a thousandfold.
inline constexpr uint64_t npz_ratio = 3;
inline constexpr uint64_t npz_more_bytes = 512ull << 20;

// pickles of torch.save
inline constexpr uint64_t pickle_bytes = 16ull << 20;
inline constexpr size_t pickle_values = 1 << 18;  // also when written out
inline constexpr int pickle_depth = 64;
inline constexpr uint64_t torch_entries = 200'000;  // of the zip

// GGUF
inline constexpr uint64_t gguf_metadata = 65'536;
inline constexpr uint64_t gguf_tensors = 65'536;
inline constexpr uint64_t gguf_key_bytes = 65'535;
inline constexpr uint64_t gguf_string_bytes = 16ull << 20;
inline constexpr uint64_t gguf_array_elements = 1ull << 24;  // of all arrays
inline constexpr uint32_t gguf_alignment_min = 8;
inline constexpr uint32_t gguf_alignment_max = 65'536;

// config.json, index, tokenizer.json
inline constexpr uint64_t config_bytes = 1ull << 20;
inline constexpr uint64_t index_bytes = 64ull << 20;
inline constexpr uint64_t tokenizer_bytes = 64ull << 20;
inline constexpr int json_depth = 64;
inline constexpr size_t json_values = 1 << 22;  // each takes about 100 bytes
inline constexpr int layers = 512;
inline constexpr int heads = 1024;
inline constexpr int d_model = 65'536;
inline constexpr int d_mlp = 1 << 20;
inline constexpr int vocab = 1 << 22;
inline constexpr size_t token_bytes = 1024;  // of one in a GGUF vocabulary
inline constexpr size_t tokenizer_steps = 64;
inline constexpr size_t tokenizer_pattern_bytes = 16'384;
/** That a tokenizer's steps could make of a text. */
inline constexpr size_t tokenizer_text_bytes = 64ull << 20;
/** For its regular expressions over one text. */
inline constexpr double tokenizer_seconds = 5;

// chat templates
inline constexpr size_t chat_template_bytes = 1ull << 20;
inline constexpr size_t chat_templates = 64;      // of one model
inline constexpr size_t chat_bytes = 4ull << 20;  // of a conversation's JSON
inline constexpr size_t chat_messages = 10'000;
/** Of rendered text with marks in it; an encoded text is a prompt. */
inline constexpr size_t chat_text_bytes = 4ull << 20;
/** That a template's filters and operators read and write. */
inline constexpr size_t chat_work_bytes = 256ull << 20;
inline constexpr uint64_t chat_steps = 4'000'000;
inline constexpr size_t chat_recursion = 200;
inline constexpr double chat_seconds = 5;
/** To find where the turns are: renderings, and bytes of all of them. */
inline constexpr int chat_renderings = 512;
inline constexpr size_t chat_rendered_bytes = 64ull << 20;

// Hugging Face hub
inline constexpr uint64_t hub_answer_bytes = 32ull << 20;  // about a repository
inline constexpr size_t hub_files = 200'000;
inline constexpr uint64_t hub_file_bytes = 1ull << 40;
inline constexpr size_t hub_name_bytes = 96;  // of an owner, a model, a file
inline constexpr size_t hub_token_bytes = 4096;

// what a user hands in; a few bytes may ask for much work
inline constexpr size_t prompt_bytes = 1ull << 20;
inline constexpr size_t text_file_bytes = 64ull << 20;
inline constexpr size_t prompts = 1ull << 20;  // the lines of such a file
inline constexpr size_t pattern_bytes = 4096;
inline constexpr size_t pattern_names = 10'000;    // its braces spelt out
inline constexpr size_t pattern_searches = 1'024;  // of those, with a star

// metrics, edits, lists and ranges, as text
inline constexpr size_t spec_bytes = 1ull << 20;    // of the texts of one list
inline constexpr size_t spec_numbers = 1ull << 20;  // that ranges stand for
inline constexpr size_t spec_number_bytes = 64;     // of one decimal number
inline constexpr size_t spec_edits = 1024;          // in one compose(...)
inline constexpr int spec_depth = 16;               // of nested edits

// what an analysis goes through
inline constexpr int line_steps = 10'000;  // points of a line between two runs

}  // namespace mlxterp::limits
