// mlxterp/report/probe.h: probes, how well they do and what they say, as JSON.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/probe.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** A value. */
struct ProbeTrainReport {
  std::string model = {};
  std::vector<std::string> edits = {};
  std::string data = {};
  ProbeOptions options = {};
  std::string positions = {};
  std::vector<ProbeResult> probes = {};  ///< One at least.
  std::optional<std::string> output = {};
  std::string saved = {};  ///< Whose probe that is: its site.
};

/** The answer of `mlxterp probe train` (docs/json.md). */
std::string to_json(const ProbeTrainReport& report);

/** A value. */
struct ProbeApplyReport {
  std::string model = {};
  std::vector<std::string> edits = {};
  std::string file = {};
  Probe probe = {};
  std::vector<NamedToken> tokens = {};
  std::vector<float> values = {};  ///< At each position.
  std::vector<std::string> warnings = {};
};

/** Of the second class, from its log-odds. */
double probability(float log_odds);

/** The answer of `mlxterp probe apply`. */
std::string to_json(const ProbeApplyReport& report);

}  // namespace mlxterp::report
