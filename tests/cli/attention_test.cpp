// mlxterp attention, and what pages of every verb say of their command.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "mlxterp/mlxterp.h"
#include "tests/cli/program.h"
#include "tests/cli/worded_checkpoint.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class AttentionCli : public test::Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    path = test::worded_checkpoint(place).string();
  }
  // Its elements, attributes and data, read by a parser.
  static void expect_good_page(const std::filesystem::path& page) {
    const auto command = "python3 '" MLXTERP_SOURCE_DIR
                         "/tests/view/check_page.py' '" +
                         page.string() + "' map";
    EXPECT_EQ(std::system(command.c_str()), 0);
  }
  const testing::TempFolder place;
  std::string path;
};

TEST_F(AttentionCli, IsTheLibrarys) {
  const auto model = InterpretableModel::load(path);
  const std::vector<int> ids = {3, 4, 5, 6, 3};
  const auto found = attention(model, ids, {.layer = 1});
  const auto file = folder / "a.safetensors", page = folder / "a.html";
  const auto outcome = run(
      {"attention",
       path,
       "--ids",
       "3,4,5,6,3",
       "--layer",
       "-2",
       "--head",
       "4",
       "--json",
       "-o",
       file.string(),
       "--html",
       page.string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto out = json::parse(outcome.out);
  EXPECT_EQ(out["layers"], 3);
  EXPECT_EQ(out["heads"], 6);
  ASSERT_EQ(out["entropy"].size(), 18u);
  for (size_t i = 0; i < 18; ++i) {
    EXPECT_NEAR(out["entropy"][i].get<float>(), found.entropy.values[i], 1e-4);
    EXPECT_NEAR(
        out["previous_token"][i].get<float>(),
        found.previous_token.values[i],
        1e-5);
  }
  ASSERT_EQ(out["patterns"].size(), 1u);
  EXPECT_EQ(out["patterns"][0]["layer"], 1);
  EXPECT_EQ(out["patterns"][0]["head"], 4);
  const auto& weights = out["patterns"][0]["weights"];
  ASSERT_EQ(weights.size(), 25u);
  for (size_t i = 0; i < 25; ++i)
    EXPECT_NEAR(weights[i].get<float>(), found.at(4, i / 5, i % 5), 1e-5);
  const auto saved = Safetensors::open(file);
  std::map<std::string, mlx::core::Shape> shapes;
  for (const auto& tensor : saved.tensors())
    shapes[tensor.name] = saved.read(tensor).shape();
  EXPECT_EQ(shapes["layers.1.attn.pattern"], (mlx::core::Shape{6, 5, 5}));
  EXPECT_EQ(shapes["entropy"], (mlx::core::Shape{3, 6}));
  EXPECT_EQ(shapes.size(), 5u);
  expect_good_page(page);
  const auto all = folder / "all.html";
  ASSERT_EQ(
      run({"attention", path, "one two", "--html", all.string()}).code, 0);
  expect_good_page(all);
}

TEST_F(AttentionCli, SaysWhatIsWrong) {
  const std::vector<std::pair<Words, const char*>> wrong = {
      {{"--head", "1"}, "--head needs --layer"},
      {{"--layer", "3"}, "layers 0 to 2"},
      {{"--layer", "0", "--head", "6"}, "heads 0 to 5"},
      {{"--layer", "0", "--html", "x.html"}, "give --head too"},
      {{"--layer", "0", "--head", "L1H2"}, "leave out --layer"},
      {{"--head", "L1H2,L1H3"}, "names one head"},
      {{"--layer", "one"}, "--layer"}};
  for (const auto& [more, what] : wrong) {
    Words words = {"attention", path, "one two"};
    words.insert(words.end(), more.begin(), more.end());
    const auto outcome = run(words);
    EXPECT_EQ(outcome.code, 2) << what;
    EXPECT_EQ(outcome.out, "") << what;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
  }
}

// A page tells the command that makes it again.
TEST_F(AttentionCli, PagesSayTheirCommand) {
  const auto first = folder / "it's.html", second = folder / "b.html";
  const auto code = [&](const std::filesystem::path& page) {
    const auto text = read(page);
    const auto at = text.find("<dd><code>") + std::string("<dd><code>").size();
    auto out = text.substr(at, text.find("</code>", at) - at);
    for (size_t quote = 0; (quote = out.find("&#39;")) != std::string::npos;)
      out.replace(quote, 5, 1, '\'');
    return out;
  };
  const Words words = {
      "lens",
      path,
      "a 'b' $HOME",
      "--positions",
      "-1",
      "--layers",
      "0",
      "--layers",
      "2",
      "--no-special",
      "--embed",
      "--html",
      first.string()};
  ASSERT_EQ(run(words).code, 0);
  const auto told = code(first);
  EXPECT_TRUE(told.starts_with("mlxterp lens ")) << told;
  EXPECT_NE(
      told.find("--layers 0 --layers 2 --no-special --embed"),
      std::string::npos)
      << told;
  const auto page = read(first);
  ASSERT_EQ(
      shell(binary() + told.substr(std::string("mlxterp").size()) + " --force")
          .code,
      0)
      << told;
  const auto header = [](const std::string& text) {
    return text.substr(0, text.find("<dl class"));
  };
  EXPECT_EQ(header(read(first)), header(page));
  ASSERT_EQ(
      run({"ablate",
           path,
           "one two three",
           "--how",
           "zero",
           "--metric",
           "logit(id:5)",
           "--html",
           second.string()})
          .code,
      0);
  EXPECT_NE(
      code(second).find("--how zero --metric 'logit(id:5)' --html "),
      std::string::npos)
      << code(second);
  expect_good_page(second);
}

}  // namespace
}  // namespace mlxterp
