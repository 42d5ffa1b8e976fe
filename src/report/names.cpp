#include "mlxterp/report/names.h"

#include "core/fail.h"

namespace mlxterp::report {

std::vector<std::string> labels(
    const InterpretableModel& model, const std::vector<int>& ids) {
  // An embedding may have more rows than the tokenizer has tokens.
  const auto known = [&](int id) {
    return model.has_tokenizer() && id >= 0 &&
           id < model.tokenizer().vocab_size();
  };
  std::vector<std::string> names;
  std::vector<int> run;  // neighbours may share a character
  const auto flush = [&] {
    if (run.empty()) return;
    for (auto& text : model.tokenizer().labels(run))
      names.push_back(std::move(text));
    run.clear();
  };
  for (const int id : ids) {
    if (known(id)) {
      run.push_back(id);
      continue;
    }
    flush();
    names.push_back(fmt::format("#{}", id));
  }
  flush();
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
