#include "mlxterp/generate/generate.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <limits>
#include <map>
#include <utility>

#include "core/evaluate.h"
#include "core/fail.h"
#include "generate/steps.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Zeros behind the end of one axis, or -inf where `hidden` says so.
mx::array padded(const mx::array& x, int axis, int to, bool hidden = false) {
  if (x.shape(axis) == to) return x;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  return mx::pad(
      x,
      std::vector<int>{axis},
      {0},
      {to - x.shape(axis)},
      mx::array(hidden ? -infinity : 0.0f, x.dtype()));
}

void check_forced(
    const std::vector<int>& ids, size_t prompt, const Decoder* decoder) {
  if (ids.empty())
    fail(ErrorKind::usage, "[generate] a forced continuation has no tokens");
  if (!decoder) return;
  const auto& config = decoder->config();
  // The last token is not run.
  if (prompt + ids.size() - 1 > static_cast<size_t>(config.context))
    fail(
        ErrorKind::usage,
        "[generate] a prompt of {} tokens and {} forced ones are more than the "
        "model's context of {}",
        prompt,
        ids.size(),
        config.context);
  for (const int id : ids)
    if (id < 0 || id >= config.vocab)
      fail(
          ErrorKind::out_of_range,
          "[generate] forced token id {} is out of range; the vocabulary has "
          "{}",
          id,
          config.vocab);
}

void check(
    const GenerateOptions& options,
    const Inputs::Rows& prompts,
    const Decoder* decoder) {
  check(options.sampling);
  const auto wrong = [](const std::string& what) {
    fail(ErrorKind::usage, "[generate] {}", what);
  };
  if (options.max_tokens < 1)
    wrong(fmt::format(
        "max_tokens is {}; it must be at least 1", options.max_tokens));
  if (options.chunk < 1)
    wrong(fmt::format("chunk is {}; it must be at least 1", options.chunk));
  if (options.shared_prefix < 1)
    wrong(fmt::format(
        "shared_prefix is {}; it must be at least 1", options.shared_prefix));
  if (!options.seeds.empty() && options.seeds.size() != prompts.size())
    wrong(fmt::format(
        "{} seeds for {} prompts; give one for each, or none",
        options.seeds.size(),
        prompts.size()));
  if (!decoder && options.reuse)
    wrong(
        "this model keeps no cache, so there is nothing to reuse; load it with "
        "InterpretableModel(path), or leave `reuse` out");
  for (const auto& stop : options.stop)
    if (stop.empty()) wrong("an empty stop would end every text at once");
  if (options.forced.empty()) return;
  if (!options.stop.empty())
    wrong("a forced continuation is run to its end; leave `stop` out");
  if (options.forced.size() != prompts.size())
    wrong(fmt::format(
        "{} forced continuations for {} prompts; give one for each",
        options.forced.size(),
        prompts.size()));
  for (size_t i = 0; i < prompts.size(); ++i)
    check_forced(options.forced[i], prompts[i].size(), decoder);
}

}  // namespace

std::string_view name_of(Finish finish) {
  switch (finish) {
    case Finish::length:
      return "length";
    case Finish::stop:
      return "stop";
    case Finish::end_of_text:
      return "end_of_text";
    default:
      return "unfinished";
  }
}

std::vector<int> GeneratedText::ids() const {
  std::vector<int> all;
  for (const auto& token : tokens)
    all.push_back(token.id);
  return all;
}

struct Generator::Impl {
  Impl(
      const InterpretableModel& given,
      const Inputs& prompts,
      GenerateOptions wanted)
      : options(std::move(wanted)),
        model(options.edits.empty() ? given : given.with(options.edits)),
        ids(checked_ids(prompts)),
        steps(model, options, ids) {
    for (const auto& prompt : ids) {
      auto& text = texts.emplace_back();
      text.prompt = prompt;
      text.reused = steps.rows()[texts.size() - 1].reused;
      streams.emplace_back(
          model.has_tokenizer() ? std::optional(model.tokenizer())
                                : std::nullopt,
          prompt.back(),
          options.stop);
    }
    if (!options.ends || !options.forced.empty()) return;
    if (model.has_tokenizer()) ends = model.tokenizer().ends();
    for (const auto& more : {model.generation_config().ends, options.end_ids})
      ends.insert(ends.end(), more.begin(), more.end());
  }

  Inputs::Rows checked_ids(const Inputs& prompts) const {
    auto all = model.token_ids(prompts);
    check(options, all, decoder());
    if (!options.stop.empty() && !model.has_tokenizer())
      fail(
          ErrorKind::usage,
          "[generate] a stop is a text, and this model has no tokenizer; give "
          "max_tokens");
    return all;
  }

