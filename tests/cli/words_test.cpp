// What the command says besides its numbers: hints, warnings, what it wrote.

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mlxterp/mlxterp.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

constexpr auto clean =
    "When Mary and John went to the store, John gave a drink to";
constexpr auto corrupt =
    "When Mary and John went to the store, Mary gave a drink to";

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class Said : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    path = test::worded_checkpoint(place).string();
  }

  static Words plus(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  testing::TempFolder place;
  std::string path;
};

TEST_F(Said, EverySweepPrintsTheMetricOfItsRuns) {
  const Words pair = {
      "--clean",
      clean,
      "--corrupt",
      corrupt,
      "--metric",
      "logit_diff( Mary, John)",
      "--layers",
      "28"};
  const Words prompt = {
      clean, "--metric", "logit_diff( Mary, John)", "--layers", "28"};
  const std::string both =
      "logit_diff( Mary, John): clean +6.1196, corrupted -5.4853\n";
  for (const auto* verb : {"patch", "path-patch", "attribute"}) {
    const auto outcome = run(plus({verb, "demo"}, pair));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.out.find(both), 0u) << verb << ": " << outcome.out;
    EXPECT_EQ(outcome.err, "") << verb;
  }
  const auto ablated = run(plus({"ablate", "demo", "--how", "zero"}, prompt));
  EXPECT_EQ(
      ablated.out.find("logit_diff( Mary, John): not ablated +6.1196\n"), 0u)
      << ablated.out;
  const auto traced =
      run(plus({"causal-trace", "demo", "--subject", "Mary"}, prompt));
  EXPECT_EQ(
      traced.out.find("logit_diff( Mary, John): clean +6.1196, corrupted "), 0u)
      << traced.out;
}

TEST_F(Said, RunsThatDoNotDoTheTaskGetAWarning) {
  const Words swapped = {
      "--clean",
      corrupt,
      "--corrupt",
      clean,
      "--metric",
      "logit_diff( Mary, John)",
      "--layers",
      "28"};
  for (const auto* verb : {"patch", "path-patch", "attribute"}) {
    const auto outcome = run(plus({verb, "demo", "--json"}, swapped));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "is -5.4853")) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "swapped")) << outcome.err;
    const auto out = json::parse(outcome.out);
    ASSERT_EQ(out["warnings"].size(), 2u) << verb;
    EXPECT_TRUE(has(outcome.err, out["warnings"][0].get<std::string>()));
  }
}

