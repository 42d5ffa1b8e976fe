// mlxterp/view/attention.h: where heads look, for a terminal.

#pragma once

#include <string>

#include "mlxterp/report/attention.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::view {

/**
 * Without a layer, layers by heads (report::overview); of a layer, a row for
 * each of its heads; of a head, its pattern with the tokens on both axes, or,
 * where that is too wide, the strongest sources of each token.
 */
std::string attention_text(
    const report::AttentionReport& report, const Terminal& terminal);

}  // namespace mlxterp::view
