// How a store is written: blocks of windows through the model, their rows into
// shards.

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "analysis/any_model.h"
#include "analysis/fingerprint.h"
#include "analysis/row_sites.h"
#include "analysis/store/manifest.h"
#include "analysis/store/shard.h"
#include "analysis/store/windows.h"
#include "core/fail.h"
#include "io/digest.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/activation_store.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

using namespace store;  // NOLINT(google-build-using-namespace): its own parts

namespace {

constexpr size_t shard_bytes = size_t{256} << 20;
constexpr size_t block_bytes = size_t{256} << 20;
constexpr int default_length = 512;
constexpr const char* doing = "Collecting activations";

// Where the documents come from.
struct Source {
  Json facts = {};
  NextDocument next = {};
  std::function<double(const TextPlace&)> share = {};
  Windows::Options windows = {};
};

void check(const StoreOptions& options) {
  const auto& o = options;
  if (o.batch_size < 1 || o.length < 0 || o.tokens < 0 || o.shard_rows < 0 ||
      o.shard_rows > static_cast<int64_t>(limits::dim))
    fail(
        ErrorKind::usage,
        "[{}] batch_size {}, length {}, tokens {}, shard_rows {}; a batch has "
        "at least one prompt, the others are above 0, or 0 for the default",
        function,
        o.batch_size,
        o.length,
        o.tokens,
        o.shard_rows);
  if (o.dtype && !mx::issubdtype(*o.dtype, mx::floating))
    fail(
        ErrorKind::usage,
        "[{}] activations are stored as float32, float16 or bfloat16",
        function);
}

struct Block {
  Inputs::Rows prompts = {};
  std::vector<int> documents = {};
  WindowPlace begin = {};
};

class StoreWriter {
 public:
  StoreWriter(
      const InterpretableModel& model,
      const std::vector<std::string>& sites,
      const fs::path& folder,
      const StoreOptions& options,
      const Source& source)
      : model_(model),
        path_(folder),
        options_(options),
        source_(source),
        folder_(folder, options.resume) {
    for (const auto site : row_sites(model, sites, function))
      sites_.push_back(model.sites()[site].name);
    if (sites_.empty())
      fail(ErrorKind::usage, "[{}] no site was named", function);
  }

  StoreSummary run() {
    settings_ = settings();
    const auto found = folder_.find(settings_);
    adopt(found);
    if (found.shards > 0 && (found.complete || found.skip == 0)) check_first();
    Windows windows(source_.next, source_.windows, found.place);
    skip_ = found.skip;
    auto stopped = found.complete;
    while (!stopped) {
      const auto block = next_block(windows);
      if (block.prompts.empty()) break;
      run_block(block, windows.place());
      tell(windows.place());
      stopped = options_.stop && options_.stop();
    }
    if (!stopped && shard_ && shard_->rows() > 0)
      finish_shard(windows.place(), 0);
    wait();
    if (!stopped) finish(windows.place());
    out_.complete = found.complete || !stopped;
    summarise(windows.place(), found);
    return out_;
  }

 private:
  using Clock = std::chrono::steady_clock;

  Json settings() const {
    const auto or_null = [](const std::string& digest) {
      return digest.empty() ? Json() : Json(digest);
    };
    Json out;
    out["format"] = format;
    out["model"] = options_.model;
    out["weights_sha256"] = or_null(weights_digest(model_));
    out["tokenizer_sha256"] = or_null(tokenizer_digest(model_));
    out["edits"] = options_.edits;
    if (!options_.saes.empty()) out["saes"] = options_.saes;
    out["text"] = source_.facts;
    out["sites"] = sites_;
    out["positions"] =
        options_.positions == CollectOptions::Positions::all ? "all" : "last";
    out["length"] = source_.windows.length;
    out["batch_size"] = options_.batch_size;
    out["tokens"] = options_.tokens;
    out["dtype"] = Json();
    if (options_.dtype) {
      StoredTensor it;
      it.dtype = *options_.dtype;
      out["dtype"] = to_json(it)["dtype"];
    }
    out["shard_rows"] = options_.shard_rows;
    return out;
  }

  void adopt(const Found& found) {
    out_.rows = out_.kept = found.rows;
    shards_ = found.shards;
    begun_with_ = found.place.tokens;
    if (found.shards == 0) return;
    tensors_ = found.tensors;
    shard_rows_ = found.shard_rows;
    name_settings();
  }

