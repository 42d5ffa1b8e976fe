#include "analysis/fingerprint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "io/digest.h"
#include "mlx/ops.h"
#include "mlx/utils.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Evenly spread over all of them.
mx::array some_of(const mx::array& values) {
  constexpr int most = 1024;
  if (values.size() > size_t{std::numeric_limits<int>::max()}) {
    auto end = values.shape();
    end[0] = 1;  // MLX counts no further
    return some_of(mx::slice(values, mx::Shape(end.size(), 0), end));
  }
  const auto flat = mx::flatten(values);
  const int n = flat.shape(0);
  if (n <= most) return mx::contiguous(flat);
  std::vector<int> at;
  for (int64_t i = 0; i < most; ++i)
    at.push_back(static_cast<int>(i * (n - 1) / (most - 1)));
  return mx::take(flat, mx::array(at.data(), {most}, mx::int32), 0);
}

}  // namespace

std::string weights_digest(const InterpretableModel& model) {
  auto parameters = model.parameters();
  if (parameters.empty()) return {};
  std::ranges::sort(
      parameters, {}, [](const auto& it) -> const auto& { return it.first; });
  std::vector<mx::array> chosen;
  for (const auto& [name, values] : parameters)
    chosen.push_back(some_of(*values));
  mx::eval(chosen);
  Digest digest(Digest::Kind::sha256);
  for (size_t i = 0; i < chosen.size(); ++i) {
    const auto& [name, values] = parameters[i];
    digest.update(fmt::format(
        "{} {} {}\n",
        name,
        static_cast<int>(values->dtype().val()),
        fmt::join(values->shape().begin(), values->shape().end(), ",")));
    digest.update({chosen[i].data<char>(), chosen[i].nbytes()});
  }
  return digest.hex();
}

std::string tokenizer_digest(const InterpretableModel& model) {
  if (!model.has_tokenizer()) return {};
  const auto& tokenizer = model.tokenizer();
  Digest digest(Digest::Kind::sha256);
  constexpr int64_t most = 4096;
  const int64_t size = tokenizer.vocab_size();
  digest.update(fmt::format("{}\n", size));
  for (int64_t i = 0; i < std::min(size, most); ++i) {
    const int ids[] = {static_cast<int>(i * size / std::min(size, most))};
    digest.update(tokenizer.decode(ids, /*with_special=*/true));
    digest.update(std::string_view("\0", 1));
  }
  // Another program's may refuse what it does not know.
  if (!decoder_of(model)) return digest.hex();
  const auto ids = tokenizer.encode(
      " Hello  world's 1234567,8\n\tDon't stop!  \xC3\xA9t\xC3\xA9 "
      "\xD0\xBC\xD0\xB8\xD1\x80 \xE4\xBD\xA0\xE5\xA5\xBD "
      "\xE3\x81\x93\xE3\x82\x93 \xF0\x9F\x98\x80 def f(x): return x**2");
  digest.update(fmt::format("{}", fmt::join(ids, ",")));
  return digest.hex();
}

}  // namespace mlxterp
