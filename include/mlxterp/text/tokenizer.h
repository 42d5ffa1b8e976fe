// mlxterp/text/tokenizer.h: text to token ids and back.

#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/text/chat.h"

namespace mlxterp {

class Checkpoint;
class Gguf;

struct EncodeOptions {
  /** Read control tokens such as <|im_start|> in the text as themselves, as
   * transformers, TransformerLens and mlx-lm do. Off: their names are text like
   * any other, for text of others that must not control a model. */
  bool parse_special = true;
  /** Add what the tokenizer adds around a text, such as a BOS token. */
  bool add_special = true;
};

/**
 * A Hugging Face tokenizer (the `tokenizers` crate behind it), from a
 * tokenizer.json or a GGUF vocabulary. A cheap handle on shared, immutable
 * state; const members may be called from several threads. Everything throws
 * Error; a panic inside the crate arrives as one too.
 */
class Tokenizer {
 public:
  static Tokenizer from_json(std::string_view tokenizer_json);
  static Tokenizer from_gguf(const Gguf& gguf);
  /** The tokenizer that came with a checkpoint, or nothing where there is
   * none: a GGUF without a vocabulary, a folder with neither tokenizer.json nor
   * vocab.json and merges.txt. Tokens that stand only in other files of the
   * folder are added as transformers adds them. */
  static std::optional<Tokenizer> load(const Checkpoint& checkpoint);

  /** What the tokenizer of another program does, for a model that runs there.
   */
  struct Functions {
    /** Ids of a text as it stands, with nothing added. */
    std::function<std::vector<int>(std::string_view text)> encode;
    std::function<std::string(std::span<const int> ids)> decode;
    int vocab_size = 0;
  };
  /** It has no bos(), eos(), ends(), control_tokens() and chat templates, and
   * each id's label is what it alone decodes to. */
  static Tokenizer from_functions(Functions functions);

  struct Found;
  /** The same for who can do without: what load() would throw of a vocabulary
   * that is broken or not supported is the reason instead. */
  static Found find(const Checkpoint& checkpoint);

  /** Token ids of `text`. Bytes that are not UTF-8 become the vocabulary's
   * single-byte tokens, or an error with the byte's offset where it has none.
   */
  std::vector<int> encode(
      std::string_view text, const EncodeOptions& options = {}) const;

  /** The exact bytes the ids stand for; control tokens are left out unless
   * `with_special`. Not always valid UTF-8. An id without a token, of which
   * published models have many (rows of the embedding that fill it up), is
   * <id 151936>. */
  std::string decode(std::span<const int> ids, bool with_special = false) const;

  /** One label a token, for people: whole characters only. Where several
   * tokens share one character, the first carries it and the others show
   * their bytes, as `<0x9F>`. An id without a token is `<id 151936>`. */
  std::vector<std::string> labels(std::span<const int> ids) const;

  /** The id of a text that is exactly one token (as it stands, no BOS); the
   * name of a control token counts too. Throws unknown_name with the tokens
   * it splits into. */
  int single_token(std::string_view text) const;

  /** Ids run from 0 to this, exclusive. */
  int vocab_size() const;

  std::optional<int> bos() const;
  std::optional<int> eos() const;
  /** Every id that ends a text, eos() first: chat models have several. */
  std::vector<int> ends() const;
  /** Tokens that control, such as <|im_start|>, by id. */
  std::vector<int> control_tokens() const;

  /** The model's own chat templates by name: "default", and others such as
   * "tool_use". Empty where it has none. */
  const std::map<std::string, std::string>& chat_templates() const;

  /** The conversation as the model's own template writes it, and its ids; what
   * is a control token and what text, and where each turn is. Nothing is added
   * to what the template wrote, so a BOS token stands there once or not at all.
   * Throws usage where there is no template, the template refuses the
   * conversation (its own words are in the message) or a content's control
   * tokens cannot be told from the template's; bad_data for a template that
   * does not work or is over a limit. */
  ChatPrompt apply_chat_template(
      const std::vector<ChatMessage>& messages,
      const ChatOptions& options = {}) const;
  /** The same of a JSON list of messages, whose keys keep their order. */
  ChatPrompt apply_chat_template(
      std::string_view messages_json, const ChatOptions& options = {}) const;
  /** The text alone. */
  std::string render_chat(
      std::string_view messages_json, const ChatOptions& options = {}) const;

  struct Handle;  // private to src/text

 private:
  std::shared_ptr<const Handle> handle_;  // absent where there is own_
  std::shared_ptr<const Functions> own_;
};

struct Tokenizer::Found {
  std::optional<Tokenizer> tokenizer;
  std::string reason;  ///< Why there is none; empty where none came along.
};

}  // namespace mlxterp
