// apps/mlxterp/common.h: what the verbs share: which model, which prompt,
// where the answer goes.

#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/core/error.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp::cli {

using Json = nlohmann::ordered_json;

/** Throws Error(usage). */
[[noreturn]] void usage(const std::string& message);

/** MODEL, --dtype, --allow-nan and --json. */
struct ModelArguments {
  std::string model;
  std::string dtype;
  bool allow_nan = false;
  bool json = false;

  void add_to(CLI::App& app);
  std::optional<mlx::core::Dtype> precision() const;
  /** The file or folder; a hub id's is downloaded where it is missing. */
  std::filesystem::path path() const;
  /** Loads it, showing progress; says so where the BLAS is the slow one. */
  InterpretableModel load() const;
};

/** PROMPT or --ids, and --special. */
struct PromptArguments {
  std::optional<std::string> text;
  std::vector<std::string> ids;
  bool special = false;

  void add_to(CLI::App& app);
  /** Throws usage unless exactly one of the two was given. */
  void check() const;
  std::vector<int> tokens(const InterpretableModel& model) const;
};

/** An option that may be given again, each time with one value. */
CLI::Option* add_list(
    CLI::App& app,
    const std::string& name,
    std::vector<std::string>& values,
    const std::string& help);

/** A file's text, whole. Throws environment, usage where it is empty. */
std::string read_text_file(const std::string& path);

/** Values at their commas, those inside {...} and (...) left alone. */
std::vector<std::string> split_lists(const std::vector<std::string>& values);

/** "0,5", "10..20", "-1": whole numbers and ranges, both ends counted. Throws
 * usage naming `option`. */
std::vector<int> whole_numbers(
    const std::vector<std::string>& values, std::string_view option);

/** A token: its text, or id:N. Throws unknown_name, out_of_range. */
int token_id(const InterpretableModel& model, const std::string& text);

/** Labels, "#7" where the model came without a tokenizer. */
std::vector<std::string> labels(
    const InterpretableModel& model, const std::vector<int>& ids);
std::string label(const InterpretableModel& model, int id);

/** Shows work that takes more than a second, on a terminal's stderr: a bar, or
 * the seconds where nobody can tell how much is done. */
Progress progress();
void end_progress();

/** Says so of work that reports nothing itself, until end_progress(). */
void show_progress(std::string_view what);

/** A line on stderr. */
void note(const std::string& text);

/** "warning: ..." on stderr, escaped. */
void warn(std::string_view text);

/** While it lives, Ctrl-C waits for a file to be whole and only then ends the
 * program; a second one does so at once. */
class Uninterrupted {
 public:
  Uninterrupted();
  ~Uninterrupted();
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;
};

/** Throws where `path` exists and may not be replaced, or its folder cannot be
 * written: before any long work. */
void check_output(const std::filesystem::path& path, bool force);

/** To stdout, whole; throws environment where it is full. */
void print(std::string_view text);
void print_json(const Json& json);

/** The float as the shortest number that means it; null for NaN and Inf. */
Json number(float value);
Json number(double value);

/** An array's shape. */
std::vector<int> shape_of(const mlx::core::array& array);

/** float32, float16, ... */
std::string dtype_name(mlx::core::Dtype dtype);

/** 540000000 as "540.0 MB". */
std::string bytes_text(double bytes);

}  // namespace mlxterp::cli
