// trace/lens_names.h: TransformerLens' names of values, as names here.

#pragma once

#include <string>

namespace mlxterp {

/** "blocks.3.attn.hook_z" as "layers.3.attn.z"; a name that is none of
 * TransformerLens' comes back as it is. */
std::string from_lens(std::string name);

/** The other way: "blocks.3.attn.hook_z" of the canonical "layers.3.attn.z";
 * empty: TransformerLens has no such value. */
std::string to_lens(std::string name);

}  // namespace mlxterp
