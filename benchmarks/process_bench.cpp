// The whole command as a user waits for it: time and peak memory of
// `mlxterp lens` on the demo prompt, from exec to exit, files in the page
// cache.   usage: process_bench [PATH_OF_MLXTERP]

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "ratios.h"

namespace {

struct Cost {
  double seconds;
  double bytes;
};

Cost run(const std::string& program) {
  const auto begin = std::chrono::steady_clock::now();
  const pid_t child = fork();
  if (child == 0) {
    dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
    const char* prompt = "The Eiffel Tower is located in the city of";
    execl(
        program.c_str(),
        "mlxterp",
        "lens",
        "demo",
        prompt,
        "--track",
        " Paris",
        nullptr);
    _exit(127);
  }
  int status = 0;
  rusage used{};
  if (child < 0 || wait4(child, &status, 0, &used) != child || status != 0)
    throw std::runtime_error("`" + program + " lens demo ...` failed");
  const std::chrono::duration<double> spent =
      std::chrono::steady_clock::now() - begin;
#ifdef __APPLE__
  const double unit = 1;  // macOS counts bytes, Linux kilobytes
#else
  const double unit = 1024;
#endif
  return {spent.count(), static_cast<double>(used.ru_maxrss) * unit};
}

}  // namespace

int main(int argc, char** argv) {
  const auto own = std::filesystem::absolute(argv[0]).parent_path();
  const auto program = argc > 1 ? argv[1] : (own / "mlxterp").string();
  run(program);  // warms the page cache
  std::vector<double> seconds;
  double bytes = 0;
  for (int i = 0; i < 9; ++i) {
    const auto cost = run(program);
    seconds.push_back(cost.seconds);
    bytes = std::max(bytes, cost.bytes);
  }
  std::sort(seconds.begin(), seconds.end());
  using mlxterp::bench::row;
  row("mlxterp lens, whole process, median of 9",
      seconds[seconds.size() / 2],
      "s",
      1.5);
  row("mlxterp lens, slowest of 9", seconds.back(), "s", 1.5);
  row("mlxterp lens, peak memory", bytes / 1e6, "MB", 900);
}
