#include "text/gguf_vocabulary.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/fail.h"
#include "core/utf8.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using Metadata = std::map<std::string, GgufValue>;
using Ids = std::unordered_map<std::string_view, int>;

// tokenizer.ggml.token_type
enum class TokenType : int64_t {
  undefined = 0,
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

// How a family cuts text into words before BPE: each pattern splits what the
// ones before it left, and what lies between two matches is a word as well.
struct PreTokenizer {
  std::vector<std::string_view> names;
  std::vector<std::string> patterns;
  bool ignore_merges = false;  // a word that is a token needs no merging
  bool add_bos = false;        // where add_bos_token does not say
};

const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> known = [] {
    const std::string gpt2 =
        R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
        R"(|\s+(?!\S)|\s+)";
    // Contractions in either case, as (?i:) would fold beyond ASCII.
    const std::string shortened = "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])";
    const auto with_digits = [&](const char* digits) {
      return shortened +
             fmt::format(
                 R"(|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{})"
                 R"(| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
                 digits);
    };
    const std::string llama3 = with_digits(R"(\p{N}{1,3})");
    const std::string qwen2 = with_digits(R"(\p{N})");
    const std::string marks =
        shortened +
        R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
        R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    // Words end where a lower-case letter meets an upper-case one.
    const auto by_case = [](const std::string& behind, const char* digits) {
      const std::string before = R"([^\r\n\p{L}\p{N}]?)",
                        upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])",
                        lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
      return before + upper + "*" + lower + "+" + behind + "|" + before +
             upper + "+" + lower + "*" + behind + "|" + digits +
             R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    };
    const std::string hanzi = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00})"
                              R"(\x{AC00}-\x{D7FF}]+)";
    // Letters that have a case.
    const std::string cased =
        R"(A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA})"
        R"(\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373})"
        R"(\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})"
        R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481})"
        R"(\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5})"
        R"(\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
        R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77})"
        R"(\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
        R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59})"
        R"(\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4})"
        R"(\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})"
        R"(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC})"
        R"(\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
        R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126})"
        R"(\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139})"
        R"(\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184})"
        R"(\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2})"
        R"(\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
        R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF})"
        R"(\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A})"
        R"(\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
        R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
        R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})";
    const std::string bloom =
        R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)";
    return std::vector<PreTokenizer>{
        {.names = {"default"},
         .patterns = {R"([\p{P}$+<=>^~|]+)", gpt2, R"(\p{N}+)", "[0-9]{3}"}},
        {.names =
             {"gpt-2",
              "phi-2",
              "mpt",
              "olmo",
              "jais",
              "exaone4",
              "gigachat",
              "a.x-4.0",
              "mellum",
              "trillion",
              "granite-docling",
              "modern-bert"},
         .patterns = {gpt2}},
        {.names =
             {"smollm",
              "starcoder",
              "refact",
              "command-r",
              "codeshell",
              "exaone",
              "minerva-7b"},
         .patterns = {R"(\p{N})", gpt2}},
        {.names =
             {"llama-bpe",
              "llama3",
              "llama-v3",
              "falcon3",
              "falcon-h1",
              "pixtral",
              "midm-2.0",
              "lfm2"},
         .patterns = {llama3},
         .ignore_merges = true,
         .add_bos = true},
        {.names = {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"},
         .patterns = {llama3}},
        {.names =
             {"qwen2",
              "deepseek-r1-qwen",
              "stablelm2",
              "megrez",
              "hunyuan",
              "solar-open",
              "grok-2",
              "kormo",
              "f2llmv2"},
         .patterns = {qwen2}},
        {.names = {"qwen35"}, .patterns = {marks}},
        {.names = {"gpt-4o", "llama4", "kanana2", "minimax-m2"},
         .patterns = {by_case("(?:" + shortened + ")?", R"(\p{N}{1,3})")}},
        {.names = {"tekken"},
         .patterns = {by_case("", R"(\p{N})")},
         .ignore_merges = true,
         .add_bos = true},
        {.names = {"falcon"},
         .patterns = {R"([\p{P}$+<=>^~|`]+)", gpt2, "[0-9]{3}"}},
        {.names = {"deepseek-llm"},
         .patterns =
             {R"([\r\n])",
              R"(\s?[)" + cased + "]+",
              R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E})"
              R"(\x{2018}-\x{201F}\x{3000}-\x{3002}]+)",
              R"(\s+$)",
              hanzi,
              R"(\p{N}+)"}},
        {.names = {"deepseek-coder"},
         .patterns =
             {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", hanzi, R"(\p{N})"}},
        {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm"},
         .patterns =
             {R"(\p{N}{1,3})",
              R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
              R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)re"
              R"(|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)"
              R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
        {.names = {"bloom", "gpt3-finnish", "poro-chat"}, .patterns = {bloom}},
        {.names = {"viking"}, .patterns = {bloom, R"(\p{N})"}},
        {.names = {"seed-coder"},
         .patterns =
             {shortened +
              R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+)"
              R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
        {.names = {"bailingmoe", "bailingmoe2", "llada-moe"},
         .patterns =
             {shortened +
              R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
              R"(|\s*[\r\n]|\s+(?!\S)|\s+)"}},
    };
  }();
  return known;
}

template <typename T>
constexpr std::string_view type_name = "";
template <>
constexpr std::string_view type_name<int64_t> = "an integer";
template <>
constexpr std::string_view type_name<bool> = "a bool";
template <>
constexpr std::string_view type_name<std::string> = "a string";
template <>
constexpr std::string_view type_name<std::vector<int64_t>> =
    "an array of integers";
template <>
constexpr std::string_view type_name<std::vector<double>> =
    "an array of floats";
template <>
constexpr std::string_view type_name<std::vector<std::string>> =
    "an array of strings";

// The value at `key`, or nullptr where it is absent.
template <typename T>
const T* find(const Metadata& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return nullptr;
  if (const T* value = std::get_if<T>(&found->second)) return value;
  fail(
      ErrorKind::bad_data,
      "[Tokenizer::from_gguf] {} is not {}; the file is broken",
      printable(key),
      type_name<T>);
}

template <typename T>
const T& get(const Metadata& metadata, const std::string& key) {
  if (const T* value = find<T>(metadata, key)) return *value;
  fail(
      ErrorKind::bad_data,
      "[Tokenizer::from_gguf] {} is missing; take a file that holds its "
      "vocabulary",
      key);
}

void append_json(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

std::string json(std::string_view text) {
  std::string out;
  append_json(out, text);
  return out;
}

void check_utf8(std::string_view text, const std::string& key, size_t index) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text.substr(i));
    if (length == 0)
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::from_gguf] {}[{}] is not UTF-8 ({}); the file is broken",
          key,
          index,
          printable(text));
    i += length;
  }
}

