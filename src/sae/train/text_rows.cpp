// Rows straight from a text: rounds of prompts through the model, shuffled. A
// resumed run makes the round it was in again.

#include <algorithm>

#include "analysis/any_model.h"
#include "analysis/fingerprint.h"
#include "analysis/random.h"
#include "analysis/row_sites.h"
#include "analysis/store/windows.h"
#include "core/fail.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/collect.h"
#include "sae/train/long_rows.h"
#include "sae/train/rows.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

constexpr const char* who = "train_sae";
constexpr int default_length = 256;

class TextRowSource : public RowSource {
 public:
  TextRowSource(
      const InterpretableModel& model,
      const std::filesystem::path& text,
      const SaeRunOptions& options)
      : model_(model),
        options_(options),
        files_(text, options.warn),
        names_(sites_of(options)),
        long_(layers_in(options.train), options.longest) {
    std::vector<int> widths;
    for (const auto& name : names_)
      widths.push_back(width_of(name));
    widths_ = widths_of(widths, options);
    const int context = context_length(model);
    windows_.length =
        options.length > 0 ? options.length : std::min(default_length, context);
    windows_.bos = first_token_of(model);
    if (const int least = windows_.bos ? 2 : 1;
        windows_.length < least || windows_.length > context)
      fail(
          ErrorKind::usage,
          "[{}] the length is {} tokens; give {} to {}, the model's context",
          who,
          windows_.length,
          least,
          context);
    // Rows across layers are as much longer.
    constexpr int64_t batches = 8, of_a_layer = 16384;
    const int64_t least = of_a_layer / std::max(layers_in(options.train), 1);
    const int64_t n = options.train.batch_size;
    // No more than there is to train on, and whole batches of it.
    round_rows_ = options.buffer_rows > 0
                      ? options.buffer_rows
                      : std::min(
                            std::max(batches * n, least),
                            std::max(options.train.tokens, n));
    round_rows_ = std::max<int64_t>(round_rows_ / n, 1) * n;
    facts_["text"] = text.filename().string();
    facts_["bytes"] = files_.bytes();
    facts_["sha256"] = files_.digest(options.progress);
    facts_["weights_sha256"] = weights_digest(model);
    facts_["length"] = windows_.length;
    facts_["batch_size"] = options.batch_size;
    facts_["round_rows"] = round_rows_;
  }

  Rows next() override {
    const int n = options_.train.batch_size;
    // What is less than a batch at the end of a round is passed over.
    while (!round_ || (given_ + 1) * n > round_->size()) {
      if (round_) {
        ++rounds_;
        begin_ = behind_;
        given_ = 0;
      }
      make_round();
    }
    const auto begin = static_cast<int>(given_) * n;
    auto out = part_of(*round_, begin, begin + n);
    ++given_;
    return out;
  }

  Rows sample() override {
    if (!round_) make_round();
    return part_of(*round_, 0, std::min(sample_rows, round_->size()));
  }

  Json place() const override {
    return {
        {"round", rounds_},
        {"given", given_},
        {"limit", long_.to_json()},
        {"text", begin_.to_json()}};
  }

  void go_to(const nlohmann::json& place) override {
    rounds_ = count_in(place, "round");
    given_ = count_in(place, "given");
    long_.from_json(place);
    const auto text = place.find("text");
    begin_ = WindowPlace::from_json(
        text != place.end() && text->is_string() ? text->get<std::string>()
                                                 : "",
        "the trainer's state");
    round_.reset();
    make_round();
    left_out_ = 0;
  }

  const Json& facts() const override { return facts_; }
  int d_in() const override { return widths_.first; }
  int d_out() const override { return widths_.second; }

 private:
  int width_of(const std::string& name) const {
    const auto& site = model_.sites()[model_.sites().find(name)];
    const int width = site.width * std::max(1, site.n_heads);
    if (width > 0) return width;
    const auto found =
        collect_activations(model_, Inputs({0}), {name}, {.batch_size = 1});
    const auto& value = found.entries().front().second;
    return static_cast<int>(value.size()) / value.shape(0);
  }

  // From begin_ on; the text from its beginning again where it ends.
  void make_round() {
    Inputs::Rows prompts;
    int64_t tokens = 0;
    auto at = begin_;
    auto windows =
        std::make_unique<Windows>(documents_of(model_, files_), windows_, at);
    bool anew = false;
    // Each prompt's first row is likely to be too long.
    const auto wanted =
        round_rows_ +
        (options_.longest > 0 ? 2 * round_rows_ / windows_.length : 0);
    while (tokens < wanted) {
      auto window = windows->next();
      if (!window) {
        if (anew && tokens < options_.train.batch_size) fail_short(tokens);
        if (options_.warn && !told_)
          options_.warn(fmt::format(
              "the text has {} tokens, fewer than asked for; it is read again",
              windows->place().tokens));
        told_ = anew = true;
        windows = std::make_unique<Windows>(
            documents_of(model_, files_), windows_, WindowPlace{});
        continue;
      }
      tokens += static_cast<int64_t>(window->ids.size());
      prompts.push_back(std::move(window->ids));
    }
    behind_ = windows->place();
    const auto found = collect_activations(
        model_,
        prompts,
        names_,
        {.batch_size = options_.batch_size, .progress = options_.progress});
    std::vector<mx::array> values;
    for (const auto& name : names_) {
      const auto value = found[name];
      values.push_back(mx::reshape(value, {value.shape(0), -1}));
    }
    const auto all = rows_of(values, options_);
    if (!long_.known()) long_.learn(all);
    auto kept = long_.without(all);
    left_out_ += all.size() - kept.size();
    round_ = shuffled(kept);
    if (round_->size() < options_.train.batch_size) fail_short(round_->size());
  }

  Rows shuffled(const Rows& rows) const {
    std::vector<int> order(static_cast<size_t>(rows.size()));
    for (size_t i = 0; i < order.size(); ++i)
      order[i] = static_cast<int>(i);
    Random random(options_.train.seed + static_cast<uint64_t>(rounds_));
    random.shuffle(order, order.size());
    const mx::array which(order.data(), {rows.size()}, mx::int32);
    Rows out{mx::take(rows.x, which, 0)};
    out.x.eval();
    if (rows.y) {
      out.y = mx::take(*rows.y, which, 0);
      out.y->eval();
    }
    return out;
  }

  [[noreturn]] void fail_short(int64_t rows) const {
    fail(
        ErrorKind::usage,
        "[{}] the text gives {} rows to train on, a step reads {}; give more "
        "text, or a smaller batch",
        who,
        rows,
        options_.train.batch_size);
  }

  const InterpretableModel& model_;
  const SaeRunOptions& options_;
  TextFiles files_;
  std::vector<std::string> names_;
  std::pair<int, int> widths_;
  Windows::Options windows_;
  int64_t round_rows_ = 0;
  Json facts_;
  WindowPlace begin_, behind_;  // of this round and the next
  int64_t rounds_ = 0, given_ = 0;
  LongRows long_;
  bool told_ = false;
  std::optional<Rows> round_;
};

}  // namespace

std::unique_ptr<RowSource> rows_of_text(
    const InterpretableModel& model,
    const std::filesystem::path& text,
    const SaeRunOptions& options) {
  return std::make_unique<TextRowSource>(model, text, options);
}

}  // namespace mlxterp::sae_train
