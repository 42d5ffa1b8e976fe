#include "io/model_folder.h"

#include "core/fail.h"
#include "io/input_file.h"

namespace mlxterp {

namespace fs = std::filesystem;

ModelFolder::ModelFolder(const fs::path& path, std::string_view caller)
    : path_(path), caller_(caller) {
  std::error_code error;
  real_ = fs::canonical(path, error);
  for (fs::directory_iterator at(path, error), end; !error && at != end;
       at.increment(error))
    names_.insert(at->path().filename().native());
  if (error)
    fail(
        ErrorKind::environment,
        "[{}] cannot list {} ({}); check the path and its permissions",
        caller_,
        quoted(path),
        error.message());
}

fs::path ModelFolder::file(std::string_view name) const {
  fs::path inside = path_ / name;
  std::error_code error;
  const fs::path target = fs::canonical(inside, error);
  if (error)
    fail(
        ErrorKind::environment,
        "[{}] cannot read {} ({}); check the link and its permissions",
        caller_,
        quoted(inside),
        error.message());
  if (target.parent_path() == real_ || is_hub_blob(target)) return inside;
  fail(
      ErrorKind::bad_data,
      "[{}] {} links to {}, outside its folder; copy the file into it",
      caller_,
      quoted(inside),
      quoted(target));
}

// models--x--y/snapshots/<revision>/name -> models--x--y/blobs/<hash>, or on to
// blobs/<two digits>/<hash>, which the cache's models share.
bool ModelFolder::is_hub_blob(const fs::path& target) const {
  const fs::path snapshots = real_.parent_path();
  const fs::path model = snapshots.parent_path();
  const fs::path folder = target.parent_path();
  const bool shared = model.filename().native().starts_with("models--") &&
                      folder.filename().native().size() == 2 &&
                      folder.parent_path() == model.parent_path() / "blobs";
  return snapshots.filename() == "snapshots" &&
         (folder == model / "blobs" || shared);
}

}  // namespace mlxterp
