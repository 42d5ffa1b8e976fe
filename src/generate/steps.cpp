#include "generate/steps.h"

#include <algorithm>
#include <map>

#include "core/evaluate.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

std::vector<SiteId> sites_of(
    const InterpretableModel& model, const std::vector<std::string>& patterns) {
  std::vector<SiteId> all;
  for (const auto& pattern : patterns) {
    const auto matched = model.sites().match(pattern);
    all.insert(all.end(), matched.begin(), matched.end());
  }
  std::ranges::sort(all);
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

// One row of [row, n].
mx::array row_of(const mx::array& x, int row) {
  return mx::slice(x, {row, 0}, {row + 1, x.shape(1)});
}

}  // namespace

Steps::Steps(
    const InterpretableModel& model,
    const GenerateOptions& options,
    const Inputs::Rows& ids)
    : model_(model),
      options_(options),
      runner_(
          model, sites_of(model, options.save), static_cast<int>(ids.size())),
      cached_(options.cache && runner_.decoder()) {
  for (size_t i = 0; i < ids.size(); ++i)
    rows_.push_back(row_of(i, ids[i]));
  if (reuses())
    for (auto& row : rows_) {
      auto reuse = *options.reuse;
      row.cache = reuse.find(model, row.ids, row.prompt - 1);
      row.cache.forgets = runner_.forgets();
      row.ran = row.reused = row.cache.positions();
    }
}

void Steps::see_prompts(int vocab) {
  const int n = static_cast<int>(rows_.size());
  std::vector<uint8_t> all(static_cast<size_t>(n) * static_cast<size_t>(vocab));
  for (size_t i = 0; i < rows_.size(); ++i)
    for (const int id : rows_[i].ids)
      all[i * static_cast<size_t>(vocab) + static_cast<size_t>(id)] = 1;
  seen_ = mx::array(all.data(), {n, vocab}, mx::bool_);
}

Row Steps::row_of(size_t i, const std::vector<int>& ids) const {
  Row row{.ids = ids};
  row.prompt = row.length();
  const int most = options_.forced.empty()
                       ? options_.max_tokens
                       : static_cast<int>(options_.forced[i].size());
  // The last token of a text is not run.
  row.steps = most;
  if (const auto* decoder = runner_.decoder())
    row.steps = std::min(most, decoder->config().context - row.prompt + 1);
  row.total = row.prompt + row.steps - 1;
  row.seed =
      options_.seeds.empty() ? options_.sampling.seed : options_.seeds[i];
  row.cache = empty_cache();
  row.saved.resize(runner_.saved().size());
  return row;
}

bool Steps::reuses() const {
  return options_.reuse && cached_ && runner_.saved().empty() &&
         PromptCache::serves(model_);
}

void Steps::leave(const Row& row) const {
  if (!reuses()) return;
  auto reuse = *options_.reuse;
  const auto cache = cache_of(static_cast<size_t>(&row - rows_.data()));
  // Or else it held on to what the rows have together.
  if (joint_) evaluate(cache.arrays(), options_.between);
  reuse.keep(model_, row.ids, cache);
}

nn::KvCache Steps::empty_cache() const {
  nn::KvCache cache;
  cache.forgets = runner_.forgets();
  return cache;
}

bool Steps::same_angles(const std::vector<PromptStretch>& parts) const {
  int longest = 0;
  for (const auto& it : parts)
    longest = std::max(longest, it.first + it.length);
  return std::ranges::all_of(parts, [&](const PromptStretch& it) {
    return same_angles(it.first + it.length, longest);
  });
}

bool Steps::ahead() const {
  return cached_ && options_.forced.empty() && runner_.by_position();
}

PromptStretch Steps::stretch(size_t i, int to, const mx::array* lazy) {
  auto& row = rows_[i];
  const bool kept = cached_ && (row.ran == 0 || same_angles(row.ran, to));
  if (!kept) row.cache = empty_cache();
  const int first = kept ? row.ran : 0;
  return {
      .index = static_cast<int>(i),
      .prompt = row.prompt,
      .total = row.total,
      .first = first,
      .length = to - first,
      .ids =
          lazy ? *lazy
               : mx::array(row.ids.data() + first, {1, to - first}, mx::int32),
      .cache = cached_ ? &row.cache : nullptr};
}

void Steps::keep_saved(
    const Ran& ran, const std::vector<PromptStretch>& parts, Step& step) {
  for (size_t s = 0; s < ran.saved.size(); ++s)
    for (size_t i = 0; i < parts.size(); ++i) {
      auto& row = rows_[static_cast<size_t>(parts[i].index)];
      auto value = ran.saved[s][i];
      if (const int again = row.ran - parts[i].first; again > 0) {
        auto from = mx::Shape(value.ndim(), 0);
        from[static_cast<size_t>(axis_of(runner_.saved()[s]))] = again;
        value = mx::slice(value, from, value.shape());
      }
      if (step.early)
        step.held.push_back({static_cast<size_t>(parts[i].index), s, value});
      else
        row.saved[s].push_back(value);
      step.kept.push_back(std::move(value));
    }
}

