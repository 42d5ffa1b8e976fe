#include "mlxterp/report/families.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "mlxterp/models/family.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

// Nothing is said that the fixtures do not show.
TEST(Families, SayWhatTheFixturesProve) {
  std::map<std::string, int> variants;
  for (const auto& variant : test::supported_variants())
    ++variants[test::model_type(variant)];
  const auto families = report::families();
  EXPECT_EQ(families.size(), mlxterp::families().size());
  std::set<std::string_view> seen;
  for (const auto& family : families) {
    EXPECT_TRUE(seen.insert(family.model_type).second) << family.model_type;
    EXPECT_FALSE(family.title.empty()) << family.model_type;
    EXPECT_LE(family.title.size(), 38u) << family.title;
    EXPECT_EQ(family.variants, variants[std::string(family.model_type)])
        << family.model_type;
    EXPECT_TRUE(family.oracle == "transformers" || family.oracle == "mlx-lm")
        << family.model_type;
  }
}

}  // namespace
}  // namespace mlxterp