  const Decoder* decoder() const {
    return dynamic_cast<const Decoder*>(&model.module());
  }

  bool live(size_t i) const { return texts[i].finish == Finish::unfinished; }

  // Those that go on behind a step whose tokens are not known yet.
  std::vector<size_t> rows_behind(const Step& step) const {
    std::vector<size_t> out;
    for (const size_t i : step.rows)
      if (live(i) &&
          static_cast<int>(texts[i].tokens.size()) + 1 < steps.rows()[i].steps)
        out.push_back(i);
    return out;
  }

  bool step() {
    std::vector<size_t> going;
    for (size_t i = 0; i < texts.size(); ++i)
      if (live(i)) going.push_back(i);
    if (going.empty()) return false;
    if (broken)
      fail(
          ErrorKind::usage,
          "[generate] an earlier step failed or was interrupted, so nothing "
          "goes on from there; what was generated until then stays. Generate "
          "anew, from its ids perhaps");
    broken = true;  // until it has ended
    if (failed) std::rethrow_exception(failed);
    const auto start = Clock::now();
    const bool first = done == 0, queued = next.has_value();
    auto now = first  ? steps.prefill()
               : next ? *std::exchange(next, std::nullopt)
                      : steps.go_on(std::move(going));
    // While a step computes, the next one is laid out and queued.
    if (steps.ahead()) {
      if (!queued) queue(now);
      auto on = rows_behind(now);
      if (!on.empty() && std::ranges::all_of(on, [&](size_t i) {
            return steps.ahead(steps.rows()[i]);
          })) {
        lay_out(std::move(on), now);
      }
    }
    collect(now);
    (first ? prefill_seconds : decode_seconds) += seconds_since(start);
    ++done;
    broken = false;
    if (failed && !is_error(failed) &&
        std::ranges::none_of(now.rows, [&](size_t i) { return live(i); }))
      std::rethrow_exception(std::exchange(failed, nullptr));
    return true;
  }

  // What fails there belongs to the step after this one. Where there is none,
  // nothing was wrong; but somebody who interrupts means all of it.
  void lay_out(std::vector<size_t> some, const Step& now) {
    try {
      next = steps.go_on(std::move(some), &now);
      queue(*next);
    } catch (...) {  // thrown again by the step it belongs to
      next.reset();
      failed = std::current_exception();
    }
  }

  static bool is_error(const std::exception_ptr& thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const Error&) {
      return true;
    } catch (...) {  // only looked at: `thrown` still holds it
      return false;
    }
  }

  // Whoever held on to a cache's arrays would have them copied, not written.
  static void queue(Step& step) {
    mx::async_eval(step.kept);
    step.kept = {step.tokens, step.log_probs};
  }

  void collect(Step& now) {
    evaluate(now.kept, options.between);
    for (const auto& context : now.contexts)
      context->check();
    const auto* tokens = now.tokens.data<int>();
    const auto* log_probs = now.log_probs.data<float>();
    last_rows.clear();
    for (size_t n = 0; n < now.rows.size(); ++n) {
      const size_t i = now.rows[n];
      if (!live(i)) continue;  // it ended while this step was on its way
      last_rows.push_back(i);
      steps.settle(now, i);
      take(i, {tokens[n], log_probs[n]});
    }
  }

  void take(size_t i, const GeneratedToken& token) {
    auto& row = steps.rows()[i];
    auto& stream = streams[i];
    auto& text = texts[i];
    row.ids.push_back(token.id);
    text.tokens.push_back(token);
    const bool end = std::ranges::count(ends, token.id) > 0;
    auto piece = end ? "" : stream.add(token.id);
    if (stream.stopped())
      text.finish = Finish::stop;
    else if (end)
      text.finish = Finish::end_of_text;
    else if (static_cast<int>(text.tokens.size()) >= row.steps)
      text.finish = Finish::length;
    if (!live(i)) {
      piece += stream.flush();
      steps.leave(row);
      row.cache = {};
    }
    text.text = stream.text();
    if (options.on_token) options.on_token(i, token, piece);
  }

  // Whether a site is scores before the softmax, where -inf hides a source.
  bool hides(SiteId id) const {
    const auto& site = model.sites()[id];
    const auto* own = decoder();
    if (!own) return std::string_view(site.name).ends_with(".scores");
    if (site.layer < 0) return false;
    const auto* attention =
        own->layers[static_cast<size_t>(site.layer)]->attention();
    return attention && id == attention->scores_site();
  }

  // One site of the rows given, from some of their values on.
  mx::array joined(
      size_t site, const std::vector<size_t>& some, bool last_only) const {
    const SiteId id = steps.saved()[site];
    const int axis = steps.axis_of(id);
    const bool scores = model.sites()[id].layout == Layout::scores;
    const bool hidden = scores && hides(id);
    std::vector<std::vector<mx::array>> all;
    int longest = 0, sources = 0;
    for (const size_t i : some) {
      const auto& values = steps.rows()[i].saved[site];
      all.emplace_back(
          last_only ? values.end() - 1 : values.begin(), values.end());
      int length = 0;
      for (const auto& value : all.back()) {
        length += value.shape(axis);
        if (scores) sources = std::max(sources, value.shape(3));
      }
      longest = std::max(longest, length);
    }
    std::vector<mx::array> batch;
    for (auto& values : all) {
      if (scores)
        for (auto& value : values)
          value = padded(value, 3, sources, hidden);
      batch.push_back(
          padded(mx::concatenate(std::move(values), axis), axis, longest));
    }
    auto out = mx::concatenate(std::move(batch), 0);
    out.eval();
    return out;
  }

  GenerateOptions options;
  InterpretableModel model;
  Inputs::Rows ids;
  Steps steps;
  std::vector<int> ends;
  std::vector<GeneratedText> texts;
  std::vector<TextStream> streams;
  std::optional<Step> next;
  std::exception_ptr failed;  // where the next step was laid out
  bool broken = false;
  std::vector<size_t> last_rows;
  int done = 0;
  double prefill_seconds = 0, decode_seconds = 0;
};

