// text/chat_render.h: a compiled chat template.

#pragma once

#include <tokenizers_c.h>

#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mlxterp {

/** A JSON value whose objects keep their order, as Python's do. */
using ChatJson = nlohmann::ordered_json;

/** JSON from outside, as strictly as parse_json reads it; usage. */
ChatJson parse_chat_json(std::string_view text, std::string_view what);

/** What a template makes of a conversation. */
struct RenderedChat {
  std::string text;
  /** Of each {% generation %} its first byte and the one behind its last. */
  std::vector<std::pair<size_t, size_t>> generated = {};
};

/** A template that is compiled, and the time it tells. Const members may be
 * called from several threads. */
class ChatRenderer {
 public:
  /** `told`: rendered() says what {% generation %} wrote. Throws bad_data where
   * the template is no template. */
  ChatRenderer(std::string_view source, const std::tm& now, bool told = false);

  /** What it makes of these variables. Throws usage with the template's words
   * where it refuses them, bad_data where it does not work or is over a limit.
   */
  std::string operator()(const ChatJson& variables) const {
    return rendered(variables).text;
  }
  RenderedChat rendered(const ChatJson& variables) const;

  /** Whether it has a {% generation %}. */
  bool generates() const { return tkc_template_generates(template_.get()); }

 private:
  struct Free {
    void operator()(tkc_template* chat) const { tkc_template_free(chat); }
  };
  std::unique_ptr<tkc_template, Free> template_;
  tkc_time now_;
};

}  // namespace mlxterp
