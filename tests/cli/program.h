// tests/cli/program.h: runs the mlxterp binary and sees what it does.

#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <vector>

#include "mlxterp/core/paths.h"

namespace mlxterp::test {

/** A word for the shell. */
inline std::string quoted(const std::string& word) {
  std::string out = "'";
  for (const char c : word)
    out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

struct Outcome {
  int code = -1;    ///< The exit code, 128 + the signal where one ended it.
  std::string out;  ///< stdout
  std::string err;  ///< stderr
};

/** A test with a folder of its own and the demo model at hand. */
class Program : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(std::filesystem::exists(demo_model_path()))
        << "the demo model is missing; run make demo";
    folder = std::filesystem::temp_directory_path() /
             ("mlxterp-cli-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder);
  }
  void TearDown() override { std::filesystem::remove_all(folder); }

  static std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  /** `mlxterp arguments...`. */
  Outcome run(const std::vector<std::string>& arguments) const {
    std::string command = binary();
    for (const auto& argument : arguments)
      command += ' ' + quoted(argument);
    return shell(command);
  }

  /** Starts `mlxterp arguments...` without waiting; its output is dropped, but
   * what it tells on stderr where that is given. */
  static pid_t start(std::vector<std::string> arguments, int err = -1) {
    arguments.insert(arguments.begin(), MLXTERP_BINARY_DIR "/bin/mlxterp");
    std::vector<char*> words;
    for (auto& argument : arguments)
      words.push_back(argument.data());
    words.push_back(nullptr);
    const pid_t child = ::fork();
    if (child != 0) return child;
    const int nowhere = ::open("/dev/null", O_RDWR);
    ::dup2(nowhere, STDOUT_FILENO);
    ::dup2(err < 0 ? nowhere : err, STDERR_FILENO);
    ::execv(words[0], words.data());
    ::_exit(127);
  }

  /** How it ended, as a shell has it: 128 + the signal where one ended it. */
  static int wait(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  static std::string binary() {
    return quoted(MLXTERP_BINARY_DIR "/bin/mlxterp");
  }

  /** Any shell command; its stdout and stderr unless it redirects them. */
  Outcome shell(const std::string& command) const {
    const auto out = folder / "stdout", err = folder / "stderr";
    const auto whole = "{ " + command + " ; } >" + quoted(out.string()) +
                       " 2>" + quoted(err.string());
    const int status = std::system(whole.c_str());
    return {
        WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
        read(out),
        read(err)};
  }

  std::filesystem::path folder;
};

}  // namespace mlxterp::test
