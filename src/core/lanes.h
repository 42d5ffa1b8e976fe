// core/lanes.h: independent pieces of work side by side.

#pragma once

#include <functional>
#include <vector>

#include "mlx/array.h"
#include "mlx/stream.h"

namespace mlxterp {

/**
 * As many streams of the CPU as OpenBLAS may use threads, with one thread of it
 * each while this lives: what is no product keeps all cores busy too, and no
 * thread waits for another inside of a product. One stream, the default, where
 * the device is another, there are more threads than `most`, they cannot be
 * bounded, or the user has chosen their number. Of the thread that made it.
 */
class Lanes {
 public:
  explicit Lanes(int most);
  /** So many streams, whatever the BLAS has, which is left as it is. */
  struct Exactly {
    int streams;
  };
  explicit Lanes(Exactly wanted);
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  size_t size() const { return streams_.size(); }

  /** `make(i)` builds piece i of 0, 1, ... pieces - 1, each on a stream in
   * turn. As many as there are streams are evaluated together, then `done(i,
   * piece)` is called of each, in order. */
  void each(
      size_t pieces,
      const std::function<std::vector<mlx::core::array>(size_t)>& make,
      const std::function<void(size_t, std::vector<mlx::core::array>&)>& done)
      const;

  /** The same of single arrays, which it gives back. */
  std::vector<mlx::core::array> each(
      size_t pieces, const std::function<mlx::core::array(size_t)>& make) const;

 private:
  void add(int streams);

  std::vector<mlx::core::Stream> streams_;
  int threads_ = 0;  // the BLAS's before; 0: as they were
};

}  // namespace mlxterp
