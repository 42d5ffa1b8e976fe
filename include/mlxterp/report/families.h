// mlxterp/report/families.h: which models are read, and how that was proven.

#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mlxterp::report {

/** One model_type of config.json. */
struct FamilyEntry {
  std::string_view model_type;
  /** The models people know, whose they are, the year. */
  std::string_view title;
  /** The program whose numbers its tiny models are compared with. */
  std::string_view oracle = "transformers";
  int variants = 0;  ///< How many tiny models (tests/parity/families).
  /** general.architecture of its GGUF files; none: they are not read. */
  std::vector<std::string_view> gguf = {};
};

/** Every family, by name. */
std::vector<FamilyEntry> families();

/** The answer of `mlxterp families` (docs/json.md). */
std::string families_json();

}  // namespace mlxterp::report
