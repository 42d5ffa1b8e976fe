// mlxterp/models/family.h: how a checkpoint of some model_type becomes a
// Decoder. One file a family: src/models/<family>.cpp.

#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/models/decoder.h"

namespace mlxterp {

class Checkpoint;

/** A piece of a dotted path and what it is called in the Decoder. Pieces are
 * whole components: "self_attn" is not found in "self_attn2". One that
 * only gets ".weight" is a tensor's whole name and found at the path's end. */
struct Rename {
  std::string_view from;
  std::string_view to;
  /** Found only where the path begins: a module that is called "output", as
   * every site of one ends, needs it. */
  bool at_start = false;
};

/** The path with every rename applied, in order, each at its first place. */
std::string rename(std::string path, std::span<const Rename> renames);

/** Several matrices that a checkpoint keeps as one; they are split when it is
 * loaded, so that q, k and v mean the same everywhere. */
struct Fused {
  std::string_view part;  ///< "attn.qkv_proj"
  std::span<const std::string_view> into;
  /** Rows lie in so many blocks, each with its share of every part. */
  int blocks = 1;
  /** As many as key and value heads: with each go the queries that read it. */
  static constexpr int per_kv_head = 0;
  /** Rows of the parts take turns. */
  static constexpr int by_turns = -1;
  /** Rows are those of each of a stack: [expert, row, ...]. */
  bool stacked = false;
  /** In place of `blocks`, where the model says how many. */
  int (*blocks_of)(const Decoder& decoder) = nullptr;
};

/**
 * What is special about one model_type. A value that refers to tables: those of
 * a family of your own, which LoadOptions.families brings in, must live as long
 * as what was loaded by it.
 *
 *     DecoderConfig configure(const std::string& config_json);  // yours
 *     constexpr Rename names[] = {{"model", ""}, {"self_attn", "attn"}};
 *     load("folder", {.families = {{"my_model", configure, names}}});
 */
struct Family {
  std::string_view model_type;
  /** Fills a config from the text of config.json; throws bad_data. */
  DecoderConfig (*configure)(const std::string& config_json);
  /** From the checkpoint's paths to the Decoder's: used both for the tensors
   * when loading and for the names of sites. */
  std::span<const Rename> renames;
  std::span<const Fused> fused = {};
  /** Parts whose matrix is kept as [in, out] (GPT-2's Conv1D), or each of a
   * stack. */
  std::span<const std::string_view> transposed = {};
  /** Tensors whose names begin or end so have those parts as [out, in]
   * already. */
  std::string_view already_transposed_prefix = {};
  std::string_view already_transposed_suffix = {};
  /** Parts that may be kept as a stack of each head's, [head, row, in], or
   * gains as one row of all, [head * d]. */
  std::span<const std::string_view> by_head = {};
  /** What the tensors tell and config.json does not. */
  void (*tell)(DecoderConfig& config, const Checkpoint& checkpoint) = nullptr;
};

/** Every known family. */
std::span<const Family> families();

/** The family a config.json asks for by its model_type, first among `own`;
 * throws bad_data with the known ones. Code named by the config (auto_map) is
 * never run. */
Family family_of(
    const std::string& config_json, std::span<const Family> own = {});

}  // namespace mlxterp
