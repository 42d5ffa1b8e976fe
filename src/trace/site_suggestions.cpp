#include "trace/site_suggestions.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "core/fail.h"

namespace mlxterp {

namespace {

constexpr std::string_view layers = "layers.";
constexpr size_t longest = 200;  // comparing takes the product of lengths
constexpr size_t most = 3;       // names that are suggested

// The number in "layers.7.attn.z", and where it ends.
std::optional<std::pair<int, size_t>> layer_of(std::string_view name) {
  if (!name.starts_with(layers)) return std::nullopt;
  const auto* begin = name.data() + layers.size();
  const auto* end = name.data() + name.size();
  int layer = 0;
  const auto parsed = std::from_chars(begin, end, layer);
  if (parsed.ec != std::errc() || (parsed.ptr != end && *parsed.ptr != '.'))
    return std::nullopt;
  return std::pair{layer, static_cast<size_t>(parsed.ptr - name.data())};
}

// layers.7.attn.z as layers.*.attn.z.
std::string collapsed(const std::string& name) {
  const auto layer = layer_of(name);
  return layer ? fmt::format("{}*{}", layers, name.substr(layer->second))
               : name;
}

// The longest piece of a pattern between its stars, without dots at its ends.
std::string_view piece_of(std::string_view asked) {
  std::string_view best;
  for (size_t at = 0; at <= asked.size();) {
    const auto end = std::min(asked.find('*', at), asked.size());
    auto piece = asked.substr(at, end - at);
    while (piece.starts_with('.'))
      piece.remove_prefix(1);
    while (piece.ends_with('.'))
      piece.remove_suffix(1);
    if (piece.size() > best.size()) best = piece;
    at = end + 1;
  }
  return best;
}

// Names that hold the piece, those that end with it as a whole word first.
std::vector<std::string> holding(
    std::string_view piece, const std::vector<std::string>& names) {
  std::vector<std::string> ending, others;
  if (piece.size() < 2 || piece == "layers") return others;
  for (const auto& name : names) {
    if (name.find(piece) == name.npos) continue;
    const bool ends =
        name.ends_with(piece) && (name.size() == piece.size() ||
                                  name[name.size() - piece.size() - 1] == '.');
    auto& list = ends ? ending : others;
    auto shown = collapsed(name);
    if (std::ranges::count(list, shown) == 0) list.push_back(std::move(shown));
  }
  for (auto* list : {&ending, &others})
    std::ranges::stable_sort(*list, {}, &std::string::size);
  ending.insert(ending.end(), others.begin(), others.end());
  return ending;
}

// Levenshtein's distance.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j < row.size(); ++j)
    row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t change = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({change, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

std::vector<std::string> nearest(
    std::string_view asked, const std::vector<std::string>& names) {
  std::vector<std::pair<size_t, std::string>> close;
  for (const auto& name : names)
    close.emplace_back(distance(asked, name), name);
  const size_t shown = std::min(most, close.size());
  std::partial_sort(
      close.begin(), close.begin() + static_cast<long>(shown), close.end());
  std::vector<std::string> out;
  for (size_t i = 0; i < shown; ++i)
    out.push_back(close[i].second);
  return out;
}

}  // namespace

std::string suggest_sites(
    std::string_view asked, const std::vector<std::string>& names) {
  if (asked.size() > longest) return "";
  if (const auto layer = layer_of(asked)) {
    int n = 0;
    for (const auto& name : names)
      if (const auto own = layer_of(name)) n = std::max(n, own->first + 1);
    if (layer->first < 0 || layer->first >= n)
      return n > 0 ? fmt::format("; the model has {} layers, 0 to {}", n, n - 1)
                   : "; the model has no layers";
  }
  const bool pattern = asked.find('*') != asked.npos;
  const bool word = asked.find('.') == asked.npos;
  std::vector<std::string> found;
  if (pattern || word) found = holding(piece_of(asked), names);
  if (found.empty()) found = nearest(asked, names);
  std::string out;
  for (size_t i = 0; i < std::min(most, found.size()); ++i)
    out += fmt::format("{}{}", i ? ", " : "; did you mean ", found[i]);
  return out.empty() ? out : out + "?";
}

}  // namespace mlxterp
