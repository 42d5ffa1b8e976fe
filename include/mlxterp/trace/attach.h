// mlxterp/trace/attach.h: how a module is attached to a site of a model.

#pragma once

#include <string>

namespace mlxterp {

struct AttachOptions {
  enum class Mode {
    read,     ///< Runs along; the site keeps its value.
    replace,  ///< The site takes what the module makes of it.
    /** The same, and what the module gets wrong of the value is added again,
     * as it is without edits inside: nothing changes until one is made. That
     * error is a site of its own, `error`. */
    replace_with_error,
  };
  Mode mode = Mode::read;
  /** The module's sites are called `<site>.<name>.<its own>`. */
  std::string name = "attached";
  /** Its value at a position depends on that position alone, as a sparse
   * autoencoder's does. Sweeps then go on computing no more than what changes;
   * else they run whole sequences. */
  bool by_position = false;
};

}  // namespace mlxterp