void Steps::settle(const Step& step, size_t row) {
  for (const auto& it : step.held)
    if (it.row == row) rows_[row].saved[it.site].push_back(it.value);
  for (const auto& it : step.ends)
    if (it.row == row) rows_[row].settled = it.positions;
}

mx::array Steps::pass(
    const std::vector<PromptStretch>& parts,
    Step& step,
    bool logits,
    JointCache* joint) {
  auto ran = runner_.run(parts, launched_, logits, joint);
  keep_saved(ran, parts, step);
  acted_.merge(ran.acted);
  const auto keep = [&](const std::vector<mx::array>& arrays) {
    step.kept.insert(step.kept.end(), arrays.begin(), arrays.end());
  };
  for (const auto& it : parts) {
    const auto row = static_cast<size_t>(it.index);
    rows_[row].ran = it.first + it.length;
    step.ends.push_back({row, rows_[row].ran});
    if (it.cache && !joint) keep(it.cache->arrays());
  }
  if (joint) keep(joint->cache.arrays());
  if (ran.context) {
    keep(ran.context->guards());
    step.contexts.push_back(std::move(ran.context));
  }
  return ran.logits.value_or(mx::array(0.0f));
}

// No more than a chunk is on the way at a time.
void Steps::finish_chunk(Step& step) const {
  evaluate(step.kept, options_.between);
  step.kept.clear();
  for (const auto& context : step.contexts)
    context->check();
  step.contexts.clear();
}

int Steps::chunk_of(const Row& row) const {
  return runner_.by_position() && cached_ ? options_.chunk : row.prompt;
}

void Steps::run_to(size_t i, int to, Step& step) {
  const auto& row = rows_[i];
  const int most = chunk_of(row);
  while (row.ran < to) {
    const int end = std::min(to, row.ran + most);
    if (!same_angles(end, row.prompt)) return;  // all of it at once
    pass({stretch(i, end)}, step, false);
    finish_chunk(step);
  }
}

int Steps::same_beginning(const std::vector<size_t>& group, int from) const {
  const auto& first = rows_[group[0]].ids;
  int same = rows_[group[0]].prompt - 1;  // the last position is each one's own
  for (const size_t i : group) {
    const auto& own = rows_[i].ids;
    same = std::min(same, rows_[i].prompt - 1);
    int n = from;
    while (n < same &&
           own[static_cast<size_t>(n)] == first[static_cast<size_t>(n)])
      ++n;
    same = n;
  }
  return same;
}

void Steps::share(const std::vector<size_t>& group, int from, Step& step) {
  if (group.size() < 2) return;
  const int same = same_beginning(group, from);
  for (const size_t i : group)
    if (!same_angles(std::max(1, same), rows_[i].prompt)) return;
  if (same - from >= options_.shared_prefix) {
    run_to(group[0], same, step);
    const auto& first = rows_[group[0]];
    for (const size_t i : group) {
      if (i == group[0]) continue;
      rows_[i].cache = first.cache;
      rows_[i].saved = first.saved;
      rows_[i].ran = first.ran;
    }
    from = same;
  }
  // Those that go on alike share more.
  std::map<int, std::vector<size_t>> by_next;
  for (const size_t i : group)
    by_next[rows_[i].ids[static_cast<size_t>(same)]].push_back(i);
  if (by_next.size() < 2) return;
  for (const auto& [id, some] : by_next)
    share(some, from, step);
}

Step Steps::prefill() {
  Step step;
  for (size_t i = 0; i < rows_.size(); ++i)
    step.rows.push_back(i);
  // Where an edit asks for the end of the prompt, or which one it is, an equal
  // beginning is not edited alike.
  const auto* overlay = model_.overlay();
  const bool anew = std::ranges::all_of(
      rows_, [](const Row& row) { return row.reused == 0; });
  if (cached_ && anew &&
      (!overlay || overlay->reach() == Intervention::Reach::value))
    share(step.rows, 0, step);
  std::vector<mx::array> logits;
  for (const size_t i : step.rows) {
    const auto& row = rows_[i];
    run_to(i, row.prompt - std::min(chunk_of(row), row.prompt - row.ran), step);
    logits.push_back(pass({stretch(i, row.prompt)}, step));
  }
  choose(step, std::move(logits));
  return step;
}

