// mlxterp sae: what a sparse autoencoder is, its features of given activations,
// and its files for other tools.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "arguments.h"
#include "interrupt.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/report/sae.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/save.h"
#include "mlxterp/sae/set.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

namespace mx = mlx::core;

constexpr int rows_at_once = 1024;

struct Arguments {
  std::vector<std::string> names;
  std::string name;
  SaeLoadOptions load;
  std::string input, output, to = "saelens";
  bool force = false, json = false;

  SaeLoadOptions options() const {
    auto out = load;
    out.progress = progress();
    return out;
  }
};

void answer(bool json, const std::string& as_json, const std::string& text) {
  print(json ? as_json + "\n" : text);
}

// ---- info ----

std::string range(const report::Spread& spread) {
  return spread.least == spread.most ? fmt::format("{:.4g}", spread.mean)
                                     : fmt::format(
                                           "{:.4g} to {:.4g}, mean {:.4g}",
                                           spread.least,
                                           spread.most,
                                           spread.mean);
}

std::string place(const std::string& site, const std::string& hook) {
  if (site.empty()) return hook.empty() ? "not said" : hook;
  return hook.empty() || hook == site ? site
                                      : fmt::format("{} ({})", site, hook);
}

std::string activation_of(const Sae& sae) {
  auto out = std::string(name_of(sae.activation));
  if (sae.k > 0) out += fmt::format(", k = {}", sae.k);
  return out;
}

std::string input_of(const Sae& sae) {
  std::string out;
  if (sae.norm != SaeNorm::none)
    out = fmt::format(
        "{}{}", name_of(sae.norm), sae.undo_norm ? ", undone behind" : "");
  if (sae.subtract_b_dec)
    out += fmt::format("{}less b_dec", out.empty() ? "" : ", ");
  return out.empty() ? "as it is" : out;
}

std::string text_of(const report::SaeInfo& info) {
  const auto& sae = info.sae;
  const auto& source = sae.source;
  view::Table table({{"", view::Align::left}, {"", view::Align::left}});
  const auto say = [&](const char* what, const std::string& value) {
    table.add({what, value});
  };
  if (info.set)
    say("set", fmt::format("{} layers; below, layer 0", info.set->layers()));
  say("kind", fmt::format("{}, {}", name_of(sae.kind), source.architecture));
  say("format", source.format);
  say("model", source.model.empty() ? "not said" : source.model);
  say("reads", place(source.site_in, source.hook_in));
  if (sae.kind != SaeKind::sae)
    say("writes", place(source.site_out, source.hook_out));
  if (sae.kind == SaeKind::cross_layer)
    say("layers",
        fmt::format(
            "{} to {}",
            sae.first_target,
            sae.first_target + sae.targets() - 1));
  say("features", fmt::format("{}", sae.d_sae()));
  say("width",
      sae.d_in() == sae.d_out()
          ? fmt::format("{}", sae.d_in())
          : fmt::format("{} in, {} out", sae.d_in(), sae.d_out()));
  say("input", input_of(sae));
  say("activation", activation_of(sae));
  if (info.threshold) say("threshold", range(*info.threshold));
  say("decoder rows", "length " + range(info.decoder_norm));
  if (sae.W_skip) say("skip", "x W_skip is added");
  if (source.l0) say("L0", fmt::format("{:g}, as its files say", *source.l0));
  say("parameters", fmt::format("{}", report::parameters(sae)));
  say("file", source.file);
  return table.text(view::terminal(STDOUT_FILENO));
}

void info(const Arguments& a) {
  const auto options = a.options();
  const bool whole = options.layer < 0 && SaeSet::is_set(a.name, options);
  const auto said =
      whole ? report::sae_info(a.name, SaeSet::open(a.name, options))
            : report::sae_info(a.name, load_sae(a.name, options));
  end_progress();
  answer(a.json, report::to_json(said), text_of(said));
}

// ---- convert ----

