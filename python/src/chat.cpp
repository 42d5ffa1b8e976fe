// Chat templates: what they render, its ids and where each turn is.

#include <optional>
#include <string>
#include <tuple>

#include "bind.h"
#include "mlxterp/text/chat.h"
#include "mlxterp/text/tokenizer.h"

namespace mlxterp::python {

namespace {

/** Year, month, day, hour, minute, second. */
using Time = std::tuple<int, int, int, int, int, int>;

ChatOptions options_of(
    bool add_generation_prompt,
    bool continue_final_message,
    bool parse_special,
    bool assistant_mask,
    const std::string& tools,
    const std::string& documents,
    const std::string& variables,
    const std::string& chat_template,
    const std::optional<Time>& now) {
  ChatOptions options;
  options.add_generation_prompt = add_generation_prompt;
  options.continue_final_message = continue_final_message;
  options.parse_special = parse_special;
  options.assistant_mask = assistant_mask;
  options.tools = tools;
  options.documents = documents;
  options.variables = variables;
  options.chat_template = checked_text(chat_template);
  if (now) {
    std::tm time{};
    std::tie(
        time.tm_year,
        time.tm_mon,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec) = *now;
    time.tm_year -= 1900;
    time.tm_mon -= 1;
    options.now = time;
  }
  return options;
}

// A function of a model, its messages and the options.
template <typename Call>
void bind_call(nb::module_& m, const char* name, Call call, const char* doc) {
  m.def(
      name,
      [call](
          const Model& model,
          const std::string& messages,
          bool add_generation_prompt,
          bool continue_final_message,
          bool parse_special,
          bool assistant_mask,
          const std::string& tools,
          const std::string& documents,
          const std::string& variables,
          const std::string& chat_template,
          const std::optional<Time>& now) {
        return call(
            model.model.tokenizer(),
            messages,
            options_of(
                add_generation_prompt,
                continue_final_message,
                parse_special,
                assistant_mask,
                tools,
                documents,
                variables,
                chat_template,
                now));
      },
      nb::arg("model"),
      nb::arg("messages"),
      nb::arg("add_generation_prompt"),
      nb::arg("continue_final_message"),
      nb::arg("parse_special"),
      nb::arg("assistant_mask"),
      nb::arg("tools"),
      nb::arg("documents"),
      nb::arg("variables"),
      nb::arg("chat_template"),
      nb::arg("now").none(),
      doc);
}

}  // namespace

void bind_chat(nb::module_& m) {
  bind_result(
      m,
      "TokenSpan",
      Member{"begin", &TokenSpan::begin},
      Member{"end", &TokenSpan::end},
      Member{"shares_first", &TokenSpan::shares_first},
      Member{"shares_last", &TokenSpan::shares_last})
      .def("__len__", &TokenSpan::size)
      .def(
          "__eq__",
          [](const TokenSpan& self, const TokenSpan& other) {
            return self == other;
          })
      .def_prop_ro(
          "slice",
          [](const TokenSpan& self) {
            return nb::slice(self.begin, self.end, 1);
          },
          "For an axis of positions: values[:, turn.content.slice].");
  bind_result(
      m,
      "ChatTurn",
      Member{"role", &ChatTurn::role},
      Member{"index", &ChatTurn::index},
      Member{"message", &ChatTurn::message},
      Member{"content", &ChatTurn::content},
      Member{"", &ChatTurn::found})
      .def_prop_ro(
          "found",
          [](const ChatTurn& self) { return std::string(name_of(self.found)); },
          "How the content was found: whole, part, compared, lost or none.");
  bind_result(
      m,
      "ChatPrompt",
      Member{"ids", &ChatPrompt::ids},
      Member{"text", &ChatPrompt::text},
      Member{"turns", &ChatPrompt::turns},
      Member{"generation_prompt", &ChatPrompt::generation_prompt},
      Member{"assistant_mask", &ChatPrompt::assistant_mask})
      .def(
          "turn",
          [](const ChatPrompt& self, const std::string& role, int number) {
            return self.turn(role, number);
          },
          nb::arg("role"),
          nb::arg("number") = 0,
          "The turn of that role, counted from 0, or by -1 and below from the "
          "end. Raises UnknownNameError.");
  bind_call(
      m,
      "apply_chat_template",
      [](const Tokenizer& by,
         const std::string& messages,
         const ChatOptions& o) { return by.apply_chat_template(messages, o); },
      "What the model's chat template makes of messages, all as JSON.");
  bind_call(
      m,
      "render_chat",
      [](const Tokenizer& by,
         const std::string& messages,
         const ChatOptions& o) { return by.render_chat(messages, o); },
      "The text alone.");
  m.def(
      "chat_templates",
      [](const Model& model) {
        return model.model.tokenizer().chat_templates();
      },
      nb::arg("model"),
      "The model's chat templates by name.");
}

}  // namespace mlxterp::python