  void name_settings() {
    settings_["shard_rows"] = shard_rows_;
    settings_["tensors"] = Json::array();
    for (const auto& tensor : tensors_)
      settings_["tensors"].push_back(to_json(tensor));
  }

  // As many prompts as the rows of 256 MB, in whole batches: they are sorted by
  // length, so that little is padding.
  size_t prompts_of_block() const {
    size_t row = 0;
    for (const auto& name : sites_) {
      const auto& site = model_.sites()[model_.sites().find(name)];
      constexpr int unknown = 4096;
      row += sizeof(float) *
             static_cast<size_t>(site.width > 0 ? site.width : unknown) *
             static_cast<size_t>(std::max(1, site.n_heads));
    }
    constexpr size_t batches = 8;
    const auto batch = static_cast<size_t>(options_.batch_size);
    const auto bytes =
        row * batch * static_cast<size_t>(std::max(1, source_.windows.length));
    return batch * std::clamp(block_bytes / bytes, size_t{1}, batches);
  }

  Block next_block(Windows& windows) const {
    Block block;
    block.begin = windows.place();
    const auto most = prompts_of_block();
    while (block.prompts.size() < most) {
      auto window = windows.next();
      if (!window) break;
      block.prompts.push_back(std::move(window->ids));
      block.documents.push_back(window->document);
    }
    return block;
  }

  struct Made {
    ActivationCache found;
    std::vector<mx::array> values;  // of tensors_, in their order
  };

  Made make(const Block& block) const {
    CollectOptions collect;
    collect.positions = options_.positions;
    collect.batch_size = options_.batch_size;
    if (options_.progress)
      collect.progress = [&](std::string_view, double) { tell(block.begin); };
    Made out{collect_activations(model_, block.prompts, sites_, collect), {}};
    for (const auto& [name, value] : out.found)
      out.values.push_back(stored(name, value));
    for (auto& value : row_values(block))
      out.values.push_back(std::move(value));
    mx::eval(out.values);
    return out;
  }

  // The model, its edits and what they read are those of the rows that stand
  // there: the first block comes out the same.
  void check_first() const {
    Windows windows(source_.next, source_.windows, {});
    const auto made = make(next_block(windows));
    const int64_t n = made.values.front().shape(0);
    check_repeated(made, 0, std::min(n, out_.rows));
  }

  // That the first `n` rows made are those stored from `row` on. Products may
  // differ in their last bits from run to run.
  void check_repeated(const Made& made, int64_t row, int64_t n) const {
    const auto store =
        ActivationStore::of_files(path_, tensors_, shard_rows_, out_.rows);
    const auto otherwise = [&](const std::string& how) {
      fail(
          ErrorKind::usage,
          "[{}] the store in {} was made otherwise: {}; the model, an edit or "
          "what a file of it holds changed; collect anew into another folder",
          function,
          quoted(path_),
          how);
    };
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const auto& it = tensors_[i];
      auto value = made.values[i];
      const std::vector<int> shape(
          value.shape().begin() + 1, value.shape().end());
      if (value.dtype() != it.dtype || shape != it.shape)
        otherwise(
            fmt::format("'{}' has another shape or precision now", it.name));
      if (n > value.shape(0))
        otherwise(fmt::format(
            "{} rows of a block stand there, which has {} now",
            n,
            value.shape(0)));
      const bool site = i < made.found.entries().size();
      double allowed = 0;
      if (site) {
        if (!mx::issubdtype(it.dtype, mx::floating)) continue;
        allowed = std::max(
            rounding(it.dtype),
            rounding(made.found.entries()[i].second.dtype()));
      }
      auto end = value.shape();
      end[0] = static_cast<int>(n);
      value = mx::slice(value, mx::Shape(end.size(), 0), end);
      const auto flat = [&](const mx::array& x) {
        return mx::reshape(mx::astype(x, mx::float32), {end[0], -1});
      };
      const auto before = flat(store.read(it.name, row, row + n));
      const auto apart = mx::max(mx::abs(mx::subtract(flat(value), before)), 1);
      const auto largest =
          static_cast<double>(mx::max(mx::abs(before)).item<float>());
      const auto furthest = static_cast<double>(mx::max(apart).item<float>());
      if (furthest <= allowed * largest) continue;
      const auto at = row + mx::argmax(apart).item<uint32_t>();
      const auto document = store.read(row_names[2], at, at + 1).item<int>();
      otherwise(fmt::format(
          "made again, the rows of document {} differ in '{}', by {:.3g} where "
          "the largest value is {:.3g}",
          document,
          it.name,
          furthest,
          largest));
    }
  }

