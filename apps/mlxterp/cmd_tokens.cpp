// mlxterp tokens: what a model's tokenizer makes of a text.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "arguments.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/report/tokens.h"
#include "mlxterp/text/tokenizer.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::vector<std::string> texts;
  bool special = true;
};

std::string table(const std::vector<report::TokenizedText>& texts) {
  using view::Align;
  std::string out;
  for (const auto& text : texts) {
    view::Table table(
        {{"pos", Align::right}, {"id", Align::right}, {"token"}, {""}});
    for (size_t i = 0; i < text.tokens.size(); ++i)
      table.add(
          {fmt::format("{}", i),
           fmt::format("{}", text.tokens[i].id),
           fmt::format("'{}'", view::visible(text.tokens[i].text)),
           text.special[i] ? "special" : ""});
    out += table.text(view::terminal(STDOUT_FILENO)) +
           fmt::format(
               "{} token{}\n",
               text.tokens.size(),
               text.tokens.size() == 1 ? "" : "s");
    if (&text != &texts.back()) out += "\n";
  }
  return out;
}

void run(const Arguments& arguments) {
  arguments.model.check();
  // The weights stay on the disk.
  const auto checkpoint = Checkpoint::open(arguments.model.path());
  const auto found = Tokenizer::find(checkpoint);
  if (!found.tokenizer)
    throw Error(
        ErrorKind::bad_data,
        found.reason.empty() ? "this model came without a tokenizer"
                             : found.reason);
  std::vector<report::TokenizedText> texts;
  for (const auto& text : arguments.texts)
    texts.push_back(report::tokenized(
        *found.tokenizer, text_of(text), {.parse_special = arguments.special}));
  print(
      arguments.model.json ? arguments.model.answer(
                                 report::to_json(arguments.model.model, texts))
                           : table(texts));
}

}  // namespace

Run add_tokens(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description("The tokens of a text: their ids, and which are special");
  arguments->model.add_to(app);
  app.add_option(
         "TEXT",
         arguments->texts,
         "A text, in quotes; several are several texts; - reads one from stdin")
      ->required();
  add_special(app, arguments->special);
  app.footer(
      "Spaces are part of tokens: ' Paris' and 'Paris' are two.\n\nExample:\n  "
      "mlxterp tokens demo 'The Eiffel Tower is in' ' Paris' 'Paris'");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
