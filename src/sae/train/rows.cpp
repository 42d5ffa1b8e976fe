#include "sae/train/rows.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/fail.h"
#include "io/digest.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "sae/train/long_rows.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

constexpr const char* who = "train_sae";

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
      : store_(store),
        options_(options),
        names_(sites_of(options)),
        long_(layers_in(options.train), options.longest) {
    std::vector<int> widths;
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
      widths.push_back(width);
    }
    widths_ = widths_of(widths, options);
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
    return long_.without(first_rows());
  }

  Json place() const override {
    return {{"epoch", epoch_}, {"given", given_}, {"limit", long_.to_json()}};
  }

  void go_to(const nlohmann::json& place) override {
    long_.from_json(place);
    const auto given = count_in(place, "given");
    begin(count_in(place, "epoch"));
    while (given_ < given)
      (void)next();
    left_out_ = 0;
  }

  const Json& facts() const override { return facts_; }
  int d_in() const override { return widths_.first; }
  int d_out() const override { return widths_.second; }

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

  Rows rows_in(const StoredRows& read) const {
    std::vector<mx::array> values;
    for (const auto& [name, value] : read.values)
      values.push_back(mx::reshape(value, {value.shape(0), -1}));
    return rows_of(values, options_);
  }

  std::optional<Rows> read() {
    if (!open_) begin(epoch_);
    const auto found = open_->next();
    if (!found) return {};
    const auto all = rows_in(*found);
    auto out = long_.without(all);
    left_out_ += all.size() - out.size();
    return out;
  }

  Rows first_rows() const {
    auto source = shuffled(0, sample_rows);
    return rows_in(*source.next());
  }

  void need_limit() {
    if (!long_.known()) long_.learn(first_rows());
  }

  const ActivationStore& store_;
  const SaeRunOptions& options_;
  std::vector<std::string> names_;
  std::pair<int, int> widths_;
  Json facts_;
  int64_t epoch_ = 0, given_ = 0;
  LongRows long_;
  std::optional<ShuffledRows> open_;
  std::optional<Rows> waiting_;
};

}  // namespace

int layers_in(const SaeTrainOptions& options) {
  return std::max(options.layers, options.blocks);
}

std::vector<std::string> sites_of(const SaeRunOptions& options) {
  std::vector<std::string> out;
  for (const auto& site : {options.site, options.site_out}) {
    if (site.empty()) continue;
    if (options.layers.empty()) out.push_back(site);
    for (const int layer : options.layers)
      out.push_back(fmt::format("layers.{}.{}", layer, site));
  }
  return out;
}

Rows rows_of(
    const std::vector<mx::array>& values, const SaeRunOptions& options) {
  const auto dense = [&](size_t begin, size_t n) {
    std::vector<mx::array> parts;
    for (size_t i = begin; i < begin + n; ++i)
      parts.push_back(mx::astype(values[i], mx::float32));
    auto out = n == 1 ? parts.front() : mx::concatenate(parts, 1);
    out.eval();
    return out;
  };
  const auto side = std::max<size_t>(options.layers.size(), 1);
  Rows out{dense(0, side)};
  if (values.size() > side) out.y = dense(side, side);
  return out;
}

std::pair<int, int> widths_of(
    const std::vector<int>& widths, const SaeRunOptions& options) {
  const auto names = sites_of(options);
  const auto side = std::max<size_t>(options.layers.size(), 1);
  for (size_t i = 0; i < widths.size(); ++i) {
    const auto first = i / side * side;
    if (widths[i] != widths[first])
      fail(
          ErrorKind::usage,
          "[{}] {} is of {} numbers and {} of {}; layers trained "
          "together are alike",
          who,
          names[first],
          widths[first],
          names[i],
          widths[i]);
  }
  return {widths.front(), widths.back()};
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
