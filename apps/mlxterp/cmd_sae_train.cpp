// mlxterp sae train: a sparse autoencoder or a transcoder, from a text or from
// stored activations.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "arguments.h"
#include "interrupt.h"
#include "mlxterp/report/sae_train.h"
#include "mlxterp/sae/train_run.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

constexpr const char* own_preset = "mlxterp";

// What is given; the rest is as the preset has it.
struct Choices {
  std::optional<int> features, k, batch;
  std::optional<double> sparsity, target_l0, rate, threshold, bandwidth;
  std::optional<int64_t> tokens, dead_after;
  std::optional<uint64_t> seed;
  std::vector<std::string> widths;
  std::string penalty;
  bool transcoder = false, skip = false, bfloat16 = false;
};

struct Arguments {
  ModelArguments model;
  std::string text, store, folder, recipe, preset = own_preset;
  std::vector<std::string> layers;
  std::optional<int> layer;
  Choices choices;
  SaeRunOptions options;
};

template <typename T>
void take(const std::optional<T>& given, T& to) {
  if (given) to = *given;
}

SaeTrainOptions preset_of(const Arguments& a, size_t layers) {
  const auto recipe = [&](const char* without) {
    return parse_sae_recipe(a.recipe.empty() ? without : a.recipe);
  };
  const bool crosses = a.options.crosscoder;
  if (layers == 0 && !crosses) return sae_preset(a.preset, recipe("topk"));
  if (a.preset != own_preset)
    usage(fmt::format(
        "--layers trains by {} losses; of --preset there is none else",
        crosses ? "SAELens'" : "CLT-Forge's"));
  if (crosses)
    return crosscoder_preset(recipe("topk"), static_cast<int>(layers));
  return clt_preset(recipe("jump_relu"), static_cast<int>(layers));
}

SaeTrainOptions training_of(const Arguments& arguments, size_t layers) {
  const auto& given = arguments.choices;
  auto out = preset_of(arguments, layers);
  take(given.features, out.features);
  take(given.k, out.k);
  take(given.batch, out.batch_size);
  take(given.sparsity, out.sparsity);
  take(given.target_l0, out.target_l0);
  take(given.rate, out.learning_rate);
  take(given.threshold, out.threshold);
  take(given.bandwidth, out.bandwidth);
  take(given.tokens, out.tokens);
  take(given.dead_after, out.dead_after);
  take(given.seed, out.seed);
  if (!given.widths.empty())
    out.widths = spec::parse_numbers(given.widths, "--widths");
  if (!given.penalty.empty()) out.penalty = parse_sae_penalty(given.penalty);
  out.transcoder = given.transcoder || given.skip ||
                   (layers > 0 && !arguments.options.crosscoder);
  out.skip = given.skip;
  out.bfloat16 = given.bfloat16;
  return out;
}

std::string share(double part, double whole) {
  return view::percent(static_cast<float>(whole > 0 ? part / whole : 0));
}

std::string what_is(const SaeRunSummary& it) {
  const auto& o = it.options;
  const auto recipe = name_of(o.recipe);
  if (o.blocks > 0)
    return fmt::format(
        "{} of a crosscoder at {} in layers {}:\n{} features of {} numbers",
        recipe,
        it.site,
        fmt::join(it.layers, ", "),
        o.features,
        it.d_in);
  if (!it.layers.empty())
    return fmt::format(
        "{} of a cross-layer transcoder, {} to {} in layers 0 to {}:\n{} "
        "features of {} numbers in each",
        recipe,
        it.site,
        it.site_out,
        it.layers.back(),
        o.features,
        it.d_in);
  return fmt::format(
      "{} of {} at {}{}: {} features of {} numbers",
      recipe,
      o.transcoder ? "a transcoder" : "an SAE",
      it.site,
      it.site_out.empty() ? "" : " to " + it.site_out,
      o.features,
      it.d_in);
}

