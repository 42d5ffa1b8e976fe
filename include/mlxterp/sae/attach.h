// mlxterp/sae/attach.h: sparse autoencoders and transcoders at work in a model.

#pragma once

#include <optional>
#include <string>

#include "mlxterp/sae/sae.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** The sites of a model that an SAE belongs to, by their canonical names. */
struct SaeSites {
  std::string reads = {};
  std::string writes = {};  ///< Of an SAE the same.
};

struct SaeAttachOptions {
  AttachOptions::Mode mode = AttachOptions::Mode::read;
  /** Its sites are `<site>.<name>.acts`. */
  std::string name = "sae";
  /** Where it belongs: of a transcoder, what it predicts. Empty: as its file
   * says. */
  std::string site = {};
  /** What a transcoder reads. Empty: as its file says, or where that is in
   * another layer than `site`, the site of that name in that layer. */
  std::string reads = {};
  /** Prompts on which it is checked, see check_fit. Absent: it is not. */
  std::optional<Inputs> check_on = {};
};

/** Where it belongs, and that it fits there: a site there is, as wide as the
 * SAE. Throws unknown_name, and usage where nobody says where, or it is another
 * width. */
SaeSites sae_sites(
    const InterpretableModel& model,
    const Sae& sae,
    const std::string& site = {},
    const std::string& reads = {});

/**
 * The model with an SAE as a module (sae/module.h) at its site: sites
 * `<site>.<name>.pre`, `acts`, `recon`, and with replace_with_error `error`, to
 * be read, edited and swept like all others. With its error and without edits
 * inside, the model's values stay the same bit by bit. A transcoder is attached
 * to what it predicts and reads its own site; a cross_layer one can be read
 * alone. Throws as sae_sites, check_fit and InterpretableModel::attach do.
 */
[[nodiscard]] InterpretableModel attach_sae(
    const InterpretableModel& model,
    Sae sae,
    const SaeAttachOptions& options = {});

/** How well an SAE explains what it writes in these prompts, over all their
 * positions but the first of each, which in most models is like no other.
 * Evaluates. */
SaeFit sae_fit(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const SaeSites& sites);

/**
 * Throws usage where an SAE explains less than nothing (explained variance
 * below 0) or has three times more or fewer active features than its file says,
 * with the likely cause: a neighbouring layer or another site that it explains,
 * a scale that its inputs need, or none of them: another model. Of a
 * cross_layer one only the active features are compared. Evaluates.
 */
void check_fit(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const SaeSites& sites);

}  // namespace mlxterp
