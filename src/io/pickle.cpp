#include "io/pickle.h"

#include <bit>

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

Pickle::Pickle(std::string_view bytes, const Bad& bad)
    : bytes_(bytes), bad_(bad) {
  run();
}

void Pickle::run() {
  while (!stopped_)
    step(static_cast<unsigned char>(take(1)[0]));
}

std::string_view Pickle::take(uint64_t n) {
  if (n > bytes_.size() - at_)
    bad_(fmt::format(
        "its pickle breaks off at byte {}, where {} more should follow",
        bytes_.size(),
        n));
  const auto taken = bytes_.substr(at_, n);
  at_ += n;
  return taken;
}

std::string_view Pickle::line() {
  const auto end = bytes_.find('\n', at_);
  if (end == bytes_.npos) bad_("its pickle breaks off in a name");
  const auto taken = bytes_.substr(at_, end - at_);
  at_ = end + 1;
  return taken;
}

uint64_t Pickle::little(int bytes) {
  uint64_t value = 0;
  const auto taken = take(static_cast<uint64_t>(bytes));
  for (int i = bytes; i-- > 0;)
    value =
        value << 8 | static_cast<unsigned char>(taken[static_cast<size_t>(i)]);
  return value;
}

Pickle::Id Pickle::push(Node node) {
  if (nodes_.size() >= limits::pickle_values)
    bad_(fmt::format(
        "its pickle has more than {} values", limits::pickle_values));
  nodes_.push_back(std::move(node));
  stack_.push_back(static_cast<Id>(nodes_.size() - 1));
  return stack_.back();
}

Pickle::Id Pickle::top() const {
  if (stack_.empty() || (!marks_.empty() && stack_.size() <= marks_.back()))
    bad_("its pickle takes a value that is not there");
  return stack_.back();
}

Pickle::Id Pickle::pop() {
  const Id id = top();
  stack_.pop_back();
  return id;
}

size_t Pickle::pop_mark() {
  if (marks_.empty()) bad_("its pickle ends a list that it did not begin");
  const size_t from = marks_.back();
  marks_.pop_back();
  return from;
}

void Pickle::step(unsigned char opcode) {
  switch (opcode) {
    case 0x80: {  // PROTO
      const auto protocol = little(1);
      if (protocol > 5)
        bad_(fmt::format("its pickle is of protocol {}", protocol));
      return;
    }
    case 0x95:  // FRAME
      little(8);
      return;
    case '.':
      root_ = pop();
      stopped_ = true;
      return;
    case '(':
      marks_.push_back(stack_.size());
      return;
    case '0':
      pop();
      return;
    case '1':
      stack_.resize(pop_mark());
      return;
    case 'c': {
      const auto module = line();
      const auto name = line();
      load_global(fmt::format("{} {}", module, name));
      return;
    }
    case 0x93: {  // STACK_GLOBAL
      const Id name = pop(), module = pop();
      if (node(name).text.size() + node(module).text.size() >
          limits::tensor_name_bytes)
        bad_("its pickle asks for something with too long a name");
      load_global(fmt::format("{} {}", node(module).text, node(name).text));
      return;
    }
    case 'R':
      reduce();
      return;
    case 'Q':
      load_storage();
      return;
    case 'b':
      build();
      return;
    default:
      if (text(opcode) || container(opcode) || memo(opcode)) return;
      number(opcode);
  }
}

void Pickle::number(unsigned char opcode) {
  Node made;
  made.kind = Node::Kind::integer;
  switch (opcode) {
    case 'N':
      made.kind = Node::Kind::none;
      break;
    case 0x88:
    case 0x89:
      made.kind = Node::Kind::boolean;
      made.integer = opcode == 0x88;
      break;
    case 'K':
      made.integer = static_cast<int64_t>(little(1));
      break;
    case 'M':
      made.integer = static_cast<int64_t>(little(2));
      break;
    case 'J':
      made.integer = static_cast<int32_t>(little(4));
      break;
    case 0x8a: {  // LONG1: two's complement
      const auto n = static_cast<int>(little(1));
      if (n > 8) bad_("its pickle holds an integer of more than 64 bits");
      const uint64_t value = little(n);
      const int unused = 64 - 8 * n;
      made.integer =
          n == 0 ? 0 : static_cast<int64_t>(value << unused) >> unused;
      break;
    }
    case 'G': {  // big-endian
      uint64_t bits = 0;
      for (const char c : take(8))
        bits = bits << 8 | static_cast<unsigned char>(c);
      made.kind = Node::Kind::real;
      made.real = std::bit_cast<double>(bits);
      break;
    }
    default:
      bad_(fmt::format(
          "its pickle does {:#04x} at byte {}, which tensors and plain values "
          "do not need",
          opcode,
          at_ - 1));
  }
  push(std::move(made));
}

bool Pickle::text(unsigned char opcode) {
  uint64_t size = 0;
  switch (opcode) {
    case 'X':
    case 'T':
      size = little(4);
      break;
    case 0x8c:
    case 'U':
      size = little(1);
      break;
    case 0x8d:
      size = little(8);
      break;
    default:
      return false;
  }
  Node made;
  made.kind = Node::Kind::text;
  made.text = take(size);
  push(std::move(made));
  return true;
}

