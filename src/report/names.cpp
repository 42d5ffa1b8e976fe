#include "mlxterp/report/names.h"

#include "core/fail.h"

namespace mlxterp::report {

std::vector<std::string> labels(
    const InterpretableModel& model, const std::vector<int>& ids) {
  if (model.has_tokenizer()) return model.tokenizer().labels(ids);
  std::vector<std::string> names;
  for (const int id : ids)
    names.push_back(fmt::format("#{}", id));
  return names;
}

std::string label(const InterpretableModel& model, int id) {
  return labels(model, {id}).front();
}

std::vector<NamedToken> named(
    const InterpretableModel& model, const std::vector<int>& ids) {
  const auto texts = labels(model, ids);
  std::vector<NamedToken> tokens;
  for (size_t i = 0; i < ids.size(); ++i)
    tokens.push_back({ids[i], texts[i]});
  return tokens;
}

}  // namespace mlxterp::report
