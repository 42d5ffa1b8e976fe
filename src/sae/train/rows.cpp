#include "sae/train/rows.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "io/digest.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

constexpr const char* who = "train_sae";

mx::array taken(const mx::array& x, const mx::array& which) {
  auto out = mx::take(x, which, 0);
  out.eval();
  return out;
}

mx::array cut(const mx::array& x, int begin, int end) {
  auto out = mx::contiguous(mx::slice(x, {begin, 0}, {end, x.shape(1)}));
  out.eval();
  return out;
}

mx::array after(const mx::array& a, const mx::array& b) {
  auto out = mx::concatenate({a, b}, 0);
  out.eval();
  return out;
}

std::vector<float> squares_of(const mx::array& x) {
  auto squares = mx::sum(mx::square(x), 1);
  squares.eval();
  return {squares.data<float>(), squares.data<float>() + squares.size()};
}

const nlohmann::json& item(const nlohmann::json& place, const char* key) {
  const auto found = place.is_object() ? place.find(key) : place.end();
  if (!place.is_object() || found == place.end() || !found->is_number())
    fail(
        ErrorKind::bad_data,
        "[{}] the trainer's state does not say its '{}'; train anew into "
        "another folder",
        who,
        key);
  return *found;
}

class StoredRowSource : public RowSource {
 public:
  StoredRowSource(const ActivationStore& store, const SaeRunOptions& options)
      : store_(store), options_(options), names_{options.site} {
    if (!options.site_out.empty()) names_.push_back(options.site_out);
    for (const auto& name : names_) {
      const auto& tensor = store.tensor(name);
      if (!mx::issubdtype(tensor.dtype, mx::floating) || tensor.shape.empty())
        fail(
            ErrorKind::usage,
            "[{}] '{}' of the store has no rows of numbers to train on",
            who,
            printable(name));
      int width = 1;
      for (const int dim : tensor.shape)
        width *= dim;
      widths_.push_back(width);
    }
    if (store.rows() < options.train.batch_size)
      fail(
          ErrorKind::usage,
          "[{}] the store has {} rows, a step reads {}; collect more, or give "
          "a smaller batch",
          who,
          store.rows(),
          options.train.batch_size);
    facts_["rows"] = store.rows();
    Digest digest(Digest::Kind::sha256);
    digest.update(store.manifest());
    facts_["manifest_sha256"] = digest.hex();
  }

  Rows next() override {
    need_limit();
    int passes = 0;
    while (!waiting_ || waiting_->size() < options_.train.batch_size) {
      auto more = read();
      if (more) {
        waiting_ = joined(waiting_, *more);
        continue;
      }
      // What is less than a batch at the end is passed over.
      if (++passes > 1)
        fail(
            ErrorKind::usage,
            "[{}] of the store's {} rows fewer than a batch of {} are left "
            "when long ones are out; give a smaller batch",
            who,
            store_.rows(),
            options_.train.batch_size);
      begin(epoch_ + 1);
    }
    auto out = part_of(*waiting_, 0, options_.train.batch_size);
    waiting_ = part_of(*waiting_, options_.train.batch_size, waiting_->size());
    ++given_;
    return out;
  }

  Rows sample() override {
    need_limit();
    return not_longer(first_rows(), limit_);
  }

  Json place() const override {
    return {{"epoch", epoch_}, {"given", given_}, {"limit", limit_}};
  }

  void go_to(const nlohmann::json& place) override {
    limit_ = number_in(place, "limit");
    limited_ = true;
    const auto given = count_in(place, "given");
    begin(count_in(place, "epoch"));
    while (given_ < given)
      (void)next();
    left_out_ = 0;
  }

  const Json& facts() const override { return facts_; }
  int d_in() const override { return widths_.front(); }
  int d_out() const override { return widths_.back(); }

