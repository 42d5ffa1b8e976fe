#include "mlxterp/text/chat.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "text/chat_marks.h"
#include "text/chat_render.h"
#include "text/chat_turns.h"
#include "text/chat_variables.h"
#include "text/tokenizer_handle.h"

namespace mlxterp {

namespace {

constexpr std::string_view caller = "Tokenizer::apply_chat_template";

struct Token {
  int id;
  ByteRange bytes;
};

std::tm local_now() {
  const auto now =
      std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

class Prompter {
 public:
  Prompter(
      const Tokenizer::Handle& handle,
      const ChatJson& messages,
      const ChatOptions& options)
      : handle_(handle),
        options_(options),
        source_(chat_source(handle.chat_templates, options)),
        now_(options.now ? *options.now : local_now()),
        renderer_(source_, now_) {
    variables_ = chat_variables(messages, handle.special_names, options);
    if (options.continue_final_message && options.add_generation_prompt)
      fail(
          ErrorKind::usage,
          "[{}] continue_final_message and add_generation_prompt together; "
          "choose one",
          caller);
  }

  std::string text() const { return render(variables_); }

  ChatPrompt prompt() const {
    ChatLocator locator(
        [this](const ChatJson& variables) { return render(variables); },
        [this](std::string_view text) { return controls(text); },
        variables_,
        leaves());
    ChatPrompt out;
    out.text = locator.text();
    const auto tokens = encode(locator);
    for (const auto& token : tokens)
      out.ids.push_back(token.id);
    add_turns(out, locator, tokens);
    if (options_.assistant_mask) add_mask(out, tokens);
    return out;
  }

 private:
  std::string render(const ChatJson& variables) const {
    const bool whole =
        variables["messages"].size() == variables_["messages"].size();
    return options_.continue_final_message && whole
               ? continued(std::cref(renderer_), variables)
               : renderer_(variables);
  }

  // What it wrote within {% generation %} is what it writes where it is asked
  // to tell that.
  void add_mask(ChatPrompt& out, const std::vector<Token>& tokens) const {
    const ChatRenderer telling(source_, now_, true);
    if (!telling.generates())
      fail(
          ErrorKind::usage,
          "[{}] assistant_mask, but the chat template has no {{% generation "
          "%}} "
          "around what the assistant says, so that nothing marks it; give a "
          "chat_template that has, or take the assistant's turns (content, "
          "message)",
          caller);
    std::vector<std::pair<size_t, size_t>> written;
    const auto render = [&](const ChatJson& variables) {
      auto made = telling.rendered(variables);
      written = std::move(made.generated);
      return made.text;
    };
    const auto text = options_.continue_final_message
                          ? continued(render, variables_)
                          : render(variables_);
    if (text != out.text)
      fail(
          ErrorKind::bad_data,
          "[{}] the chat template writes another text where its "
          "{{% generation %}} is followed; give another one as chat_template",
          caller);
    out.assistant_mask.assign(tokens.size(), 0);
    for (const auto& [begin, end] : written)
      for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i].bytes.end > begin && tokens[i].bytes.begin < end)
          out.assistant_mask[i] = 1;
  }

  std::vector<ByteRange> controls(std::string_view text) const {
    tkc_ids found{};
    check_crate(
        tkc_find_controls(handle_.crate, text.data(), text.size(), &found),
        caller,
        "looking for control tokens failed");
    const std::unique_ptr<tkc_ids, void (*)(tkc_ids*)> owner(
        &found, [](tkc_ids* owned) { tkc_free_ids(*owned); });
    std::vector<ByteRange> ranges;
    const std::span<const uint32_t> all(found.data, found.length);
    for (size_t i = 0; i + 1 < all.size(); i += 2)
      ranges.push_back({all[i], all[i + 1]});
    return ranges;
  }

  bool names_control(std::string_view text) const {
    return !controls(text).empty();
  }

