#include "analysis/store/windows.h"

#include <algorithm>
#include <limits>

#include "core/fail.h"
#include "io/json.h"

namespace mlxterp {

namespace {

constexpr const char* function = "activation_store";

}  // namespace

std::optional<int> first_token_of(const InterpretableModel& model) {
  const auto ids = model.tokenizer().encode("a");
  const auto bare = model.tokenizer().encode("a", {.add_special = false});
  const bool added =
      ids.size() > bare.size() && !bare.empty() && ids.front() != bare.front();
  return added ? std::optional(ids.front()) : std::nullopt;
}

NextDocument documents_of(const InterpretableModel& model, TextFiles& files) {
  return [&model, &files](TextPlace& at) -> std::optional<std::vector<int>> {
    const auto document = at.document;
    const auto text = files.next(at);
    if (!text) return {};
    try {
      return model.tokenizer().encode(*text);
    } catch (const Error& error) {
      fail(
          error.kind(),
          "[{}] document {} (the first is 0) cannot be encoded: {}",
          function,
          document,
          error.what());
    }
  };
}

NextDocument documents_of(const Inputs::Rows& prompts) {
  return [&prompts](TextPlace& at) -> std::optional<std::vector<int>> {
    if (static_cast<size_t>(at.offset) >= prompts.size()) return {};
    ++at.document;
    return prompts[static_cast<size_t>(at.offset++)];
  };
}

std::string WindowPlace::to_json() const {
  return nlohmann::ordered_json({{"file", document.file},
                                 {"offset", document.offset},
                                 {"document", document.document},
                                 {"window", window},
                                 {"tokens", tokens}})
      .dump();
}

WindowPlace WindowPlace::from_json(
    const std::string& text, const std::string& where) {
  const auto json = parse_json(text, function, where);
  const auto number = [&](const char* key) {
    const auto found = json.is_object() ? json.find(key) : json.end();
    if (!json.is_object() || found == json.end() ||
        !found->is_number_unsigned() ||
        found->get<uint64_t>() >
            static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      fail(
          ErrorKind::bad_data,
          "[{}] {} has no whole number '{}'; begin the store anew",
          function,
          where,
          key);
    return found->get<int64_t>();
  };
  WindowPlace out;
  out.document.file = number("file");
  out.document.offset = number("offset");
  out.document.document = number("document");
  out.window = number("window");
  out.tokens = number("tokens");
  return out;
}

Windows::Windows(NextDocument documents, Options options, WindowPlace from)
    : next_(std::move(documents)), options_(options), place_(from) {
  if (place_.window == 0) return;
  const auto skip = place_.window;
  const auto tokens = place_.tokens;
  place_.tokens = 0;  // none of these was cut short by the limit
  if (begin_document())
    for (int64_t i = 0; i < skip; ++i)
      next();
  place_.window = skip;
  place_.tokens = tokens;
}

bool Windows::begin_document() {
  behind_ = place_.document;
  auto ids = next_(behind_);
  if (!ids) return false;
  ids_ = std::move(*ids);
  at_ = 0;
  place_.window = 0;
  return true;
}

std::optional<Window> Windows::next() {
  while (at_ >= ids_.size()) {
    if (!begin_document()) return {};
    // One without tokens is passed over.
    if (ids_.empty()) place_.document = behind_;
  }
  Window out;
  out.document = static_cast<int>(behind_.document - 1);
  auto most = static_cast<size_t>(options_.length);
  if (options_.tokens > 0) {
    if (place_.tokens >= options_.tokens) return {};
    most = std::min(most, static_cast<size_t>(options_.tokens - place_.tokens));
  }
  const bool again =
      place_.window > 0 && options_.bos && ids_.front() == *options_.bos;
  if (again) out.ids.push_back(ids_.front());
  const auto left = std::min(most - out.ids.size(), ids_.size() - at_);
  const auto from = ids_.begin() + static_cast<ptrdiff_t>(at_);
  out.ids.insert(out.ids.end(), from, from + static_cast<ptrdiff_t>(left));
  at_ += left;
  ++place_.window;
  place_.tokens += static_cast<int64_t>(out.ids.size());
  if (at_ >= ids_.size()) {
    place_.document = behind_;
    place_.window = 0;
  }
  return out;
}

}  // namespace mlxterp
