// text/gguf_vocabulary.h: a GGUF file's vocabulary as a tokenizer.json.

#pragma once

#include <map>
#include <optional>
#include <string>

#include "mlxterp/io/gguf.h"

namespace mlxterp {

struct GgufVocabulary {
  std::string tokenizer_json;
  std::optional<int> bos;
  std::optional<int> eos;
};

/** Reads the `tokenizer.ggml.*` keys: byte-level BPE ("gpt2") with the
 * pre-tokenizers it knows, and SentencePiece BPE ("llama"). Throws bad_data,
 * naming the key. */
GgufVocabulary gguf_vocabulary(
    const std::map<std::string, GgufValue>& metadata);

}  // namespace mlxterp
