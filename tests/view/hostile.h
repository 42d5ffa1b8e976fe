// tests/view/hostile.h: texts that would act in a terminal or a page.

#pragma once

#include <cstddef>
#include <iterator>

#include "mlxterp/report/heatmap.h"

namespace mlxterp::test {

inline const char* const hostile[] = {
    "<script>alert(1)</script>",
    "\" onmouseover=\"alert(2)",
    "' autofocus onfocus='alert(3)",
    "</script><img src=x onerror=alert(4)>",
    "&lt;b&gt;",
    "\xE2\x80\xA8line",
    "\xE2\x80\xAE"
    "bidi",
    "\x1b[31mred",
    "<!--<script>",
    "\xff\xfe",
    "\\u003cscript\\u003e",
    "${alert(5)}`",
};
inline constexpr int n_hostile = static_cast<int>(std::size(hostile));

/** Every one of them in every place. */
inline report::Heatmap hostile_map() {
  report::Heatmap map{
      .kind = hostile[3],
      .heading = hostile[0],
      .about = hostile[1],
      .row_axis = hostile[8],
      .column_axis = hostile[2]};
  for (const auto* text : hostile) {
    map.rows.emplace_back(text);
    map.columns.emplace_back(text);
    map.notes.emplace_back(text);
  }
  for (size_t i = 0; i < map.rows.size() * map.columns.size(); ++i)
    map.values.push_back(static_cast<float>(i) / 100);
  return map;
}

}  // namespace mlxterp::test
