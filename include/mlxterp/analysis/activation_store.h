// mlxterp/analysis/activation_store.h: activations of more text than memory
// holds, as a folder of safetensors files.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

class Safetensors;

struct StoreOptions {
  CollectOptions::Positions positions = CollectOptions::Positions::all;
  /** Tokens of a prompt: documents are cut into so long ones. 0: 512, or the
   * model's context where that is shorter. */
  int length = 0;
  int batch_size = 8;  ///< Prompts in one pass.
  int64_t tokens = 0;  ///< Ends behind so many; 0: at the end of the text.
  /** Rows of a file; 0: as many as take 256 MB. Memory is twice a file. */
  int64_t shard_rows = 0;
  /** Of floating-point values in the files; absent: as the model has them. */
  std::optional<mlx::core::Dtype> dtype = std::nullopt;
  /** Goes on with what stands in the folder. */
  bool resume = false;
  std::string model = {};  ///< Its name, for the manifest.
  /** What stands in the handle, as text, for the manifest. */
  std::vector<std::string> edits = {};
  /** The SAEs attached to it and how, likewise. */
  std::vector<std::string> saes = {};
  Progress progress = {};
  Warn warn = {};
  /** Asked after each block of batches; true ends the work and keeps whole
   * files. */
  std::function<bool()> stop = {};
};

/** A value of each row of a store, as [row, ...]. */
struct StoredTensor {
  std::string name = {};
  std::vector<int> shape = {};  ///< Of one row.
  mlx::core::Dtype dtype = mlx::core::float32;

  size_t row_bytes() const;
};

struct StoreSummary {
  bool complete = false;  ///< Else it was stopped; `resume` goes on.
  int64_t rows = 0;       ///< In whole files.
  int64_t kept = 0;       ///< Of these, there before.
  int64_t tokens = 0, documents = 0;  ///< Read now and before.
  int64_t shards = 0, shard_rows = 0;
  double seconds = 0;            ///< Of this run, and
  double tokens_per_second = 0;  ///< how fast it read.
  std::vector<StoredTensor> sites = {};
};

/**
 * Runs the model over a text file, a JSONL file (a document a line, field
 * `text`) or a folder of these (.txt, .jsonl), and writes the rows of the sites
 * named to shard-00000.safetensors and so on in `folder`, in the order of the
 * text: tensors of the sites' names [row, ...], and int32 [row] each `tokens`
 * (ids), `positions` (in the prompt) and `documents`. Documents are cut into
 * prompts of `length` tokens, which begin with BOS where the document does; a
 * text file is one document, cut at line ends into several above 1 MB. When all
 * is written, manifest.json says of what and how it was made.
 *
 * Memory is bounded whatever the text's length. Each file appears whole or not
 * at all; with `resume` an interrupted run goes on where the last one ends,
 * with the same rows as if it never had been: what it holds is checked, and a
 * block of it made again, which has to come out the same. Layers behind the
 * last site are not run. Evaluates. Throws usage where the folder holds
 * something else, a store and `resume` is not asked, or one of other settings
 * (named) or whose rows come out otherwise now; bad_data for a text that is
 * none, values that are not finite, or a store whose files are broken;
 * environment where files cannot be read or written, or another process writes
 * there.
 */
StoreSummary store_text_activations(
    const InterpretableModel& model,
    const std::filesystem::path& text,
    const std::vector<std::string>& sites,
    const std::filesystem::path& folder,
    const StoreOptions& options = {});

/** The same of prompts in memory, a document each, which are not cut. */
StoreSummary store_activations(
    const InterpretableModel& model,
    const Inputs& prompts,
    const std::vector<std::string>& sites,
    const std::filesystem::path& folder,
    const StoreOptions& options = {});

/**
 * Reads such a folder. Holds what manifest.json says and the files that were
 * read last, open. A value whose copies share those; one thread at a time.
 */
class ActivationStore {
 public:
  /** Throws environment, usage where the store is not complete, bad_data. */
  static ActivationStore open(const std::filesystem::path& folder);
  /** Of the whole files of a folder, complete or not, which hold so many rows
   * of these tensors. Reads nothing. */
  static ActivationStore of_files(
      const std::filesystem::path& folder,
      std::vector<StoredTensor> tensors,
      int64_t shard_rows,
      int64_t rows);

  int64_t rows() const { return rows_; }
  /** The sites, and then tokens, positions, documents. */
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  /** The text of manifest.json. */
  const std::string& manifest() const { return manifest_; }

  /** Rows [begin, end) of a tensor, [row, ...], evaluated. Throws unknown_name,
   * out_of_range, and bad_data where a file is not what the manifest says. */
  mlx::core::array read(
      const std::string& tensor, int64_t begin, int64_t end) const;

  /** The same into memory of (end - begin) * row_bytes() bytes. */
  void read_into(
      const StoredTensor& tensor,
      int64_t begin,
      int64_t end,
      std::byte* to) const;

  /** Throws bad_data or environment where a file is missing, cut off, or not of
   * the rows and tensors it should hold. Reads their headers. */
  void check_files() const;

  /** Throws unknown_name with the names there are. */
  const StoredTensor& tensor(const std::string& name) const;
  int64_t shard_rows() const { return shard_rows_; }

 private:
  struct Shards;

  std::filesystem::path folder_;
  std::string manifest_;
  int64_t rows_ = 0, shard_rows_ = 1;
  std::vector<StoredTensor> tensors_;
  std::shared_ptr<Shards> shards_;
};

struct ShuffleOptions {
  int batch_size = 4096;        ///< Rows; the last batch may have fewer.
  int64_t buffer_rows = 65536;  ///< From which each row is drawn.
  uint64_t seed = 0;
};

struct StoredRows {
  std::vector<int64_t> rows = {};  ///< Which of the store's.
  /** [row, ...] of each tensor asked for. */
  std::vector<std::pair<std::string, mlx::core::array>> values = {};
};

/**
 * Every row of a store once, in random order: short runs of rows come in random
 * order from all files into a buffer, of which random rows are taken. The same
 * seed gives the same order. Memory is the buffer. One thread at a time.
 */
class ShuffledRows {
 public:
  /** Throws unknown_name, usage. */
  ShuffledRows(
      ActivationStore store,
      const std::vector<std::string>& tensors,
      const ShuffleOptions& options = {});
  ShuffledRows(ShuffledRows&&) noexcept;
  ~ShuffledRows();

  /** The next batch, evaluated; nothing at the end. */
  std::optional<StoredRows> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mlxterp
