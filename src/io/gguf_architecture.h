// io/gguf_architecture.h: what GGUF and Hugging Face call the same tensors.

#pragma once

#include <span>
#include <string_view>

#include "io/gguf_metadata.h"

namespace mlxterp {

/** How llama.cpp's converter changes a tensor. */
enum class Stored {
  as_is,
  query_rows,  ///< Rows in the order of interleaved rotary pairs.
  key_rows,
  transposed,
  one_added,  ///< To the gain of a norm, not to its bias.
};

/** Names end before ".weight" and ".bias", or are whole ones on both sides. */
struct GgufRenaming {
  std::string_view gguf;
  std::string_view checkpoint;
  Stored stored = Stored::as_is;
};

/** A key, behind the architecture's name, and the field of config.json whose
 * value it has, empty where the model has it from elsewhere; without the key
 * `otherwise`, as JSON, empty for nothing. */
struct GgufField {
  std::string_view key;
  std::string_view field;
  std::string_view otherwise = {};
};

/** A field of config.json that is true where the file has a tensor. */
struct GgufFlag {
  std::string_view tensor;
  std::string_view field;
};

struct GgufArchitecture {
  std::string_view name;                     ///< general.architecture
  std::string_view model_type;               ///< config.json
  std::string_view layers = "model.layers";  ///< What stands for blk.
  /** Names that are its own; those in blocks come after the block's number. */
  std::span<const GgufRenaming> whole = {}, in_block = {};
  /** Of several of one name, the first whose tensor some block has, or whose
   * key is there; empty: whatever there is. */
  std::string_view only_with_tensor = {}, only_with_key = {};
  /** What the norms add to the variance; no key: config.json has none. */
  GgufField eps = {"attention.layer_norm_rms_epsilon", "rms_norm_eps"};
  /** Beside sizes, heads and rotation, which all have. */
  std::span<const GgufField> fields = {};
  std::span<const GgufFlag> flags = {};
  /** Of so many layers, all but the last have the window, unless a key says
   * which; 0: there is none. */
  int window_period = 0;
  /** What no key says, as llama.cpp has it: the fields of a JSON object. */
  std::string_view constants = "{}";
};

/** Every one that is known here. */
std::span<const GgufArchitecture> gguf_architectures();

/** What is said of `part` and its suffix, ".weight" as a rule, of a block or of
 * the whole model, by its own names or by those that all share; null: nothing.
 */
const GgufRenaming* find_renaming(
    const GgufArchitecture& architecture,
    bool in_block,
    std::string_view part,
    std::string_view suffix);

/** Throws bad_data where the file's is not known here. */
const GgufArchitecture& find_architecture(
    const Gguf& gguf, const GgufMetadata& metadata);

}  // namespace mlxterp