class Vocabulary {
 public:
  explicit Vocabulary(const Metadata& metadata)
      : metadata_(metadata),
        tokens_(get<std::vector<std::string>>(metadata, tokens_key)),
        types_(find<std::vector<int64_t>>(metadata, types_key)) {
    check_counts();
    ids_.reserve(tokens_.size());
    for (size_t i = 0; i < tokens_.size(); i++) {
      const std::string& token = tokens_[i];
      if (token.size() > limits::token_bytes)
        fail(
            ErrorKind::bad_data,
            "[Tokenizer::from_gguf] {}[{}] has {} bytes, the limit is {}; the "
            "file is broken",
            tokens_key,
            i,
            token.size(),
            limits::token_bytes);
      check_utf8(token, tokens_key, i);
      const auto [first, fresh] = ids_.emplace(token, static_cast<int>(i));
      // Google's own files of Gemma 4 have three twice; the later one counts.
      if (!fresh && is_gemma4())
        first->second = static_cast<int>(i);
      else if (!fresh)
        fail(
            ErrorKind::bad_data,
            "[Tokenizer::from_gguf] {}[{}] and [{}] are both '{}'; the file is "
            "broken",
            tokens_key,
            first->second,
            i,
            printable(token));
    }
    bos_ = special_id("bos");
    eos_ = special_id("eos");
  }

  GgufVocabulary build() const {
    const std::string& model =
        get<std::string>(metadata_, "tokenizer.ggml.model");
    if (model == "gpt2") return {byte_level(), bos_, eos_};
    if (model == "llama") return {sentence_piece(), bos_, eos_};
    if (is_gemma4()) return {gemma4(), bos_, eos_};
    fail(
        ErrorKind::bad_data,
        "[Tokenizer::from_gguf] tokenizer.ggml.model '{}' is not supported; "
        "known: gpt2, llama, gemma4",
        printable(model));
  }

 private:
  static const std::string tokens_key;
  static const std::string types_key;
  static const std::string merges_key;
  static const std::string scores_key;

