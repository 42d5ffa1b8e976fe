#include "output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>

#include "arguments.h"
#include "interrupt.h"
#include "mlxterp/io/atomic_file.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/view/heatmap.h"
#include "mlxterp/view/terminal.h"
#include "progress.h"

namespace mlxterp::cli {

void check_output(const std::filesystem::path& path, bool force) {
  std::error_code error;
  const auto shown = view::escape(path.string());
  if (path.empty()) usage("the name of the file to write is empty");
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

void print(std::string_view answer) {
  std::string text(answer);
  if (isatty(STDOUT_FILENO) == 1 && !text.starts_with('{'))  // which is JSON
    text = view::wrapped(text, view::terminal(STDOUT_FILENO));
  const size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
  if (written != text.size() || std::fflush(stdout) != 0)
    throw Error(
        ErrorKind::environment,
        fmt::format("cannot write the answer: {}", std::strerror(errno)));
}

void write_tensors(
    const std::string& path,
    const Tensors& tensors,
    const report::Facts& facts,
    bool force) {
  auto metadata = report::metadata(facts);
  metadata["mlxterp_version"] = MLXTERP_VERSION;
  const Uninterrupted writing;
  save_safetensors(path, tensors, metadata, force);
  note(fmt::format("wrote {}", view::escape(path)));
}

void write_page(const std::string& path, const std::string& page, bool force) {
  const Uninterrupted writing;
  write_file_atomically(path, page, force);
  note(fmt::format("wrote {}", view::escape(path)));
}

std::string command_of(const CLI::App& app) {
  const auto quoted = [](const std::string& word) {
    constexpr std::string_view plain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=@%"
        "+,-";
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos)
      return word;
    std::string out = "'";
    for (const char c : word)
      out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + "'";
  };
  auto out = app.get_name();
  for (const auto* up = app.get_parent(); up; up = up->get_parent())
    out = up->get_name() + " " + out;  // the program's own at last
  std::map<const CLI::Option*, size_t> seen;
  for (const auto* option : app.parse_order()) {
    const auto& values = option->results();
    const auto i = seen[option]++;
    if (i >= values.size()) continue;
    const bool flag = option->get_items_expected_max() == 0;
    if (option->nonpositional()) {
      const auto name = option->get_name();
      const bool no = flag && values[i] == "false";
      out += no ? fmt::format(" --no-{}", name.substr(2))
                : fmt::format(" {}", name);
    }
    if (!flag) out += fmt::format(" {}", quoted(values[i]));
  }
  return out;
}

void Output::add_to(CLI::App& verb) {
  app = &verb;
  verb.add_option("-o,--output", file, "Write the numbers as safetensors");
  verb.add_option("--html", page, "Write an HTML page of the result");
  verb.add_flag("--force", force, "Replace the files if they exist");
}

void Output::check() const {
  if (file) check_output(*file, force);
  if (page) check_output(*page, force);
  std::error_code error;
  const auto whole = [&](const std::string& path) {
    return std::filesystem::weakly_canonical(path, error);
  };
  if (file && page && whole(*file) == whole(*page))
    usage(fmt::format(
        "-o and --html both name {}; give two files", view::escape(*page)));
}

void Output::write(const Tensors& tensors, const report::Facts& facts) const {
  if (file) write_tensors(*file, tensors, facts, force);
}

void Output::write(report::Heatmap map) const {
  if (!page) return;
  map.facts.emplace_back("command", command_of(*app));
  write_page(*page, view::heatmap_page(map), force);
}

}  // namespace mlxterp::cli
