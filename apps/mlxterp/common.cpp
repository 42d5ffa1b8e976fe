#include "common.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>
#include <sstream>
#include <thread>

#include "mlx/utils.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/io/hub.h"
#include "mlxterp/view/terminal.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

namespace {

// More numbers than this are a slip of the finger, not a wish.
constexpr int64_t longest_range = 1 << 20;

// A line about what is being done. A thread of its own draws it, since work
// that is one evaluation says nothing until it is over.
class ProgressLine {
 public:
  ~ProgressLine() { end(); }

  void say(std::string_view what, double done) {
    const std::lock_guard lock(mutex_);
    if (what != what_) since_ = Clock::now();
    what_ = what;
    done_ = done;
    if (thread_.joinable()) return;
    ended_ = false;
    thread_ = std::thread([this] { draw(); });
  }

  void end() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_one();
    thread_.join();
    what_.clear();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void draw() {
    std::unique_lock lock(mutex_);
    const auto ended = [this] { return ended_; };
    auto pause = std::chrono::milliseconds(1000);
    bool drawn = false;
    while (!changed_.wait_for(lock, pause, ended)) {
      std::fputs(("\r" + text() + "\x1b[K").c_str(), stderr);
      drawn = true;
      pause = std::chrono::milliseconds(100);
    }
    if (drawn) std::fputs("\r\x1b[K", stderr);
  }

  std::string text() const {
    if (!(done_ > 0)) {
      const std::chrono::duration<double> passed = Clock::now() - since_;
      return fmt::format("{}, {:.0f} s", what_, passed.count());
    }
    const auto filled = std::min<size_t>(static_cast<size_t>(done_ * 24), 24);
    return fmt::format(
        "{} [{:<24}] {:3.0f}%", what_, std::string(filled, '='), done_ * 100);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;
  std::string what_;
  double done_ = 0;
  Clock::time_point since_;
  bool ended_ = false;
};

ProgressLine progress_line;

constexpr int ending_signals[] = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t remembered = 0;

void remember(int signal) {
  if (remembered) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  remembered = signal;
}

std::optional<int> whole_number(std::string_view text) {
  int value = 0;
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return value;
}

}  // namespace

void usage(const std::string& message) {
  throw Error(ErrorKind::usage, message);
}

void ModelArguments::add_to(CLI::App& app) {
  app.add_option(
         "MODEL",
         model,
         "A .gguf file, a Hugging Face folder or id (org/name, "
         "org/name/file.gguf), or 'demo'")
      ->required();
  app.add_option(
      "--dtype", dtype, "Precision in memory: float32, float16 or bfloat16");
  app.add_flag(
      "--allow-nan",
      allow_nan,
      "Load weights that are NaN or infinite as well");
  app.add_flag("--json", json, "Answer in JSON (docs/json.md)");
}

std::optional<mx::Dtype> ModelArguments::precision() const {
  if (dtype.empty()) return std::nullopt;
  if (dtype == "float32") return mx::float32;
  if (dtype == "float16") return mx::float16;
  if (dtype == "bfloat16") return mx::bfloat16;
  usage(fmt::format(
      "--dtype '{}' is none of float32, float16, bfloat16",
      view::escape(dtype)));
}

std::filesystem::path ModelArguments::path() const {
  auto path = find_model(model, {.progress = progress()});
  end_progress();
  return path;
}

InterpretableModel ModelArguments::load() const {
  const auto found = blas();
  if (found.slow && mx::default_device() == mx::Device::cpu)
    warn(fmt::format(
        "matrix products run on {}, many times slower than OpenBLAS; install "
        "libopenblas-dev and build again",
        found.name));
  auto loaded = InterpretableModel::load(
      model,
      {.dtype = precision(),
       .progress = progress(),
       .warn = warn,
       .allow_not_finite = allow_nan});
  end_progress();
  return loaded;
}

void PromptArguments::add_to(CLI::App& app) {
  app.add_option("PROMPT", text, "The text to run the model on");
  add_list(app, "--ids", ids, "Token ids in place of PROMPT: 504,414,46682");
  app.add_flag(
      "--special",
      special,
      "Read control tokens such as <|im_start|> in PROMPT as themselves");
}

void PromptArguments::check() const {
  if (text && !ids.empty()) usage("PROMPT and --ids: give one, not both");
  if (!text && ids.empty()) usage("no PROMPT; give one, or --ids");
}

std::vector<int> PromptArguments::tokens(
    const InterpretableModel& model) const {
  if (!text) return whole_numbers(ids, "--ids");
  return model.tokenizer().encode(*text, {.parse_special = special});
}

CLI::Option* add_list(
    CLI::App& app,
    const std::string& name,
    std::vector<std::string>& values,
    const std::string& help) {
  return app.add_option(name, values, help)->allow_extra_args(false);
}

std::string read_text_file(const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, error))
    throw Error(
        ErrorKind::environment,
        fmt::format("cannot read {}; is it a text file?", view::escape(path)));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) usage(fmt::format("{} is empty", view::escape(path)));
  return text;
}

