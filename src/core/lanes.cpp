#include "core/lanes.h"

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "mlx/transforms.h"
#include "mlx/utils.h"
#include "mlxterp/core/blas.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// This thread's stream of lane `i`, beside the default one. MLX ends no stream
// before its thread does, so that the same ones serve every time.
mx::Stream beside(size_t i) {
  static std::mutex alone;
  static std::vector<mx::ThreadLocalStream> made;
  const std::scoped_lock lock(alone);
  while (made.size() <= i)
    made.push_back(mx::new_thread_local_stream(mx::Device::cpu));
  return mx::stream_from_thread_local_stream(made[i]);
}

// MLX hands on some ten operations before it waits for one to end, all of one
// stream where they are of one piece: so few of each in turn keep all busy.
constexpr size_t at_a_time = 4;

// Of what is to be computed for `wanted` every few arrays, in an order in which
// that can be done.
std::vector<mx::array> on_the_way(const std::vector<mx::array>& wanted) {
  std::vector<mx::array> out;
  std::unordered_set<std::uintptr_t> seen;
  const auto open = [&](const mx::array& it) {
    return it.status() == mx::array::unscheduled && it.has_primitive() &&
           seen.insert(it.id()).second;
  };
  struct Place {
    mx::array it;
    size_t next = 0;  // of its inputs
  };
  size_t n = 0;
  for (const auto& end : wanted) {
    std::vector<Place> stack;
    if (open(end)) stack.push_back({end});
    while (!stack.empty()) {
      auto& [it, next] = stack.back();
      if (next < it.inputs().size()) {
        const auto& input = it.inputs()[next++];
        if (open(input)) stack.push_back({input});
        continue;
      }
      if (++n % at_a_time == 0) out.push_back(it);
      stack.pop_back();
    }
  }
  return out;
}

}  // namespace

Lanes::Lanes(int most) : streams_{mx::default_stream(mx::default_device())} {
  const int threads = blas_threads();
  if (mx::default_device() != mx::Device::cpu || threads < 2 || threads > most)
    return;
  set_blas_threads(1);
  if (blas_threads() != 1) return;
  threads_ = threads;
  add(threads);
}

Lanes::Lanes(Exactly wanted)
    : streams_{mx::default_stream(mx::default_device())} {
  add(wanted.streams);
}

void Lanes::add(int streams) {
  for (int i = 1; i < streams; ++i)
    streams_.push_back(beside(static_cast<size_t>(i - 1)));
}

Lanes::~Lanes() {
  if (threads_ > 0) set_blas_threads(threads_);
}

void Lanes::each(
    size_t pieces,
    const std::function<std::vector<mx::array>(size_t)>& make,
    const std::function<void(size_t, std::vector<mx::array>&)>& done) const {
  for (size_t first = 0; first < pieces; first += size()) {
    std::vector<std::vector<mx::array>> now, ways;
    std::vector<mx::array> all;
    size_t longest = 0;
    for (size_t i = first; i < std::min(pieces, first + size()); ++i) {
      const mx::StreamContext on(streams_[i - first]);
      const auto& piece = now.emplace_back(make(i));
      all.insert(all.end(), piece.begin(), piece.end());
    }
    for (const auto& piece : now)
      if (now.size() > 1) {
        ways.push_back(on_the_way(piece));
        longest = std::max(longest, ways.back().size());
      }
    for (size_t step = 0; step < longest; ++step)
      for (size_t i = 0; i < ways.size(); ++i) {
        if (step >= ways[i].size()) continue;
        // On any other stream MLX would let that one wait.
        const mx::StreamContext on(streams_[i]);
        mx::async_eval({std::exchange(ways[i][step], mx::array(0))});
      }
    mx::eval(all);
    for (auto& it : all)
      it.wait();  // those of other streams, whatever eval() makes of them
    for (size_t i = 0; i < now.size(); ++i)
      done(first + i, now[i]);
  }
}

std::vector<mx::array> Lanes::each(
    size_t pieces, const std::function<mx::array(size_t)>& make) const {
  std::vector<mx::array> out;
  each(
      pieces,
      [&](size_t i) { return std::vector{make(i)}; },
      [&](size_t, std::vector<mx::array>& piece) {
        out.push_back(std::move(piece[0]));
      });
  return out;
}

}  // namespace mlxterp
