// tests/bad_input.h: runs what reads hostile input in a process of its own, so
// that a crash, an endless loop or a huge allocation fails one test only.

#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/core/error.h"

namespace mlxterp::testing {

struct Outcome {
  enum class End { returned, threw_error, threw_other, died, timed_out };
  End end = End::died;
  ErrorKind kind = ErrorKind::usage;  ///< Where it threw an Error.
  std::string text;    ///< What was returned, or the exception's message.
  double seconds = 0;  ///< Of processors, all threads together.
  uint64_t bytes = 0;  ///< Of memory, at most.
};

/** What bad input may cost, whatever it says: time of processors and memory,
 * for so many bytes of it. The sanitizers cost more of both. */
inline constexpr double most_seconds = 10;
inline constexpr uint64_t most_bytes(uint64_t input) {
  return 4 * input + 1'000'000'000;
}

namespace detail {

inline void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

// GCC defines a macro, Clang has a feature.
#if defined(__SANITIZE_ADDRESS__)
#define MLXTERP_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MLXTERP_ADDRESS_SANITIZER 1
#endif
#endif

// Far above what a small file needs. The sanitizers reserve more than that.
inline void limit_memory() {
#if !defined(MLXTERP_ADDRESS_SANITIZER) && !defined(__APPLE__)
  const rlim_t bytes = rlim_t{6} << 30;
  const struct rlimit limit { bytes, bytes };
  ::setrlimit(RLIMIT_AS, &limit);
#endif
}

[[noreturn]] inline void run_child(
    int descriptor, const std::function<std::string()>& work) {
  limit_memory();
  try {
    const std::string text = work();
    write_all(descriptor, "r");
    write_all(descriptor, text);
  } catch (const Error& error) {
    const char kind = static_cast<char>('0' + static_cast<int>(error.kind()));
    write_all(descriptor, std::string("e") + kind + error.what());
  } catch (const std::exception& error) {
    write_all(descriptor, std::string("o") + error.what());
  }
  ::_exit(0);
}

/** False where `seconds` passed before the other end closed. */
inline bool read_all(int descriptor, int seconds, std::string& text) {
  char buffer[4096];
  for (;;) {
    struct pollfd ready {
      descriptor, POLLIN, 0
    };
    const int count = ::poll(&ready, 1, seconds * 1000);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    const ssize_t size = ::read(descriptor, buffer, sizeof buffer);
    if (size <= 0) return true;
    text.append(buffer, static_cast<size_t>(size));
  }
}

inline double seconds(const struct timeval& time) {
  return static_cast<double>(time.tv_sec) +
         static_cast<double>(time.tv_usec) / 1e6;
}

// The most memory that was in use.
inline uint64_t bytes(const struct rusage& used) {
#ifdef __APPLE__
  return static_cast<uint64_t>(used.ru_maxrss);
#else
  return static_cast<uint64_t>(used.ru_maxrss) * 1024;
#endif
}

inline Outcome understand(const std::string& text, int status) {
  Outcome outcome;
  if (WIFSIGNALED(status) || text.empty()) {
    outcome.text = "status " + std::to_string(status);
    return outcome;
  }
  outcome.text = text.substr(1);
  switch (text[0]) {
    case 'r':
      outcome.end = Outcome::End::returned;
      break;
    case 'o':
      outcome.end = Outcome::End::threw_other;
      break;
    default:
      outcome.end = Outcome::End::threw_error;
      outcome.kind = static_cast<ErrorKind>(text[1] - '0');
      outcome.text = text.substr(2);
  }
  return outcome;
}

}  // namespace detail

/** Runs `work` in a child process. It must not evaluate MLX arrays: the
 * threads that would do so stay behind in the parent. */
inline Outcome run_apart(
    const std::function<std::string()>& work, int seconds = 60) {
  int ends[2];
  if (::pipe(ends) != 0) return {};
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    detail::run_child(ends[1], work);
  }
  ::close(ends[1]);
  std::string text;
  const bool in_time = detail::read_all(ends[0], seconds, text);
  ::close(ends[0]);
  if (!in_time) ::kill(child, SIGKILL);
  int status = 0;
  struct rusage used {};
  ::wait4(child, &status, 0, &used);
  Outcome outcome = detail::understand(text, status);
  outcome.seconds =
      detail::seconds(used.ru_utime) + detail::seconds(used.ru_stime);
  outcome.bytes = detail::bytes(used);
  if (!in_time) outcome.end = Outcome::End::timed_out;
  return outcome;
}

/** Expects what is done in its lifetime to cost no more than so many bytes of
 * bad input may, for what evaluates arrays and so stays in this process. */
class ExpectCheap {
 public:
  explicit ExpectCheap(uint64_t input = 0) : input_(input) {
    ::getrusage(RUSAGE_SELF, &before_);
  }
  ExpectCheap(const ExpectCheap&) = delete;
  ExpectCheap& operator=(const ExpectCheap&) = delete;
  ~ExpectCheap() {
#ifndef MLXTERP_ADDRESS_SANITIZER
    struct rusage after {};
    ::getrusage(RUSAGE_SELF, &after);
    using detail::bytes, detail::seconds;
    EXPECT_LT(
        seconds(after.ru_utime) + seconds(after.ru_stime) -
            seconds(before_.ru_utime) - seconds(before_.ru_stime),
        most_seconds);
    // Of the whole process: what came before counts for it, not against it.
    EXPECT_LT(bytes(after) - bytes(before_), most_bytes(input_));
#endif
  }

 private:
  uint64_t input_;
  struct rusage before_ {};
};

inline void expect_cheap(
    [[maybe_unused]] const Outcome& outcome, [[maybe_unused]] uint64_t input) {
#ifndef MLXTERP_ADDRESS_SANITIZER
  EXPECT_LT(outcome.seconds, most_seconds);
  EXPECT_LT(outcome.bytes, most_bytes(input)) << input << " bytes of input";
#endif
}

/** Expects an Error of that kind whose message holds each of `says`, and that
 * finding it out costs no more than so many bytes of input may. */
inline void expect_refused(
    const std::function<std::string()>& work,
    ErrorKind kind,
    const std::vector<std::string>& says,
    uint64_t input = 0) {
  const Outcome outcome = run_apart(work);
  expect_cheap(outcome, input);
  EXPECT_EQ(outcome.end, Outcome::End::threw_error) << outcome.text;
  if (outcome.end != Outcome::End::threw_error) return;
  EXPECT_EQ(outcome.kind, kind) << outcome.text;
  EXPECT_EQ(outcome.text.substr(0, 1), "[") << outcome.text;
  EXPECT_NE(outcome.text.find("; "), std::string::npos)
      << "no advice: " << outcome.text;
  for (const auto& part : says)
    EXPECT_NE(outcome.text.find(part), std::string::npos)
        << "no '" << part << "' in: " << outcome.text;
}

inline void expect_accepted(
    const std::function<std::string()>& work, uint64_t input = 0) {
  const Outcome outcome = run_apart(work);
  expect_cheap(outcome, input);
  EXPECT_EQ(outcome.end, Outcome::End::returned) << outcome.text;
}

}  // namespace mlxterp::testing
