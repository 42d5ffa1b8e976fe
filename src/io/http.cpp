#include "io/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <utility>

#include "core/fail.h"

namespace mlxterp {

namespace {

constexpr int most_redirects = 5;
constexpr long connect_seconds = 10;
constexpr size_t header_bytes = 64u << 10;   // all of one response's
constexpr size_t ignored_bytes = 64u << 10;  // of a body that nobody reads

struct FreeUrl {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using Headers = std::unique_ptr<curl_slist, FreeList>;

void add(Headers& headers, const std::string& line) {
  auto* longer = curl_slist_append(headers.get(), line.c_str());
  if (!longer) throw std::bad_alloc();
  static_cast<void>(headers.release());
  headers.reset(longer);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// What libcurl's callbacks share while one response arrives.
struct Arrival {
  const HttpRequest& request;
  HttpResponse response = {};
  size_t headers = 0;
  size_t ignored = 0;
  std::exception_ptr thrown = nullptr;
  bool cut_short = false;  // by us: nobody reads that body
};

void take_header(Arrival& arrival, std::string_view line) {
  auto& response = arrival.response;
  if (line.starts_with("HTTP/")) {  // another one, after a 100 for example
    response.headers.clear();
    response.status = 0;
    const auto code = line.substr(std::min(line.find(' ') + 1, line.size()));
    std::from_chars(code.data(), code.data() + code.size(), response.status);
    return;
  }
  const auto colon = line.find(':');
  if (colon == line.npos) return;
  response.headers[lower(line.substr(0, colon))] =
      trimmed(line.substr(colon + 1));
}

size_t on_header(char* data, size_t, size_t size, void* to) {
  auto& arrival = *static_cast<Arrival*>(to);
  try {
    arrival.headers += size;
    if (arrival.headers > header_bytes) return 0;
    take_header(arrival, {data, size});
  } catch (...) {
    arrival.thrown = std::current_exception();
    return 0;
  }
  return size;
}

size_t on_body(char* data, size_t, size_t size, void* to) {
  auto& arrival = *static_cast<Arrival*>(to);
  if (!arrival.response.ok() || !arrival.request.body) {
    arrival.ignored += size;
    arrival.cut_short = arrival.ignored > ignored_bytes;
    return arrival.cut_short ? 0 : size;
  }
  try {
    arrival.request.body(arrival.response, {data, size});
  } catch (...) {
    arrival.thrown = std::current_exception();
    return 0;
  }
  return size;
}

int on_tick(void* to, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto* stop = static_cast<const Arrival*>(to)->request.stop;
  return stop && *stop ? 1 : 0;
}

bool unreachable(CURLcode code) {
  return code == CURLE_COULDNT_RESOLVE_HOST ||
         code == CURLE_COULDNT_RESOLVE_PROXY || code == CURLE_COULDNT_CONNECT;
}

// Trying again helps neither a wrong URL nor a wrong certificate.
bool passing(CURLcode code) {
  switch (code) {
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_WRITE_ERROR:
    case CURLE_ABORTED_BY_CALLBACK:
    case CURLE_OUT_OF_MEMORY:
      return false;
    default:
      return true;
  }
}

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

void start_libcurl() {
  // Once in a process, by whoever comes first.
  static const bool started = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  if (!started) throw std::bad_alloc();
}

}  // namespace

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

std::optional<uint64_t> HttpResponse::number(const std::string& name) const {
  const auto text = header(name);
  uint64_t value = 0;
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (text.empty() || parsed.ec != std::errc() || parsed.ptr != end)
    return std::nullopt;
  return value;
}

struct HttpClient::Handle {
  CURL* curl = curl_easy_init();
  Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { curl_easy_cleanup(curl); }
};

HttpClient::HttpClient() {
  start_libcurl();
  handle_ = std::make_unique<Handle>();
  if (!handle_->curl) throw std::bad_alloc();
}

HttpClient::~HttpClient() = default;

// Redirects are followed here, not in libcurl, so that it is plain to see who
// gets the token.
HttpResponse HttpClient::send(const HttpRequest& request) {
  HttpRequest now = request;
  const auto origin = origin_of(request.url);
  for (int i = 0; i <= most_redirects; ++i) {
    std::string next;
    auto response = send_once(now, next);
    if (!response.redirect()) return response;
    const auto target = origin_of(next);
    if (target != origin && request.stop_at_redirect) return response;
    if (target.empty() ||
        (origin.starts_with("https:") && !target.starts_with("https:"))) {
      response.status = 0;
      response.failure = "it redirects to an address that must not be followed";
      return response;
    }
    if (target != origin) now.token.clear();
    now.url = next;
  }
  HttpResponse response;
  response.failure = fmt::format("it redirects {} times", most_redirects + 1);
  return response;
}

HttpResponse HttpClient::send_once(
    const HttpRequest& request, std::string& next) {
  CURL* curl = handle_->curl;
  curl_easy_reset(curl);  // the options; the connections stay
  Arrival arrival{request};
  const auto set = [&](CURLoption option, auto value) {
    if (curl_easy_setopt(curl, option, value) == CURLE_OUT_OF_MEMORY)
      throw std::bad_alloc();
  };
  Headers headers;
  // The size of a file is only sent for bytes that are not compressed.
  add(headers, "Accept-Encoding: identity");
  if (!request.token.empty())
    add(headers, "Authorization: Bearer " + request.token);
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_HTTPHEADER, headers.get());
  set(CURLOPT_USERAGENT, "mlxterp");
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);  // a proxy's
  set(CURLOPT_NOBODY, request.head ? 1L : 0L);
  set(CURLOPT_CONNECTTIMEOUT, connect_seconds);
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(request.idle_timeout.count()));
  set(CURLOPT_TIMEOUT_MS, static_cast<long>(request.timeout.count()));
  set(CURLOPT_HEADERFUNCTION, on_header);
  set(CURLOPT_HEADERDATA, &arrival);
  set(CURLOPT_WRITEFUNCTION, on_body);
  set(CURLOPT_WRITEDATA, &arrival);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, on_tick);
  set(CURLOPT_XFERINFODATA, &arrival);
  set(CURLOPT_BUFFERSIZE, 256L << 10);
  const auto range = fmt::format("{}-", request.from);
  if (request.from > 0) set(CURLOPT_RANGE, range.c_str());
  const char* built_in = curl_version_info(CURLVERSION_NOW)->cainfo;
  const auto roots = certificates(built_in ? built_in : "");
  if (!roots.empty()) set(CURLOPT_CAINFO, roots.c_str());

  const CURLcode code = curl_easy_perform(curl);
  if (arrival.thrown) std::rethrow_exception(arrival.thrown);
  auto& response = arrival.response;
  if (code != CURLE_OK && !arrival.cut_short) {
    response.status = 0;
    response.failure = curl_easy_strerror(code);
    response.unreachable = unreachable(code);
    response.retryable = passing(code);
    return response;
  }
  curl_off_t wait = 0;  // seconds, also where the header is a date
  if (!response.header("retry-after").empty() &&
      curl_easy_getinfo(curl, CURLINFO_RETRY_AFTER, &wait) == CURLE_OK)
    response.retry_after = std::chrono::seconds(wait);
  response.retryable = response.status == 429 || response.status >= 500;
  char* location = nullptr;
  if (curl_easy_getinfo(curl, CURLINFO_REDIRECT_URL, &location) == CURLE_OK &&
      location)
    next = location;
  return std::move(response);
}