std::string text_of(const report::SaeTrainReport& report) {
  using view::Align;
  const auto& it = report.summary;
  const auto& o = it.options;
  auto text = fmt::format(
      "{}, {} steps of {} tokens\n", what_is(it), it.steps, o.batch_size);
  if (it.trained) {
    view::Table table(
        {{""},
         {"explained variance", Align::right},
         {"L0", Align::right},
         {"dead", Align::right}});
    const auto add = [&](const std::string& name, const SaeTrained& one) {
      table.add(
          {name,
           fmt::format("{:.4f}", one.fit.explained_variance),
           fmt::format("{:.2f}", one.fit.l0),
           view::percent(static_cast<float>(one.dead_share))});
    };
    for (size_t l = 0; l < it.trained->layers.size(); ++l) {
      const auto& fit = it.trained->layers[l];
      table.add(
          {fmt::format("layer {}", it.layers[l]),
           fmt::format("{:.4f}", fit.explained_variance),
           o.blocks > 0 ? "" : fmt::format("{:.2f}", fit.l0),
           ""});
    }
    add(it.layers.empty() ? std::string(name_of(o.recipe))
        : o.blocks > 0    ? "their mean"
                          : "their mean, L0 of all",
        *it.trained);
    if (it.baseline) add("topk, the baseline", *it.baseline);
    text += "\n" + table.text(view::terminal(STDOUT_FILENO)) +
            fmt::format(
                "\nOver {} of the rows trained on; dead: active in none of "
                "them\n",
                it.trained->fit.rows);
  }
  if (it.steps > it.kept) {
    const auto& t = it.times;
    text += fmt::format(
        "{:.0f} tokens a second; of the time activations {}, products {}, "
        "choosing {},\nsparse sums {}, optimiser {}\n",
        it.rows_per_second,
        share(it.model_seconds, it.seconds),
        share(t.products, it.seconds),
        share(t.choice, it.seconds),
        share(t.sparse, it.seconds),
        share(t.optimiser, it.seconds));
  }
  if (it.left_out > 0)
    text += fmt::format(
        "{} rows were longer than --longest allows, and left out\n",
        it.left_out);
  return text;
}

void check(const Arguments& arguments) {
  const auto& a = arguments;
  if (a.store.empty() == a.text.empty())
    usage(
        "sae train reads --text with a MODEL, or --store; give one of the two");
  if (!a.store.empty() && !a.model.model.empty())
    usage("--store holds activations of a model already; leave MODEL out");
  if (!a.text.empty() && a.model.model.empty())
    usage("--text is read by a model; give MODEL, or --store instead");
  if (a.layer && !a.layers.empty())
    usage(
        "--layer is the one of an SAE, --layers those of a cross-layer "
        "transcoder; give one of the two");
  if (a.layer && !a.options.site.empty())
    usage("--layer N means --site layers.N.resid_post; give one of the two");
  if (!a.text.empty() && a.options.site.empty() && !a.layer && a.layers.empty())
    usage(
        "give --layer, --site as `mlxterp sites` lists them, or --layers of a "
        "cross-layer transcoder");
  if (!a.text.empty() && !a.choices.tokens)
    usage(
        "give --tokens to train on: learning rates fall over the last of them");
}

void run(const Arguments& arguments) {
  check(arguments);
  auto options = arguments.options;
  if (!arguments.layers.empty())
    options.layers = spec::parse_numbers(arguments.layers, "--layers");
  options.train = training_of(arguments, options.layers.size());
  if (arguments.layer)
    options.site = fmt::format("layers.{}.resid_post", *arguments.layer);
  options.model = arguments.model.model;
  options.progress = progress(/*lines=*/true);
  options.warn = warn;
  report::SaeTrainReport report;
  report.model = arguments.model.model;
  report.edits = arguments.model.edits;
  report.text = arguments.text;
  report.store = arguments.store;
  report.folder = arguments.folder;
  const auto trained = [&](const auto&... from) {
    const Uninterrupted training(
        "\nmlxterp: stops after this step with a checkpoint; Ctrl-C again ends "
        "at once\n");
    options.stop = [&] { return training.asked(); };
    report.summary = train_sae(from..., arguments.folder, options);
    end_progress();
    const auto& it = report.summary;
    const auto folder = view::escape(arguments.folder);
    if (!it.complete)
      note(fmt::format(
          "stopped after step {} of {}; the same command with --resume goes on",
          it.steps,
          it.options.steps()));
    else if (it.kept == it.steps)
      note(fmt::format("{} was complete before", folder));
    else
      note(fmt::format(
          "wrote {}{}",
          folder,
          it.kept > 0 ? fmt::format("; {} steps were there", it.kept) : ""));
    print(
        arguments.model.json ? arguments.model.answer(report::to_json(report))
                             : text_of(report));
  };
  if (arguments.store.empty()) {
    arguments.model.check();
    const auto model = arguments.model.load();
    trained(model, std::filesystem::path(arguments.text));
  } else {
    trained(ActivationStore::open(arguments.store));
  }
}

