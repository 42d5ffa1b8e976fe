// mlxterp/view/dashboard.h: features of an SAE as a terminal's table and as
// pages.

#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/report/dashboard.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::view {

/** A label for each of a sequence's tokens, as report::labels gives them. */
using TokenLabels =
    std::function<std::vector<std::string>(const std::vector<int>& ids)>;

/** A line for each feature: how often it is active, its largest activation,
 * the token there, and what it promotes. */
std::string dashboards_text(
    const report::DashboardReport& report,
    const TokenLabels& labels,
    const Terminal& terminal);

/** One self-contained page: a list of the features and a section of each, with
 * its examples, histograms, tokens and neighbours. Loads nothing. Of very many
 * features it shows the first, and says so. `command`: that made it; may be
 * empty. */
std::string dashboards_page(
    const report::DashboardReport& report,
    const TokenLabels& labels,
    const std::string& command);

/** The same as files of a folder: index.html with the list, and
 * feature-N.html of each. Names and pages. */
std::vector<std::pair<std::string, std::string>> dashboards_folder(
    const report::DashboardReport& report,
    const TokenLabels& labels,
    const std::string& command);

}  // namespace mlxterp::view
