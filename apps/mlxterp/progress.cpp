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
      fmt::print(stderr, "\r{}\x1b[K", text());
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

}  // namespace

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
  auto said = fmt::format("mlxterp: {}\n", text);
  if (isatty(STDERR_FILENO) == 1)
    said = view::wrapped(said, view::terminal(STDERR_FILENO));
  std::fputs(said.c_str(), stderr);
}

void warn(std::string_view text) {
  note("warning: " + view::escape(text));
}

}  // namespace mlxterp::cli
