// tests/cli/worded_checkpoint.h: the tiny Llama with a tokenizer of words.

#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/tiny_checkpoint.h"

namespace mlxterp::test {

/** A folder below `place`: three layers of 6 heads, and a byte-level BPE. */
inline std::filesystem::path worded_checkpoint(
    const testing::TempFolder& place) {
  constexpr int vocab = 530;  // more rows than the tokenizer has tokens
  testing::TinyCheckpoint tiny;
  tiny.config["vocab_size"] = vocab;
  tiny.put("model.embed_tokens.weight", {vocab, 24});
  tiny.put("lm_head.weight", {vocab, 24});
  std::ifstream file(
      MLXTERP_SOURCE_DIR "/tests/text/fixtures/llama3.tokenizer.json",
      std::ios::binary);
  tiny.tokenizer = {std::istreambuf_iterator<char>(file), {}};
  return tiny.write(place);
}

/** A JSONL file of n short texts below `place`. */
inline std::filesystem::path worded_texts(
    const testing::TempFolder& place, int n) {
  std::string lines;
  for (int i = 0; i < n; ++i) {
    const auto text = "text " + std::to_string(i * 7919) + " of it";
    lines += nlohmann::json{{"text", text}}.dump() + "\n";
  }
  return place.write("text.jsonl", lines);
}

}  // namespace mlxterp::test