  // Contents, and what else names a control token.
  std::vector<ChatLeaf> leaves() const {
    std::vector<ChatLeaf> all;
    const auto add = [&](const ChatJson& value,
                         const ChatJson::json_pointer& where,
                         int message,
                         bool content) {
      ChatLeaf leaf;
      leaf.text = value.get<std::string>();
      leaf.controls = !options_.parse_special && names_control(leaf.text);
      if (!content && !leaf.controls) return;
      leaf.where = where;
      leaf.message = message;
      leaf.is_content = content;
      all.push_back(std::move(leaf));
    };
    const auto visit = [&](const auto& self,
                           const ChatJson& value,
                           const ChatJson::json_pointer& where,
                           int message,
                           bool content) -> void {
      if (value.is_string()) add(value, where, message, content);
      if (value.is_array())
        for (size_t i = 0; i < value.size(); i++)
          self(self, value[i], where / i, message, content);
      if (value.is_object())
        for (const auto& [key, inner] : value.items()) {
          if (!options_.parse_special && names_control(key))
            fail(
                ErrorKind::usage,
                "[{}] the key '{}' names a control token; rename it",
                caller,
                printable(key));
          self(self, inner, where / key, message, content && key == "text");
        }
    };
    const ChatJson::json_pointer root;
    const auto& messages = variables_["messages"];
    for (size_t i = 0; i < messages.size(); i++)
      for (const auto& [key, value] : messages[i].items())
        visit(
            visit,
            value,
            root / "messages" / i / key,
            static_cast<int>(i),
            key == "content");
    for (const auto& [name, value] : variables_.items()) {
      // bos_token and the like are the template's own.
      if (name == "messages" || name.ends_with("_token") ||
          handle_.special_names.contains(name))
        continue;
      visit(visit, value, root / name, -1, false);
    }
    return all;
  }

  // What of a leaf is not known to be in its place may be anywhere.
  void check_hidden(const ChatLeaf& leaf) const {
    if (!leaf.controls || leaf.certain) return;
    size_t at = 0;
    bool hidden = false;
    for (const auto& range : leaf.written) {
      hidden = hidden || names_control(std::string_view(leaf.text).substr(
                             at, range.begin - at));
      at = range.end;
    }
    hidden = hidden || names_control(std::string_view(leaf.text).substr(at));
    if (hidden)
      fail(
          ErrorKind::usage,
          "[{}] {} names control tokens, and the template rewrites it, so that "
          "they cannot be told from the template's own; take them out, or ask "
          "for parse_special",
          caller,
          printable(leaf.where.to_string()));
  }

  std::vector<Token> encode(const ChatLocator& locator) const {
    std::vector<ByteRange> data;
    for (const auto& leaf : locator.leaves()) {
      check_hidden(leaf);
      if (!options_.parse_special)
        data.insert(data.end(), leaf.pieces.begin(), leaf.pieces.end());
    }
    std::ranges::sort(data, {}, &ByteRange::begin);
    std::vector<size_t> flat;
    for (const auto& range : data) {
      if (!flat.empty() && range.begin < flat.back())
        flat.back() = std::max(flat.back(), range.end);
      else
        flat.insert(flat.end(), {range.begin, range.end});
    }
    const std::string& text = locator.text();
    if (text.size() > limits::prompt_bytes)
      fail(
          ErrorKind::usage,
          "[{}] the conversation is {} bytes of text, the limit is {}; shorten "
          "it",
          caller,
          text.size(),
          limits::prompt_bytes);
    handle_.check_bytes(text);
    tkc_ids ids{};
    check_crate(
        tkc_encode_placed(
            handle_.crate,
            text.data(),
            text.size(),
            flat.data(),
            flat.size() / 2,
            &ids),
        caller,
        "the tokenizer failed on this text",
        "shorten it, or take out what is odd");
    const std::unique_ptr<tkc_ids, void (*)(tkc_ids*)> owner(
        &ids, [](tkc_ids* owned) { tkc_free_ids(*owned); });
    std::vector<Token> tokens;
    const std::span<const uint32_t> all(ids.data, ids.length);
    for (size_t i = 0; i + 2 < all.size(); i += 3) {
      if (all[i] >= static_cast<uint32_t>(handle_.size))
        fail(
            ErrorKind::bad_data,
            "[{}] the tokenizer gave the id {}, its vocabulary ends at {}; its "
            "tokenizer.json is broken",
            caller,
            all[i],
            handle_.size - 1);
      tokens.push_back({static_cast<int>(all[i]), {all[i + 1], all[i + 2]}});
    }
    return tokens;
  }