 private:
  ShuffledRows shuffled(int64_t epoch, int batch) const {
    constexpr int64_t least = 65536, batches = 8;
    const auto buffer = options_.buffer_rows > 0
                            ? options_.buffer_rows
                            : std::max<int64_t>(least, batches * batch);
    return {
        store_,
        names_,
        {.batch_size = batch,
         .buffer_rows = std::max<int64_t>(buffer, batch),
         .seed = options_.train.seed + static_cast<uint64_t>(epoch)}};
  }

  void begin(int64_t epoch) {
    epoch_ = epoch;
    given_ = 0;
    waiting_.reset();
    open_.emplace(shuffled(epoch, options_.train.batch_size));
  }

  static Rows rows_of(const StoredRows& read) {
    const auto dense = [](const mx::array& x) {
      auto out = mx::astype(mx::reshape(x, {x.shape(0), -1}), mx::float32);
      out.eval();
      return out;
    };
    Rows out{dense(read.values.front().second)};
    if (read.values.size() > 1) out.y = dense(read.values.back().second);
    return out;
  }

  std::optional<Rows> read() {
    if (!open_) begin(epoch_);
    const auto found = open_->next();
    if (!found) return {};
    const auto all = rows_of(*found);
    auto out = not_longer(all, limit_);
    left_out_ += all.size() - out.size();
    return out;
  }

  Rows first_rows() const {
    auto source = shuffled(0, sample_rows);
    return rows_of(*source.next());
  }

  void need_limit() {
    if (limited_) return;
    limit_ = limit_of(first_rows().x, options_.longest);
    limited_ = true;
  }

  const ActivationStore& store_;
  const SaeRunOptions& options_;
  std::vector<std::string> names_;
  std::vector<int> widths_;
  Json facts_;
  int64_t epoch_ = 0, given_ = 0;
  double limit_ = 0;
  bool limited_ = false;
  std::optional<ShuffledRows> open_;
  std::optional<Rows> waiting_;
};

}  // namespace

Rows not_longer(const Rows& rows, double limit) {
  if (limit <= 0) return rows;
  const auto squares = squares_of(rows.x);
  std::vector<int> kept;
  for (size_t i = 0; i < squares.size(); ++i)
    // What is not a number stays and is refused by name.
    if (!(std::sqrt(static_cast<double>(squares[i])) > limit) ||
        !std::isfinite(squares[i]))
      kept.push_back(static_cast<int>(i));
  if (kept.size() == squares.size()) return rows;
  const mx::array which(
      kept.data(), {static_cast<int>(kept.size())}, mx::int32);
  Rows out{taken(rows.x, which)};
  if (rows.y) out.y = taken(*rows.y, which);
  return out;
}

double limit_of(const mx::array& x, double times) {
  if (times <= 0) return 0;
  auto squares = squares_of(x);
  const auto middle = squares.begin() + static_cast<long>(squares.size() / 2);
  std::nth_element(squares.begin(), middle, squares.end());
  const double median = std::sqrt(static_cast<double>(*middle));
  return std::isfinite(median) ? times * median : 0;
}

Rows part_of(const Rows& rows, int begin, int end) {
  Rows out{cut(rows.x, begin, end)};
  if (rows.y) out.y = cut(*rows.y, begin, end);
  return out;
}

Rows joined(const std::optional<Rows>& first, const Rows& second) {
  if (!first || first->size() == 0) return second;
  Rows out{after(first->x, second.x)};
  if (second.y) out.y = after(*first->y, *second.y);
  return out;
}

int64_t count_in(const nlohmann::json& place, const char* key) {
  const auto& it = item(place, key);
  if (!it.is_number_unsigned() || it.get<uint64_t>() >> 62)
    fail(
        ErrorKind::bad_data,
        "[{}] the trainer's state says that '{}' is {}; train anew into "
        "another folder",
        who,
        key,
        it.dump());
  return it.get<int64_t>();
}

double number_in(const nlohmann::json& place, const char* key) {
  return item(place, key).get<double>();
}

std::unique_ptr<RowSource> rows_of_store(
    const ActivationStore& store, const SaeRunOptions& options) {
  return std::make_unique<StoredRowSource>(store, options);
}

}  // namespace mlxterp::sae_train
