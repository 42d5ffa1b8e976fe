#include "analysis/plain_gradients.h"

#include "analysis/any_model.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

PlainGradients::Result PlainGradients::compute() const {
  const std::string embedded = first_stream;
  RunOptions save{.save = sites};
  save.save.insert(save.save.end(), {"logits", embedded});
  const auto from = model.run(pair.source, save);
  const auto base = model.run(pair.run, save);
  std::optional<mx::array> reference;
  if (metric.needs_reference())
    reference = metric.row_of((clean_source ? from : base)["logits"]);
  const auto way = mx::subtract(
      aligned(from[embedded], pair, base[embedded]), base[embedded]);

  Result out;
  for (int k = 0; k < steps; ++k) {
    if (report) report(k);
    const mx::array share(static_cast<float>(k) / static_cast<float>(steps));
    const auto moved = [&](const mx::array& x) {
      return mx::add(x, mx::astype(mx::multiply(share, way), x.dtype()));
    };
    const auto measured = [&](const std::vector<mx::array>& added) {
      std::vector<Edit> edits;
      if (k > 0) edits.push_back({embedded, moved});
      for (size_t i = 0; i < sites.size(); ++i)
        edits.push_back({sites[i], [&added, i](const mx::array& x) {
                           return mx::add(x, mx::astype(added[i], x.dtype()));
                         }});
      const auto trace = model.trace(pair.run, std::move(edits));
      const auto value = metric.lazily(trace.output(), pair.run, reference);
      return std::vector{mx::reshape(value, {})};
    };
    auto gradients = mx::vjp(measured, zeros, {mx::array(1.0f)}).second;
    for (size_t i = 0; i < gradients.size() && k > 0; ++i)
      gradients[i] = mx::add(gradients[i], out.gradients[i]);
    out.gradients = std::move(gradients);
    mx::eval(out.gradients);
  }
  if (report) report(steps);
  for (const auto& site : sites) {
    const auto before = mx::astype(base[site], mx::float32);
    const auto after = mx::astype(from[site], mx::float32);
    out.differences.push_back(
        mx::subtract(aligned(after, pair, before), before));
  }
  out.run = metric.of_run(base["logits"], pair.run, reference);
  out.source = metric.of_run(from["logits"], pair.source, reference);
  return out;
}

}  // namespace mlxterp
