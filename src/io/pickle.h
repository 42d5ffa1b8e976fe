// io/pickle.h: Python's pickles, as far as torch.save needs them.

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/torch_pickle.h"

namespace mlxterp {

/** A tensor as a pickle describes it; nothing of it is checked yet. */
struct PickledTensor {
  std::string type;            ///< "F32"
  std::string storage;         ///< Its key.
  uint64_t storage_bytes = 0;  ///< As the pickle says.
  uint64_t first = 0;          ///< Number of the storage that it begins with.
  std::vector<int64_t> shape, strides;
};

/**
 * Runs the opcodes of one pickle on a stack of its own. The values live in one
 * flat list and name each other by number, so that cycles, depth and sharing
 * cost nothing until value() walks them, with bounds.
 */
class Pickle {
 public:
  /** Throws what is wrong with the file. */
  using Bad = std::function<void(const std::string& why)>;
  using Place = std::function<TorchTensor(const PickledTensor&)>;

  /** Interprets the pickle that `bytes` begin with. */
  Pickle(std::string_view bytes, const Bad& bad);

  /** Bytes up to its end. */
  size_t size() const { return at_; }

  /** What it holds; `place` says where the numbers of each tensor are. */
  TorchValue value(const Place& place) const;

 private:
  using Id = uint32_t;
  struct Node {
    enum class Kind {
      none,
      boolean,
      integer,
      real,
      text,
      list,
      dict,
      tensor,
      other,
      global,
      storage,
    };
    Kind kind = Kind::none;
    int64_t integer = 0;  // boolean too
    double real = 0;
    std::string text;       // "torch FloatStorage" of a global
    std::vector<Id> items;  // of a dict key, value, key, value ...
    uint32_t tensor = 0;    // of tensors_; of a storage too
  };
  struct Budget {
    size_t values = 0, text = 0;
  };

  void run();
  void step(unsigned char opcode);
  void number(unsigned char opcode);
  bool text(unsigned char opcode);
  bool container(unsigned char opcode);
  bool memo(unsigned char opcode);
  void put(uint64_t key);
  void get(uint64_t key);
  void need_list(Id id) const;
  void need_dict(Id id) const;
  void reduce();
  void build();
  void load_global(const std::string& name);
  void load_storage();
  Id rebuild_tensor(const std::string& name, const Node& arguments);
  std::vector<int64_t> numbers(Id list, std::string_view what) const;

  std::string_view take(uint64_t n);
  std::string_view line();
  uint64_t little(int bytes);
  Id push(Node node);
  Id pop();
  Id top() const;
  size_t pop_mark();
  const Node& node(Id id) const { return nodes_[id]; }
  TorchValue walk(Id id, int depth, Budget& budget, const Place& place) const;

  std::string_view bytes_;
  const Bad& bad_;
  size_t at_ = 0;
  bool stopped_ = false;
  size_t pairs_ = 0;  // that dicts were made of
  Id root_ = 0;
  std::vector<Node> nodes_;
  std::vector<Id> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, Id> memo_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace mlxterp
