#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <thread>

#include "mlxterp/view/terminal.h"

namespace mlxterp::cli {

namespace {

// A line about what is being done. A thread of its own draws it, since work
// that is one evaluation says nothing until it is over.
class ProgressLine {
 public:
  ~ProgressLine() { end(); }

  void say(std::string_view what, double done, bool lines) {
    const std::lock_guard lock(mutex_);
    if (work_in(what) != work_in(what_)) since_ = Clock::now();
    lines_ = lines;
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

  // Behind a comma stands what changes, as "1234 tokens/s".
  static std::string_view work_in(std::string_view what) {
    return what.substr(0, what.find(','));
  }

  void draw() {
    std::unique_lock lock(mutex_);
    const auto ended = [this] { return ended_; };
    if (lines_) {
      constexpr std::chrono::seconds longest(300);
      std::chrono::seconds wait(5);
      while (!changed_.wait_for(lock, wait, ended)) {
        fmt::print(stderr, "mlxterp: {}{}\n", what_, state(", {:.0f}%"));
        wait = std::min(2 * wait, longest);
      }
      return;
    }
    auto pause = std::chrono::milliseconds(1000);
    bool drawn = false;
    while (!changed_.wait_for(lock, pause, ended)) {
      fmt::print(stderr, "\r{}\x1b[K", text());
      drawn = true;
      pause = std::chrono::milliseconds(100);
    }
    if (drawn) std::fputs("\r\x1b[K", stderr);
  }

  std::string text() const {
    if (!(done_ > 0)) return what_ + state("");
    constexpr size_t wide = 16;
    const auto filled =
        std::min(static_cast<size_t>(done_ * double{wide}), wide);
    return fmt::format(
        "{} [{:<{}}]{}",
        what_,
        std::string(filled, '='),
        wide,
        state(" {:3.0f}%"));
  }

  // ", 12 s" where nobody can tell how much is done; else that, and how long
  // the rest takes.
  std::string state(const char* percent) const {
    const double passed =
        std::chrono::duration<double>(Clock::now() - since_).count();
    if (!(done_ > 0)) return fmt::format(", {:.0f} s", passed);
    auto text = fmt::format(fmt::runtime(percent), done_ * 100);
    constexpr double enough = 3;  // seconds, to tell from
    if (passed > enough && done_ < 1)
      text += fmt::format(", {} left", duration(passed * (1 - done_) / done_));
    return text;
  }

  static std::string duration(double seconds) {
    constexpr double minute = 60, hour = 3600, most = 100;
    return seconds < most ? fmt::format("{:.0f} s", seconds)
           : seconds < most * minute
               ? fmt::format("{:.0f} min", seconds / minute)
               : fmt::format("{:.0f} h", seconds / hour);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;
  std::string what_;
  double done_ = 0;
  Clock::time_point since_;
  bool ended_ = false, lines_ = false;
};

ProgressLine progress_line;

}  // namespace

Progress progress(bool lines) {
  constexpr size_t longest_line = 60;  // a wrapped one is not taken back
  const bool bar = isatty(STDERR_FILENO) == 1 &&
                   view::terminal(STDERR_FILENO).width >= longest_line;
  if (!bar && !lines) return {};
  return [bar](std::string_view what, double done) {
    progress_line.say(what, done, !bar);
  };
}

void end_progress() {
  progress_line.end();
}

void show_progress(std::string_view what) {
  if (const auto show = progress()) show(what, 0);
}

void note(const std::string& text) {
  end_progress();
  auto said = fmt::format("mlxterp: {}\n", text);
  if (isatty(STDERR_FILENO) == 1)
    said = view::wrapped(said, view::terminal(STDERR_FILENO));
  std::fputs(said.c_str(), stderr);
}

void warn(std::string_view text) {
  note("warning: " + view::escape(text));
}

}  // namespace mlxterp::cli
