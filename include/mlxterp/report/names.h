// mlxterp/report/names.h: what reports call a model's tokens.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/trace/model.h"

namespace mlxterp::report {

/** A token's number and its label. */
struct NamedToken {
  int id = 0;
  std::string text = {};
};

/** One label a token, as Tokenizer::labels gives them; "#7" for an id that has
 * no token, and without a tokenizer. */
std::vector<std::string> labels(
    const InterpretableModel& model, const std::vector<int>& ids);
std::string label(const InterpretableModel& model, int id);

std::vector<NamedToken> named(
    const InterpretableModel& model, const std::vector<int>& ids);

}  // namespace mlxterp::report
