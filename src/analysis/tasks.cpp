#include "mlxterp/analysis/tasks.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>

#include "analysis/int_array.h"
#include "analysis/random.h"
#include "analysis/readout.h"
#include "analysis/task_words.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/heads.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using words::Strings;

constexpr int most_pairs = 100'000;
constexpr int draws_a_pair = 200;  // until a pair of the right length comes

std::string filled(
    std::string text, std::string_view slot, std::string_view value) {
  for (size_t at = text.find(slot); at != std::string::npos;
       at = text.find(slot, at + value.size()))
    text.replace(at, slot.size(), value);
  return text;
}

// Draws pairs of one task until there are enough of one length.
class Drawer {
 public:
  Drawer(const InterpretableModel& model, const TaskOptions& options)
      : model_(model), options_(options), random_(options.seed) {}

  // `draw` makes the number-th pair, or nothing where what it drew will not do.
  template <typename Draw>
  std::vector<Task::Pair> pairs(std::string_view task, const Draw& draw) {
    std::vector<Task::Pair> out;
    int tries = draws_a_pair;
    while (out.size() < static_cast<size_t>(options_.pairs)) {
      auto drawn = draw(random_, out.size());
      if (drawn && fits(*drawn, out)) {
        out.push_back(std::move(*drawn));
        tries = draws_a_pair;
      } else if (--tries == 0) {
        fail(
            ErrorKind::usage,
            "[make_task] found no pair {} for '{}' in {} draws: this tokenizer "
            "splits its words into several tokens; use another task",
            out.size(),
            task,
            draws_a_pair);
      }
    }
    return out;
  }

  std::vector<int> ids(const std::string& text) const {
    return model_.tokenizer().encode(text);
  }

  // The one token that `text` adds behind a prompt.
  std::optional<int> next(
      const std::string& prompt, const std::string& text) const {
    const auto before = ids(prompt), with = ids(prompt + text);
    if (with.size() != before.size() + 1 ||
        !std::equal(before.begin(), before.end(), with.begin()))
      return std::nullopt;
    return with.back();
  }

  // With answers and foils behind the clean prompt, one token each.
  std::optional<Task::Pair> pair(
      const std::string& clean,
      const std::string& corrupt,
      const Strings& answers,
      const Strings& foils) const {
    Task::Pair out{clean, corrupt, ids(clean), ids(corrupt), {}, {}};
    for (const auto& [texts, tokens] :
         {std::pair{&answers, &out.answers}, std::pair{&foils, &out.foils}})
      for (const auto& text : *texts) {
        const auto token = next(clean, text);
        if (!token) return std::nullopt;
        tokens->push_back(*token);
      }
    return out;
  }

 private:
  // As long as its like, and as the pairs before it.
  static bool fits(
      const Task::Pair& pair, const std::vector<Task::Pair>& others) {
    const size_t n = pair.clean_ids.size();
    return n == pair.corrupt_ids.size() && pair.clean_ids != pair.corrupt_ids &&
           (others.empty() || others[0].clean_ids.size() == n);
  }

  const InterpretableModel& model_;
  const TaskOptions& options_;
  Random random_;
};

std::vector<Task::Pair> ioi(Drawer& drawer) {
  return drawer.pairs("ioi", [&](Random& random, size_t i) {
    auto text = random.one_of(words::ioi_templates);
    const auto& a = random.one_of(words::names);
    const auto& b = random.one_of(words::names);
    text = filled(text, "[PLACE]", random.one_of(words::places));
    text = filled(text, "[OBJECT]", random.one_of(words::objects));
    if (a == b) return std::optional<Task::Pair>();
    if (i % 2 == 1) text.replace(text.find("[A] and [B]"), 11, "[B] and [A]");
    const auto second = text.rfind("[B]");
    auto other = text;
    other.replace(second, 3, "[A]");
    const auto named = [&](const std::string& prompt) {
      return filled(filled(prompt, "[A]", a), "[B]", b);
    };
    auto pair = drawer.pair(named(text), named(other), {" " + a}, {" " + b});
    // Where each name is one token, just one differs.
    if (!pair || pair->clean_ids.size() != pair->corrupt_ids.size())
      return std::optional<Task::Pair>();
    int differ = 0;
    for (size_t p = 0; p < pair->clean_ids.size(); ++p)
      differ += pair->clean_ids[p] != pair->corrupt_ids[p];
    return differ == 1 ? pair : std::nullopt;
  });
}

