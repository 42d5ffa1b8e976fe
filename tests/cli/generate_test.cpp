// The verbs that generate text: what they show beside it, and bad input.

#include <gtest/gtest.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "mlx/random.h"
#include "mlxterp/mlxterp.h"
#include "mlxterp/report/steering.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using nlohmann::json;
using Words = std::vector<std::string>;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The same tokens, as probable, up to one that two continue equally well: the
// passes of two commands add in other orders.
void expect_same(const json& a, const json& b) {
  ASSERT_EQ(a.size(), b.size());
  ASSERT_GT(a.size(), 0u);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(
        a[i]["log_prob"].get<double>(), b[i]["log_prob"].get<double>(), 1e-3);
    if (a[i]["id"] != b[i]["id"]) break;
  }
}

class Generating : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    path = test::worded_checkpoint(place).string();
  }

  json answer(Words arguments) const {
    arguments.emplace_back("--json");
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? json::parse(outcome.out) : json();
  }

  std::string pairs() const {
    return place
        .write(
            "pairs.jsonl",
            R"({"positive": "one two", "negative": "one three"})"
            "\n"
            R"({"positive": "four two", "negative": "four three"})"
            "\n")
        .string();
  }

  std::string vector(const std::string& operation) const {
    const auto file = (place / (operation + ".safetensors")).string();
    const auto made = run(
        {"steer",
         "train",
         path,
         "--pairs",
         pairs(),
         "--operation",
         operation,
         "-o",
         file});
    EXPECT_EQ(made.code, 0) << made.err;
    return file;
  }

  std::string probe(const std::string& site) const {
    std::string lines;
    for (int i = 0; i < 8; ++i)
      lines += fmt::format(
          R"({{"text": "{} it", "label": "{}"}})"
          "\n",
          i,
          i % 2 ? "odd" : "even");
    const auto data = place.write("labelled.jsonl", lines).string();
    const auto file = (place / "probe.safetensors").string();
    const auto made = run(
        {"probe",
         "train",
         path,
         "--data",
         data,
         "--site",
         site,
         "--folds",
         "0",
         "--force",
         "-o",
         file});
    EXPECT_EQ(made.code, 0) << made.err;
    return file;
  }

  static std::vector<int> ids(const json& tokens) {
    std::vector<int> out;
    for (const auto& it : tokens)
      out.push_back(it["id"]);
    return out;
  }

  void refused(const Words& arguments, int code, const Words& says) const {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << outcome.out << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_TRUE(outcome.err.starts_with("mlxterp: ")) << outcome.err;
    for (const auto& part : says)
      EXPECT_TRUE(has(outcome.err, part)) << part << "\n" << outcome.err;
  }

  testing::TempFolder place;
  std::string path;
};

TEST_F(Generating, SteersAndShowsTheSameWithout) {
  const auto file = vector("add");
  const Words base = {
      "steer",
      "apply",
      path,
      "one two",
      "three",
      "--vector",
      file,
      "--layers",
      "1",
      "--strength",
      "2.5",
      "--max-tokens",
      "6"};
  const auto all = answer(base);
  ASSERT_EQ(all["layers"].size(), 1u);
  const auto& layer = all["layers"][0];
  const double norm = layer["residual_norm"], length = layer["length"];
  EXPECT_NEAR(length, 2.5 * norm, 1e-5 * length);
  EXPECT_EQ(all["strength"], 2.5);
  // The same as an edit, and without it.
  const auto loaded = SteeringVector::load(file);
  const auto edit = report::edit_text(loaded, file, 1, 2.5f);
  const Words plain = {
      "generate", path, "one two", "three", "--max-tokens", "6"};
  auto edited = plain;
  edited.insert(edited.end(), {"--edit", edit});
  const auto unsteered = answer(plain), steered = answer(edited);
  ASSERT_EQ(all["texts"].size(), 2u);
  size_t differ = 0;
  for (size_t i = 0; i < 2; ++i) {
    const auto& text = all["texts"][i];
    expect_same(text["unsteered"]["tokens"], unsteered["texts"][i]["tokens"]);
    expect_same(text["steered"]["tokens"], steered["texts"][i]["tokens"]);
    differ +=
        ids(text["steered"]["tokens"]) != ids(text["unsteered"]["tokens"]);
  }
  EXPECT_GT(differ, 0u);
  const auto shown = run(base);
  EXPECT_EQ(shown.code, 0);
  for (const auto* part :
       {"layers.1.resid_post: adds 2.5 x ",
        "the residual's mean length",
        "prompt",
        "unsteered",
        "steered"})
    EXPECT_TRUE(has(shown.out, part)) << part << "\n" << shown.out;
}