void convert(const Arguments& a) {
  const bool tracer = a.to == "circuit-tracer";
  const auto options = a.options();
  report::SaeConvertReport report{
      .sources = a.names, .output = a.output, .layout = a.to};
  if (!tracer && a.names.size() != 1)
    usage("SAELens has a folder for each SAE; give one at a time");
  const Uninterrupted writing;
  if (!tracer) {
    save_saelens(load_sae(a.names[0], options), a.output, a.force);
  } else if (a.names.size() == 1 && SaeSet::is_set(a.names[0], options)) {
    const auto set = SaeSet::open(a.names[0], options);
    report.layers = set.layers();
    save_circuit_tracer(set, a.output, a.force);
  } else {
    std::vector<Sae> all;
    for (const auto& name : a.names)
      all.push_back(load_sae(name, options));
    report.layers = static_cast<int>(all.size());
    save_circuit_tracer(all, a.output, a.force);
  }
  end_progress();
  note(fmt::format("wrote {}", view::escape(a.output)));
  answer(
      a.json,
      report::to_json(report),
      fmt::format(
          "{} {} for {}\n",
          report.layers,
          report.layers == 1 ? "layer" : "layers",
          a.to));
}

// ---- encode ----

std::optional<mx::array> rows_of(
    const Safetensors& file, const char* name, int width) {
  const auto found = std::ranges::find_if(
      file.tensors(), [&](const auto& tensor) { return tensor.name == name; });
  if (found == file.tensors().end()) return {};
  const auto values = file.read(*found);
  if (values.ndim() < 1 || values.shape(-1) != width || values.size() == 0)
    usage(fmt::format(
        "tensor '{}' ends in {} and the SAE wants {}; is it the SAE of another "
        "model or site?",
        name,
        values.ndim() < 1 ? 0 : values.shape(-1),
        width));
  return mx::reshape(mx::astype(values, mx::float32), {-1, width});
}

mx::array some_rows(const mx::array& x, int from, int to) {
  auto begin = mx::Shape(x.ndim(), 0), end = x.shape();
  begin[0] = from;
  end[0] = to;
  return mx::slice(x, begin, end);
}

std::string text_of(const report::SaeEncodeReport& report) {
  const auto& fit = report.fit;
  auto text = fmt::format("{} rows", fit.rows);
  if (report.compared)
    text += fmt::format(
        ", explained variance {:.4f} (FVU {:.4f})",
        fit.explained_variance,
        fit.fvu);
  text += fmt::format(", L0 {:.2f}", fit.l0);
  if (const auto l0 = report.encoder.source.l0)
    text += fmt::format(" (its files say {:g})", *l0);
  text += fmt::format(
      "\n{} of {} features are 0 in every row\n",
      report.silent,
      report.encoder.d_sae());
  return text;
}

void encode_file(const Arguments& a) {
  check_output(a.output, a.force);
  const auto sae = load_sae(a.name, a.options());
  end_progress();
  const auto file = Safetensors::open(a.input);
  const auto x = rows_of(file, "x", sae.d_in());
  if (!x)
    usage(fmt::format(
        "{} has no tensor 'x' [rows, {}]", view::escape(a.input), sae.d_in()));
  // What a transcoder should say is 'y', where it is given.
  const bool one = sae.kind == SaeKind::sae;
  const auto y = one ? x : rows_of(file, "y", sae.d_out());
  if (y && y->shape(0) != x->shape(0))
    usage(fmt::format("'x' has {} rows and 'y' {}", x->shape(0), y->shape(0)));
  report::SaeEncodeReport report{
      .sae = a.name, .input = a.input, .output = a.output, .encoder = sae};
  report.compared = y && sae.kind != SaeKind::cross_layer;
  SaeFitter fitter;
  std::vector<mx::array> acts, recons;
  std::optional<mx::array> fired;
  const int n = x->shape(0);
  for (int at = 0; at < n; at += rows_at_once) {
    const int to = std::min(n, at + rows_at_once);
    const auto rows = some_rows(*x, at, to);
    auto& f = acts.emplace_back(encode(sae, rows));
    auto& recon = recons.emplace_back(decode(sae, f, rows));
    const auto now = mx::any(mx::not_equal(f, mx::array(0.0f)), 0);
    fired = fired ? mx::logical_or(*fired, now) : now;
    mx::eval(f, recon, *fired);
    // Without a target the fit counts features only.
    const auto flat = mx::reshape(recon, {to - at, -1});
    fitter.add(report.compared ? some_rows(*y, at, to) : flat, flat, f);
  }
  report.fit = fitter.fit();
  report.silent =
      sae.d_sae() - mx::sum(mx::astype(*fired, mx::int32)).item<int>();
  if (!report.compared) report.fit.explained_variance = report.fit.fvu = 0;
  if (auto sentence = doubt(sae, report.fit); !sentence.empty()) {
    warn(sentence);
    report.warnings.push_back(std::move(sentence));
  }
  write_tensors(
      a.output,
      {{"acts", mx::concatenate(acts, 0)},
       {"recon", mx::concatenate(recons, 0)}},
      {{"sae", a.name}, {"input", a.input}},
      a.force);
  answer(a.json, report::to_json(report), text_of(report));
}

