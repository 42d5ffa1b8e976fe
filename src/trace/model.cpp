#include "mlxterp/trace/model.h"

#include <algorithm>
#include <future>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/io/hub.h"
#include "trace/overlay.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

Inputs::Rows rows_of(const mx::array& array) {
  if (array.ndim() != 2 || !mx::issubdtype(array.dtype(), mx::integer))
    fail(
        ErrorKind::usage,
        "[model] token ids must be an array of integers [batch, pos], not one "
        "of "
        "{} axes or of another type",
        array.ndim());
  auto ids = mx::contiguous(mx::astype(array, mx::int64));
  ids.eval();
  const auto* data = ids.data<int64_t>();
  Inputs::Rows rows(static_cast<size_t>(ids.shape(0)));
  for (auto& row : rows)
    for (int i = 0; i < ids.shape(1); ++i, ++data) {
      row.push_back(static_cast<int>(*data));
      if (row.back() != *data)  // it would wrap to the id of another token
        fail(
            ErrorKind::out_of_range,
            "[model] token id {} is out of range of any vocabulary",
            *data);
    }
  return rows;
}

// Padding would stand between what a cache holds and what comes next.
void check_unpadded(const std::vector<int>& lengths) {
  for (const int length : lengths)
    if (length != lengths.front())
      fail(
          ErrorKind::usage,
          "[model] prompts of {} and {} tokens cannot go into one cache; run "
          "them one at a time, each with a cache of its own",
          lengths.front(),
          length);
}

// A rotary embedding may depend on the length of the whole batch.
void check_same_angles(
    const DecoderConfig& config, const std::vector<int>& lengths) {
  const int longest = *std::ranges::max_element(lengths);
  for (const int length : lengths)
    if (!config.same_angles(length, longest))
      fail(
          ErrorKind::usage,
          "[model] this model's RoPE scaling differs between lengths {} and "
          "{}; run the prompts one at a time",
          length,
          longest);
}

// The number of the site that a module at `at` reads; -1: that one.
SiteId site_read(
    const SiteCatalog& sites, SiteId at, const AttachOptions& options) {
  if (options.reads.empty()) return -1;
  const auto reads = sites.find(options.reads);
  if (reads == at) return -1;
  if (!options.by_position)
    fail(
        ErrorKind::usage,
        "[attach] a module that reads '{}' and is attached to '{}' must say "
        "that it takes positions one by one (by_position)",
        sites[reads].name,
        sites[at].name);
  if (sites[reads].layer != sites[at].layer ||
      sites[reads].stage != sites[at].stage)
    fail(
        ErrorKind::usage,
        "[attach] a module attached to '{}' cannot read '{}', which stands in "
        "another layer or on the other side of attention; read an input of the "
        "same part, such as layers.{}.mlp.input",
        sites[at].name,
        sites[reads].name,
        std::max(sites[at].layer, 0));
  return reads;
}

}  // namespace

InterpretableModel InterpretableModel::load(
    const std::string& model, const LoadOptions& options) {
  const auto checkpoint =
      Checkpoint::open(find_model(model, {.progress = options.progress}));
  // Beside the weights, where there is room for a thread: a large vocabulary
  // takes as long as a small model.
  auto text = std::async([&] { return Tokenizer::find(checkpoint); });
  auto decoder = load_decoder(checkpoint, options);
  auto [tokenizer, reason] = text.get();
  if (!reason.empty() && options.warn)
    options.warn(fmt::format(
        "this model takes token ids only; its tokenizer cannot be used: {}",
        reason));
  if (tokenizer && tokenizer->vocab_size() > decoder->config().vocab &&
      options.warn)
    options.warn(fmt::format(
        "the tokenizer has {} ids, the embedding {} rows; prompts with ids "
        "beyond the embedding are refused",
        tokenizer->vocab_size(),
        decoder->config().vocab));
  InterpretableModel loaded(
      std::move(decoder),
      std::move(tokenizer),
      family_of(checkpoint.config(), options.families).renames);
  loaded.generation_config_ = std::make_shared<const GenerationConfig>(
      GenerationConfig::read(checkpoint));
  return loaded;
}

InterpretableModel::InterpretableModel(
    std::shared_ptr<nn::Module> root,
    std::optional<Tokenizer> tokenizer,
    std::span<const Rename> renames)
    : sites_(std::make_shared<SiteCatalog>(*root, renames)),
      tokenizer_(std::move(tokenizer)),
      decoder_(dynamic_cast<const Decoder*>(root.get())) {
  root_ = std::move(root);
}

Inputs::Rows InterpretableModel::token_ids(const Inputs& inputs) const {
  Inputs::Rows rows;
  if (const auto* given = std::get_if<Inputs::Rows>(&inputs.value_))
    rows = *given;
  else if (const auto* array = std::get_if<mx::array>(&inputs.value_))
    rows = rows_of(*array);
  else
    for (const auto& prompt : std::get<Inputs::Texts>(inputs.value_))
      rows.push_back(tokenizer().encode(prompt));

  if (rows.empty()) fail(ErrorKind::usage, "[model] no prompt was given");
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].empty())
      fail(
          ErrorKind::usage,
          "[model] prompt {} has no tokens; give at least one",
          i);
    if (!decoder_) continue;
    const auto& config = decoder_->config();
    if (rows[i].size() > static_cast<size_t>(config.context))
      fail(
          ErrorKind::usage,
          "[model] prompt {} has {} tokens, more than the model's context of "
          "{}; shorten it",
          i,
          rows[i].size(),
          config.context);
    for (const int id : rows[i])
      if (id < 0 || id >= config.vocab)
        fail(
            ErrorKind::out_of_range,
            "[model] token id {} is out of range; the vocabulary has {}{}",
            id,
            config.vocab,
            tokenizer_ && id >= 0 && id < tokenizer_->vocab_size()
                ? ", the tokenizer has more; leave that token out"
                : "");
  }
  return rows;
}

