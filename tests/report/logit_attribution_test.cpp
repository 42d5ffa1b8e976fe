// Pictures and tensors of contributions, in every family: layers may lack
// attention, or have more neurons than others.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/report/logit_attribution.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

TEST(LogitAttributionReport, HoldsEveryPartInItsPlace) {
  const std::vector<int> ids{3, 14, 15, 9, 22};
  size_t pictures = 0, refused = 0;
  for (const auto& variant : test::supported_variants()) {
    const auto model = test::load_variant(variant, mx::float32);
    for (const auto unit : {Unit::component, Unit::head, Unit::neuron}) {
      SCOPED_TRACE(variant + " by unit " + std::to_string(int(unit)));
      LogitAttribution result;
      try {
        result = logit_attribution(
            model,
            {.prompts = {ids}, .metric = logit_diff(4, 9), .unit = unit});
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        ++refused;
        continue;
      }
      std::map<std::string, std::vector<LogitPart>> kinds;
      for (const auto& part : result.parts)
        kinds[name(part.kind)].push_back(part);
      for (const auto& [kind, values] : report::tensors(result)) {
        if (kind == "accumulated") continue;
        const auto& parts = kinds.at(kind);
        const auto* data = values.data<float>();
        const auto numbers = std::count_if(
            data, data + values.size(), [](float x) { return !std::isnan(x); });
        EXPECT_EQ(static_cast<size_t>(numbers), parts.size()) << kind;
        if (values.ndim() == 1) continue;
        size_t row = 0;
        for (size_t i = 0; i < parts.size(); ++i) {
          if (i > 0 && parts[i].layer != parts[i - 1].layer) ++row;
          const auto across = static_cast<size_t>(values.shape(1));
          EXPECT_EQ(
              data[row * across + static_cast<size_t>(parts[i].unit)],
              parts[i].value);
        }
      }
      if (unit == Unit::neuron) continue;
      const auto map = report::heatmap(
          report::logit_attribution_report(model, "it", {"m"}, unit, result));
      EXPECT_EQ(map.values.size(), map.rows.size() * map.columns.size());
      // The same numbers in other places: nothing is computed between.
      const auto& shown = kinds[unit == Unit::head ? "head" : "attn_out"];
      for (const auto& part : shown) {
        const auto row = static_cast<size_t>(
            std::ranges::find(map.rows, std::to_string(part.layer)) -
            map.rows.begin());
        const auto column = static_cast<size_t>(std::max(part.unit, 0));
        ASSERT_LT(row, map.rows.size());
        EXPECT_EQ(map.values[row * map.columns.size() + column], part.value);
      }
      ++pictures;
    }
  }
  EXPECT_EQ(pictures, 2 * test::supported_variants().size());
  std::printf("%zu pictures, %zu refused\n", pictures, refused);
}

}  // namespace
}  // namespace mlxterp