void add_loading(CLI::App& app, Arguments& a) {
  std::string formats;
  for (const auto& format : sae_formats())
    formats += fmt::format("{}{}", formats.empty() ? "" : ", ", format.name);
  app.add_option(
      "--format",
      a.load.format,
      "What it is, where its contents do not tell: " + formats);
  app.add_option("--layer", a.load.layer, "Of a set of transcoders, which");
  app.add_option(
      "--activation-scale",
      a.load.activation_scale,
      "What activations were multiplied by, where its files do not say; 1: it "
      "is folded in");
  app.add_option(
      "--k", a.load.k, "Active features, where its files do not say");
  app.add_option("--revision", a.load.revision, "Of a hub id")
      ->capture_default_str();
  app.add_flag("--json", a.json, "Answer in JSON (docs/json.md)");
}

}  // namespace

Run add_sae(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Sparse autoencoders and transcoders: what one is, its features of "
      "activations in a file, its files for other tools");
  app.require_subcommand(1);
  auto* told = app.add_subcommand("info", "What an SAE or a transcoder is");
  auto* converted =
      app.add_subcommand("convert", "Write it for SAELens or circuit-tracer");
  auto* encoded = app.add_subcommand(
      "encode", "Features and reconstructions of activations in a file");
  auto* evaluated = app.add_subcommand("eval", "How good it is on a text");
  const auto evaluate = add_sae_eval(*evaluated);
  auto* shown = app.add_subcommand(
      "dashboards", "What its features are: examples, tokens, neighbours");
  const auto show = add_sae_dashboards(*shown);
  const char* which =
      "A folder, a file, or a hub id with the path in it (org/name/folder)";
  told->add_option("SAE", a.name, which)->required();
  converted->add_option("SAE", a.names, which)->required();
  converted->add_option("-o,--output", a.output, "The folder to write")
      ->required();
  converted
      ->add_option(
          "--to",
          a.to,
          "saelens: cfg.json, sae_weights.safetensors; circuit-tracer: "
          "config.yaml and a file a layer, from a set or from the transcoders "
          "of layers 0, 1, ... in order")
      ->check(CLI::IsMember({"saelens", "circuit-tracer"}))
      ->capture_default_str();
  encoded->add_option("--sae", a.name, which)->required();
  encoded
      ->add_option(
          "--input",
          a.input,
          "A safetensors file with 'x' [rows, d_in] and, of a transcoder, the "
          "true output 'y' [rows, d_out] if it shall be compared")
      ->required();
  encoded
      ->add_option(
          "-o,--output",
          a.output,
          "Writes 'acts' [rows, features] and 'recon' [rows, d_out] as "
          "safetensors")
      ->required();
  for (auto* command : {converted, encoded})
    command->add_flag("--force", a.force, "Replace what exists");
  const auto train =
      add_sae_train(*app.add_subcommand("train", "Train one on a text"));
  const char* example =
      "Example:\n  mlxterp sae info "
      "google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71\n  "
      "mlxterp sae encode --sae FOLDER --input x.safetensors -o "
      "acts.safetensors\n  mlxterp sae convert ae.pt -o FOLDER --to saelens";
  for (auto* command : {told, converted, encoded})
    add_loading(*command, a);
  for (auto* command : {&app, told, converted, encoded})
    command->footer(example);
  return [=] {
    told->parsed()        ? info(*arguments)
    : converted->parsed() ? convert(*arguments)
    : encoded->parsed()   ? encode_file(*arguments)
    : evaluated->parsed() ? evaluate()
    : shown->parsed()     ? show()
                          : train();
  };
}

}  // namespace mlxterp::cli