std::string certificates(const std::string& built_in) {
  for (const char* name : {"CURL_CA_BUNDLE", "SSL_CERT_FILE"})
    if (const char* file = environment(name)) return file;
  std::error_code error;
  if (built_in.empty() || std::filesystem::exists(built_in, error))
    return built_in;
  for (const char* file :
       {"/etc/ssl/certs/ca-certificates.crt",  // Debian, Arch, Alpine
        "/etc/pki/tls/certs/ca-bundle.crt",    // Fedora, Red Hat
        "/etc/ssl/ca-bundle.pem",              // openSUSE
        "/etc/ssl/cert.pem"})                  // BSD
    if (std::filesystem::exists(file, error)) return file;
  return built_in;
}

std::string origin_of(const std::string& url) {
  const std::unique_ptr<CURLU, FreeUrl> parsed(curl_url());
  if (!parsed) throw std::bad_alloc();
  if (curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK)
    return "";
  const auto part = [&](CURLUPart which) {
    char* text = nullptr;
    std::string out;
    if (curl_url_get(parsed.get(), which, &text, CURLU_DEFAULT_PORT) ==
        CURLUE_OK)
      out = lower(text);
    curl_free(text);
    return out;
  };
  const auto scheme = part(CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") return "";
  return fmt::format(
      "{}://{}:{}", scheme, part(CURLUPART_HOST), part(CURLUPART_PORT));
}

std::string url_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       (c >= '0' && c <= '9') || c == '-' || c == '.' ||
                       c == '_' || c == '~';
    out += plain ? std::string(1, c)
                 : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace mlxterp
