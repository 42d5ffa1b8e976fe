// tokenizers_c.h: the few calls of the Rust crates `tokenizers` and `minijinja`
// that mlxterp needs, as C.
//
// A function that returns `char*` returns NULL when it succeeded, else a
// message that the caller frees with tkc_free_message; its outputs are then
// untouched. Panics inside the crate arrive as such messages, too. Text is
// UTF-8 with a length, not terminated. A tokenizer and a template are
// immutable: calls on one may run on several threads at once.

#ifndef TOKENIZERS_C_H
#define TOKENIZERS_C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tkc_tokenizer tkc_tokenizer;

/** One entry of the vocabulary; the text lives as long as the tokenizer. */
typedef struct {
  const char* text;
  size_t length;
  bool added;    // stands beside the model's own vocabulary
  bool special;  // an added token that controls, such as <|im_start|>
} tkc_token_info;

typedef struct {
  uint32_t* data;
  size_t length;
} tkc_ids;

typedef struct {
  char* data;
  size_t length;
} tkc_text;

/** What a tokenizer may ask for. */
typedef struct {
  size_t vocabulary;     // ids are below it
  size_t steps;          // of all its parts, and pieces of a template
  size_t pattern_bytes;  // of one regular expression
  size_t text_bytes;     // that steps could make of a text
  double seconds;        // that its regular expressions may take over a text
} tkc_limits;

/** A tokenizer from the text of a tokenizer.json, whose truncation and padding
 * are ignored; `added`: a JSON list of tokens, each as in its added_tokens but
 * without an id, that are added where it lacks them. What is over a limit is
 * refused here, or when a text would be. */
char* tkc_new(
    const char* json,
    size_t length,
    const char* added,
    size_t added_length,
    tkc_limits limits,
    tkc_tokenizer** out);
void tkc_free(tkc_tokenizer* tokenizer);

/** One more than the highest id. */
size_t tkc_vocabulary_size(const tkc_tokenizer* tokenizer);

/** False where no token has that id. */
bool tkc_token(const tkc_tokenizer* tokenizer, size_t id, tkc_token_info* out);

/** The id of the token written exactly so, or -1. */
char* tkc_token_id(
    const tkc_tokenizer* tokenizer,
    const char* text,
    size_t length,
    int64_t* id);

/** The decoder's part of tokenizer.json, as JSON; lives as long as the
 * tokenizer. */
const char* tkc_decoder(const tkc_tokenizer* tokenizer, size_t* length);

/** Token ids of a text. `byte_ids[b]` stands for a byte `b` that is not part
 * of a UTF-8 character; -1 there, or no table, makes such a byte an error. */
char* tkc_encode(
    const tkc_tokenizer* tokenizer,
    const char* text,
    size_t length,
    bool parse_special,
    bool add_special,
    const int32_t* byte_ids,
    tkc_ids* out);

/** The text that the crate's own decoder makes of the ids. */
char* tkc_decode(
    const tkc_tokenizer* tokenizer,
    const uint32_t* ids,
    size_t count,
    bool with_special,
    tkc_text* out);

/** Where a text has names of control tokens: of each its first byte and the one
 * behind its last, two numbers a name. */
char* tkc_find_controls(
    const tkc_tokenizer* tokenizer,
    const char* text,
    size_t length,
    tkc_ids* out);

/** Token ids of a text, nothing added, each followed by the first byte of the
 * text that it stands for and the one behind the last: three numbers a token.
 * `data` is `parts` parts of the text (first byte, the one behind the last), in
 * order and apart: nothing in one of them or across its edge is read as a
 * control token. Where that makes no difference the ids are tkc_encode's. */
char* tkc_encode_placed(
    const tkc_tokenizer* tokenizer,
    const char* text,
    size_t length,
    const size_t* data,
    size_t parts,
    tkc_ids* out);

/** A chat template in Hugging Face's dialect of Jinja. */
typedef struct tkc_template tkc_template;

/** What a template may ask for. */
typedef struct {
  size_t source_bytes;
  size_t text_bytes;  // of what it renders
  size_t work_bytes;  // that filters, methods and operators read and write
  uint64_t steps;     // of minijinja
  size_t recursion;   // of macros and blocks
  double seconds;
} tkc_chat_limits;

/** A local time; months and days count from 1. */
typedef struct {
  int32_t year;
  uint32_t month, day, hour, minute, second;
} tkc_time;

/** `told`: renderings tell what {% generation %} wrote, which costs a little.
 */
char* tkc_template_new(
    const char* source,
    size_t length,
    tkc_chat_limits limits,
    bool told,
    tkc_template** out);
void tkc_template_free(tkc_template* chat);

/** Whether it has a {% generation %}. */
bool tkc_template_generates(const tkc_template* chat);

/** The text that the template makes of the JSON object `context`, at the time
 * `now`. Where it makes none, `cause` says why: 0 it does not work, 1 it says
 * no (raise_exception, whose text is the message), 2 it is over a limit.
 * `generated`: of each {% generation %} the first byte that it wrote and the
 * one behind the last, two numbers each, as transformers counts them; nothing
 * where it is not told. */
char* tkc_template_render(
    const tkc_template* chat,
    const char* context,
    size_t length,
    tkc_time now,
    int32_t* cause,
    tkc_text* out,
    tkc_ids* generated);

void tkc_free_ids(tkc_ids ids);
void tkc_free_text(tkc_text text);
void tkc_free_message(char* message);

#ifdef __cplusplus
}
#endif

#endif  // TOKENIZERS_C_H