  // How far a value may be off, as a part of the largest.
  static double rounding(mx::Dtype dtype) {
    return dtype == mx::bfloat16 ? 5e-2 : dtype == mx::float16 ? 1e-2 : 2e-3;
  }

  void run_block(const Block& block, const WindowPlace& behind) {
    const auto made = make(block);
    const auto& values = made.values;
    if (tensors_.empty()) learn(made.found, values);
    if (skip_ > 0) check_repeated(made, out_.rows - skip_, skip_);

    const int64_t rows = values.front().shape(0);
    for (auto at = std::exchange(skip_, 0); at < rows;) {
      if (!shard_) shard_.emplace(tensors_, shard_rows_);
      const auto n = std::min(rows - at, shard_->room());
      std::vector<const std::byte*> from;
      for (size_t i = 0; i < values.size(); ++i)
        from.push_back(
            values[i].data<std::byte>() +
            static_cast<size_t>(at) * tensors_[i].row_bytes());
      shard_->put(from, n);
      at += n;
      if (!shard_->full()) continue;
      at < rows ? finish_shard(block.begin, at) : finish_shard(behind, 0);
    }
  }

  // In the dtype of the files; refused where that is not finite.
  mx::array stored(const std::string& name, const mx::array& value) const {
    if (!mx::issubdtype(value.dtype(), mx::floating)) return value;
    auto out = options_.dtype ? mx::astype(value, *options_.dtype) : value;
    if (mx::all(mx::isfinite(out)).item<bool>()) return out;
    const bool was = mx::all(mx::isfinite(value)).item<bool>();
    fail(
        ErrorKind::bad_data,
        "[{}] site '{}' has values that are {}; {}",
        function,
        name,
        was ? "beyond what the dtype asked for holds" : "NaN or infinite",
        was ? "store them as bfloat16 or float32"
            : "look for where the model makes them, or run it in float32");
  }

  // tokens, positions and documents.
  std::vector<mx::array> row_values(const Block& block) const {
    const bool last = options_.positions == CollectOptions::Positions::last;
    std::vector<int> columns[std::size(row_names)];
    for (size_t i = 0; i < block.prompts.size(); ++i) {
      const auto& ids = block.prompts[i];
      for (size_t at = last ? ids.size() - 1 : 0; at < ids.size(); ++at) {
        columns[0].push_back(ids[at]);
        columns[1].push_back(static_cast<int>(at));
        columns[2].push_back(block.documents[i]);
      }
    }
    std::vector<mx::array> out;
    for (const auto& column : columns)
      out.emplace_back(
          column.data(), mx::Shape{static_cast<int>(column.size())}, mx::int32);
    return out;
  }

