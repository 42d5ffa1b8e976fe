// mlxterp/report/dashboard.h: what is known of features, as JSON and as
// Neuronpedia's import files.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "mlxterp/report/names.h"
#include "mlxterp/sae/dashboard.h"

namespace mlxterp::report {

/** `mlxterp sae dashboards`. A value. */
struct DashboardReport {
  std::string model = {}, sae = {};
  std::vector<std::string> edits = {};  ///< As written.
  std::string text = {};                ///< The file; empty: prompts.
  FeatureDashboards result = {};
};

/** The answer of `mlxterp sae dashboards` (docs/json.md). `model` names tokens.
 */
std::string to_json(
    const InterpretableModel& model, const DashboardReport& report);

/** What Neuronpedia calls things. Empty: made of the report's own names. */
struct NeuronpediaNames {
  std::string model = {};       ///< "gemma-2-2b": letters, digits, - and _.
  std::string source_set = {};  ///< "res-16k"; of layer 12 "12-res-16k".
  std::string release = {};     ///< The source set's name.
  std::string creator = {};     ///< For people.
  /** Of a user of the instance that imports. Empty: the one that
   * Neuronpedia's own database begins with. */
  std::string creator_id = {};
};

/**
 * Writes FOLDER/<model>/<layer>-<source set>/ as Neuronpedia imports it:
 * release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl,
 * features/batch-N.jsonl.gz and activations/batch-N.jsonl.gz, and beside it
 * saedashboard/batch-N.json, which is what SAEDashboard writes and
 * Neuronpedia's convert-saedashboard-to-neuronpedia-export.py reads. Returns
 * that folder.
 *
 * Files are whole or not there. Throws usage for a name that is none, or where
 * the folder exists and `overwrite` does not say that its files may be
 * replaced; environment.
 */
std::filesystem::path write_neuronpedia(
    const InterpretableModel& model,
    const DashboardReport& report,
    const std::filesystem::path& folder,
    NeuronpediaNames names = {},
    bool overwrite = false);

/** The folder that it would return, from the `sites` and `d_sae` of
 * `report.result` alone. Writes nothing; throws usage as it does. */
std::filesystem::path neuronpedia_folder(
    const InterpretableModel& model,
    const DashboardReport& report,
    const std::filesystem::path& folder,
    NeuronpediaNames names = {},
    bool overwrite = false);

}  // namespace mlxterp::report