InterpretableModel::Batch InterpretableModel::prepare(
    const Inputs& inputs) const {
  // A module of one's own takes any array as it is.
  if (const auto* array = std::get_if<mx::array>(&inputs.value_);
      array && !decoder_) {
    auto given = *array;
    // An Embedding looks at ids where it can.
    if (mx::issubdtype(given.dtype(), mx::integer) && !given.is_tracer())
      given.eval();
    return {given, {}};
  }
  const auto rows = token_ids(inputs);
  size_t longest = 0;
  std::vector<int> lengths;
  for (const auto& row : rows) {
    longest = std::max(longest, row.size());
    lengths.push_back(static_cast<int>(row.size()));
  }
  if (decoder_) check_same_angles(decoder_->config(), lengths);
  std::vector<int> flat(rows.size() * longest);
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy(
        rows[i].begin(),
        rows[i].end(),
        flat.begin() + static_cast<long>(i * longest));
  const mx::Shape shape{
      static_cast<int>(rows.size()), static_cast<int>(longest)};
  return {mx::array(flat.data(), shape, mx::int32), std::move(lengths)};
}

InterpretableModel InterpretableModel::with(
    const std::vector<Edit>& edits) const {
  auto out = *this;
  for (const auto& edit : edits)
    out.overlay_ = std::make_shared<Overlay>(out.overlay_.get(), *sites_, edit);
  return out;
}

InterpretableModel InterpretableModel::attach(
    std::string_view site,
    std::shared_ptr<nn::Module> module,
    const AttachOptions& options) const {
  using Mode = AttachOptions::Mode;
  if (!module) fail(ErrorKind::usage, "[attach] no module was given");
  const auto at = sites_->find(site);
  const bool error = options.mode == Mode::replace_with_error;
  const SiteCatalog own(*module);
  const auto reads = site_read(*sites_, at, options);
  auto out = *this;
  out.sites_ = std::make_shared<SiteCatalog>(
      sites_->extended(at, options.name, own, error));
  const auto first = static_cast<SiteId>(sites_->size());
  out.overlay_ = std::make_shared<Overlay>(
      overlay_.get(),
      at,
      Overlay::Attached{
          .module = std::move(module),
          .mode = options.mode,
          .first = first,
          .error = error ? first + static_cast<SiteId>(own.size()) : -1,
          .reads = reads,
          .sites = static_cast<SiteId>(own.size()) + (error ? 1 : 0),
          .reach = options.by_position ? Intervention::Reach::value
                                       : Intervention::Reach::sequence});
  return out;
}

mx::array InterpretableModel::forward(
    const Batch& batch, Observer* observer, nn::KvCache* cache) const {
  std::optional<Standing> standing;
  if (overlay_)
    observer = &standing.emplace(
        *overlay_,
        *sites_,
        observer,
        PassRows{
            .lengths = batch.lengths,
            .offset = cache ? cache->positions() : 0});
  auto pass = observer ? Pass(*observer, cache) : Pass();
  auto y = (*root_)(batch.ids, pass);
  if (standing) standing->check_reached();
  return y;
}

Trace InterpretableModel::trace(
    const Inputs& inputs, std::vector<Edit> edits) const {
  const auto batch = prepare(inputs);
  // What stands is owned by the handle, which may go before the trace does.
  return Trace(
      std::make_shared<InterpretableModel>(*this),
      TraceContext(
          sites_, std::move(edits), batch.lengths, TraceContext::Everything{}),
      [&](Observer& observer) { return forward(batch, &observer, nullptr); });
}

ActivationCache InterpretableModel::run(
    const Inputs& inputs, const RunOptions& options) const {
  std::vector<SiteId> wanted;
  for (const auto& pattern : options.save) {
    const auto matched = sites_->match(pattern);
    wanted.insert(wanted.end(), matched.begin(), matched.end());
  }
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());

  const auto batch = prepare(inputs);
  nn::KvCache cache;
  if (options.cache) {
    check_unpadded(batch.lengths);
    cache = *options.cache;
  }
  TraceContext context(
      sites_, options.edits, batch.lengths, wanted, cache.positions());
  forward(batch, &context, options.cache ? &cache : nullptr);
  context.check_reached();
  for (const auto site : wanted)
    context.save(site);
  context.finish({}, options.between);
  auto saved = context.saved();
  if (options.cache) *options.cache = std::move(cache);
  return saved;
}

mx::array InterpretableModel::operator()(const Inputs& inputs) const {
  return forward(prepare(inputs), nullptr, nullptr);
}

LayerListProxy InterpretableModel::layers() const {
  return LayerListProxy(sites_);
}

ModuleProxy InterpretableModel::operator[](std::string_view path) const {
  return {sites_, std::string(path)};
}

OutputProxy InterpretableModel::output() const {
  return {sites_, sites_->find("output")};
}

const Tokenizer& InterpretableModel::tokenizer() const {
  if (!tokenizer_)
    fail(
        ErrorKind::usage,
        "[model] the model has no usable tokenizer; give token ids instead of "
        "text");
  return *tokenizer_;
}

const GenerationConfig& InterpretableModel::generation_config() const {
  static const GenerationConfig nothing;
  return generation_config_ ? *generation_config_ : nothing;
}

const Decoder& InterpretableModel::decoder() const {
  if (!decoder_)
    fail(
        ErrorKind::usage,
        "[model] this needs a Decoder; the model is a module of another kind");
  return *decoder_;
}

}  // namespace mlxterp