std::vector<std::string> split_lists(const std::vector<std::string>& values) {
  std::vector<std::string> parts;
  for (const auto& value : values) {
    int depth = 0;
    parts.emplace_back();
    for (const char c : value) {
      depth += (c == '{' || c == '(') - (c == '}' || c == ')');
      if (c == ',' && depth <= 0)
        parts.emplace_back();
      else
        parts.back() += c;
    }
  }
  return parts;
}

std::vector<int> whole_numbers(
    const std::vector<std::string>& values, std::string_view option) {
  std::vector<int> numbers;
  for (const auto& part : split_lists(values)) {
    const auto dots = part.find("..");
    const auto first = whole_number(std::string_view(part).substr(0, dots));
    const auto last =
        dots == std::string::npos
            ? first
            : whole_number(std::string_view(part).substr(dots + 2));
    if (!first || !last || *last < *first)
      usage(fmt::format(
          "{} '{}' is neither a whole number nor a range such as 3..7",
          option,
          view::escape(part)));
    if (int64_t{*last} - *first >= longest_range)
      usage(fmt::format("{} {}..{} is too long", option, *first, *last));
    for (int64_t i = *first; i <= *last; ++i)
      numbers.push_back(static_cast<int>(i));
  }
  return numbers;
}

int token_id(const InterpretableModel& model, const std::string& text) {
  if (text.starts_with("id:"))
    if (const auto id = whole_number(std::string_view(text).substr(3))) {
      const int vocab = model.decoder().config().vocab;
      if (*id < 0 || *id >= vocab)
        throw Error(
            ErrorKind::out_of_range,
            fmt::format(
                "token id {} is out of range; the vocabulary has {}",
                *id,
                vocab));
      return *id;
    }
  return model.tokenizer().single_token(text);
}

std::vector<std::string> labels(
    const InterpretableModel& model, const std::vector<int>& ids) {
  // An embedding may have more rows than the tokenizer has tokens.
  bool known = model.has_tokenizer();
  for (const int id : ids)
    known = known && id >= 0 && id < model.tokenizer().vocab_size();
  if (known) return model.tokenizer().labels(ids);
  std::vector<std::string> names;
  for (const int id : ids)
    names.push_back(
        model.has_tokenizer() && id >= 0 && id < model.tokenizer().vocab_size()
            ? model.tokenizer().labels(std::vector{id}).front()
            : fmt::format("#{}", id));
  return names;
}

std::string label(const InterpretableModel& model, int id) {
  return labels(model, {id}).front();
}

Progress progress() {
  constexpr size_t longest_line = 60;  // a wrapped one is not taken back
  if (isatty(STDERR_FILENO) != 1 ||
      view::terminal(STDERR_FILENO).width < longest_line)
    return {};
  return
      [](std::string_view what, double done) { progress_line.say(what, done); };
}

void end_progress() {
  progress_line.end();
}

void show_progress(std::string_view what) {
  if (const auto show = progress()) show(what, 0);
}

void note(const std::string& text) {
  end_progress();
  std::fputs(fmt::format("mlxterp: {}\n", text).c_str(), stderr);
}

void warn(std::string_view text) {
  note("warning: " + view::escape(text));
}

Uninterrupted::Uninterrupted() {
  for (const int signal : ending_signals)
    if (std::signal(signal, remember) == SIG_IGN) std::signal(signal, SIG_IGN);
}

Uninterrupted::~Uninterrupted() {
  for (const int signal : ending_signals)
    if (std::signal(signal, SIG_DFL) == SIG_IGN) std::signal(signal, SIG_IGN);
  if (remembered) std::raise(remembered);
}

void check_output(const std::filesystem::path& path, bool force) {
  std::error_code error;
  const auto shown = view::escape(path.string());
  if (path.empty()) usage("an empty name for the file to write");
  if (std::filesystem::is_directory(path, error))
    usage(fmt::format("{} is a folder; name a file", shown));
  if (!force && std::filesystem::symlink_status(path, error).type() !=
                    std::filesystem::file_type::not_found)
    usage(fmt::format("{} exists; --force replaces it", shown));
  auto folder = path.parent_path();
  if (folder.empty()) folder = ".";
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    throw Error(
        ErrorKind::environment,
        fmt::format("cannot write to {}: {}", shown, std::strerror(errno)));
}

void print(std::string_view text) {
  const size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
  if (written != text.size() || std::fflush(stdout) != 0)
    throw Error(
        ErrorKind::environment,
        fmt::format("cannot write the answer: {}", std::strerror(errno)));
}

void print_json(const Json& json) {
  print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Json number(float value) {
  if (!std::isfinite(value)) return nullptr;
  return std::stod(fmt::format("{}", value));
}

Json number(double value) {
  if (!std::isfinite(value)) return nullptr;
  return value;
}

std::vector<int> shape_of(const mx::array& array) {
  return {array.shape().begin(), array.shape().end()};
}

std::string dtype_name(mx::Dtype dtype) {
  std::ostringstream name;
  name << dtype;
  return name.str();
}

std::string bytes_text(double bytes) {
  constexpr const char* units[] = {"bytes", "KB", "MB", "GB", "TB"};
  size_t unit = 0;
  for (; bytes >= 1000 && unit < 4; ++unit)
    bytes /= 1000;
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, units[unit]);
}

}  // namespace mlxterp::cli
