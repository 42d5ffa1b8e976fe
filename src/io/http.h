// io/http.h: HTTP through libcurl: one request, one response.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace mlxterp {

struct HttpResponse {
  /** 0: no response came, or it was cut off; `failure` says why. */
  int status = 0;
  std::string failure;
  bool unreachable = false;  ///< No connection was made at all.
  bool retryable = false;    ///< Another attempt may do better.
  /** Those of the last response, their names in lower case. */
  std::map<std::string, std::string> headers = {};
  std::optional<std::chrono::seconds> retry_after = std::nullopt;

  bool ok() const { return status == 200 || status == 206; }
  bool redirect() const { return status >= 300 && status < 400; }
  /** "" where there is none. */
  std::string header(const std::string& name) const;
  /** A header that is a whole number. */
  std::optional<uint64_t> number(const std::string& name) const;
};

struct HttpRequest {
  std::string url;
  bool head = false;
  /** Sent to the origin (scheme, host and port) of `url` and to no other. */
  std::string token;
  /** Asks for the bytes from this one on. */
  uint64_t from = 0;
  /** HEAD: a redirect to another origin is returned, not followed. */
  bool stop_at_redirect = false;
  std::chrono::seconds idle_timeout{30};  ///< How long nothing may arrive.
  std::chrono::milliseconds timeout{0};   ///< For all of it; 0: no limit.
  /** Gets the body of a 200 or 206 in pieces; what it throws ends the exchange
   * and comes out of send(). */
  std::function<void(const HttpResponse&, std::string_view)> body = {};
  const std::atomic<bool>* stop = nullptr;  ///< Ends it when set.
};

/**
 * A connection that is kept for the next request. Certificates are verified,
 * https is never left for http. One thread at a time, which should have SIGPIPE
 * blocked: TLS libraries may raise it.
 */
class HttpClient {
 public:
  HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient();

  HttpResponse send(const HttpRequest& request);

 private:
  HttpResponse send_once(const HttpRequest& request, std::string& next);

  struct Handle;
  std::unique_ptr<Handle> handle_;
};

/** "https://host:443", without user, path and query; "" for what is no http
 * or https URL. */
std::string origin_of(const std::string& url);

/** The file of root certificates: $CURL_CA_BUNDLE, $SSL_CERT_FILE, `built_in`
 * or, where that is not there because libcurl comes from another system (as in
 * a wheel), this system's. "" is libcurl's own choice. */
std::string certificates(const std::string& built_in);

/** Text as one segment of a URL's path. */
std::string url_escape(std::string_view text);

}  // namespace mlxterp