nn::KvCache Steps::cache_of(size_t i) const {
  if (joint_) {
    const auto at = std::ranges::find(joint_->rows, i) - joint_->rows.begin();
    if (at < std::ssize(joint_->rows))
      return joint_->cache.row(
          static_cast<int>(at), joint_->padding[static_cast<size_t>(at)]);
  }
  return rows_[i].cache;
}

void Steps::join(const std::vector<size_t>& some, bool may) {
  if (joint_ && may && joint_->rows == some) return;
  if (joint_) {
    for (const size_t i : some)
      rows_[i].cache = cache_of(i);
    joint_.reset();
  }
  if (!may) return;
  std::vector<nn::KvCache> caches;
  int all = 0, longest = 0;
  for (const size_t i : some) {
    caches.push_back(rows_[i].cache);
    all += rows_[i].ran;
    longest = std::max(longest, rows_[i].ran);
  }
  // Much that is empty would cost more than passing by.
  if (2 * all < longest * static_cast<int>(some.size())) return;
  joint_ = {some, nn::KvCache::joined(caches), nn::KvCache::padding(caches)};
  for (const size_t i : some)
    rows_[i].cache = empty_cache();
}

Step Steps::go_on(std::vector<size_t> some, const Step* before) {
  int longest = 0;
  for (const size_t i : some)
    longest = std::max(longest, rows_[i].ran + 1);
  join(
      some,
      some.size() > 1 && cached_ && runner_.joins() &&
          std::ranges::all_of(some, [&](size_t i) {
            const auto& row = rows_[i];
            return row.ran > 0 && row.ran + 1 == row.length() + !!before &&
                   same_angles(row.ran, row.ran + 1) &&
                   same_angles(row.ran + 1, longest);
          }));
  Step step{.rows = std::move(some), .early = before != nullptr};
  std::vector<PromptStretch> parts;
  for (const size_t i : step.rows) {
    if (!before) {
      parts.push_back(stretch(i, rows_[i].length()));
      continue;
    }
    const auto at = static_cast<int>(
        std::ranges::find(before->rows, i) - before->rows.begin());
    const auto lazy =
        mx::reshape(mx::slice(before->tokens, {at}, {at + 1}), {1, 1});
    parts.push_back(stretch(i, rows_[i].length() + 1, &lazy));
  }
  const bool cached = std::ranges::all_of(
      parts, [](const PromptStretch& it) { return it.cache && it.first > 0; });
  std::vector<mx::array> logits;
  if (joint_) {
    logits.push_back(pass(parts, step, true, &*joint_));
  } else if (
      parts.size() > 1 && cached && runner_.together() && same_angles(parts)) {
    logits.push_back(pass(parts, step));
  } else {
    for (const auto& it : parts)
      logits.push_back(pass({it}, step));
  }
  choose(step, std::move(logits));
  return step;
}

void Steps::choose(Step& step, std::vector<mx::array> rows_of_logits) {
  const auto logits = rows_of_logits.size() == 1
                          ? rows_of_logits[0]
                          : mx::concatenate(std::move(rows_of_logits), 0);
  if (options_.sampling.repetition_penalty != 1 && !seen_)
    see_prompts(logits.shape(1));
  if (options_.forced.empty()) {
    std::vector<uint64_t> seeds;
    std::vector<mx::array> seen;
    for (const size_t i : step.rows) {
      seeds.push_back(rows_[i].seed);
      if (seen_) seen.push_back(mlxterp::row_of(*seen_, static_cast<int>(i)));
    }
    step.tokens = sample(
        logits,
        seen_ ? std::optional(mx::concatenate(std::move(seen), 0))
              : std::nullopt,
        options_.sampling,
        seeds,
        launched_);
  } else {
    std::vector<int> given;
    for (const size_t i : step.rows)
      given.push_back(options_.forced[i][static_cast<size_t>(launched_)]);
    step.tokens =
        mx::array(given.data(), {static_cast<int>(given.size())}, mx::int32);
  }
  if (seen_) see(step);
  step.log_probs = mx::subtract(
      mx::squeeze(
          mx::take_along_axis(logits, mx::expand_dims(step.tokens, 1), 1), 1),
      mx::logsumexp(logits, -1));
  step.kept.push_back(step.tokens);
  step.kept.push_back(step.log_probs);
  ++launched_;
}

void Steps::see(const Step& step) {
  for (size_t n = 0; n < step.rows.size(); ++n) {
    const auto at = static_cast<int>(n), i = static_cast<int>(step.rows[n]);
    const auto token =
        mx::reshape(mx::slice(step.tokens, {at}, {at + 1}), {1, 1});
    const auto own = mx::put_along_axis(
        mlxterp::row_of(*seen_, i), token, mx::array(true), 1);
    seen_ = mx::slice_update(
        *seen_, own, mx::Shape{i, 0}, mx::Shape{i + 1, own.shape(1)});
  }
}

}  // namespace mlxterp
