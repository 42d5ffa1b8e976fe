#include "text/chat_render.h"

#include <algorithm>

#include "core/fail.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

constexpr std::string_view caller = "Tokenizer::apply_chat_template";

tkc_time time_of(const std::tm& time) {
  tkc_time out{};
  out.year = time.tm_year + 1900;
  out.month = static_cast<uint32_t>(time.tm_mon + 1);
  out.day = static_cast<uint32_t>(time.tm_mday);
  out.hour = static_cast<uint32_t>(time.tm_hour);
  out.minute = static_cast<uint32_t>(time.tm_min);
  out.second = static_cast<uint32_t>(time.tm_sec);
  return out;
}

// An ordered object looks through all its members for each new one.
bool is_wide(const nlohmann::json& value) {
  constexpr size_t most = 10'000;
  if (value.is_object() && value.size() > most) return true;
  return value.is_structured() &&
         std::any_of(value.begin(), value.end(), is_wide);
}

std::string taken(char* message) {
  std::string text = printable(message, 500);
  tkc_free_message(message);
  return text;
}

}  // namespace

ChatJson parse_chat_json(std::string_view text, std::string_view what) {
  if (text.size() > limits::chat_bytes)
    fail(
        ErrorKind::usage,
        "[{}] the {} have {} bytes, the limit is {}; shorten them",
        caller,
        what,
        text.size(),
        limits::chat_bytes);
  try {
    if (is_wide(parse_json(text, caller, what)))
      fail(
          ErrorKind::usage,
          "[{}] the {} hold an object of more than 10000 members",
          caller,
          what);
  } catch (const Error& error) {
    throw Error(ErrorKind::usage, error.what());
  }
  return ChatJson::parse(text);
}

ChatRenderer::ChatRenderer(
    std::string_view source, const std::tm& now, bool told)
    : now_(time_of(now)) {
  tkc_chat_limits bounds{};
  bounds.source_bytes = limits::chat_template_bytes;
  bounds.text_bytes = limits::chat_text_bytes;
  bounds.work_bytes = limits::chat_work_bytes;
  bounds.steps = limits::chat_steps;
  bounds.recursion = limits::chat_recursion;
  bounds.seconds = limits::chat_seconds;
  tkc_template* made = nullptr;
  if (char* message =
          tkc_template_new(source.data(), source.size(), bounds, told, &made))
    fail(
        ErrorKind::bad_data,
        "[{}] the chat template cannot be read ({}); give another one as "
        "chat_template",
        caller,
        taken(message));
  template_.reset(made);
}

RenderedChat ChatRenderer::rendered(const ChatJson& variables) const {
  const std::string context = variables.dump();
  int32_t cause = 0;
  tkc_text text{};
  tkc_ids places{};
  if (char* message = tkc_template_render(
          template_.get(),
          context.data(),
          context.size(),
          now_,
          &cause,
          &text,
          &places)) {
    const std::string words = taken(message);
    if (cause == 1)
      fail(
          ErrorKind::usage,
          "[{}] the model's chat template refuses this conversation: {}",
          caller,
          words);
    fail(
        ErrorKind::bad_data,
        "[{}] the chat template {} ({}); {}give another one as chat_template",
        caller,
        cause == 2 ? "goes on for too long" : "fails on this conversation",
        words,
        cause == 2 ? "shorten the conversation or " : "");
  }
  const std::unique_ptr<tkc_text, void (*)(tkc_text*)> owner(
      &text, [](tkc_text* owned) { tkc_free_text(*owned); });
  const std::unique_ptr<tkc_ids, void (*)(tkc_ids*)> other(
      &places, [](tkc_ids* owned) { tkc_free_ids(*owned); });
  RenderedChat out{.text = {text.data, text.length}};
  for (size_t i = 0; i + 1 < places.length; i += 2)
    out.generated.emplace_back(places.data[i], places.data[i + 1]);
  return out;
}

}  // namespace mlxterp
