// The relevance rule against RelP's, as torch has them in transformers' models
// (tests/parity/make_relp.py).

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "mlxterp/analysis/attribute.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

TEST(RelP, IsTheRelevanceRule) {
  std::ifstream file(MLXTERP_SOURCE_DIR "/tests/analysis/fixtures/relp.json");
  const auto fixture = nlohmann::json::parse(file);
  size_t compared = 0, models = 0;
  double worst = 0;
  for (const auto& [variant, rules] : fixture.at("models").items()) {
    const auto model = test::load_variant(variant, mlx::core::float32);
    for (const auto& [rule, sites] : rules.items()) {
      for (const auto& [site, own] : sites.items()) {
        const auto values =
            attribute(
                model,
                {.clean = fixture.at("clean").get<std::vector<int>>(),
                 .corrupt = fixture.at("corrupt").get<std::vector<int>>(),
                 .sites = {site},
                 .metric = logit_diff(4, 9),
                 .rule = linear_rule(rule)})[0]
                .attributions();
        const auto wanted = own.at("cells").get<std::vector<double>>();
        ASSERT_EQ(values.size(), wanted.size()) << variant << " " << site;
        double error = 0;
        for (size_t i = 0; i < values.size(); ++i) {
          ASSERT_TRUE(std::isfinite(values[i]));
          error = std::max(
              error, std::abs(static_cast<double>(values[i]) - wanted[i]));
        }
        error /= own.at("size").get<double>();
        EXPECT_LE(error, 1e-5) << variant << " " << rule << " " << site;
        worst = std::max(worst, error);
        ++compared;
      }
    }
    ++models;
  }
  std::cout << fmt::format(
      "{} models, {} sites by rules, {:.2g} at most\n",
      models,
      compared,
      worst);
  EXPECT_EQ(models, 5u);
  EXPECT_EQ(compared, 30u);
}

}  // namespace
}  // namespace mlxterp
