// sae/hooks.h: what files call the values an SAE reads and writes, as sites.

#pragma once

#include <string>
#include <string_view>

namespace mlxterp {

/** "blocks.5.hook_resid_post" (TransformerLens), "model.layers.5.mlp" (a
 * module, whose `side` is meant: "output" or "input"), "layers.5.output" and
 * the like as a site's name; a name of neither kind comes back as far as it is
 * understood. Empty of an empty one. */
std::string site_of_hook(
    std::string_view hook, std::string_view side = "output");

/** The 5 of "layers.5.mlp"; -1: none. */
int layer_of_site(std::string_view site);

}  // namespace mlxterp
