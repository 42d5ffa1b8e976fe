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
  map.takeaway = hostile[4];
  map.inert_name = hostile[0];
  map.warnings = {hostile[0], hostile[3]};
  map.hue_names = {{'w', hostile[1]}};
  map.inert_text = hostile[3];
  for (const auto* text : hostile) {
    map.facts.emplace_back(text, text);
    map.prompts.push_back({text, {text, text}, {1}});
    map.bounds.emplace_back(text, 1.0f);
    map.rows.emplace_back(text);
    map.columns.emplace_back(text);
    map.notes.emplace_back(text);
  }
  for (size_t i = 0; i < map.rows.size() * map.columns.size(); ++i)
    map.values.push_back(static_cast<float>(i) / 100);
  map.inert.resize(map.values.size());
  map.inert[7] = true;
  for (const auto* text : hostile)
    map.details.push_back({text, map.values, false});
  return map;
}

}  // namespace mlxterp::test
