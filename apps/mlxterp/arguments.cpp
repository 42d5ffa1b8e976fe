#include "arguments.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>

#include "mlx/utils.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/hub.h"
#include "mlxterp/report/sae.h"
#include "mlxterp/sae/attach.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/spec/head.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/spec/sae.h"
#include "mlxterp/view/terminal.h"
#include "progress.h"

namespace mx = mlx::core;

namespace mlxterp::cli {

namespace {

constexpr size_t most_bytes = 64u << 20;  // of a text

// All of it, so that what never ends is refused in time.
std::string read_whole(std::istream& in, const std::string& shown) {
  std::string text;
  char some[1 << 16];
  while (in.read(some, sizeof some), in.gcount() > 0) {
    text.append(some, static_cast<size_t>(in.gcount()));
    if (text.size() > most_bytes)
      usage(fmt::format(
          "{} is longer than {} MB, the largest text that is read",
          shown,
          most_bytes >> 20));
  }
  if (in.bad())
    throw Error(ErrorKind::environment, fmt::format("cannot read {}", shown));
  if (text.empty()) usage(fmt::format("{} is empty", shown));
  return text;
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
      "--revision", revision, "A branch, tag or commit of a Hugging Face id");
  app.add_option(
      "--dtype", dtype, "Precision in memory: float32, float16 or bfloat16");
  app.add_option(
      "--weights",
      weights,
      "packed: a quantised model stays so in memory; unpacked. Without it "
      "packed on a GPU, or where the other would not fit. half: matrices stay "
      "in the half precision of their file, in half the memory, and are "
      "computed with in float32");
  app.add_flag(
      "--allow-nan",
      allow_nan,
      "Load the model even if it has NaN or infinite weights");
  app.add_flag("--json", json, "Answer in JSON (docs/json.md)");
}

void ModelArguments::add_run_to(CLI::App& app) {
  add_to(app);
  add_list(
      app,
      "--edit",
      edits,
      "Edit every pass: SITE=EDIT, as in 'layers.4.mlp_out=scale(0)'; repeat "
      "for more edits (mlxterp trace --help lists them)");
  add_list(
      app,
      "--sae",
      saes,
      "Attach a sparse autoencoder or transcoder: a folder, a file, or a hub "
      "id with a path; or SITE=FILE. Its sites are SITE.sae.acts, and of more "
      "at one site SITE.sae2.acts");
  app.add_option(
         "--sae-mode",
         sae_mode,
         "replace_with_error: edits of features act, nothing else changes; "
         "replace: its reconstruction takes the site's place; read")
      ->capture_default_str();
  app.add_flag(
      "--no-sae-check",
      no_sae_check,
      "Attach it even if it explains nothing of a short English text");
}

void ModelArguments::check() const {
  static_cast<void>(options());
  static_cast<void>(spec::parse_attach_mode(sae_mode, "--sae-mode"));
  for (const auto& text : saes)
    static_cast<void>(spec::parse_sae(text, "--sae"));
}

LoadOptions ModelArguments::options() const {
  LoadOptions out{
      .progress = progress(), .warn = warn, .allow_not_finite = allow_nan};
  if (!dtype.empty()) out.dtype = spec::parse_dtype(dtype, "--dtype");
  if (weights == "packed" || weights == "unpacked")
    out.packed = weights == "packed";
  else if (weights == "half")
    out.half = true;
  else if (!weights.empty())
    usage(fmt::format(
        "--weights '{}' is not one of packed, unpacked, half",
        view::escape(weights)));
  return out;
}

std::filesystem::path ModelArguments::path() const {
  HubOptions options{.progress = progress()};
  if (!revision.empty()) {
    std::error_code error;
    if (model == "demo" || std::filesystem::exists(model, error))
      usage(fmt::format(
          "--revision needs a Hugging Face id; '{}' is on this machine",
          view::escape(model)));
    options.revision = revision;
  }
  auto path = find_model(model, options);
  end_progress();
  return path;
}

InterpretableModel ModelArguments::load() const {
  check_edits();
  return edited(load_unedited());
}

void ModelArguments::check_edits() const {
  static_cast<void>(spec::parse_edits(edits, edit_options()));
}

InterpretableModel ModelArguments::edited(
    const InterpretableModel& plain) const {
  if (edits.empty()) return plain;
  return plain.with(spec::parse_edits(edits, edit_options(&plain)));
}

InterpretableModel ModelArguments::load_unedited() const {
  const auto found = load_saes();  // before any weights of the model
  return attached(load_plain(), found);
}

std::vector<LoadedSae> ModelArguments::load_saes() const {
  std::vector<LoadedSae> out;
  std::map<std::string, int> at;  // by site
  for (const auto& text : saes) {
    auto place = spec::parse_sae(text, "--sae");
    auto sae = load_sae(place.file, {.progress = progress()});
    end_progress();
    const auto site = place.site.empty() ? sae.source.site_out : place.site;
    const int n = ++at[site];
    out.push_back(
        {std::move(sae),
         std::move(place.file),
         std::move(place.site),
         n == 1 ? "sae" : fmt::format("sae{}", n)});
  }
  return out;
}

std::string ModelArguments::answer(std::string text) const {
  return report::with_saes(std::move(text), saes) + "\n";
}

InterpretableModel ModelArguments::attached(
    InterpretableModel plain, const std::vector<LoadedSae>& loaded) const {
  for (const auto& it : loaded) {
    SaeAttachOptions how{
        .mode = spec::parse_attach_mode(sae_mode, "--sae-mode"),
        .name = it.name,
        .site = it.site};
    if (!no_sae_check && plain.has_tokenizer()) {
      show_progress("Checking the SAE");
      auto ids = plain.tokenizer().encode(neutral_text);
      const auto most = static_cast<size_t>(plain.decoder().config().context);
      ids.resize(std::min(ids.size(), most));
      how.check_on = std::move(ids);
    }
    plain = attach_sae(plain, it.sae, how);
    end_progress();
  }
  return plain;
}

InterpretableModel ModelArguments::load_plain() const {
  const auto found = blas();
  if (found.slow && mx::default_device() == mx::Device::cpu)
    warn(fmt::format(
        "matrix products run on {}, many times slower than OpenBLAS; install "
        "libopenblas-dev and build again",
        found.name));
  auto loaded = InterpretableModel::load(path().string(), options());
  end_progress();
  return loaded;
}

void PromptArguments::add_to(CLI::App& app) {
  app.add_option(
      "PROMPT", text, "The text to run the model on; - reads it from stdin");
  add_list(app, "--ids", ids, "Token ids instead of PROMPT: 504,414,46682");
  add_special(app, special);
}

void add_special(CLI::App& app, bool& special) {
  app.add_flag(
      "--special,!--no-special",
      special,
      "Whether control tokens in a prompt, such as <|im_start|>, are parsed as "
      "control tokens (the default) or as plain text");
}

void PromptArguments::check() const {
  if (text && !ids.empty()) usage("PROMPT and --ids: give one, not both");
  if (!text && ids.empty()) usage("no PROMPT; give one, or --ids");
}

std::vector<int> PromptArguments::tokens(
    const InterpretableModel& model) const {
  if (!text) return spec::parse_numbers(ids, "--ids");
  return encode(model, *text, special);
}

void ChoiceArguments::add_layers(CLI::App& app, const std::string& help) {
  add_list(app, "--layers", layers, help);
}

void ChoiceArguments::add_positions(CLI::App& app) {
  add_list(app, "--positions", positions, "Only these positions");
}

void ChoiceArguments::add_heads(CLI::App& app) {
  add_list(app, "--heads", heads, "Only these heads: 3,5, or L23H3");
}

void ChoiceArguments::add_neurons(CLI::App& app) {
  add_list(app, "--neurons", neurons, "Only these neurons");
}

ChoiceArguments::Choice ChoiceArguments::parse() const {
  Choice out;  // member by member: GCC 12 crashes where one of a list throws
  out.layers = spec::parse_numbers(layers, "--layers");
  out.positions = spec::parse_numbers(positions, "--positions");
  const auto chosen = spec::parse_head_choice(heads, "--heads");
  out.heads = chosen.heads;
  if (!chosen.layers.empty() && !layers.empty())
    usage("--heads names layers already; leave out --layers");
  if (!chosen.layers.empty()) out.layers = chosen.layers;
  out.neurons = spec::parse_numbers(neurons, "--neurons");
  return out;
}

CLI::Option* add_list(
    CLI::App& app,
    const std::string& name,
    std::vector<std::string>& values,
    const std::string& help) {
  return app.add_option(name, values, help)->allow_extra_args(false);
}

std::string text_of(const std::string& text) {
  if (text != "-") return text;
  auto whole = read_text(text);
  if (whole.ends_with('\n')) whole.pop_back();  // an echo's
  if (whole.ends_with('\r')) whole.pop_back();
  return whole;
}

std::vector<int> encode(
    const InterpretableModel& model, const std::string& text, bool special) {
  return model.tokenizer().encode(text_of(text), {.parse_special = special});
}

std::string read_text(const std::string& path) {
  if (path == "-") return read_whole(std::cin, "stdin");
  const auto shown = view::escape(path);
  std::error_code error;
  // Before it is opened: opening a pipe waits for its writer.
  const bool regular = std::filesystem::is_regular_file(path, error);
  std::ifstream file;
  if (regular) file.open(path, std::ios::binary);
  if (!file || !regular)
    throw Error(
        ErrorKind::environment,
        fmt::format(
            "cannot read {}; is it a text file? (of pipes, stdin is read: -)",
            shown));
  return read_whole(file, shown);
}

std::vector<std::string> read_lines(const std::string& path) {
  std::istringstream text(read_text(path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) lines.push_back(line);
  }
  if (lines.empty())
    usage(fmt::format(
        "{} holds no prompts; write one per line", view::escape(path)));
  return lines;
}

spec::MetricOptions metric_options(
    std::vector<std::string>& warnings,
    const Inputs::Rows& prompts,
    std::string_view name) {
  spec::MetricOptions out;
  out.name = name;
  out.warn = [&warnings](std::string_view sentence) {
    warn(sentence);
    warnings.emplace_back(sentence);
  };
  out.prompts = prompts;
  return out;
}

spec::EditOptions edit_options(const InterpretableModel* model) {
  return {.name = "--edit", .read = spec::read_tensor, .model = model};
}

}  // namespace mlxterp::cli
