// text/tokenizer_handle.h: what a Tokenizer holds: the crate's own and what its
// files say of it.

#pragma once

#include <tokenizers_c.h>

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/text/tokenizer.h"

namespace mlxterp {

// How the vocabulary writes bytes down, so that they can be had back exactly.
enum class Spelling {
  byte_level,      // every byte is a printable character, as in GPT-2
  sentence_piece,  // text with U+2581 for a space, other bytes as <0xNN>
  other,           // the crate's decoder knows
};

inline constexpr std::string_view lower_one_eighth_block = "\xE2\x96\x81";

std::string byte_name(unsigned char byte);

/** Throws bad_data with what the crate reported, if it did. */
void check_crate(
    char* message,
    std::string_view function,
    std::string_view what,
    std::string_view advice = "the tokenizer.json is broken");

struct Tokenizer::Handle {
  explicit Handle(std::string_view text, const std::string& added = "");
  ~Handle() { tkc_free(crate); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  std::optional<int> token_id(std::string_view text) const;
  std::optional<tkc_token_info> token(int id) const;
  // What stands for a token wherever tokens are shown.
  std::string shown(int id) const;
  // The bytes one token stands for.
  std::string bytes(const tkc_token_info& info) const;
  // That the vocabulary has what these need; throws usage.
  void check_bytes(std::string_view text) const;
  // Ids that end a text, as configs name them: one or a list.
  void add_ends(const nlohmann::json& ids);

  tkc_tokenizer* crate = nullptr;
  int size = 0;
  Spelling spelling = Spelling::other;
  bool strip_space = false;
  std::array<int32_t, 256> byte_ids{};  // -1: no token is this byte alone
  std::optional<int> bos;
  std::optional<int> eos;
  std::vector<int> ends;
  std::map<std::string, std::string> chat_templates;  // by name
  std::map<std::string, std::string> special_names;   // "bos_token": "<s>"

 private:
  void read_spelling();
  int32_t byte_id(int byte) const;
};

}  // namespace mlxterp
