#include "mlxterp/spec/range.h"

#include "spec/text.h"

namespace mlxterp::spec {

namespace {

// Appends the numbers of one item. Throws usage.
void append(
    std::vector<int>& numbers, std::string_view item, std::string_view name) {
  const auto range = range_of(item);
  if (!range)
    fail(
        ErrorKind::usage,
        "{} '{}' is neither a whole number nor a range such as 3..7",
        name,
        printable(item));
  if (range->count() > limits::spec_numbers - numbers.size())
    fail(
        ErrorKind::usage,
        "{} '{}' makes more than {} numbers",
        name,
        printable(item),
        limits::spec_numbers);
  for (uint64_t i = 0; i < range->count(); ++i)
    numbers.push_back(range->first + static_cast<int>(i));
}

}  // namespace

std::vector<std::string> parse_list(
    const std::vector<std::string>& texts, std::string_view name) {
  check_size(texts, name);
  std::vector<std::string> items;
  for (const std::string_view text : texts) {
    int depth = 0;
    size_t start = 0;
    for (size_t i = 0; i <= text.size(); ++i) {
      if (i < text.size()) {
        const char c = text[i];
        depth += (c == '{' || c == '(' || c == '[') -
                 (c == '}' || c == ')' || c == ']');
        if (c != ',' || depth > 0) continue;
      }
      const auto item = trimmed(text.substr(start, i - start));
      if (item.empty())
        fail(
            ErrorKind::usage,
            "{} '{}' has an empty item; leave out the comma",
            name,
            printable(text));
      items.emplace_back(item);
      start = i + 1;
    }
  }
  return items;
}

std::vector<int> parse_numbers(
    const std::vector<std::string>& texts, std::string_view name) {
  std::vector<int> numbers;
  for (const auto& item : parse_list(texts, name))
    append(numbers, item, name);
  return numbers;
}

std::vector<float> parse_decimals(
    const std::vector<std::string>& texts, std::string_view name) {
  std::vector<float> numbers;
  for (const auto& item : parse_list(texts, name)) {
    const auto number = finite_number(item);
    if (!number)
      fail(
          ErrorKind::usage,
          "{} '{}' is not a finite number such as -0.2",
          name,
          printable(item));
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<std::pair<int, int>> parse_position_map(
    const std::vector<std::string>& texts, std::string_view name) {
  std::vector<std::pair<int, int>> pairs;
  std::vector<int> clean, corrupt;
  for (const std::string_view item : parse_list(texts, name)) {
    const auto colon = item.find(':');
    if (colon == item.npos)
      fail(
          ErrorKind::usage,
          "{} '{}' is not CLEAN:CORRUPT, two positions",
          name,
          printable(item));
    const auto before = clean.size();
    append(clean, item.substr(0, colon), name);
    append(corrupt, item.substr(colon + 1), name);
    if (clean.size() != corrupt.size())
      fail(
          ErrorKind::usage,
          "{} '{}' has {} clean and {} corrupted positions; give the "
          "same number of each",
          name,
          printable(item),
          clean.size() - before,
          corrupt.size() - before);
  }
  for (size_t i = 0; i < clean.size(); ++i)
    pairs.emplace_back(clean[i], corrupt[i]);
  return pairs;
}

}  // namespace mlxterp::spec