Generator::Generator(
    const InterpretableModel& model,
    const Inputs& prompts,
    GenerateOptions options)
    : impl_(std::make_unique<Impl>(model, prompts, std::move(options))) {}

Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

bool Generator::step() {
  return impl_->step();
}

int Generator::steps() const {
  return impl_->done;
}

const std::vector<GeneratedText>& Generator::texts() const {
  return impl_->texts;
}

mx::array Generator::value(std::string_view name) const {
  const auto& saved = impl_->steps.saved();
  const auto site = impl_->model.sites().find(name);
  const auto found = std::ranges::find(saved, site);
  if (found == saved.end())
    fail(
        ErrorKind::unknown_name,
        "[Generator] '{}' is not saved; name it in `save`",
        impl_->model.sites()[site].name);
  if (impl_->last_rows.empty())
    fail(ErrorKind::usage, "[Generator] no step ran yet");
  return impl_->joined(
      static_cast<size_t>(found - saved.begin()), impl_->last_rows, true);
}

ActivationCache Generator::saved() const {
  std::vector<std::pair<SiteId, mx::array>> values;
  std::vector<size_t> all;
  std::vector<int> lengths;
  for (size_t i = 0; i < impl_->steps.rows().size(); ++i) {
    all.push_back(i);
    lengths.push_back(impl_->steps.rows()[i].settled);
  }
  if (impl_->done > 0)
    for (size_t s = 0; s < impl_->steps.saved().size(); ++s)
      values.emplace_back(
          impl_->steps.saved()[s], impl_->joined(s, all, false));
  return {impl_->model.shared_sites(), std::move(values), std::move(lengths)};
}

std::vector<size_t> Generator::idle() const {
  std::vector<std::string> sites;
  for (const auto& edit : impl_->options.edits)
    sites.push_back(edit.site);
  return idle(sites);
}

std::vector<size_t> Generator::idle(
    const std::vector<std::string>& last) const {
  std::vector<size_t> out;
  const auto* overlay = impl_->model.overlay();
  // What is reused was edited when it ran.
  if (!overlay || std::ranges::any_of(impl_->steps.rows(), [](const Row& row) {
        return row.reused > 0;
      }))
    return out;
  // Steps of a site stand in the order in which they were made.
  std::map<SiteId, size_t> behind;
  for (size_t i = last.size(); i-- > 0;) {
    bool acted = false;
    for (const auto site : impl_->model.sites().match(last[i])) {
      const size_t made = overlay->edits(site) ? overlay->at(site).size() : 0;
      if (++behind[site] > made)
        fail(
            ErrorKind::usage,
            "[Generator] site '{}' has {} edits, fewer than are named",
            impl_->model.sites()[site].name,
            made);
      acted =
          acted || impl_->steps.acted().contains({site, made - behind[site]});
    }
    if (!acted) out.push_back(i);
  }
  std::ranges::reverse(out);
  return out;
}

double Generator::prefill_seconds() const {
  return impl_->prefill_seconds;
}

double Generator::decode_seconds() const {
  return impl_->decode_seconds;
}

Generation generate(
    const InterpretableModel& model,
    const Inputs& prompts,
    const GenerateOptions& options) {
  Generator generator(model, prompts, options);
  while (generator.step()) {
  }
  return {
      generator.texts(),
      generator.saved(),
      generator.prefill_seconds(),
      generator.decode_seconds()};
}

}  // namespace mlxterp
