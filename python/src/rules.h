// python/src/rules.h: rules of what a gradient goes through, as text.

#pragma once

#include "bind.h"
#include "mlxterp/analysis/linear_rule.h"

namespace mlxterp::python {

/** A field of what a gradient goes through, as linear_rule() reads it. */
template <typename Options>
Field<Options> rule_field(LinearRule Options::*member) {
  return worded_by(
      member,
      "rule",
      [](const std::string& word, const char*) { return linear_rule(word); },
      [](const LinearRule& rule) { return name(rule); });
}

}  // namespace mlxterp::python
