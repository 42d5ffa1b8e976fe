// mlxterp edges: its answer, its table, its file, its errors.

#include <nlohmann/json.hpp>
#include <optional>

#include "mlxterp/analysis/edges.h"
#include "mlxterp/io/safetensors.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class EdgesCli : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    path = test::worded_checkpoint(place).string();
  }

  test::Outcome with(const Words& more) const {
    Words all = {"edges", path, "--clean", "a b c", "--corrupt", "a d c"};
    all.insert(all.end(), {"--metric", "logit(id:5)"});
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }

  testing::TempFolder place;
  std::string path;
};

TEST_F(EdgesCli, SaysWhatTheLibrarySays) {
  const auto file = folder / "edges.safetensors";
  const auto outcome = with(
      {"--method",
       "eap-ig",
       "--steps",
       "3",
       "--rule",
       "right",
       "--direction",
       "noise",
       "--ungrouped",
       "--json",
       "-o",
       file.string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto out = json::parse(outcome.out);
  const auto model = InterpretableModel::load(path);
  const auto found = edges(
      model,
      {.clean = "a b c",
       .corrupt = "a d c",
       .metric = logit(5),
       .method = EdgeMethod::eap_ig,
       .direction = Direction::noise,
       .steps = 3,
       .rule = LineRule::right,
       .ungrouped = true});
  const auto to = found.destinations.size();
  size_t at = 0;
  float largest = 0;
  for (size_t i = 0; i < found.scores.size(); ++i) {
    if (std::isnan(found.scores[i])) continue;
    const auto& edge = out["edges"].at(at++);
    EXPECT_EQ(edge["from"], found.sources[i / to].name);
    EXPECT_EQ(edge["to"], found.destinations[i % to].name);
    EXPECT_NEAR(edge["score"].get<float>(), found.scores[i], 1e-5f);
    largest = std::max(largest, std::abs(found.scores[i]));
  }
  EXPECT_GT(largest, 1e-3f);
  EXPECT_EQ(at, out["edges"].size());
  EXPECT_EQ(at, found.edges());
  EXPECT_EQ(out["rule"], "right");
  EXPECT_EQ(out["direction"], "noise");
  EXPECT_EQ(out["ungrouped"], true);
  const auto saved = Safetensors::open(file);
  ASSERT_EQ(saved.tensors().size(), 2u);
  for (const auto& tensor : saved.tensors())
    EXPECT_EQ(
        saved.read(tensor).shape(),
        (mlx::core::Shape{
            static_cast<int>(found.sources.size()), static_cast<int>(to)}));
  const auto names = json::parse(saved.metadata().at("destinations"));
  EXPECT_EQ(names.size(), to);
  EXPECT_EQ(names.back(), "logits");
}

TEST_F(EdgesCli, ShowsTheStrongestIn80Columns) {
  const auto outcome = with({"--top", "5", "--by-position"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("pos  from"), std::string::npos) << outcome.out;
  size_t lines = 0;
  for (size_t at = 0, end = 0; at < outcome.out.size(); at = end + 1, ++lines) {
    end = std::min(outcome.out.find('\n', at), outcome.out.size());
    EXPECT_LE(end - at, 80u) << outcome.out.substr(at, end - at);
  }
  EXPECT_GT(lines, 8u);
}

TEST_F(EdgesCli, RoutesNeedNeitherMetricNorOtherPrompt) {
  const Words all = {"edges", path, "--clean", "a b c", "--method", "ifr"};
  auto words = all;
  words.emplace_back("--json");
  const auto outcome = run(words);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto out = json::parse(outcome.out);
  EXPECT_TRUE(out["metric"].is_null());
  EXPECT_TRUE(out["direction"].is_null());
  EXPECT_EQ(out["edges"].at(0)["score"], 1);
  const auto shown = run(all);
  ASSERT_EQ(shown.code, 0) << shown.err;
  EXPECT_NE(shown.out.find("information flow routes\n"), std::string::npos)
      << shown.out;
  // What reads one source alone has nothing to share.
  EXPECT_EQ(shown.out.find("a0.h0<q>"), std::string::npos) << shown.out;
  EXPECT_NE(shown.out.find("a1.h0<q>"), std::string::npos) << shown.out;
  for (const auto& [more, said] : std::vector<std::pair<Words, std::string>>{
           {{"--metric", "logit(id:5)"}, "leave out --metric"},
           {{"--corrupt", "a d c"}, "leave out --corrupt,"},
           {{"--corrupt-ids", "1,2,3"}, "leave out --corrupt-ids"},
           {{"--sample", "0.5"}, "leave out sample"}}) {
    words = all;
    words.insert(words.end(), more.begin(), more.end());
    const auto refused = run(words);
    EXPECT_EQ(refused.code, 2) << said;
    EXPECT_NE(refused.err.find(said), std::string::npos) << refused.err;
  }
}

TEST_F(EdgesCli, RefusesBadInputByName) {
  const std::vector<std::pair<Words, std::string>> wrong = {
      {{"--method", "acdc"}, "--method 'acdc' is not one of eap, eap-ig"},
      {{"--rule", "up"}, "--rule 'up' is not one of left, mid, right"},
      {{"--direction", "up"}, "--direction 'up'"},
      {{"--method", "eap-ig", "--steps", "0"}, "steps is 0"},
      {{"--steps", "100000000"}, "steps is 100000000"},
      {{"--top", "0"}, "--top must be at least 1"},
      {{"--clean", "a b c d", "--corrupt", "a b"},
       "pair 1: the clean prompt has 8 tokens, the corrupted one 4"},
      {{"--task", "induction"}, "--task"}};
  for (const auto& [more, said] : wrong) {
    const auto outcome = with(more);
    EXPECT_EQ(outcome.code, 2) << said;
    EXPECT_EQ(outcome.out, "") << said;
    EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
  }
  const auto rank = run(
      {"edges",
       path,
       "--clean",
       "a b c",
       "--corrupt",
       "a d c",
       "--metric",
       "rank(id:5)"});
  EXPECT_EQ(rank.code, 2);
  EXPECT_NE(rank.err.find("a rank has no gradient"), std::string::npos);
}

}  // namespace
}  // namespace mlxterp
