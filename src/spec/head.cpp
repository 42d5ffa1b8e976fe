#include "mlxterp/spec/head.h"

#include <algorithm>
#include <set>
#include <utility>

#include "mlxterp/spec/range.h"
#include "spec/text.h"

namespace mlxterp::spec {

namespace {

std::optional<Head> head_of(std::string_view text) {
  if (text.starts_with('L')) text.remove_prefix(1);
  const auto between = text.find_first_of("H.");
  if (between == text.npos) return std::nullopt;
  const auto layer = whole_number<int>(text.substr(0, between));
  const auto head = whole_number<int>(text.substr(between + 1));
  if (!layer || !head || *head < 0) return std::nullopt;
  return Head{*layer, *head};
}

std::optional<Receiver::Input> input_of(std::string_view text) {
  if (text == "q") return Receiver::Input::q;
  if (text == "k") return Receiver::Input::k;
  if (text == "v") return Receiver::Input::v;
  return std::nullopt;
}

}  // namespace

Head parse_head(std::string_view text, std::string_view name) {
  const auto head = head_of(trimmed(text));
  if (!head)
    fail(
        ErrorKind::usage,
        "{} '{}' is not a layer and a head, as L23H3 or 23.3",
        name,
        printable(text));
  return *head;
}

std::vector<Head> parse_heads(
    const std::vector<std::string>& texts, std::string_view name) {
  std::vector<Head> heads;
  for (const auto& item : parse_list(texts, name))
    heads.push_back(parse_head(item, name));
  return heads;
}

HeadChoice parse_head_choice(
    const std::vector<std::string>& texts, std::string_view name) {
  const auto items = parse_list(texts, name);
  HeadChoice out;
  const auto whole = std::ranges::count_if(
      items, [](const auto& item) { return head_of(item).has_value(); });
  if (whole == 0) {
    out.heads = parse_numbers(texts, name);
    return out;
  }
  std::set<std::pair<int, int>> all;
  std::set<int> layers, heads;
  for (const auto& item : items) {
    const auto [layer, head] = parse_head(item, name);
    all.emplace(layer, head);
    layers.insert(layer);
    heads.insert(head);
  }
  if (all.size() != layers.size() * heads.size())
    fail(
        ErrorKind::usage,
        "{}: a sweep goes over the same heads of each layer, and these are "
        "{} heads in {} layers; name one layer at a time",
        name,
        all.size(),
        layers.size());
  out.layers.assign(layers.begin(), layers.end());
  out.heads.assign(heads.begin(), heads.end());
  return out;
}

Receiver parse_receiver(std::string_view text, std::string_view name) {
  const auto item = trimmed(text);
  const auto dot = item.rfind('.');
  const auto head = head_of(item.substr(0, dot));
  const auto input =
      dot == item.npos ? std::nullopt : input_of(item.substr(dot + 1));
  if (!head || !input)
    fail(
        ErrorKind::usage,
        "{} '{}' is not a head and what it reads, as L20H3.q; the last part is "
        "q, k or v",
        name,
        printable(text));
  return {.layer = head->layer, .head = head->head, .input = *input};
}

std::vector<Receiver> parse_receivers(
    const std::vector<std::string>& texts, std::string_view name) {
  std::vector<Receiver> receivers;
  for (const auto& item : parse_list(texts, name))
    receivers.push_back(parse_receiver(item, name));
  return receivers;
}

std::string spell(const Receiver& receiver) {
  const char* input = receiver.input == Receiver::Input::q   ? "q"
                      : receiver.input == Receiver::Input::k ? "k"
                                                             : "v";
  return fmt::format(
      "{}.{}", mlxterp::name(Head{receiver.layer, receiver.head}), input);
}

}  // namespace mlxterp::spec
