// mlxterp/trace/attach.h: how a module is attached to a site of a model.

#pragma once

#include <string>

namespace mlxterp {

struct AttachOptions {
  enum class Mode {
    read,     ///< Runs alongside; the site keeps its value.
    replace,  ///< The site takes the module's output.
    /** The same plus the module's error, the value minus its unedited output.
     * The error is a site of its own, `error`. Until something inside is edited
     * the site keeps its value, bit by bit. */
    replace_with_error,
  };
  Mode mode = Mode::read;
  /** The module's sites are called `<site>.<name>.<site in the module>`. */
  std::string name = "attached";
  /** The module's output at a position depends on that position alone, as that
   * of a sparse autoencoder does. Sweeps then compute only what changes;
   * otherwise they run whole sequences. */
  bool by_position = false;
  /** The site whose value the module reads, as a transcoder does: of the same
   * layer and, where that has attention, on the same side of it; reached
   * before. Empty: the site it is attached to. Needs `by_position`. */
  std::string reads = {};
};

}  // namespace mlxterp