void add_recipe(CLI::App& app, Arguments& a) {
  auto& c = a.choices;
  app.add_option(
      "--recipe",
      a.recipe,
      "relu_l1, gated, topk, batch_topk, jump_relu or matryoshka (topk; across "
      "layers jump_relu, which batch_topk may be instead)");
  app.add_option(
         "--preset",
         a.preset,
         "Whose losses: mlxterp (SAELens' with a warmer start), saelens, "
         "dictionary_learning, sparsify or openai")
      ->capture_default_str();
  app.add_option("--features", c.features, "How many (8 times the width)");
  app.add_option(
      "--k", c.k, "Active features of a row, of all layers together (32)");
  add_list(app, "--widths", c.widths, "Of matryoshka: 288,1152,4608");
  app.add_option(
      "--sparsity",
      c.sparsity,
      "The penalty's coefficient, of relu_l1, gated and jump_relu (1; across "
      "layers 2)");
  app.add_option(
      "--penalty", c.penalty, "Of jump_relu: step, tanh or quadratic");
  app.add_option(
      "--target-l0", c.target_l0, "Of the quadratic penalty: active features");
  app.add_option("--threshold", c.threshold, "Of jump_relu: where it begins");
  app.add_option("--bandwidth", c.bandwidth, "Of jump_relu: of its gradients");
  app.add_flag("--transcoder", c.transcoder, "Predicts --site-out from --site");
  app.add_flag("--skip", c.skip, "A transcoder with a linear skip connection");
  app.add_option("--batch", c.batch, "Tokens of a step (512)");
  app.add_option(
      "--rate", c.rate, "Learning rate (0.001; across layers 0.0004)");
  app.add_option(
      "--dead-after",
      c.dead_after,
      "Tokens without firing after which a feature is dead");
  app.add_flag(
      "--bfloat16",
      c.bfloat16,
      "Products read bfloat16: for a GPU; weights and sums stay float32");
  app.add_option("--seed", c.seed, "Of the weights and the order (0)");
}

}  // namespace

Run add_sae_train(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  auto& o = a.options;
  a.model.add_run_to(app);
  app.get_option("MODEL")->required(false);
  app.add_option(
      "--text",
      a.text,
      "A text file, a JSONL file (a document a line, field \"text\"), or a "
      "folder of .txt and .jsonl files");
  app.add_option(
      "--store",
      a.store,
      "Instead of MODEL and --text: what `mlxterp collect` wrote");
  app.add_option("--layer", a.layer, "N for --site layers.N.resid_post");
  add_list(
      app,
      "--layers",
      a.layers,
      "Train a cross-layer transcoder of these: 0..5, from 0 on");
  app.add_flag(
      "--crosscoder",
      o.crosscoder,
      "With --layers 3,7,11: one SAE of all these together");
  app.add_option(
      "--site",
      o.site,
      "What is read; with --layers in each (resid_mid, of a crosscoder "
      "resid_post)");
  app.add_option(
      "--site-out",
      o.site_out,
      "What a transcoder predicts; with --layers in each (mlp_out)");
  app.add_option(
      "--tokens",
      a.choices.tokens,
      "Tokens to train on (of a store: all once)");
  app.add_option("-o,--output", a.folder, "The folder to write, new or empty")
      ->required();
  app.add_flag(
      "--resume", o.resume, "Go on with what a run left in the folder");
  app.add_flag(
      "--baseline", o.baseline, "Train a topk SAE beside it, to compare with");
  add_recipe(app, a);
  app.add_option(
         "--longest",
         o.longest,
         "Leave out rows that are longer than so many times the median, such "
         "as first tokens'; 0: none")
      ->capture_default_str();
  app.add_option("--length", o.length, "Tokens of a prompt (256)");
  app.add_option("--prompts", o.batch_size, "Prompts in one pass")
      ->capture_default_str();
  app.add_option(
         "--checkpoint",
         o.checkpoint_seconds,
         "Seconds between checkpoints, each a whole SAE")
      ->capture_default_str();
  app.footer(
      "The folder is what SAELens loads, with --layers what circuit-tracer "
      "does, at\nevery checkpoint. Ctrl-C keeps what there is.\n\nExample:\n  "
      "mlxterp sae train demo --text books "
      "--layer 15 --features 4608 --k 32 \\\n    --tokens 1000000 -o sae");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
