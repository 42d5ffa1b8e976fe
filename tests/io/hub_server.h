// tests/io/hub_server.h: a hub on this machine, to download from.

#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

namespace mlxterp::testing {

/** hub_server.py, in a process of its own that ends with this one. */
class HubServer {
 public:
  explicit HubServer(const std::filesystem::path& folder) {
    int in[2], out[2];
    if (::pipe(in) != 0 || ::pipe(out) != 0) return;
    child_ = ::fork();
    if (child_ == 0) {
      ::close(in[1]);  // or its standard input would never end
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::execlp(
          "python3",
          "python3",
          MLXTERP_SOURCE_DIR "/tests/io/hub_server.py",
          folder.c_str(),
          nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    keep_ = in[1];
    if (FILE* ports = ::fdopen(out[0], "r")) {
      if (std::fscanf(ports, "%d %d", &hub, &store) != 2) hub = 0;
      std::fclose(ports);
    }
  }
  HubServer(const HubServer&) = delete;
  HubServer& operator=(const HubServer&) = delete;
  ~HubServer() { stop(); }

  void stop() {
    if (child_ <= 0) return;
    ::close(keep_);
    ::waitpid(child_, nullptr, 0);
    child_ = 0;
  }

  int hub = 0;
  int store = 0;

 private:
  pid_t child_ = 0;
  int keep_ = -1;
};

}  // namespace mlxterp::testing