TEST_F(Said, WordsWithoutQuotesComeBackInOrder) {
  const auto outcome = run({"lens", "demo", "The", "Eiffel", "Tower", "is"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(has(outcome.err, "left over: Eiffel Tower is;")) << outcome.err;
  EXPECT_TRUE(has(outcome.err, "in quotes: 'The Eiffel Tower is'"))
      << outcome.err;
  const auto pair =
      run({"patch", "demo", "--clean", "When", "Mary", "and", "John"});
  EXPECT_TRUE(has(pair.err, "left over: Mary and John; put a text"))
      << pair.err;
  EXPECT_TRUE(has(pair.err, "mlxterp patch --help")) << pair.err;
  EXPECT_TRUE(has(
      run({"tuned-lens", "train", "demo", "a", "b", "--text", "x", "-o", "y"})
          .err,
      "mlxterp tuned-lens train --help"));
  EXPECT_TRUE(
      has(run({"lens", "demo", "a", "--bogus"}).err, "no option --bogus"));
  EXPECT_TRUE(has(run({"frob"}).err, "no command 'frob'"));
}

TEST_F(Said, EveryFileWrittenIsNamed) {
  const auto data = place.write("data.txt", std::string(400, 'a') + " b c\n");
  const Words ids = {"--ids", "3,4,5"};
  const Words pair = {
      "--clean-ids",
      "3,4,5",
      "--corrupt-ids",
      "3,9,5",
      "--metric",
      "logit(id:5)",
      "--raw"};
  const std::pair<Words, bool> verbs[] = {
      {plus({"patch", path}, pair), true},
      {plus({"path-patch", path}, pair), true},
      {plus({"attribute", path}, pair), true},
      {plus({"ablate", path, "--how", "zero", "--metric", "kl"}, ids), true},
      {{"causal-trace",
        path,
        "a b c",
        "--subject",
        "b",
        "--samples",
        "1",
        "--raw"},
       true},
      {plus({"dla", path, "--metric", "logit(id:5)"}, ids), true},
      {plus({"heads", path}, ids), true},
      {plus({"trace", path, "--save", "embed"}, ids), false}};
  int n = 0;
  for (const auto& [words, page] : verbs) {
    const auto file = (folder / std::to_string(n++)).string();
    const auto html = file + ".html";
    auto all = plus(words, {"-o", file});
    if (page) all = plus(all, {"--html", html});
    const auto outcome = run(all);
    ASSERT_EQ(outcome.code, 0) << words[0] << outcome.err;
    EXPECT_TRUE(has(outcome.err, "mlxterp: wrote " + file + "\n"))
        << words[0] << ": " << outcome.err;
    if (page) {
      EXPECT_TRUE(has(outcome.err, "mlxterp: wrote " + html + "\n"))
          << words[0] << ": " << outcome.err;
    }
  }
  const auto page = (folder / "lens.html").string();
  EXPECT_TRUE(
      has(run(plus({"lens", path, "--html", page}, ids)).err, "wrote " + page));
  const auto lens = (folder / "tuned").string();
  EXPECT_TRUE(
      has(run({"tuned-lens",
               "train",
               path,
               "--text",
               data,
               "--length",
               "16",
               "--steps",
               "1",
               "-o",
               lens})
              .err,
          "wrote " + lens + ".npz and " + lens + ".json"));
}

TEST_F(Said, TokensOfTextsInTheOrderGiven) {
  const auto outcome =
      run({"tokens", "demo", "The Eiffel", " Paris", "<|im_start|>", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto out = json::parse(outcome.out);
  const auto model = Tokenizer::load(Checkpoint::open(demo_model_path()));
  ASSERT_EQ(out["texts"].size(), 3u);
  const Words texts = {"The Eiffel", " Paris", "<|im_start|>"};
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = model->encode(texts[i]);
    const auto& one = out["texts"][i];
    EXPECT_EQ(one["text"], texts[i]);
    EXPECT_EQ(one["count"], ids.size());
    ASSERT_EQ(one["tokens"].size(), ids.size());
    for (size_t t = 0; t < ids.size(); ++t) {
      EXPECT_EQ(one["tokens"][t]["id"], ids[t]);
      EXPECT_EQ(one["tokens"][t]["special"], i == 2) << i;
    }
  }
  const auto plain = run({"tokens", "demo", "<|im_start|>", "--no-special"});
  EXPECT_FALSE(has(plain.out, "special")) << plain.out;
  const auto shown = run({"tokens", "demo", " Paris"});
  EXPECT_TRUE(has(shown.out, "' Paris'")) << shown.out;
  EXPECT_TRUE(has(shown.out, "1 token\n")) << shown.out;
  EXPECT_TRUE(
      has(shell("printf ' Paris\\n' | " + binary() + " tokens demo -").out,
          "' Paris'"));
  const testing::TempFolder other;
  const auto none = testing::TinyCheckpoint().write(other).string();
  EXPECT_EQ(run({"tokens", none, "a"}).code, 3);
}

TEST_F(Said, ATaskInEveryVerbThatTakesPairs) {
  const auto model = InterpretableModel::load(path);
  const auto task = make_task(model, "induction", {.pairs = 2, .seed = 3});
  const auto file = (folder / "task.json").string();
  std::ofstream(file)
      << run({"tasks", path, "induction", "--n", "2", "--seed", "3", "--json"})
             .out;
  for (const auto* verb :
       {"patch", "path-patch", "attribute", "ablate", "dla", "heads"}) {
    Words named = {
        verb, path, "--task", "induction", "--n", "2", "--seed", "3", "--json"};
    Words read = {verb, path, "--task", file, "--json"};
    if (std::string(verb) != "dla" && std::string(verb) != "heads")
      for (auto* words : {&named, &read})
        words->emplace_back("--raw");
    const auto one = run(named), other = run(read);
    ASSERT_EQ(one.code, 0) << verb << ": " << one.err;
    ASSERT_EQ(other.code, 0) << verb << ": " << other.err;
    auto a = json::parse(one.out), b = json::parse(other.out);
    EXPECT_EQ(a["task"], "induction") << verb;
    EXPECT_EQ(b["task"], file) << verb;
    for (auto* answer : {&a, &b}) {
      answer->erase("task");
      answer->erase("seconds");
    }
    EXPECT_EQ(a, b) << verb;
    const auto both = run(
        {verb,
         path,
         "--task",
         "induction",
         std::string(verb).ends_with("patch") ||
                 std::string(verb) == "attribute"
             ? "--clean-ids"
             : "--ids",
         "1,2"});
    EXPECT_EQ(both.code, 2) << verb;
    EXPECT_TRUE(has(both.err, "--task brings its own")) << both.err;
  }
  const auto ablated = json::parse(
      run({"ablate", path, "--task", file, "--how", "zero", "--json", "--raw"})
          .out);
  const auto expected = ablate(
      model,
      {.prompts = task.clean(),
       .metric = task.metric(),
       .ablation = Ablation::zero});
  EXPECT_NEAR(ablated["metric"]["clean"].get<float>(), expected.clean, 1e-4f);
  ASSERT_EQ(ablated["effect"].size(), expected.metric.size());
  for (size_t i = 0; i < expected.metric.size(); ++i)
    EXPECT_NEAR(ablated["effect"][i].get<float>(), expected.metric[i], 1e-4f);
  EXPECT_EQ(run({"patch", path, "--task", "nowhere.json"}).code, 2);
  std::ofstream(file) << "{\"pairs\": []}";
  EXPECT_EQ(run({"patch", path, "--task", file}).code, 3);
}

TEST_F(Said, CausalTracingTakesTheSubjectOfATask) {
  const auto model = InterpretableModel::load("demo");
  const auto pair =
      make_task(model, "facts", {.pairs = 1, .seed = 2}).pairs.front();
  const auto outcome = run(
      {"causal-trace",
       "demo",
       "--task",
       "facts",
       "--seed",
       "2",
       "--layers",
       "28",
       "--samples",
       "2",
       "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto out = json::parse(outcome.out);
  const auto subject = out["subject"].get<std::string>();
  EXPECT_TRUE(has(pair.clean, subject)) << subject;
  EXPECT_FALSE(has(pair.corrupt, subject)) << subject;
  EXPECT_EQ(
      run({"causal-trace", "demo", "--task", "facts", "--n", "2"}).code, 2);
  EXPECT_EQ(run({"causal-trace", "demo", clean}).code, 2);
}

TEST_F(Said, AHeadIsSpelledOneWay) {
  const Words pair = {
      "patch",
      "demo",
      "--clean",
      clean,
      "--corrupt",
      corrupt,
      "--metric",
      "logit_diff( Mary, John)",
      "--site",
      "z",
      "--by",
      "layer,head",
      "--json"};
  const auto numbers = run(plus(pair, {"--layers", "23", "--heads", "3"}));
  ASSERT_EQ(numbers.code, 0) << numbers.err;
  for (const auto* head : {"L23H3", "23.3"}) {
    const auto named = run(plus(pair, {"--heads", head}));
    ASSERT_EQ(named.code, 0) << named.err;
    EXPECT_EQ(
        json::parse(named.out)["effect"], json::parse(numbers.out)["effect"]);
  }
  const Words attention = {"attention", path, "--ids", "3,4,5", "--json"};
  const auto apart = run(plus(attention, {"--layer", "1", "--head", "4"}));
  ASSERT_EQ(apart.code, 0) << apart.err;
  for (const auto* head : {"L1H4", "1.4"})
    EXPECT_EQ(run(plus(attention, {"--head", head})).out, apart.out);
  EXPECT_EQ(run(plus(pair, {"--heads", "L23H3", "--layers", "3"})).code, 2);
  const auto kv = run(
      {"path-patch",
       "demo",
       "--clean",
       clean,
       "--corrupt",
       corrupt,
       "--metric",
       "logit_diff( Mary, John)",
       "--receiver",
       "23.3.v"});
  EXPECT_EQ(kv.code, 2);
  EXPECT_TRUE(has(kv.err, "receiver L23H3.v")) << kv.err;
  EXPECT_TRUE(has(kv.err, "L23H3 reads kv head 1, which is L23H1.v")) << kv.err;
}

TEST_F(Said, UnknownLayersSayHowManyThereAre) {
  const Words pair = {
      "--clean",
      clean,
      "--corrupt",
      corrupt,
      "--metric",
      "logit_diff( Mary, John)"};
  const Words wrong[] = {
      plus({"patch", "demo", "--layers", "40"}, pair),
      plus({"patch", "demo", "--layers", "-31"}, pair),
      plus({"path-patch", "demo", "--layers", "40"}, pair),
      plus({"path-patch", "demo", "--receiver", "L40H3.q"}, pair),
      plus({"attribute", "demo", "--layers", "40"}, pair),
      {"lens", "demo", "a", "--layers", "40"},
      {"ablate",
       "demo",
       "a",
       "--metric",
       "kl",
       "--how",
       "zero",
       "--layers",
       "40"},
      {"causal-trace", "demo", "a b", "--subject", "a", "--layers", "40"},
      {"trace", "demo", "a", "--save", "layers.40.attn.z"},
      {"trace", "demo", "a", "--edit", "layers.40.mlp_out=scale(0)"},
      {"lens", "demo", "a", "--edit", "layers.40.mlp_out=scale(0)"}};
  for (const auto& words : wrong) {
    const auto outcome = run(words);
    EXPECT_EQ(outcome.code, 2) << outcome.out;
    EXPECT_TRUE(has(outcome.err, "30")) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "0 to 29")) << outcome.err;
  }
  EXPECT_TRUE(
      has(run({"trace", "demo", "a", "--save", "resid_post"}).err,
          "did you mean layers.*.resid_post?"));
}

class Training : public Said {
 protected:
  Words train(const Words& more) {
    const auto text = place.write("text.txt", std::string(3000, 'a') + " b\n");
    return plus(
        {"tuned-lens",
         "train",
         path,
         "--text",
         text,
         "--length",
         "16",
         "-o",
         (folder / "lens").string()},
        more);
  }
};

TEST_F(Training, WorksToAClock) {
  const auto outcome = run(train({"--minutes", "0.15", "--json"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto out = json::parse(outcome.out);
  EXPECT_GE(out["steps"].get<int>(), 1);
  // Where stderr is no terminal, a line now and then.
  EXPECT_TRUE(has(outcome.err, "mlxterp: Training translators, "))
      << outcome.err;
  EXPECT_TRUE(has(outcome.err, "% ") || has(outcome.err, "%,")) << outcome.err;
  EXPECT_EQ(run(train({"--minutes", "-1"})).code, 2);
  EXPECT_EQ(run(train({"--minutes", "1", "--steps", "3"})).code, 2);
}

TEST_F(Training, CtrlCKeepsWhatThereIs) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const auto child = start(train({"--minutes", "20"}), ends[1]);
  ::close(ends[1]);
  std::string told;
  char some[256];
  const auto until = [&](const char* part) {
    while (!has(told, part)) {
      const auto n = ::read(ends[0], some, sizeof some);
      if (n <= 0) break;
      told.append(some, static_cast<size_t>(n));
    }
    EXPECT_TRUE(has(told, part)) << told;
  };
  until("Training translators");
  ::kill(child, SIGINT);
  until("wrote ");
  EXPECT_EQ(wait(child), 130);
  ::close(ends[0]);
  EXPECT_TRUE(has(told, "stopped after ")) << told;
  const auto lens = TunedLens::load(folder / "lens");
  EXPECT_EQ(lens.layers(), 3);
}

}  // namespace
}  // namespace mlxterp