  void add_turns(
      ChatPrompt& out,
      ChatLocator& locator,
      const std::vector<Token>& tokens) const {
    // The first token that ends behind a byte; some begin behind the white
    // space that is part of them.
    const auto after = [&](size_t byte) {
      return static_cast<int>(
          std::ranges::upper_bound(
              tokens, byte, {}, [](const Token& t) { return t.bytes.end; }) -
          tokens.begin());
    };
    const auto span = [&](ByteRange range) {
      TokenSpan found;
      found.begin = after(range.begin);
      // Those of one character's bytes begin and end together.
      found.end = std::max(
          found.begin,
          static_cast<int>(
              std::ranges::lower_bound(
                  tokens,
                  range.end,
                  {},
                  [](const Token& t) { return t.bytes.begin; }) -
              tokens.begin()));
      if (found.size() > 0) {
        found.shares_first =
            tokens[static_cast<size_t>(found.begin)].bytes.begin < range.begin;
        found.shares_last =
            tokens[static_cast<size_t>(found.end - 1)].bytes.end > range.end;
      }
      return found;
    };
    // A message ends with the token in which its text ends, a control token
    // behind which both agree by chance excepted.
    const auto boundary = [&](size_t byte) {
      const int token = after(byte);
      if (token == static_cast<int>(tokens.size())) return token;
      const auto& at = tokens[static_cast<size_t>(token)];
      const auto info = handle_.token(at.id);
      const bool inside = at.bytes.begin < byte;
      return inside && !(info && info->special) ? token + 1 : token;
    };

    const auto bos = variables_.value("bos_token", ChatJson());
    const auto bounds =
        chat_bounds(locator, bos.is_string() ? bos.get<std::string>() : "");
    const auto& messages = variables_["messages"];
    int begin = boundary(bounds.begin);
    for (size_t i = 0; i < messages.size(); i++) {
      ChatTurn turn;
      turn.index = static_cast<int>(i);
      const auto role = messages[i].find("role");
      if (role != messages[i].end() && role->is_string())
        turn.role = role->get<std::string>();
      turn.message.begin = begin;
      begin = std::max(begin, boundary(bounds.ends[i]));
      if (i + 1 == messages.size() && !options_.add_generation_prompt)
        begin = static_cast<int>(tokens.size());
      turn.message.end = begin;
      add_content(turn, locator, span);
      out.turns.push_back(std::move(turn));
    }
    if (options_.add_generation_prompt) {
      out.generation_prompt.begin = begin;
      out.generation_prompt.end = static_cast<int>(tokens.size());
    }
  }

  template <typename Span>
  void add_content(
      ChatTurn& turn, const ChatLocator& locator, const Span& span) const {
    std::optional<ByteRange> range;
    for (const auto& leaf : locator.leaves()) {
      if (!leaf.is_content || leaf.message != turn.index) continue;
      // Of several parts the least that is known.
      if (leaf.found != ContentFound::none)
        turn.found = turn.found == ContentFound::none
                         ? leaf.found
                         : std::max(turn.found, leaf.found);
      if (leaf.pieces.empty()) continue;
      const ByteRange piece{leaf.pieces.front().begin, leaf.pieces.back().end};
      range = range ? ByteRange{std::min(range->begin, piece.begin),
                                std::max(range->end, piece.end)}
                    : piece;
    }
    if (range) turn.content = span(*range);
  }

  const Tokenizer::Handle& handle_;
  const ChatOptions& options_;
  const std::string& source_;
  std::tm now_;
  ChatRenderer renderer_;
  ChatJson variables_;
};

const Tokenizer::Handle& own(
    const std::shared_ptr<const Tokenizer::Handle>& handle) {
  if (!handle)
    fail(
        ErrorKind::usage,
        "[{}] the tokenizer is another program's; apply the template there",
        caller);
  return *handle;
}

}  // namespace

std::string_view name_of(ContentFound found) {
  switch (found) {
    case ContentFound::whole:
      return "whole";
    case ContentFound::part:
      return "part";
    case ContentFound::compared:
      return "compared";
    case ContentFound::lost:
      return "lost";
    case ContentFound::none:
      break;
  }
  return "none";
}

const ChatTurn& ChatPrompt::turn(std::string_view role, int number) const {
  std::vector<const ChatTurn*> of_role;
  std::string roles;
  for (const auto& each : turns) {
    if (each.role == role) of_role.push_back(&each);
    roles += (roles.empty() ? "" : ", ") + printable(each.role);
  }
  const auto count = static_cast<int>(of_role.size());
  const int at = number < 0 ? count + number : number;
  if (at < 0 || at >= count)
    fail(
        ErrorKind::unknown_name,
        "[ChatPrompt::turn] no turn {} of '{}': there are {} of them; the "
        "turns "
        "are: {}",
        number,
        printable(role),
        count,
        roles);
  return *of_role[static_cast<size_t>(at)];
}

const std::map<std::string, std::string>& Tokenizer::chat_templates() const {
  static const std::map<std::string, std::string> none;
  return handle_ ? handle_->chat_templates : none;
}

ChatPrompt Tokenizer::apply_chat_template(
    const std::vector<ChatMessage>& messages,
    const ChatOptions& options) const {
  return Prompter(own(handle_), chat_messages(messages), options).prompt();
}

ChatPrompt Tokenizer::apply_chat_template(
    std::string_view messages_json, const ChatOptions& options) const {
  return Prompter(
             own(handle_), parse_chat_json(messages_json, "messages"), options)
      .prompt();
}

std::string Tokenizer::render_chat(
    std::string_view messages_json, const ChatOptions& options) const {
  return Prompter(
             own(handle_), parse_chat_json(messages_json, "messages"), options)
      .text();
}

}  // namespace mlxterp
