// tests/analysis/documents.h: texts, and a tiny model that reads them.

#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "mlxterp/analysis/activation_store.h"
#include "mlxterp/core/error.h"
#include "tests/cli/worded_checkpoint.h"
#include "tests/temp_folder.h"

namespace mlxterp::test {

// The tiny Llama with words; its tokenizer begins a text with BOS.
inline const InterpretableModel& worded() {
  static const testing::TempFolder place;
  static const auto model =
      InterpretableModel::load(worded_checkpoint(place).string());
  return model;
}

// Of very different lengths, one empty; each begins otherwise.
inline std::vector<std::string> documents(int n) {
  std::vector<std::string> out;
  for (int i = 0; i < n; ++i) {
    std::string text;
    for (int word = 0; word < 1 + i * 7 % 23; ++word)
      text += fmt::format("{}word {} ", word ? "" : "A ", i * word);
    out.push_back(i == 5 ? "" : text);
  }
  return out;
}

inline std::string jsonl(const std::vector<std::string>& texts) {
  std::string out;
  for (const auto& text : texts)
    out += nlohmann::json{{"text", text}, {"id", 7}}.dump() + "\n\n";
  return out;
}

inline void expect_error(
    const std::function<void()>& misuse,
    ErrorKind kind,
    const std::vector<std::string>& parts) {
  try {
    misuse();
    ADD_FAILURE() << "it was accepted: " << parts.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const auto& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << part << " is not in: " << error.what();
  }
}

inline StoreOptions small() {
  StoreOptions options;
  options.length = 16;
  options.batch_size = 3;
  options.shard_rows = 37;
  return options;
}

}  // namespace mlxterp::test