std::vector<Task::Pair> greater_than(Drawer& drawer) {
  return drawer.pairs("greater-than", [&](Random& random, size_t) {
    const auto& noun = random.one_of(words::lasting);
    const auto century = fmt::format("{}", 11 + random.below(7));
    // Never so near to an end that nothing is later or earlier.
    const auto tens = 2 + random.below(6), ones = 2 + random.below(7);
    const auto prompt = [&](size_t ten) {
      return fmt::format(
          "The {0} lasted from the year {1}{2}{3} to the year {1}",
          noun,
          century,
          ten,
          ones);
    };
    Strings later, earlier;
    for (size_t year = 2; year < 99; ++year)
      (year > 10 * tens + ones ? later : earlier)
          .push_back(fmt::format("{:02}", year));
    const auto clean = prompt(tens), corrupt = prompt(0);
    // Two digits a token, or else one.
    if (auto pair = drawer.pair(clean, corrupt, later, earlier)) return pair;
    later.clear();
    earlier.clear();
    for (size_t d = 0; d < 10; ++d)
      if (d != tens)
        (d > tens ? later : earlier).push_back(fmt::format("{}", d));
    return drawer.pair(clean, corrupt, later, earlier);
  });
}

std::vector<Task::Pair> induction(
    Drawer& drawer,
    const InterpretableModel& model,
    const TaskOptions& options) {
  constexpr int period = 20, again = 10;
  RepeatedTokens tokens{
      .period = period, .sequences = options.pairs, .seed = options.seed};
  const auto rows = repeated_tokens(model, tokens);
  tokens.seed += 1;
  const auto others = repeated_tokens(model, tokens);
  return drawer.pairs("induction", [&](Random& random, size_t i) {
    Task::Pair pair;
    pair.clean_ids = rows[i];
    const auto prefix = pair.clean_ids.size() - size_t{2} * period;
    pair.clean_ids.resize(prefix + period + again);
    pair.corrupt_ids = pair.clean_ids;
    auto& changed = pair.corrupt_ids[prefix + again];
    pair.answers = {changed};
    // It must stand nowhere else.
    changed =
        others[random.below(others.size())][prefix + random.below(period)];
    if (std::ranges::count(pair.clean_ids, changed) > 0)
      return std::optional<Task::Pair>();
    pair.foils = {changed};
    return std::optional(pair);
  });
}

std::vector<Task::Pair> agreement(Drawer& drawer) {
  return drawer.pairs("agreement", [&](Random& random, size_t i) {
    const auto& noun = random.one_of(words::nouns);
    const auto& near = random.one_of(words::attractors);
    const auto& verb = random.one_of(words::verbs);
    const bool many = i % 2 == 0, attractor_many = random.below(2) == 1;
    const auto prompt = [&](bool plural) {
      return fmt::format(
          "The {} near the {}",
          plural ? noun.many : noun.one,
          attractor_many ? near.many : near.one);
    };
    return drawer.pair(
        prompt(many),
        prompt(!many),
        {many ? verb.many : verb.one},
        {many ? verb.one : verb.many});
  });
}

std::vector<Task::Pair> facts(Drawer& drawer) {
  return drawer.pairs("facts", [&](Random& random, size_t) {
    const auto& [prompt, known] = random.one_of(words::relations());
    const auto& [subject, answer] = random.one_of(known);
    const auto& [other, foil] = random.one_of(known);
    if (std::string_view(answer) == foil) return std::optional<Task::Pair>();
    return drawer.pair(
        filled(prompt, "[S]", subject),
        filled(prompt, "[S]", other),
        {answer},
        {foil});
  });
}

