// analysis/store/windows.h: documents cut into prompts that a model can run.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "analysis/store/text_files.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** The ids of each document, from a place on, which it moves behind it; nothing
 * at the end. */
using NextDocument =
    std::function<std::optional<std::vector<int>>(TextPlace& at)>;

NextDocument documents_of(const InterpretableModel& model, TextFiles& files);
/** `prompts` outlives it. */
NextDocument documents_of(const Inputs::Rows& prompts);

/** The token that the tokenizer puts before a text, such as BOS. */
std::optional<int> first_token_of(const InterpretableModel& model);

/** A prompt. */
struct Window {
  std::vector<int> ids;
  int document = 0;
};

/** Where the next window begins: plain numbers, to be written down. */
struct WindowPlace {
  TextPlace document;
  int64_t window = 0;  ///< How many of that document came before it.
  int64_t tokens = 0;  ///< That came before it, of all documents.

  std::string to_json() const;
  /** Throws bad_data. */
  static WindowPlace from_json(
      const std::string& text, const std::string& where);
};

/**
 * Windows of at most `length` tokens; the last of a document may be shorter.
 * Where a document begins with `bos`, so does each of its windows. Ends behind
 * `tokens` tokens (0: never). One thread at a time.
 */
class Windows {
 public:
  struct Options {
    int length = 0;
    std::optional<int> bos = {};
    int64_t tokens = 0;
  };

  Windows(NextDocument documents, Options options, WindowPlace from);

  std::optional<Window> next();
  const WindowPlace& place() const { return place_; }

 private:
  bool begin_document();

  NextDocument next_;
  Options options_;
  WindowPlace place_;
  TextPlace behind_;  // the document that is open
  std::vector<int> ids_;
  size_t at_ = 0;  // of ids_, the first that no window had
};

}  // namespace mlxterp
