// sae/train/rows.h: rows to train on, batch by batch, in an order that a
// resumed run repeats.

#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/sae/train_run.h"

namespace mlxterp::sae_train {

using Json = nlohmann::ordered_json;

/** float32 [n, d_in], and of a transcoder [n, d_out]; across layers [n, layers
 * * d_in] and [n, layers * d_out]; evaluated. */
struct Rows {
  mlx::core::array x;
  std::optional<mlx::core::array> y = {};

  int size() const { return x.shape(0); }
};

/** One thread at a time. */
class RowSource {
 public:
  RowSource() = default;
  RowSource(const RowSource&) = delete;
  RowSource& operator=(const RowSource&) = delete;
  virtual ~RowSource() = default;

  /** The next whole batch; there is always one. */
  virtual Rows next() = 0;
  /** Some of the rows, at most 8192: the same whenever it is asked at one
   * place. */
  virtual Rows sample() = 0;
  /** Where the next batch is; plain numbers, to be written down. */
  virtual Json place() const = 0;
  /** Goes there. Throws bad_data for what is none. */
  virtual void go_to(const nlohmann::json& place) = 0;
  /** What it is read from, to tell one source from another. */
  virtual const Json& facts() const = 0;
  /** Of one layer. */
  virtual int d_in() const = 0;
  virtual int d_out() const = 0;

  int64_t left_out() const { return left_out_; }

 protected:
  int64_t left_out_ = 0;
};

inline constexpr int sample_rows = 8192;

/** How many layers' values a row has behind each other, on each side; 0: it is
 * of one site. */
int layers_in(const SaeTrainOptions& options);

/** The sites that rows are of, in order: what is read, then what is predicted,
 * each of all layers. */
std::vector<std::string> sites_of(const SaeRunOptions& options);
/** Rows of the values [n, width] of each of them. */
Rows rows_of(
    const std::vector<mlx::core::array>& values, const SaeRunOptions& options);
/** What is read and predicted in a layer, of the widths of each of them. Throws
 * usage where layers differ. */
std::pair<int, int> widths_of(
    const std::vector<int>& widths, const SaeRunOptions& options);

/** Rows [begin, end), and two after each other. */
Rows part_of(const Rows& rows, int begin, int end);
Rows joined(const std::optional<Rows>& first, const Rows& second);

/** A count in a place. Throws bad_data. */
int64_t count_in(const nlohmann::json& place, const char* key);
double number_in(const nlohmann::json& place, const char* key);

/** `options` has its sites and its batch size filled in; both outlive it. */
std::unique_ptr<RowSource> rows_of_store(
    const ActivationStore& store, const SaeRunOptions& options);
std::unique_ptr<RowSource> rows_of_text(
    const InterpretableModel& model,
    const std::filesystem::path& text,
    const SaeRunOptions& options);

}  // namespace mlxterp::sae_train
