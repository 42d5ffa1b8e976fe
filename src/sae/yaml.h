// sae/yaml.h: as much YAML as the configurations of transcoder sets use.

#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace mlxterp {

/** Keys with plain values, and keys with lists of plain values or of such
 * keys. */
struct FlatYaml {
  using Item = std::map<std::string, std::string>;  ///< A plain value: key "".
  std::map<std::string, std::string> values;
  std::map<std::string, std::vector<Item>> lists;

  /** The value of a key, or `or_else`. */
  std::string text(
      const std::string& key, const std::string& or_else = "") const;
};

/** Throws bad_data for what is nested deeper, anchors, blocks of text, flows;
 * `what` names the text in the message. */
FlatYaml parse_flat_yaml(std::string_view text, std::string_view what);

}  // namespace mlxterp
