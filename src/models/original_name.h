// models/original_name.h: what a checkpoint would call a tensor it lacks.

#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/family.h"

namespace mlxterp {

/** Names for the Decoder's parameters in the words of one checkpoint: the
 * family's renames backwards. Several spellings may be known of a family; the
 * tensors that are there say which one this checkpoint has. */
class OriginalNames {
 public:
  OriginalNames(const Checkpoint& checkpoint, const Family& family);

  /** "layers.0.attn.q_proj.weight" to "h.0.attn.c_attn.weight". */
  std::string of(std::string path) const;

  /** Of one in a stack of experts or heads: 3 and
   * "layers.0.mlp.experts.up_proj.weight" to
   * "model.layers.0.mlp.experts.3.up_proj.weight". */
  std::string of_part(std::string path, size_t index) const;

 private:
  /** Whether some tensor's name has these components of a rename. */
  bool has(std::string_view components) const;

  const Family& family_;
  std::map<std::string_view, bool> known_;
  /** Parts that the family may fuse and this checkpoint has one by one. */
  std::set<std::string_view> apart_;
};

}  // namespace mlxterp