TEST_F(Generating, TheEditOfASweepIsOneWordOfAShell) {
  const auto file = (place / "it's one.safetensors").string();
  std::filesystem::copy_file(vector("add"), file);
  const auto shown = run(
      {"steer",
       "sweep",
       path,
       "one two",
       "--vector",
       file,
       "--metric",
       "logit(4)",
       "--no-neutral",
       "--random",
       "0"});
  ASSERT_EQ(shown.code, 0) << shown.err;
  const auto begin = shown.out.find("--edit ") + 7;
  const auto end = shown.out.find('\n', begin);
  const auto word = shown.out.substr(begin, end - begin);
  const auto echoed = shell("printf %s " + word);
  EXPECT_TRUE(has(echoed.out, "it's one.safetensors:layers.")) << word;
}

TEST_F(Generating, TakesDirectionsOut) {
  const auto file = vector("project_out");
  for (const std::string operation : {"project_out", "ablate"}) {
    const auto all = answer(
        {"steer",
         "apply",
         path,
         "one two",
         "--vector",
         file,
         "--operation",
         operation,
         "--max-tokens",
         "4",
         "--when",
         "generated"});
    EXPECT_EQ(all["operation"], operation);
    EXPECT_EQ(all["layers"].size(), 3u);
    EXPECT_TRUE(all["strength"].is_null());
    EXPECT_EQ(all["when"], "generated");
    EXPECT_EQ(all["told"].size(), operation == "ablate" ? 1u : 3u);
    // It acts behind the first token, which is therefore the same.
    const auto& text = all["texts"][0];
    EXPECT_EQ(
        text["steered"]["tokens"][0]["log_prob"],
        text["unsteered"]["tokens"][0]["log_prob"]);
  }
}

TEST_F(Generating, ShowsWhatProbesSay) {
  const auto file = probe("layers.1.resid_post");
  const Words base = {
      "generate", path, "one two", "--max-tokens", "5", "--probe", file};
  const auto made = answer(base);
  ASSERT_EQ(made["probes"].size(), 1u);
  EXPECT_EQ(made["probes"][0]["site"], "layers.1.resid_post");
  EXPECT_TRUE(made["saved"].empty());
  const auto& tokens = made["tokens"];
  ASSERT_EQ(tokens.size(), 5u);
  // Position by position what `probe apply` says of the whole text.
  const auto model = InterpretableModel::load(path);
  auto whole = model.tokenizer().encode("one two");
  const size_t prompt = whole.size();
  for (const int id : ids(tokens))
    whole.push_back(id);
  const auto said = apply_probe(model, Probe::load(file), whole);
  for (size_t k = 0; k + 1 < tokens.size(); ++k)
    EXPECT_NEAR(
        tokens[k]["probes"][0].get<float>(),
        said.data<float>()[prompt + k],
        1e-4)
        << k;
  EXPECT_TRUE(tokens[4]["probes"][0].is_null());  // it does not run
  const auto shown = run(base);
  EXPECT_TRUE(has(shown.out, "log-odds")) << shown.out;
  EXPECT_TRUE(has(shown.out, "odd")) << shown.out;
  // Beside --save, and of several prompts.
  auto more = base;
  more.insert(
      more.end(), {"three", "--probe", file, "--save", "layers.0.resid_post"});
  const auto both = answer(more);
  EXPECT_EQ(both["saved"].size(), 1u);
  EXPECT_EQ(both["texts"][0]["tokens"][0]["probes"].size(), 2u);
  EXPECT_EQ(both["texts"][0]["tokens"], [&] {
    auto twice = tokens;
    for (auto& it : twice)
      it["probes"].push_back(it["probes"][0]);
    return twice;
  }());
}

