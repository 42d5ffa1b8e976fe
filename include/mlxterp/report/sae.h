// mlxterp/report/sae.h: what an SAE is and how it fits activations, as JSON.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/sae/sae.h"
#include "mlxterp/sae/set.h"

namespace mlxterp::report {

/** Smallest, mean and largest of some numbers. */
struct Spread {
  float least = 0, mean = 0, most = 0;
};

/** `mlxterp sae info`: one SAE, or a set and its layer 0. A value. */
struct SaeInfo {
  std::string name;  ///< As it was asked for.
  std::optional<SaeSet> set = {};
  Sae sae;
  Spread decoder_norm = {};  ///< Of the rows of W_dec.
  std::optional<Spread> threshold = {};
};

/** Evaluates. */
SaeInfo sae_info(std::string name, Sae sae);
SaeInfo sae_info(std::string name, const SaeSet& set);

/** Numbers in all its arrays. */
size_t parameters(const Sae& sae);

/** docs/json.md */
std::string to_json(const SaeInfo& info);

/** `mlxterp sae encode`. A value. */
struct SaeEncodeReport {
  std::string sae, input, output;
  Sae encoder;
  /** Without explained variance where there is nothing to compare with. */
  SaeFit fit = {};
  bool compared = true;
  int silent = 0;  ///< Features that are 0 in every row.
  std::vector<std::string> warnings = {};
};

/** docs/json.md */
std::string to_json(const SaeEncodeReport& report);

/** `mlxterp sae convert`. A value. */
struct SaeConvertReport {
  std::vector<std::string> sources;
  std::string output, layout;
  int layers = 1;
};

/** docs/json.md */
std::string to_json(const SaeConvertReport& report);

/** A verb's answer in JSON with what was given with --sae, as written, as its
 * field `saes`; as it is where nothing was. */
std::string with_saes(std::string json, const std::vector<std::string>& saes);

}  // namespace mlxterp::report