constexpr std::array infos = {
    TaskInfo{
        "ioi", "who gets it, of two people (Wang et al., 2022), ABBA and BABA"},
    TaskInfo{"greater-than", "later years (Hanna et al., 2023)"},
    TaskInfo{"induction", "repeated random tokens (Olsson et al., 2022)"},
    TaskInfo{"agreement", "subject and verb (Linzen et al., 2016)"},
    TaskInfo{"facts", "capitals, languages, continents (Meng et al., 2022)"}};

}  // namespace

std::span<const TaskInfo> task_list() {
  return infos;
}

Inputs Task::clean() const {
  Inputs::Rows rows;
  for (const auto& pair : pairs)
    rows.push_back(pair.clean_ids);
  return rows;
}

Inputs Task::corrupt() const {
  Inputs::Rows rows;
  for (const auto& pair : pairs)
    rows.push_back(pair.corrupt_ids);
  return rows;
}

Metric Task::metric() const {
  const bool single = std::ranges::all_of(pairs, [](const Pair& pair) {
    return pair.answers.size() == 1 && pair.foils.size() == 1;
  });
  if (single) {
    std::vector<Token> answers, foils;
    for (const auto& pair : pairs) {
      answers.emplace_back(pair.answers[0]);
      foils.emplace_back(pair.foils[0]);
    }
    auto metric = logit_diff(std::move(answers), std::move(foils));
    metric.name = "logit_diff";  // of whatever the answers are
    return metric;
  }
  std::vector<Metric::Function> each;
  for (const auto& pair : pairs)
    each.emplace_back(
        [answers = pair.answers, foils = pair.foils](const mx::array& logits) {
          const auto p = mx::softmax(logits, -1);
          const auto sum = [&](const std::vector<int>& ids) {
            return mx::sum(mx::take(p, int_array(ids), 1), 1);
          };
          return mx::subtract(sum(answers), sum(foils));
        });
  return custom("prob_diff", std::move(each));
}

Task make_task(
    const InterpretableModel& model,
    std::string_view name,
    const TaskOptions& options) {
  std::string known;
  for (const auto& info : infos)
    known += fmt::format("{}{}", known.empty() ? "" : ", ", info.name);
  if (std::ranges::none_of(
          infos, [&](const auto& i) { return name == i.name; }))
    fail(
        ErrorKind::unknown_name,
        "[make_task] no task is called '{}'; there are {}",
        printable(name),
        known);
  if (options.pairs < 1 || options.pairs > most_pairs)
    fail(
        ErrorKind::usage,
        "[make_task] {} pairs asked for; ask for 1 to {}",
        options.pairs,
        most_pairs);
  Drawer drawer(model, options);
  return {
      std::string(name),
      name == "ioi"            ? ioi(drawer)
      : name == "greater-than" ? greater_than(drawer)
      : name == "induction"    ? induction(drawer, model, options)
      : name == "agreement"    ? agreement(drawer)
                               : facts(drawer)};
}

TaskScores score(const InterpretableModel& model, const Task& task) {
  const auto metric = task.metric();
  TaskScores out;
  const auto value = [&](const std::vector<int>& ids, size_t pair) {
    const auto run = model.run(ids, {.save = {"logits"}});
    return measure(model, metric, run["logits"], pair, task.pairs.size());
  };
  int right = 0;
  for (size_t i = 0; i < task.pairs.size(); ++i) {
    out.clean.push_back(value(task.pairs[i].clean_ids, i));
    out.corrupt.push_back(value(task.pairs[i].corrupt_ids, i));
    out.clean_mean += out.clean.back();
    out.corrupt_mean += out.corrupt.back();
    right += out.clean.back() > 0;
  }
  const auto n = static_cast<float>(task.pairs.size());
  out.clean_mean /= n;
  out.corrupt_mean /= n;
  out.accuracy = static_cast<float>(right) / n;
  return out;
}

}  // namespace mlxterp