TEST_F(Generating, BadInputIsAnsweredClearly) {
  const auto add = vector("add"), out = vector("project_out");
  const auto narrow = [&] {
    SteeringVector it;
    it.layers.push_back({1, mx::ones({7}), 3.0f});
    const auto file = place / "narrow.safetensors";
    it.save(file);
    return file.string();
  }();
  const auto empty = place.write("empty.jsonl", "").string();
  const auto blank = place.write("blank.jsonl", "\n\n").string();
  const auto one_class =
      place.write("one.jsonl", "{\"text\": \"a\", \"label\": \"x\"}\n")
          .string();
  const auto wide = [&] {
    Probe it;
    it.weight = {1, 2, 3};
    it.spread = 1;
    it.classes = {"a", "b"};
    it.site = "layers.0.resid_post";
    const auto file = place / "wide.safetensors";
    it.save(file);
    return file.string();
  }();
  const Words steer = {"steer", "apply", path, "one", "--vector"};
  const auto with = [](Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const auto before = std::distance(
      std::filesystem::directory_iterator(folder),
      std::filesystem::directory_iterator());
  refused(with(steer, {add}), 2, {"--strength"});
  refused(with(steer, {out, "--strength", "1"}), 2, {"--strength"});
  refused(
      with(steer, {add, "--operation", "ablate"}), 2, {"'add'", "'ablate'"});
  refused(with(steer, {narrow, "--strength", "1"}), 2, {"7", "24"});
  refused(
      with(steer, {add, "--strength", "1", "--layers", "9"}), 2, {"layer 9"});
  refused(with(steer, {add, "--strength", "nan"}), 2, {"nan"});
  refused(
      with(steer, {(place / "none").string(), "--strength", "1"}), 4, {"none"});
  refused(with(steer, {pairs(), "--strength", "1"}), 3, {"pairs.jsonl"});
  const Words plain = {"generate", path, "one"};
  refused(with(plain, {"--probe", wide}), 2, {"3 numbers", "24"});
  refused(with(plain, {"--probe", add}), 3, {"probe train"});
  refused(with(plain, {"--temperature", "-1"}), 2, {"temperature", "-1"});
  refused(with(plain, {"--top-k", "5"}), 2, {"top_k", "temperature"});
  refused(
      with(plain, {"--temperature", "1", "--top-p", "2"}), 2, {"top_p", "2"});
  refused(with(plain, {"--seed", "-1"}), 2, {"--seed", "-1 is negative"});
  refused(
      with(plain, {"--seed", "18446744073709551616"}),
      2,
      {"--seed", "18446744073709551616 does not fit 64 bits"});
  refused(with(plain, {"--max-tokens", "0"}), 2, {"max_tokens", "0"});
  refused(with(plain, {"--chat"}), 2, {"chat template"});
  refused({"generate", path, "--ids", "1..100"}, 2, {"100", "64", "shorten"});
  const Words train = {
      "steer", "train", path, "-o", (folder / "v").string(), "--pairs"};
  refused(with(train, {empty}), 2, {"empty.jsonl"});
  refused(with(train, {blank}), 2, {"blank.jsonl"});
  refused(
      {"probe",
       "train",
       path,
       "--site",
       "embed",
       "-o",
       (folder / "p").string(),
       "--data",
       one_class},
      3,
      {"1 class"});
  EXPECT_FALSE(std::filesystem::exists(folder / "v"));
  EXPECT_FALSE(std::filesystem::exists(folder / "p"));
  EXPECT_LE(
      std::distance(
          std::filesystem::directory_iterator(folder),
          std::filesystem::directory_iterator()),
      before + 2);  // stdout and stderr
}

// A shell's jobs in the background hear no Ctrl-C, but this, which does the
// same.
TEST_F(Generating, EndedInTheMiddleTheTextSoFarIsKept) {
  const auto file = folder / "kept.safetensors", text = folder / "text";
  const auto outcome = shell(fmt::format(
      "{} generate demo 'Once upon a time' --max-tokens 8000 --save "
      "layers.0.resid_post -o {} > {} & while [ ! -s {} ]; do sleep 0.05; "
      "done; sleep 1; kill -TERM $!; wait $!",
      binary(),
      test::quoted(file.string()),
      test::quoted(text.string()),
      test::quoted(text.string())));
  EXPECT_EQ(outcome.code, 128 + SIGTERM);
  EXPECT_GT(read(text).size(), 2u);
  EXPECT_TRUE(has(outcome.err, "finish: unfinished")) << outcome.err;
  EXPECT_EQ(Safetensors::open(file).tensors().size(), 1u);
}

#if defined(__linux__)
TEST_F(Generating, AFullDiskIsAnError) {
  const auto text = binary() + " generate " + test::quoted(path) + " one";
  for (const auto* more : {"", " --json", " two"}) {
    const auto outcome = shell(text + more + " >/dev/full");
    EXPECT_EQ(outcome.code, 4) << more;
    EXPECT_TRUE(has(outcome.err, "No space left")) << outcome.err;
  }
}
#endif

}  // namespace
}  // namespace mlxterp
