// generate/text_stream.h: the text of tokens as they come.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/text/tokenizer.h"

namespace mlxterp {

/** Text that grows by whole characters, and ends where a stop begins. A value.
 */
class TextStream {
 public:
  /** `before`: the last token of the prompt, which decides whether the first
   * word keeps its space. */
  TextStream(
      std::optional<Tokenizer> tokenizer,
      int before,
      std::vector<std::string> stops);

  /** What a token completes: nothing, where a character or what might become a
   * stop is not whole yet. */
  std::string add(int id);

  /** What was held back. To be called once, at the end. */
  std::string flush();

  bool stopped() const { return stopped_; }
  const std::string& text() const { return text_; }

 private:
  std::string given(size_t whole);

  std::optional<Tokenizer> tokenizer_;
  std::vector<int> ids_;
  size_t skipped_ = 0;  // bytes of what stands before
  std::vector<std::string> stops_;
  std::string text_;  // given out
  std::string all_;
  bool stopped_ = false;
};

}  // namespace mlxterp
