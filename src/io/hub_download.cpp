#include "io/hub_download.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <random>
#include <system_error>
#include <thread>
#include <utility>

#include "core/fail.h"
#include "io/digest.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

constexpr size_t at_once = 4;
constexpr int most_attempts = 6;  // five more after the first
constexpr auto longest_wait = 120s;
constexpr auto longest_pause = 10000ms;
constexpr uint64_t much = 1u << 20;  // an attempt that got this far was none
constexpr size_t read_bytes = 1u << 20;

bool is_hex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == text.npos;
}

// Large files' etags are their SHA-256, small ones' Git's name for them. None:
// some other server's, which says nothing.
std::unique_ptr<Digest> digest_for(std::string_view etag, uint64_t size) {
  if (!is_hex(etag)) return nullptr;
  if (etag.size() == 64) return std::make_unique<Digest>(Digest::Kind::sha256);
  if (etag.size() != 40) return nullptr;
  auto digest = std::make_unique<Digest>(Digest::Kind::sha1);
  digest->update(fmt::format("blob {}{}", size, '\0'));
  return digest;
}

// W/"abc" and "abc" as abc, which becomes a file's name.
std::string etag_of(std::string text) {
  if (text.starts_with("W/")) text = text.substr(2);
  std::erase(text, '"');
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  };
  const bool fine = !text.empty() && text.size() <= 128 && text[0] != '.' &&
                    std::all_of(text.begin(), text.end(), plain);
  return fine ? text : "";
}

// A name that leads out of the repository.
bool escapes(const std::string& name) {
  if (name.empty() || name.front() == '/') return true;
  if (name.find('\0') != name.npos) return true;
  const fs::path path(name);
  return std::find(path.begin(), path.end(), "..") != path.end();
}

// The hub knows a file in a folder by its slashes.
std::string escaped_path(const std::string& name) {
  std::string out;
  for (size_t i = 0; i <= name.size();) {
    const auto end = std::min(name.find('/', i), name.size());
    out += url_escape(name.substr(i, end - i));
    if (end < name.size()) out += '/';
    i = end + 1;
  }
  return out;
}

double megabytes(uint64_t bytes) {
  return static_cast<double>(bytes) / 1e6;
}

[[noreturn]] void fail_disk(int error, const fs::path& path) {
  fail(
      ErrorKind::environment,
      "[{}] cannot write {} ({}); make room or set HF_HUB_CACHE to another "
      "folder; the part already downloaded is kept",
      hub_caller,
      quoted(path),
      std::generic_category().message(error));
}

// Blocked for the thread's whole life: a broken TLS connection may raise the
// one, a file beyond `ulimit -f` the other.
void block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGPIPE);
  sigaddset(&signals, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

}  // namespace

