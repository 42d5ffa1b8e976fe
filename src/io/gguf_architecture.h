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
  one_added,    ///< To the gain of a norm, not to its bias.
  q_k_v,        ///< One below the other, all heads of each: three tensors, of
                ///< <checkpoint>.q_proj, k_proj and v_proj.
  delta_q_k_v,  ///< Likewise, of heads of a gated delta net.
  flat,         ///< With axes that do not count; a vector.
  log_of_negative,  ///< -exp() of the vector.
  /** Heads of values in turn by the key heads that they belong to: the first
   * of each, the second of each; in the checkpoint all of one key head first.
   */
  tiled_rows,
  tiled_tail,  ///< Of queries, keys and values these.
  tiled_columns,
  tiled_log_of_negative,
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

/** A field of config.json that is true where some block has a tensor. */
struct GgufFlag {
  std::string_view tensor;
  std::string_view field;
};

/** What config.json calls the sizes; empty: it has no such field, and what
 * there is has to be as the others say. */
struct GgufSizes {
  std::string_view layers = "num_hidden_layers";
  std::string_view width = "hidden_size";
  std::string_view inner = "intermediate_size";
  std::string_view heads = "num_attention_heads";
  std::string_view kv_heads = "num_key_value_heads";
  std::string_view head_width = "head_dim";
  std::string_view context = "max_position_embeddings";
};

struct GgufArchitecture {
  std::string_view name;                     ///< general.architecture
  std::string_view model_type;               ///< config.json
  std::string_view layers = "model.layers";  ///< What stands for blk.
  /** Names that are its own; those in blocks come after the block's number. */
  std::span<const GgufRenaming> whole = {}, in_block = {};
  /** Lists of numbers, one for each block, whose keys have no architecture's
   * name in front, and the tensors of one number that they are. */
  std::span<const GgufRenaming> numbers = {};
  GgufSizes sizes = {};
  /** Of several of one name, the first whose tensor some block has, or whose
   * key is there; empty: whatever there is. */
  std::string_view only_with_tensor = {}, only_with_key = {};
  /** What the norms add to the variance; no key: config.json has none. */
  GgufField eps = {"attention.layer_norm_rms_epsilon", "rms_norm_eps"};
  /** Beside sizes, heads and rotation, which all have. Without a name in
   * config.json: it is read by a function of the architecture. */
  std::span<const GgufField> fields = {};
  std::span<const GgufFlag> flags = {};
  /** hidden_act; empty: another field says it, or none. */
  std::string_view activation = "silu";
  bool rotary = true;       ///< Queries and keys turn, as io/gguf_rotation
                            ///< reads it.
  bool part_turns = false;  ///< Where config.json does not say how much does.
  /** Of so many layers, all but the last have the window, unless a key says
   * which; 0: there is none. */
  int window_period = 0;
  /** What no key says, as llama.cpp has it: the fields of a JSON object. */
  std::string_view constants = "{}";
};

/** Whether some block has a tensor of that name: "attn_q.bias". */
bool some_block_has(const Gguf& gguf, std::string_view part);

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