  void learn(
      const ActivationCache& found, const std::vector<mx::array>& values) {
    const auto n = found.entries().size();
    size_t row = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      StoredTensor tensor;
      tensor.name = i < n ? found.entries()[i].first : row_names[i - n];
      tensor.shape.assign(
          values[i].shape().begin() + 1, values[i].shape().end());
      tensor.dtype = values[i].dtype();
      row += tensor.row_bytes();
      tensors_.push_back(std::move(tensor));
    }
    shard_rows_ = options_.shard_rows;
    if (shard_rows_ == 0)
      shard_rows_ =
          static_cast<int64_t>(std::max<size_t>(1, shard_bytes / row));
    name_settings();
  }

  void finish_shard(const WindowPlace& next, int64_t skip) {
    const auto rows = shard_->rows();
    wait();
    writer_.start(
        std::move(*shard_),
        path_ / shard_name(shards_),
        {{settings_key, settings_.dump()},
         {place_key, next.to_json()},
         {skip_key, fmt::format("{}", skip)}});
    shard_.reset();
    ++shards_;
    out_.rows += rows;
  }

  // For the file that is being written.
  void wait() {
    try {
      writer_.wait();
    } catch (const Error& error) {
      fail(
          error.kind(),
          "{}; the files before it are whole, and resuming goes on there",
          error.what());
    }
  }

  void finish(const WindowPlace& end) {
    if (out_.rows == 0)
      fail(ErrorKind::usage, "[{}] the text has no tokens", function);
    auto manifest = settings_;
    manifest["rows"] = out_.rows;
    manifest["shards"] = shards_;
    manifest["documents"] = documents(end);
    write_file_atomically(
        path_ / manifest_name, manifest.dump(2) + "\n", /*overwrite=*/true);
  }

  static int64_t documents(const WindowPlace& at) {
    return at.document.document + (at.window > 0 ? 1 : 0);
  }

  void summarise(const WindowPlace& end, const Found& found) {
    out_.tokens = end.tokens;
    out_.documents = documents(end);
    out_.shards = shards_;
    out_.shard_rows = shard_rows_;
    out_.seconds = seconds();
    out_.tokens_per_second =
        static_cast<double>(end.tokens - found.place.tokens) / out_.seconds;
    out_.sites = tensors_;
    if (!out_.sites.empty())
      out_.sites.resize(out_.sites.size() - std::size(row_names));
  }

  double seconds() const {
    return std::chrono::duration<double>(Clock::now() - begin_).count();
  }

  void tell(const WindowPlace& at) const {
    if (!options_.progress) return;
    double done = source_.share(at.document);
    if (options_.tokens > 0)
      done = std::max(
          done,
          static_cast<double>(at.tokens) /
              static_cast<double>(options_.tokens));
    const auto rate = static_cast<double>(at.tokens - begun_with_) / seconds();
    options_.progress(
        rate > 0 ? fmt::format("{}, {:.0f} tokens/s", doing, rate) : doing,
        std::min(done, 1.0));
  }

  const InterpretableModel& model_;
  fs::path path_;
  const StoreOptions& options_;
  const Source& source_;
  Folder folder_;
  std::vector<std::string> sites_;
  Json settings_;
  std::vector<StoredTensor> tensors_;
  int64_t shard_rows_ = 0, shards_ = 0, skip_ = 0, begun_with_ = 0;
  std::optional<Shard> shard_;
  StoreSummary out_;
  Clock::time_point begin_ = Clock::now();
  ShardWriter writer_;  // last: waits before what it writes goes
};

std::string digest_of(const Inputs::Rows& prompts) {
  Digest digest(Digest::Kind::sha256);
  for (const auto& prompt : prompts) {
    const auto n = static_cast<int64_t>(prompt.size());
    digest.update({reinterpret_cast<const char*>(&n), sizeof n});
    digest.update(
        {reinterpret_cast<const char*>(prompt.data()),
         prompt.size() * sizeof(int)});
  }
  return digest.hex();
}

}  // namespace

size_t StoredTensor::row_bytes() const {
  auto bytes = static_cast<size_t>(mx::size_of(dtype));
  for (const int dim : shape)
    bytes *= static_cast<size_t>(dim);
  return bytes;
}

StoreSummary store_text_activations(
    const InterpretableModel& model,
    const fs::path& text,
    const std::vector<std::string>& sites,
    const fs::path& folder,
    const StoreOptions& options) {
  check(options);
  const int context = context_length(model);
  Source source;
  source.windows.length =
      options.length > 0 ? options.length : std::min(default_length, context);
  source.windows.tokens = options.tokens;
  source.windows.bos = first_token_of(model);
  if (const int least = source.windows.bos ? 2 : 1;
      source.windows.length < least || source.windows.length > context)
    fail(
        ErrorKind::usage,
        "[{}] the length is {} tokens; give {} to {}, the model's context",
        function,
        source.windows.length,
        least,
        context);
  TextFiles files(text, options.warn);
  source.facts["name"] = text.filename().string();
  source.facts["files"] = files.files();
  source.facts["bytes"] = files.bytes();
  source.facts["sha256"] = files.digest(options.progress);
  source.next = documents_of(model, files);
  source.share = [&](const TextPlace& at) { return files.share(at); };
  return StoreWriter(model, sites, folder, options, source).run();
}

StoreSummary store_activations(
    const InterpretableModel& model,
    const Inputs& prompts,
    const std::vector<std::string>& sites,
    const fs::path& folder,
    const StoreOptions& options) {
  check(options);
  const auto rows = model.token_ids(prompts);
  Source source;
  for (const auto& row : rows)
    source.windows.length =
        std::max(source.windows.length, static_cast<int>(row.size()));
  source.windows.tokens = options.tokens;
  source.facts["prompts"] = rows.size();
  source.facts["sha256"] = digest_of(rows);
  source.next = documents_of(rows);
  source.share = [&](const TextPlace& at) {
    return static_cast<double>(at.offset) / static_cast<double>(rows.size());
  };
  return StoreWriter(model, sites, folder, options, source).run();
}

}  // namespace mlxterp
