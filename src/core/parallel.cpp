#include "core/parallel.h"

#include <chrono>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace mlxterp {

namespace {

// To make a thread, and to end it, takes as long as reading a matrix of a small
// model, and to wake one a third of that. So they stay, and one that has just
// worked looks out for more before it sleeps.
class Helpers {
 public:
  /** False where they are at work already, and then nothing was done. */
  bool share(size_t parts, const std::function<void(size_t)>& part) {
    if (taken_.test_and_set(std::memory_order_acquire)) return false;
    add(parts - 1);
    {
      const std::scoped_lock lock(door_);
      part_ = &part;
      parts_ = parts;
      wanted_ = parts - 1;
      next_ = 0;
      ++posts_;
    }
    posts_.notify_all();
    work();
    {
      const std::scoped_lock lock(door_);
      wanted_ = 0;  // whoever comes now comes too late
    }
    await([&] { return inside_ == 0; }, inside_);
    taken_.clear(std::memory_order_release);
    return true;
  }

 private:
  void add(size_t helpers) {
    for (; made_ < helpers; ++made_)
      try {
        std::thread([this, seen = posts_.load()] { help(seen); }).detach();
      } catch (const std::system_error&) {
        return;  // no more threads to be had
      }
  }

  void help(uint32_t seen) {
    for (;; seen = posts_) {
      await([&] { return posts_ != seen; }, posts_);
      {
        const std::scoped_lock lock(door_);
        if (wanted_ == 0) continue;
        --wanted_;
        ++inside_;
      }
      work();
      if (--inside_ == 0) inside_.notify_all();
    }
  }

  void work() {
    for (size_t i; (i = next_++) < parts_;)
      (*part_)(i);
  }

  // Looks for a while, then sleeps until `changing` does.
  template <typename Is>
  static void await(const Is& is, const std::atomic<uint32_t>& changing) {
    using Clock = std::chrono::steady_clock;
    constexpr auto patience = std::chrono::microseconds(100);
    constexpr int looks = 64;
    const auto until = Clock::now() + patience;
    while (!is()) {
      for (int i = 0; i < looks; ++i)
        if (is()) return;
      if (Clock::now() < until)
        std::this_thread::yield();
      else if (const uint32_t now = changing; !is())
        changing.wait(now);
    }
  }

  std::atomic_flag taken_;
  size_t made_ = 0;  // of the thread that has taken them

  std::mutex door_;  // to be inside, and what is to be done there
  const std::function<void(size_t)>* part_ = nullptr;
  size_t parts_ = 0, wanted_ = 0;
  std::atomic<size_t> next_ = 0;
  std::atomic<uint32_t> posts_ = 0, inside_ = 0;
};

}  // namespace

void share_parts(size_t parts, const std::function<void(size_t)>& part) {
  // Never ended: threads that wait must not outlive what they wait for.
  static auto& helpers = *new Helpers;
  if (parts > 1 && helpers.share(parts, part)) return;
  for (size_t i = 0; i < parts; ++i)
    part(i);
}

}  // namespace mlxterp
