#include "mlxterp/report/activation_store.h"

#include "mlxterp/report/trace.h"
#include "report/json.h"

namespace mlxterp::report {

std::string to_json(const StoreReport& report) {
  const auto& it = report.summary;
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["text"] = report.text;
  out["folder"] = report.folder;
  out["complete"] = it.complete;
  out["rows"] = it.rows;
  out["kept"] = it.kept;
  out["documents"] = it.documents;
  out["tokens"] = it.tokens;
  out["shards"] = it.shards;
  out["shard_rows"] = it.shard_rows;
  out["sites"] = Json::array();
  for (const auto& site : it.sites)
    out["sites"].push_back(
        {{"site", site.name},
         {"shape", site.shape},
         {"dtype", dtype_name(site.dtype)}});
  out["seconds"] = number(it.seconds);
  out["tokens_per_second"] = number(it.tokens_per_second);
  return text_of(out);
}

}  // namespace mlxterp::report
