// io/hub_download.h: the files of one repository, from the hub into the cache.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "io/http.h"
#include "io/hub_cache.h"
#include "mlxterp/io/hub.h"

namespace mlxterp {

/** What a revision of a repository is. */
struct HubListing {
  std::string commit;
  std::set<std::string> files;
};

/**
 * Downloads up to four files at once, on threads of its own that end before a
 * member returns; progress is reported on the caller's. After an exception it
 * is of no more use. One thread at a time.
 */
class HubDownload {
 public:
  HubDownload(
      const HubSettings& settings,
      const HubOptions& options,
      const HubCache& cache,
      const std::string& repo);

  /** Asks the hub, once only unless `patient`. */
  HubListing list(bool patient);

  /** Puts those files of a commit into its snapshot that are not there. */
  void fetch(const std::string& commit, const std::vector<std::string>& names);

 private:
  struct File {
    std::string name;
    std::string etag;
    uint64_t size = 0;
  };
  class Part;
  using Job = std::function<void(HttpClient&)>;

  void run(const std::vector<Job>& jobs);
  void tell() const;
  void check_running() const;
  bool wait_for_next(const HttpResponse& response, int attempt);
  HttpResponse ask(HttpClient& client, const HttpRequest& request, int most);

  std::string url_of(const std::string& commit, const std::string& name) const;
  HubListing parse(const std::string& text) const;
  File look_up(
      HttpClient& client, const std::string& commit, const std::string& name);
  void check_space(const std::vector<File>& files) const;
  bool whole(const File& file) const;
  void download(
      HttpClient& client, const std::string& commit, const File& file);
  void fetch_rest(
      HttpClient& client,
      const std::string& commit,
      const File& file,
      Part& part);
  bool start_body(const HttpResponse& response, const File& file, Part& part);
  std::string refusal(
      const HttpResponse& response, const std::string& what) const;
  [[noreturn]] void fail_answer(
      const HttpResponse& response, const std::string& what) const;

  const HubSettings& settings_;
  const HubOptions& options_;
  const HubCache& cache_;
  std::string repo_;
  std::string host_;  // as messages show it
  std::atomic<bool> stop_ = false;
  std::atomic<bool> reached_ = false;  // the hub has answered once
  std::atomic<uint64_t> done_ = 0;     // bytes
  uint64_t total_ = 0;
};

}  // namespace mlxterp
