// mlxterp/report/info.h: what a checkpoint is, as JSON and as a table's rows.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/core/blas.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/decoder.h"
#include "mlxterp/models/load.h"
#include "mlxterp/report/names.h"
#include "mlxterp/text/tokenizer.h"

namespace mlxterp::report {

/** What a tokenizer knows beside its vocabulary. */
struct TokenizerInfo {
  int size = 0;
  std::optional<NamedToken> bos = {}, eos = {};
  std::vector<NamedToken> ends = {};     ///< Every token that ends a text.
  std::vector<NamedToken> control = {};  ///< All control tokens.
  std::string adds = {};    ///< What it puts around a prompt, in words.
  bool adds_space = false;  ///< A space before the first word.
};

/** The numbers of a checkpoint, and what they become in memory. */
struct WeightInfo {
  double parameters = 0, file_bytes = 0, memory_bytes = 0;
  double quantized = 0;     ///< How many of the parameters.
  double packed_bytes = 0;  ///< Of those in the file.
  bool packed = false;      ///< Whether they stay so in memory.
  /** The largest matrix that a pass unpacks in flight. */
  double in_flight_bytes = 0;
  int pass_tokens = 0;    ///< Of a prompt that people have.
  double pass_bytes = 0;  ///< About what a pass over it takes beside them.
  std::map<std::string, int> types = {};  ///< Tensors of each type.
  /** Quantised ones that are unpacked though others stay packed. */
  std::map<std::string, int> unpacked = {};
  std::string precision = {};  ///< In memory.
};

/** A value. */
struct ModelInfo {
  std::string model = {};  ///< As it was asked for.
  std::string path = {};
  DecoderConfig config = {};
  /** What config.json says of a scaling of RoPE. */
  std::optional<double> rope_factor = {}, rope_original_context = {};
  std::string format = {};  ///< GGUF or safetensors.
  WeightInfo weights = {};
  std::vector<LeftOut> left_out = {};  ///< Of a checkpoint that holds more.
  std::optional<TokenizerInfo> tokenizer = {};
  /** Why one that came along cannot be read; empty: it can, or none came. */
  std::string no_tokenizer = {};
  /** GFLOP/s of a float32 product here, where it was measured. */
  std::optional<double> matmul_gflops = {};
};

/** Reads the config, the names of the tensors and the tokenizer, no weights.
 * Of the options dtype, packed, half and families matter. Throws bad_data, also
 * where loading would. */
ModelInfo model_info(
    const Checkpoint& checkpoint,
    std::string model_name,
    const LoadOptions& options = {});

/** The answer of `mlxterp info` (docs/json.md). */
std::string to_json(const ModelInfo& info);

/** The same for people: what, and what it is. */
std::vector<std::pair<std::string, std::string>> rows(const ModelInfo& info);

}  // namespace mlxterp::report
