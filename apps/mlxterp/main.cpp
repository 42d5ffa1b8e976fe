// The mlxterp command.

#include <fmt/format.h>

#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "help.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/core/error.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace {

using namespace mlxterp;  // NOLINT(google-build-using-namespace): the program

constexpr int usage_error = 2;
constexpr int environment_error = 4;

int fail(const std::string& message, int code) {
  cli::note(view::escape(message));
  return code;
}

template <typename Number>
bool is_too_large(const std::string& text) {
  Number number{};
  const auto read =
      std::from_chars(text.data(), text.data() + text.size(), number);
  return read.ec == std::errc::result_out_of_range;
}

// CLI11 takes -1 for the largest number where there are no negative ones, and
// what no number holds, too.
void refuse_other_numbers(CLI::App& app) {
  for (auto* option : app.get_options()) {
    const bool positive = option->get_type_name() == "UINT";
    if (!positive && option->get_type_name() != "INT") continue;
    option->check([positive](const std::string& text) -> std::string {
      if (positive && text.starts_with('-'))
        return text + " is negative; give 0 or more";
      const bool large =
          positive ? is_too_large<uint64_t>(text) : is_too_large<int64_t>(text);
      return large ? text + " does not fit 64 bits; give a smaller number" : "";
    });
  }
  for (auto* command : app.get_subcommands(nullptr))
    refuse_other_numbers(*command);
}

int run(int argc, char** argv) {
  CLI::App app(
      "mlxterp: reads, edits and explains what happens inside a language "
      "model.",
      "mlxterp");
  app.formatter(cli::help_formatter());
  app.set_version_flag("--version", "mlxterp " MLXTERP_VERSION);
  app.require_subcommand(0, 1);
  app.footer(
      "Example:\n  mlxterp lens demo 'The Eiffel Tower is in the city of' "
      "--track ' Paris'\n\nA model is a .gguf file, a Hugging Face folder "
      "or id (org/name), or 'demo'.\n`mlxterp VERB --help` shows the options "
      "of a verb and an example.\nExit codes: 0 success, 2 usage, 3 bad data, "
      "4 environment (a missing file,\nmemory, a full disk).");
  const std::pair<const char*, cli::Run (*)(CLI::App&)> verbs[] = {
      {"info", cli::add_info},
      {"sites", cli::add_sites},
      {"families", cli::add_families},
      {"tokens", cli::add_tokens},
      {"trace", cli::add_trace},
      {"generate", cli::add_generate},
      {"lens", cli::add_lens},
      {"attention", cli::add_attention},
      {"tuned-lens", cli::add_tuned_lens},
      {"jlens", cli::add_jlens},
      {"collect", cli::add_collect},
      {"probe", cli::add_probe},
      {"patch", cli::add_patch},
      {"ablate", cli::add_ablate},
      {"causal-trace", cli::add_causal_trace},
      {"path-patch", cli::add_path_patch},
      {"attribute", cli::add_attribute},
      {"edges", cli::add_edges},
      {"dla", cli::add_dla},
      {"heads", cli::add_heads},
      {"steer", cli::add_steer},
      {"sae", cli::add_sae},
      {"features", cli::add_features},
      {"tasks", cli::add_tasks},
      {"verify", cli::add_verify}};
  std::vector<std::pair<CLI::App*, cli::Run>> commands;
  for (const auto& [name, add] : verbs) {
    auto* command = app.add_subcommand(name);
    commands.emplace_back(command, add(*command));
  }
  refuse_other_numbers(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion&) {
    cli::print(app.version() + "\n");
    return 0;
  } catch (const CLI::Success&) {
    cli::print(app.help());  // of the command, where one was named
    return 0;
  } catch (const CLI::ExtrasError&) {
    return fail(cli::extras_text(app), usage_error);
  } catch (const CLI::ParseError& error) {
    const auto chosen = app.get_subcommands();
    return fail(
        fmt::format(
            "{}; see mlxterp {}--help",
            error.what(),
            chosen.empty() ? "" : chosen.front()->get_name() + " "),
        usage_error);
  }
  for (const auto& [command, act] : commands) {
    if (!command->parsed()) continue;
    act();
    return 0;
  }
  std::fputs(app.help().c_str(), stderr);
  return usage_error;
}

// Bytes of address space this process may have; 0: no limit.
size_t address_space() {
  struct rlimit limit {};
  const bool limited =
      getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return limited ? static_cast<size_t>(limit.rlim_cur) : 0;
}

void check_address_space() {
  const size_t needed = (size_t{200} << 20) + blas_buffers();
  if (address_space() && address_space() < needed)
    throw Error(
        ErrorKind::environment,
        fmt::format(
            "`ulimit -v` gives this process {} MB; it needs {} before it "
            "loads anything, less with OPENBLAS_NUM_THREADS=1",
            address_space() >> 20,
            needed >> 20));
}

// OpenBLAS chooses its kernels while it is loaded: another choice takes another
// start.
void start_with_better_kernels(char** argv) {
#ifdef __linux__
  const auto better = better_kernels(blas());
  if (better.empty()) return;
  setenv("OPENBLAS_CORETYPE", better.c_str(), 1);
  execv("/proc/self/exe", argv);  // comes back only where it cannot
#else
  static_cast<void>(argv);
#endif
}

int answer(int argc, char** argv) {
  try {
    check_address_space();
    return run(argc, argv);
  } catch (const Error& error) {
    return fail(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return fail("out of memory", environment_error);
  } catch (const std::exception& error) {
    return fail(error.what(), environment_error);
  }
}

}  // namespace

int main(int argc, char** argv) {
  start_with_better_kernels(argv);
  // A closed pipe ends us quietly, whatever our parent process ignores.
  std::signal(SIGPIPE, SIG_DFL);
  // An answer beyond `ulimit -f` is an error like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  // float32 must mean float32: on NVIDIA GPUs MLX rounds its products to TF32
  // unless this is set before the first.
  setenv("MLX_ENABLE_TF32", "0", /*overwrite=*/0);
  const int code = answer(argc, argv);
  if (!address_space()) return code;
  // Threads of OpenBLAS that look for memory without end are waited for.
  std::fflush(nullptr);
  std::_Exit(code);
}