bool Pickle::container(unsigned char opcode) {
  const auto gather = [&](size_t from) {
    Node made;
    made.kind = Node::Kind::list;
    made.items.assign(stack_.begin() + static_cast<long>(from), stack_.end());
    stack_.resize(from);
    push(std::move(made));
  };
  switch (opcode) {
    case ']':
    case ')':
      gather(stack_.size());
      return true;
    case '}': {
      Node made;
      made.kind = Node::Kind::dict;
      push(std::move(made));
      return true;
    }
    case 0x85:
    case 0x86:
    case 0x87: {  // TUPLE1, TUPLE2, TUPLE3
      const size_t n = opcode - 0x84u;
      const size_t floor = marks_.empty() ? 0 : marks_.back();
      if (stack_.size() - floor < n)
        bad_("its pickle takes a value that is not there");
      gather(stack_.size() - n);
      return true;
    }
    case 't':
    case 'l':
      gather(pop_mark());
      return true;
    case 'd': {
      const size_t from = pop_mark();
      Node made;
      made.kind = Node::Kind::dict;
      made.items.assign(stack_.begin() + static_cast<long>(from), stack_.end());
      stack_.resize(from);
      if (made.items.size() % 2 != 0) bad_("its pickle has a key alone");
      push(std::move(made));
      return true;
    }
    case 'a': {
      const Id value = pop();
      need_list(top());
      nodes_[top()].items.push_back(value);
      return true;
    }
    case 'e': {
      const size_t from = pop_mark();
      const std::vector<Id> values(
          stack_.begin() + static_cast<long>(from), stack_.end());
      stack_.resize(from);
      need_list(top());
      auto& items = nodes_[top()].items;
      items.insert(items.end(), values.begin(), values.end());
      return true;
    }
    case 's': {
      const Id value = pop(), key = pop();
      need_dict(top());
      auto& items = nodes_[top()].items;
      items.push_back(key);
      items.push_back(value);
      return true;
    }
    case 'u': {
      const size_t from = pop_mark();
      const std::vector<Id> values(
          stack_.begin() + static_cast<long>(from), stack_.end());
      stack_.resize(from);
      if (values.size() % 2 != 0) bad_("its pickle has a key alone");
      need_dict(top());
      auto& items = nodes_[top()].items;
      items.insert(items.end(), values.begin(), values.end());
      return true;
    }
    default:
      return false;
  }
}

void Pickle::need_list(Id id) const {
  if (node(id).kind != Node::Kind::list)
    bad_("its pickle appends to what is no list");
}

void Pickle::need_dict(Id id) const {
  if (node(id).kind != Node::Kind::dict)
    bad_("its pickle gives members to what is no dict");
}

bool Pickle::memo(unsigned char opcode) {
  switch (opcode) {
    case 'q':
      put(little(1));
      return true;
    case 'r':
      put(little(4));
      return true;
    case 0x94:  // MEMOIZE
      put(memo_.size());
      return true;
    case 'h':
      get(little(1));
      return true;
    case 'j':
      get(little(4));
      return true;
    default:
      return false;
  }
}

void Pickle::put(uint64_t key) {
  if (memo_.size() >= limits::pickle_values)
    bad_(fmt::format(
        "its pickle remembers more than {} values", limits::pickle_values));
  memo_[key] = top();
}

void Pickle::get(uint64_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end())
    bad_(fmt::format("its pickle recalls {}, which it did not keep", key));
  stack_.push_back(found->second);
}

TorchValue Pickle::value(const Place& place) const {
  Budget budget;
  return walk(root_, 0, budget, place);
}

TorchValue Pickle::walk(
    Id id, int depth, Budget& budget, const Place& place) const {
  if (depth > limits::pickle_depth)
    bad_(fmt::format(
        "its values are nested more than {} deep, or hold themselves",
        limits::pickle_depth));
  if (++budget.values > limits::pickle_values)
    bad_(fmt::format(
        "its values are more than {} when written out", limits::pickle_values));
  using Kind = TorchValue::Kind;
  const auto& from = node(id);
  TorchValue to;
  switch (from.kind) {
    case Node::Kind::none:
      break;
    case Node::Kind::boolean:
      to.kind = Kind::boolean;
      to.boolean = from.integer != 0;
      break;
    case Node::Kind::integer:
      to.kind = Kind::integer;
      to.integer = from.integer;
      break;
    case Node::Kind::real:
      to.kind = Kind::real;
      to.real = from.real;
      break;
    case Node::Kind::text:
      to.kind = Kind::text;
      budget.text += from.text.size();
      if (budget.text > limits::pickle_bytes)
        bad_(fmt::format(
            "its texts are more than {} bytes when written out",
            limits::pickle_bytes));
      to.text = from.text;
      break;
    case Node::Kind::list:
      to.kind = Kind::list;
      for (const Id item : from.items)
        to.items.push_back(walk(item, depth + 1, budget, place));
      break;
    case Node::Kind::dict:
      to.kind = Kind::dict;
      for (size_t i = 0; i + 1 < from.items.size(); i += 2) {
        const auto& key = node(from.items[i]);
        const bool number = key.kind == Node::Kind::integer;
        if (key.kind != Node::Kind::text && !number) continue;
        const auto name = number ? fmt::format("{}", key.integer) : key.text;
        if (name.size() > limits::tensor_name_bytes)
          bad_("it has a name of too many bytes");
        budget.text += name.size();
        to.members.push_back(
            {name, walk(from.items[i + 1], depth + 1, budget, place)});
      }
      break;
    case Node::Kind::tensor:
      to.kind = Kind::tensor;
      to.tensor = place(tensors_[from.tensor]);
      break;
    case Node::Kind::other:
    case Node::Kind::global:
    case Node::Kind::storage:
      to.kind = Kind::other;
      break;
  }
  return to;
}

}  // namespace mlxterp