  void check_counts() const {
    if (tokens_.empty() || tokens_.size() > limits::vocab)
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::from_gguf] {} has {} tokens, expected 1 to {}; the file "
          "is broken",
          tokens_key,
          tokens_.size(),
          limits::vocab);
    if (types_) check_count(types_key, types_->size());
    if (const auto* family =
            find<std::string>(metadata_, "general.architecture")) {
      const auto* rows = find<int64_t>(metadata_, *family + ".vocab_size");
      if (rows && *rows < static_cast<int64_t>(tokens_.size()))
        fail(
            ErrorKind::bad_data,
            "[Tokenizer::from_gguf] {} has {} tokens, {}.vocab_size is {}; the "
            "file is broken",
            tokens_key,
            tokens_.size(),
            printable(*family),
            *rows);
    }
  }

  void check_count(const std::string& key, size_t count) const {
    if (count != tokens_.size())
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::from_gguf] {} has {} values for {} tokens; the file is "
          "broken",
          key,
          count,
          tokens_.size());
  }

  std::optional<int> special_id(std::string_view role) const {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", role);
    const auto* id = find<int64_t>(metadata_, key);
    if (!id) return std::nullopt;
    if (*id < 0 || *id >= static_cast<int64_t>(tokens_.size()))
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::from_gguf] {} is {}, expected 0 to {}; the file is "
          "broken",
          key,
          *id,
          tokens_.size() - 1);
    return static_cast<int>(*id);
  }

  TokenType type(size_t id) const {
    return types_ ? static_cast<TokenType>((*types_)[id]) : TokenType::normal;
  }

  // Phi-3's control tokens take the white space behind them along, which no key
  // of the file says. llama.cpp knows the models by their name; they are also
  // those of the architecture that have pieces.
  bool is_phi3() const {
    const auto text = [&](const char* key) {
      const auto* value = find<std::string>(metadata_, key);
      std::string lower = value ? *value : "";
      std::ranges::transform(lower, lower.begin(), [](unsigned char c) {
        return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
      });
      return lower;
    };
    if (text("general.architecture") == "phi3" &&
        text("tokenizer.ggml.model") == "llama")
      return true;
    const auto name = text("general.name");
    return name.find("phi-3") != name.npos || name.find("phi3") != name.npos;
  }

  bool is_gemma4() const {
    const auto* model = find<std::string>(metadata_, "tokenizer.ggml.model");
    return model && *model == "gemma4";
  }

  static bool strips_right(std::string_view token) {
    return token != "<unk>" && token != "<s>" && token != "<|endoftext|>";
  }

  // Control tokens and those a model's makers put beside the trained ones.
  std::string added_tokens() const {
    const bool takes_spaces = is_phi3();
    std::string out = "[";
    for (size_t i = 0; i < tokens_.size(); i++) {
      const TokenType kind = type(i);
      const bool special =
          kind == TokenType::control || kind == TokenType::unknown;
      if (!special && kind != TokenType::user_defined) continue;
      if (tokens_[i].empty()) continue;
      if (out.size() > 1) out += ',';
      out += fmt::format(R"({{"id":{},"content":)", i);
      append_json(out, tokens_[i]);
      out += fmt::format(
          R"(,"single_word":false,"lstrip":false,"rstrip":{},)"
          R"("normalized":false,"special":{}}})",
          takes_spaces && strips_right(tokens_[i]),
          special);
    }
    return out + "]";
  }

  std::string vocab() const {
    std::string out = "{";
    for (size_t i = 0; i < tokens_.size(); i++) {
      if (ids_.at(tokens_[i]) != static_cast<int>(i)) continue;
      if (out.size() > 1) out += ',';
      append_json(out, tokens_[i]);
      out += ':';
      out += fmt::format_int(i).str();
    }
    return out + "}";
  }

  // BOS and EOS around a text, or null where there is neither.
  std::string post_processor(bool add_bos_by_default) const {
    return post_processor_of(
        added("add_bos_token", add_bos_by_default && bos_.has_value(), bos_));
  }

  std::string post_processor_of(bool add_bos) const {
    const bool add_eos = added("add_eos_token", false, eos_);
    if (!add_bos && !add_eos) return "null";
    const auto element = [&](int id) {
      return fmt::format(
          R"({{"SpecialToken":{{"id":{},"type_id":0}}}})", json(tokens_[id]));
    };
    std::string template_text;
    std::string tokens;
    const auto declare = [&](int id) {
      const std::string name = json(tokens_[id]);
      if (!tokens.empty()) tokens += ',';
      tokens += fmt::format(
          R"({0}:{{"id":{0},"ids":[{1}],"tokens":[{0}]}})", name, id);
    };
    const std::string text = R"({"Sequence":{"id":"A","type_id":0}})";
    if (add_bos) template_text += fmt::format("{},", element(*bos_));
    template_text += text;
    if (add_eos) template_text += fmt::format(",{}", element(*eos_));
    if (add_bos) declare(*bos_);
    if (add_eos && !(add_bos && *bos_ == *eos_)) declare(*eos_);
    return fmt::format(
        R"({{"type":"TemplateProcessing","single":[{0}],"pair":[{1},)"
        R"({{"Sequence":{{"id":"B","type_id":0}}}}],)"
        R"("special_tokens":{{{2}}}}})",
        template_text,
        text,
        tokens);
  }

  bool added(
      std::string_view name, bool otherwise, std::optional<int> id) const {
    const std::string key = fmt::format("tokenizer.ggml.{}", name);
    const bool* value = find<bool>(metadata_, key);
    if (value && *value && !id)
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::from_gguf] {} is true, but the file names no such "
          "token; the file is broken",
          key);
    return value ? *value : otherwise;
  }

  std::string assemble(
      const std::string& normalizer,
      const std::string& pre_tokenizer,
      const std::string& post_processor,
      const std::string& decoder,
      const std::string& model_options,
      const std::string& merges) const {
    return fmt::format(
        R"({{"version":"1.0","truncation":null,"padding":null,)"
        R"("added_tokens":{},"normalizer":{},"pre_tokenizer":{},)"
        R"("post_processor":{},"decoder":{},"model":{{"type":"BPE",)"
        R"("dropout":null,"continuing_subword_prefix":null,)"
        R"("end_of_word_suffix":null,{},"vocab":{},"merges":[{}]}}}})",
        added_tokens(),
        normalizer,
        pre_tokenizer,
        post_processor,
        decoder,
        model_options,
        vocab(),
        merges);
  }

  std::string byte_level() const {
    const PreTokenizer& pre = pre_tokenizer();
    std::string steps;
    for (const std::string& pattern : pre.patterns) {
      steps += R"({"type":"Split","pattern":{"Regex":)";
      append_json(steps, pattern);
      steps += R"(},"behavior":"Isolated","invert":false},)";
    }
    const std::string bytes = R"({"type":"ByteLevel","add_prefix_space":false,)"
                              R"("trim_offsets":false,"use_regex":false})";
    return assemble(
        "null",
        fmt::format(
            R"({{"type":"Sequence","pretokenizers":[{}{}]}})", steps, bytes),
        post_processor(pre.add_bos),
        bytes,
        fmt::format(
            R"("unk_token":null,"fuse_unk":false,"byte_fallback":false,)"
            R"("ignore_merges":{})",
            pre.ignore_merges),
        ranked_merges());
  }

  const PreTokenizer& pre_tokenizer() const {
    const auto* stated = find<std::string>(metadata_, "tokenizer.ggml.pre");
    const std::string name = stated ? *stated : "default";
    std::string names;
    for (const PreTokenizer& pre : pre_tokenizers()) {
      for (const std::string_view known : pre.names) {
        if (known == name) return pre;
        if (!names.empty()) names += ", ";
        names += known;
      }
    }
    fail(
        ErrorKind::bad_data,
        "[Tokenizer::from_gguf] tokenizer.ggml.pre '{}' is not supported; "
        "known: {}",
        printable(name),
        names);
  }

  std::string ranked_merges() const {
    const auto& merges = get<std::vector<std::string>>(metadata_, merges_key);
    std::string out;
    for (size_t i = 0; i < merges.size(); i++) {
      const std::string_view merge = merges[i];
      const size_t space = merge.find(' ', 1);
      if (space == std::string_view::npos)
        fail(
            ErrorKind::bad_data,
            "[Tokenizer::from_gguf] {}[{}] is '{}', expected two tokens with a "
            "space between them; the file is broken",
            merges_key,
            i,
            printable(merge));
      const std::string_view left = merge.substr(0, space);
      const std::string_view right = merge.substr(space + 1);
      std::string both(left);
      both += right;
      for (const std::string_view token : {left, right, std::string_view(both)})
        if (!ids_.contains(token))
          fail(
              ErrorKind::bad_data,
              "[Tokenizer::from_gguf] {}[{}] is '{}', but '{}' is not a token; "
              "the file is broken",
              merges_key,
              i,
              printable(merge),
              printable(token));
      if (i) out += ',';
      out += '[';
      append_json(out, left);
      out += ',';
      append_json(out, right);
      out += ']';
    }
    return out;
  }

  // Pieces as they are spelt: U+2581 for a space, bytes as <0xNN>.
  std::string of_pieces(
      const std::string& normalizer,
      const std::string& pre_tokenizer,
      const std::string& post_processor,
      const char* last_decoder,
      const std::string& merges) const {
    const std::string unknown = [&]() -> std::string {
      for (size_t i = 0; i < tokens_.size(); i++)
        if (type(i) == TokenType::unknown) return json(tokens_[i]);
      return "null";
    }();
    return assemble(
        normalizer,
        pre_tokenizer,
        post_processor,
        fmt::format(
            R"({{"type":"Sequence","decoders":[)"
            R"({{"type":"Replace","pattern":{{"String":"▁"}},"content":" "}},)"
            R"({{"type":"ByteFallback"}},{{"type":"Fuse"}}{}]}})",
            last_decoder),
        fmt::format(
            R"("unk_token":{},"fuse_unk":true,"byte_fallback":true,)"
            R"("ignore_merges":false)",
            unknown),
        merges);
  }

  static constexpr const char* spaces_as_pieces =
      R"({"type":"Replace","pattern":{"String":" "},"content":"▁"})";

  std::string sentence_piece() const {
    const bool* prefix =
        find<bool>(metadata_, "tokenizer.ggml.add_space_prefix");
    const bool add_prefix = !prefix || *prefix;
    return of_pieces(
        add_prefix ? fmt::format(
                         R"({{"type":"Sequence","normalizers":[)"
                         R"({{"type":"Prepend","prepend":"▁"}},{}]}})",
                         spaces_as_pieces)
                   : spaces_as_pieces,
        "null",
        post_processor(true),
        add_prefix ? R"(,{"type":"Strip","content":" ","start":1,"stop":0})"
                   : "",
        sentence_piece_merges());
  }

  // Characters merged by rank, runs of line breaks apart; llama.cpp adds BOS
  // whatever the file says, and no space.
  std::string gemma4() const {
    return of_pieces(
        spaces_as_pieces,
        R"({"type":"Split","pattern":{"Regex":"\\n+"},"behavior":"Isolated",)"
        R"("invert":false})",
        post_processor_of(bos_.has_value()),
        "",
        ranked_merges());
  }

  // SentencePiece joins whichever neighbours give the piece of the highest
  // score. As BPE merges: every way to cut a piece in two, best piece first.
  // Only trained pieces take part, or user text could become a control token.
  std::string sentence_piece_merges() const {
    const auto& scores = get<std::vector<double>>(metadata_, scores_key);
    check_count(scores_key, scores.size());
    struct Merge {
      int piece;
      size_t cut;
    };
    std::vector<Merge> merges;
    const auto is_trained = [&](std::string_view piece) {
      const auto found = ids_.find(piece);
      return found != ids_.end() && trained(found->second);
    };
    for (size_t i = 0; i < tokens_.size(); i++) {
      if (std::isnan(scores[i]))
        fail(
            ErrorKind::bad_data,
            "[Tokenizer::from_gguf] {}[{}] is NaN; the file is broken",
            scores_key,
            i);
      if (!trained(i)) continue;
      const std::string_view piece = tokens_[i];
      for (size_t cut = utf8_length(piece); cut < piece.size();
           cut += utf8_length(piece.substr(cut)))
        if (is_trained(piece.substr(0, cut)) && is_trained(piece.substr(cut)))
          merges.push_back({static_cast<int>(i), cut});
    }
    std::stable_sort(
        merges.begin(), merges.end(), [&](const Merge& a, const Merge& b) {
          return scores[a.piece] > scores[b.piece];
        });
    std::string out;
    for (const Merge& merge : merges) {
      const std::string_view piece = tokens_[merge.piece];
      if (!out.empty()) out += ',';
      out += '[';
      append_json(out, piece.substr(0, merge.cut));
      out += ',';
      append_json(out, piece.substr(merge.cut));
      out += ']';
    }
    return out;
  }

  bool trained(size_t id) const {
    const TokenType kind = type(id);
    return kind == TokenType::normal || kind == TokenType::undefined;
  }

  const Metadata& metadata_;
  const std::vector<std::string>& tokens_;
  const std::vector<int64_t>* types_;
  Ids ids_;
  std::optional<int> bos_;
  std::optional<int> eos_;
};

const std::string Vocabulary::tokens_key = "tokenizer.ggml.tokens";
const std::string Vocabulary::types_key = "tokenizer.ggml.token_type";
const std::string Vocabulary::merges_key = "tokenizer.ggml.merges";
const std::string Vocabulary::scores_key = "tokenizer.ggml.scores";

}  // namespace

GgufVocabulary gguf_vocabulary(const Metadata& metadata) {
  return Vocabulary(metadata).build();
}

}  // namespace mlxterp
