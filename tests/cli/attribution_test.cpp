// mlxterp attribute and dla: their answer, their files, their errors.

#include <map>
#include <nlohmann/json.hpp>

#include "mlxterp/io/safetensors.h"
#include "mlxterp/view/terminal.h"
#include "tests/cli/program.h"

namespace mlxterp {
namespace {

using nlohmann::json;

class AttributionCli : public test::Program {};

const std::vector<std::string> ioi = {
    "attribute",
    "demo",
    "--clean",
    "When Mary and John went to the store, John gave a drink to",
    "--corrupt",
    "When Mary and John went to the store, Mary gave a drink to",
    "--metric",
    "logit_diff( Mary, John)"};

std::vector<std::string> with(std::vector<std::string> more) {
  auto arguments = ioi;
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST_F(AttributionCli, AgreesWithTheExactSweepAndWritesFiles) {
  const auto file = folder / "effect.safetensors", page = folder / "page.html";
  const auto outcome = run(with(
      {"--site",
       "z,k",
       "--by",
       "layer,head",
       "--layers",
       "18..29",
       "--exact",
       "--json",
       "-o",
       file.string(),
       "--html",
       page.string()}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  // The page's columns are those of z.
  EXPECT_NE(outcome.err.find("k has different columns"), std::string::npos);
  const auto out = json::parse(outcome.out);
  EXPECT_NEAR(out["metric"]["clean"].get<double>(), 6.1196, 1e-3);
  EXPECT_NEAR(out["metric"]["corrupt"].get<double>(), -5.4853, 1e-3);
  ASSERT_EQ(out["sites"].size(), 2u);
  EXPECT_EQ(out["sites"][0]["shape"], json({12, 9}));
  EXPECT_EQ(out["sites"][1]["shape"], json({12, 3}));
  EXPECT_EQ(out["sites"][0]["effect"].size(), 108u);
  EXPECT_GT(out["sites"][0]["exact"]["pearson"].get<double>(), 0.95);
  EXPECT_GT(out["sites"][0]["exact"]["spearman"].get<double>(), 0.8);
  EXPECT_EQ(out["sites"][0]["exact"]["worst"].size(), 5u);
  std::map<std::string, mlx::core::Shape> shapes;
  const auto saved = Safetensors::open(file);
  for (const auto& tensor : saved.tensors())
    shapes[tensor.name] = saved.read(tensor).shape();
  EXPECT_EQ(shapes.size(), 4u);
  EXPECT_EQ(shapes["exact.z"], (mlx::core::Shape{12, 9}));
  EXPECT_EQ(shapes["effect.k"], (mlx::core::Shape{12, 3}));
  EXPECT_NE(read(page).find("Attribution patching"), std::string::npos);
}

TEST_F(AttributionCli, MethodsAreNamedAndTheirAgreement) {
  const std::vector<std::string> nodes = {
      "--site",
      "q,k",
      "--by",
      "layer,pos,head",
      "--layers",
      "20..29",
      "--positions",
      "9..13"};
  std::vector<double> signed_ones;
  for (const std::string method : {"atp", "qk-fix"}) {
    auto arguments = nodes;
    arguments.insert(
        arguments.end(), {"--method", method, "--exact", "--json"});
    const auto outcome = run(with(arguments));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto out = json::parse(outcome.out);
    EXPECT_EQ(out["method"], method);
    signed_ones.push_back(out["sites"][1]["exact"]["pearson"].get<double>());
  }
  // Of keys the softmax matters most.
  EXPECT_GT(signed_ones[1], signed_ones[0]);
  EXPECT_GT(signed_ones[1], 0.95);
  const auto page = folder / "page.html";
  const auto sizes = run(with(
      {"--site",
       "k",
       "--by",
       "layer,head",
       "--layers",
       "26..29",
       "--method",
       "atp-star",
       "--exact",
       "--html",
       page.string()}));
  ASSERT_EQ(sizes.code, 0) << sizes.err;
  EXPECT_NE(
      sizes.out.find("agreement with the sizes of the exact sweep's changes"),
      std::string::npos)
      << sizes.out;
  EXPECT_NE(
      read(page).find("by atp-star, as sizes without a sign"),
      std::string::npos);
  const auto wrong = run(with({"--method", "atp*"}));
  EXPECT_EQ(wrong.code, 2);
  EXPECT_NE(wrong.err.find("atp-star"), std::string::npos) << wrong.err;
}

TEST_F(AttributionCli, ShowsAGridIn80Columns) {
  const auto outcome = run(with({"--layers", "28,29", "--compare-cost"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("\n   29 "), std::string::npos);
  EXPECT_NE(outcome.out.find("forward passes"), std::string::npos);
  // What stands above the grid are sentences that the terminal wraps.
  const auto grid = outcome.out.substr(outcome.out.find("\n\n") + 2);
  size_t lines = 0;
  for (size_t at = 0, end = 0; at < grid.size(); at = end + 1, ++lines) {
    end = std::min(grid.find('\n', at), grid.size());
    EXPECT_LE(view::display_width(grid.substr(at, end - at)), 80u)
        << grid.substr(at, end - at);
  }
  EXPECT_GE(lines, 5u);
  EXPECT_NE(
      run({"attribute", "--help"}).out.find("Example:"), std::string::npos);
}

TEST_F(AttributionCli, UsageErrorsExitWith2) {
  const std::vector<std::vector<std::string>> wrong = {
      {"--site", "resid_per"},
      {"--site", "z,attn.z"},
      {"--site", "resid_pre", "--by", "head"},
      {"--steps", "0"},
      {"--by", "layers"},
      {"--layers", "30"},
      {"--direction", "up"},
      {"--metric", "logit( Mary)"},
      {"--corrupt", "one more"},
      {"-o", "/nowhere/effect.safetensors"}};
  for (const auto& more : wrong) {
    const auto outcome = run(with(more));
    EXPECT_TRUE(outcome.code == 2 || more[0] == "-o") << more[1];
    EXPECT_NE(outcome.code, 0) << more[1];
    EXPECT_EQ(outcome.out, "") << more[1];
    EXPECT_NE(outcome.err, "") << more[1];
  }
}

const std::string prompt =
    "When Mary and John went to the store, John gave a drink to";

TEST_F(AttributionCli, DlaSumsToTheLogitDifference) {
  const auto file = folder / "dla.safetensors", page = folder / "page.html";
  const auto outcome = run(
      {"dla",
       "demo",
       prompt,
       "--metric",
       "logit_diff( Mary, John)",
       "--unit",
       "head",
       "--json",
       "-o",
       file.string(),
       "--html",
       page.string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto out = json::parse(outcome.out);
  EXPECT_NEAR(out["sum"].get<double>(), 6.1196, 1e-3);
  EXPECT_NEAR(out["sum"].get<double>(), out["model_logit"].get<double>(), 1e-4);
  EXPECT_EQ(out["parts"].size(), 1u + 30 * (9 + 1));
  EXPECT_EQ(out["parts"][1]["name"], "L0H0");
  EXPECT_EQ(out["accumulated"].size(), 31u);
  EXPECT_EQ(Safetensors::open(file).tensors().size(), 4u);
  EXPECT_NE(read(page).find("Direct logit attribution"), std::string::npos);
}

TEST_F(AttributionCli, DlaListsTheLargestParts) {
  for (const auto* unit : {"component", "head", "neuron"}) {
    const auto outcome = run(
        {"dla",
         "demo",
         prompt,
         "--metric",
         "logit_diff( Mary, John)",
         "--unit",
         unit,
         "--top",
         "3"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_NE(outcome.out.find(" others"), std::string::npos);
    EXPECT_NE(outcome.out.find("+6.1196"), std::string::npos);
    for (size_t at = 0, end = 0; at < outcome.out.size(); at = end + 1) {
      end = outcome.out.find('\n', at);
      EXPECT_LE(end - at, 80u) << outcome.out.substr(at, end - at);
    }
  }
}

TEST_F(AttributionCli, DlaUsageErrorsExitWith2) {
  const std::vector<std::vector<std::string>> wrong = {
      {},
      {"--metric", "prob( Mary)"},
      {"--metric", "logit( Mary)", "--unit", "layer"},
      {"--metric", "logit( Mary)", "--top", "0"},
      {"--metric", "logit( Mary)", "--position", "14"},
      {"--metric", "logit( Mary)", "--unit", "neuron", "--html", "x.html"}};
  for (auto arguments : wrong) {
    arguments.insert(arguments.begin(), {"dla", "demo", prompt});
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_NE(run({"dla", "--help"}).out.find("Example:"), std::string::npos);
}

}  // namespace
}  // namespace mlxterp