/** blobs/<etag>.incomplete: as much of a file as has arrived. */
class HubDownload::Part {
 public:
  Part(fs::path path, const File& file, const std::atomic<bool>& stop)
      : path_(std::move(path)), file_(file) {
    digest_ = digest_for(file.etag, file.size);
    descriptor_ =
        ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (descriptor_ < 0) fail_disk(errno, path_);
    read(stop);
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  ~Part() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  uint64_t size() const { return size_; }

  void append(std::string_view bytes) {
    if (digest_) digest_->update(bytes);
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(
          descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_disk(errno, path_);
      size_ += static_cast<uint64_t>(written);
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }

  void restart() {
    if (::ftruncate(descriptor_, 0) != 0) fail_disk(errno, path_);
    size_ = 0;
    digest_ = digest_for(file_.etag, file_.size);
  }

  /** What the etag should be, where it says something; asked once. */
  std::string digest() { return digest_ ? digest_->hex() : ""; }

  void discard() { ::unlink(path_.c_str()); }

  void commit(const fs::path& blob) {
    if (::fsync(descriptor_) != 0) fail_disk(errno, path_);
    // Network disks report a full one only here.
    if (::close(std::exchange(descriptor_, -1)) != 0) fail_disk(errno, path_);
    if (::rename(path_.c_str(), blob.c_str()) != 0) fail_disk(errno, blob);
  }

 private:
  // What an earlier download left.
  void read(const std::atomic<bool>& stop) {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_disk(errno, path_);
    if (!digest_) {
      size_ = static_cast<uint64_t>(status.st_size);
      return;
    }
    std::string buffer(read_bytes, '\0');
    while (!stop) {
      const ssize_t count = ::pread(
          descriptor_, buffer.data(), buffer.size(), static_cast<off_t>(size_));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_disk(errno, path_);
      if (count == 0) return;
      digest_->update({buffer.data(), static_cast<size_t>(count)});
      size_ += static_cast<uint64_t>(count);
    }
  }

  fs::path path_;
  const File& file_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  std::unique_ptr<Digest> digest_;
};

HubDownload::HubDownload(
    const HubSettings& settings,
    const HubOptions& options,
    const HubCache& cache,
    const std::string& repo)
    : settings_(settings), options_(options), cache_(cache), repo_(repo) {
  host_ = origin_of(settings.endpoint);
  for (const std::string_view port : {":443", ":80"})
    if (host_.ends_with(port)) host_.erase(host_.size() - port.size());
}

// ---- threads ----

void HubDownload::run(const std::vector<Job>& jobs) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::condition_variable changed;
  std::exception_ptr first;
  size_t running = std::min(at_once, jobs.size());
  const auto failed = [&] {
    const std::lock_guard lock(mutex);
    if (!first) first = std::current_exception();
    stop_ = true;
  };
  const auto work = [&] {
    block_signals();
    try {
      HttpClient client;
      for (size_t i; !stop_ && (i = next++) < jobs.size();)
        jobs[i](client);
    } catch (...) {
      failed();
    }
    const std::lock_guard lock(mutex);
    --running;
    changed.notify_one();
  };
  std::vector<std::thread> threads;
  threads.reserve(running);
  const auto join = [&] {
    for (auto& thread : threads)
      thread.join();
  };
  try {
    for (size_t i = running; i > 0; --i)
      threads.emplace_back(work);
    std::unique_lock lock(mutex);
    while (running > 0) {
      changed.wait_for(lock, 100ms);
      lock.unlock();
      tell();
      lock.lock();
    }
  } catch (...) {
    failed();
  }
  join();
  if (first) std::rethrow_exception(first);
}

void HubDownload::tell() const {
  if (!options_.progress) return;
  if (total_ == 0) {  // it is also asked whether to go on
    options_.progress(fmt::format("Asking {} about {}", host_, repo_), 0);
    return;
  }
  const uint64_t done = std::min(done_.load(), total_);
  options_.progress(
      fmt::format(
          "Downloading {}, {:.1f} of {:.1f} MB",
          repo_,
          megabytes(done),
          megabytes(total_)),
      static_cast<double>(done) / static_cast<double>(total_));
}

void HubDownload::check_running() const {
  // Never seen: what stopped us is thrown in its place.
  if (stop_) fail(ErrorKind::environment, "[{}] stopped", hub_caller);
}

// ---- asking ----

/** Waits where another attempt is worth it, else says false. */
bool HubDownload::wait_for_next(const HttpResponse& response, int attempt) {
  check_running();
  if (response.status != 0) reached_ = true;
  if (!response.retryable || attempt >= most_attempts) return false;
  if (response.unreachable && !reached_) return false;  // there is no network
  std::chrono::milliseconds pause = std::min<std::chrono::milliseconds>(
      options_.pause * (1 << (attempt - 1)), longest_pause);
  if (response.retry_after) {
    if (*response.retry_after > longest_wait) return false;
    pause = std::max<std::chrono::milliseconds>(pause, *response.retry_after);
  }
  const auto end = std::chrono::steady_clock::now() + pause;
  while (std::chrono::steady_clock::now() < end) {
    check_running();
    std::this_thread::sleep_for(std::min(pause, 20ms));
  }
  return true;
}

HttpResponse HubDownload::ask(
    HttpClient& client, const HttpRequest& request, int most) {
  for (int attempt = 1;; ++attempt) {
    auto response = client.send(request);
    if (response.status != 0) reached_ = true;
    if (attempt >= most || !wait_for_next(response, attempt)) return response;
  }
}

std::string HubDownload::refusal(
    const HttpResponse& response, const std::string& what) const {
  if (response.unreachable)
    return fmt::format(
        "cannot reach {} ({}) for {}, which is not complete in the cache; "
        "check "
        "the network, HF_ENDPOINT and the proxy, or name a model on this "
        "machine",
        host_,
        response.failure,
        what);
  switch (response.status) {
    case 0:
      return fmt::format(
          "{} from {} did not arrive ({}); try again, the part already here is "
          "kept",
          what,
          host_,
          response.failure);
    case 401:
    case 403:
      return fmt::format(
          "{} refuses {} ({}): {} is gated or private{}; ask for access at "
          "{}/{} and {}",
          host_,
          what,
          response.status,
          repo_,
          response.status == 401 ? ", or does not exist" : "",
          host_,
          repo_,
          settings_.token.empty()
              ? "set HF_TOKEN to a token that may read it"
              : "set HF_TOKEN to another token: this one may not read it");
    case 404:
      return fmt::format(
          "{} has no {} (404): no such model, or no revision '{}' of it; check "
          "the id, or the path where a file was meant",
          host_,
          what,
          printable(options_.revision));
    case 429:
      return fmt::format(
          "{} reports too many requests (429){}; try again later, or set "
          "HF_TOKEN",
          host_,
          response.retry_after
              ? fmt::format(
                    " and asks to wait {} s", response.retry_after->count())
              : "");
    default:
      return fmt::format(
          "{} returned status {} for {}; try again later",
          host_,
          response.status,
          what);
  }
}

void HubDownload::fail_answer(
    const HttpResponse& response, const std::string& what) const {
  fail(ErrorKind::environment, "[{}] {}", hub_caller, refusal(response, what));
}

// ---- what there is ----

HubListing HubDownload::list(bool patient) {
  std::string text;
  HttpRequest request;
  request.url = fmt::format(
      "{}/api/models/{}/revision/{}",
      settings_.endpoint,
      repo_,
      url_escape(options_.revision));
  request.token = settings_.token;
  request.idle_timeout =
      std::min(settings_.idle_timeout, std::chrono::seconds(30));
  request.timeout = 60s;
  request.stop = &stop_;
  request.body = [&](const HttpResponse&, std::string_view bytes) {
    text += bytes;
    if (text.size() > limits::hub_answer_bytes)
      fail(
          ErrorKind::bad_data,
          "[{}] the reply of {} about {} has more than {} bytes; is "
          "HF_ENDPOINT "
          "a hub?",
          hub_caller,
          host_,
          repo_,
          limits::hub_answer_bytes);
  };
  HubListing listing;
  run({[&](HttpClient& client) {
    HttpResponse response;
    for (int attempt = 1;; ++attempt) {
      text.clear();
      response = client.send(request);
      if (!patient || !wait_for_next(response, attempt)) break;
    }
    if (response.status != 0) reached_ = true;
    if (response.status != 200) fail_answer(response, repo_);
    listing = parse(text);
  }});
  return listing;
}

HubListing HubDownload::parse(const std::string& text) const {
  const auto what = fmt::format("the reply of {} about {}", host_, repo_);
  const auto bad = [&](const std::string& why) {
    fail(
        ErrorKind::bad_data,
        "[{}] {} {}; is HF_ENDPOINT a hub?",
        hub_caller,
        what,
        why);
  };
  const json listed = parse_json(text, hub_caller, what);
  HubListing listing;
  const auto sha = listed.find("sha");
  if (!listed.is_object() || sha == listed.end() || !sha->is_string() ||
      !is_commit(sha->get_ref<const std::string&>()))
    bad("names no commit");
  listing.commit = sha->get<std::string>();
  if (is_commit(options_.revision) && listing.commit != options_.revision)
    bad("is about another commit");
  const auto files = listed.find("siblings");
  if (files == listed.end() || !files->is_array() ||
      files->size() > limits::hub_files)
    bad("lists no files");
  for (const auto& file : *files) {
    const auto name = file.is_object() ? file.find("rfilename") : file.end();
    if (name == file.end() || !name->is_string()) bad("lists no files");
    const auto& path = name->get_ref<const std::string&>();
    if (escapes(path))
      bad(fmt::format("names '{}', outside the model", printable(path)));
    listing.files.insert(path);
  }
  return listing;
}

std::string HubDownload::url_of(
    const std::string& commit, const std::string& name) const {
  return fmt::format(
      "{}/{}/resolve/{}/{}",
      settings_.endpoint,
      repo_,
      commit,
      escaped_path(name));
}

HubDownload::File HubDownload::look_up(
    HttpClient& client, const std::string& commit, const std::string& name) {
  HttpRequest request;
  request.url = url_of(commit, name);
  request.head = true;
  request.stop_at_redirect =
      true;  // the hub knows, the store it redirects to may not
  request.token = settings_.token;
  request.idle_timeout = settings_.idle_timeout;
  request.timeout = 60s;
  request.stop = &stop_;
  const auto response = ask(client, request, most_attempts);
  const auto what = fmt::format("{}/{}", repo_, printable(name));
  if (response.status != 200 && !response.redirect())
    fail_answer(response, what);

  const auto linked = response.header("x-linked-etag");
  const auto etag = etag_of(linked.empty() ? response.header("etag") : linked);
  auto size = response.number("x-linked-size");
  if (!size && !response.redirect()) size = response.number("content-length");
  const auto owner = response.header("x-repo-commit");
  if (etag.empty() || !size || *size > limits::hub_file_bytes ||
      (!owner.empty() && owner != commit))
    fail(
        ErrorKind::bad_data,
        "[{}] {} sends unusable headers for {} (etag '{}', {} bytes, commit "
        "'{}'); "
        "is HF_ENDPOINT a hub?",
        hub_caller,
        host_,
        what,
        printable(etag),
        size ? fmt::format("{}", *size) : "unknown",
        printable(owner));
  return {name, etag, *size};
}

// ---- bytes ----

void HubDownload::fetch(
    const std::string& commit, const std::vector<std::string>& names) {
  std::error_code error;
  std::vector<File> files;
  for (const auto& name : names)
    if (!fs::exists(cache_.snapshot(commit) / name, error))
      files.push_back({name, "", 0});
  if (files.empty()) return;

  std::vector<Job> jobs;
  for (auto& file : files)
    jobs.emplace_back(
        [&](HttpClient& client) { file = look_up(client, commit, file.name); });
  run(jobs);

  make_folders(cache_.blob("x").parent_path());
  check_space(files);
  done_ = 0;
  total_ = 0;
  for (const auto& file : files)
    if (!whole(file)) total_ += file.size;
  jobs.clear();
  for (const auto& file : files)
    jobs.emplace_back([&](HttpClient& client) {
      download(client, commit, file);
      cache_.link(commit, file.name, file.etag);
    });
  run(jobs);
}

void HubDownload::check_space(const std::vector<File>& files) const {
  std::error_code error;
  const auto folder = cache_.blob("x").parent_path();
  uint64_t wanted = 0;
  for (const auto& file : files) {
    if (whole(file)) continue;
    const auto have =
        fs::file_size(cache_.blob(file.etag + ".incomplete"), error);
    wanted += file.size - (error ? 0 : std::min<uint64_t>(have, file.size));
  }
  const auto space = fs::space(folder, error);
  if (error || space.available >= wanted) return;
  fail(
      ErrorKind::environment,
      "[{}] {} takes {:.1f} MB and the disk of {} has {:.1f} MB left; make "
      "room or set HF_HUB_CACHE to another folder",
      hub_caller,
      repo_,
      megabytes(wanted),
      quoted(folder),
      megabytes(space.available));
}

bool HubDownload::whole(const File& file) const {
  std::error_code error;
  const auto blob = cache_.blob(file.etag);
  return fs::is_regular_file(blob, error) &&
         fs::file_size(blob, error) == file.size && !error;
}

void HubDownload::download(
    HttpClient& client, const std::string& commit, const File& file) {
  if (whole(file)) return;
  const FileLock lock(cache_.lock(file.etag), [&] { check_running(); });
  if (whole(file)) {  // another process was faster
    done_ += file.size;
    return;
  }
  // Without a lock the name must be nobody else's.
  std::random_device random;
  const auto own = lock.held() ? "" : fmt::format(".{:08x}", random());
  Part part(cache_.blob(file.etag + own + ".incomplete"), file, stop_);
  check_running();
  if (part.size() > file.size) part.restart();
  done_ += part.size();
  for (bool resumed = part.size() > 0;; resumed = false) {
    fetch_rest(client, commit, file, part);
    const auto digest = part.digest();
    if (digest.empty() || digest == file.etag) break;
    done_ -= part.size();
    part.restart();
    if (resumed) continue;  // what was there before may be to blame
    part.discard();
    fail(
        ErrorKind::bad_data,
        "[{}] {}/{} arrived with {} {}, not {}; something on the way altered "
        "it; try another network or HF_ENDPOINT",
        hub_caller,
        repo_,
        printable(file.name),
        digest.size() == 64 ? "SHA-256" : "Git's SHA-1",
        digest,
        file.etag);
  }
  part.commit(cache_.blob(file.etag));
}

void HubDownload::fetch_rest(
    HttpClient& client,
    const std::string& commit,
    const File& file,
    Part& part) {
  struct Unusable {};
  const auto what = fmt::format("{}/{}", repo_, printable(file.name));
  HttpRequest request;
  request.url = url_of(commit, file.name);
  request.token = settings_.token;
  request.idle_timeout = settings_.idle_timeout;
  request.stop = &stop_;
  uint64_t farthest = part.size();
  for (int attempt = 1; part.size() < file.size; ++attempt) {
    bool started = false;
    bool restart = false;
    request.from = part.size();
    request.body = [&](const HttpResponse& response, std::string_view bytes) {
      if (!std::exchange(started, true) && !start_body(response, file, part))
        throw Unusable();
      if (bytes.size() > file.size - part.size()) {
        part.discard();
        fail(
            ErrorKind::bad_data,
            "[{}] {} is longer than the {} bytes {} says it has; try again "
            "later or another HF_ENDPOINT",
            hub_caller,
            what,
            file.size,
            host_);
      }
      part.append(bytes);
      done_ += bytes.size();
    };
    HttpResponse response;
    try {
      response = client.send(request);
      if (response.ok())
        response = {.failure = "it ended early", .retryable = true};
    } catch (const Unusable&) {
      response = {.failure = "another part of it was sent", .retryable = true};
      restart = true;
    }
    if (part.size() == file.size) return;
    // The range is none of the file that it has.
    if (response.status == 416) response.retryable = restart = true;
    if (part.size() >= farthest + much) attempt = 1;
    farthest = std::max(farthest, part.size());
    if (restart) {
      done_ -= part.size();
      part.restart();
    }
    if (!wait_for_next(response, attempt)) fail_answer(response, what);
  }
}

/** False where the body cannot follow what is there. */
bool HubDownload::start_body(
    const HttpResponse& response, const File& file, Part& part) {
  if (response.status == 206)
    return response.header("content-range") ==
           fmt::format("bytes {}-{}/{}", part.size(), file.size - 1, file.size);
  done_ -= part.size();
  part.restart();  // it sends everything, asked for or not
  const auto length = response.number("content-length");
  if (!length || *length == file.size) return true;
  part.discard();
  fail(
      ErrorKind::bad_data,
      "[{}] {}/{} comes with {} bytes, {} says it has {}; try again later or "
      "another HF_ENDPOINT",
      hub_caller,
      repo_,
      printable(file.name),
      *length,
      host_,
      file.size);
}

}  // namespace mlxterp
