// io/pickle_objects.cpp: what a pickle may name and call, and what stands for
// it here.

#include <algorithm>

#include "core/fail.h"
#include "io/pickle.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

constexpr struct {
  std::string_view torch, type;
  uint64_t bytes;
} storages[] = {
    {"FloatStorage", "F32", 4},
    {"DoubleStorage", "F64", 8},
    {"HalfStorage", "F16", 2},
    {"BFloat16Storage", "BF16", 2},
    {"LongStorage", "I64", 8},
    {"IntStorage", "I32", 4},
    {"ShortStorage", "I16", 2},
    {"CharStorage", "I8", 1},
    {"ByteStorage", "U8", 1},
    {"BoolStorage", "BOOL", 1},
    {"UntypedStorage", "", 1},  // the tensor says
};

constexpr struct {
  std::string_view torch, type;
} dtypes[] = {
    {"float32", "F32"},   {"float", "F32"},   {"float64", "F64"},
    {"double", "F64"},    {"float16", "F16"}, {"half", "F16"},
    {"bfloat16", "BF16"}, {"int64", "I64"},   {"long", "I64"},
    {"int32", "I32"},     {"int", "I32"},     {"int16", "I16"},
    {"short", "I16"},     {"int8", "I8"},     {"uint8", "U8"},
    {"uint16", "U16"},    {"uint32", "U32"},  {"uint64", "U64"},
    {"bool", "BOOL"},
};

// What may be called: none of it runs, each stands for a value made here.
constexpr std::string_view callables[] = {
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "collections OrderedDict",
    "torch Size",
    "torch device",
};

// "FloatStorage" of "torch FloatStorage" or "torch.cuda FloatStorage".
std::string_view storage_of(std::string_view global) {
  for (const std::string_view module :
       {"torch ", "torch.cuda ", "torch.storage "})
    if (global.starts_with(module)) {
      const auto name = global.substr(module.size());
      for (const auto& known : storages)
        if (name == known.torch) return known.torch;
    }
  return "";
}

std::string_view dtype_of(std::string_view global) {
  constexpr std::string_view module = "torch ";
  if (!global.starts_with(module)) return "";
  for (const auto& known : dtypes)
    if (global.substr(module.size()) == known.torch) return known.type;
  return "";
}

}  // namespace

void Pickle::load_global(const std::string& name) {
  const bool known =
      std::ranges::find(callables, name) != std::end(callables) ||
      !storage_of(name).empty() || !dtype_of(name).empty();
  if (!known) {
    auto dotted = name;
    std::ranges::replace(dotted, ' ', '.');
    bad_(fmt::format(
        "its pickle asks for {}, and nothing but tensors and plain values is "
        "taken from one",
        printable(dotted)));
  }
  Node made;
  made.kind = Node::Kind::global;
  made.text = name;
  push(std::move(made));
}

void Pickle::load_storage() {
  // ('storage', type, key, location, numbers[, view])
  const auto& arguments = node(pop());
  const auto& items = arguments.items;
  const auto is = [&](size_t i, Node::Kind kind) {
    return node(items[i]).kind == kind;
  };
  if (arguments.kind != Node::Kind::list || items.size() < 5 ||
      !is(0, Node::Kind::text) || node(items[0]).text != "storage" ||
      !is(1, Node::Kind::global) || !is(2, Node::Kind::text) ||
      node(items[2]).text.size() > limits::tensor_name_bytes ||
      !is(4, Node::Kind::integer))
    bad_("its pickle has a reference that is no storage");
  if (items.size() > 5 && !is(5, Node::Kind::none))
    bad_("its pickle has a view of a storage, as before PyTorch 0.4");
  const auto name = storage_of(node(items[1]).text);
  const auto* known = std::ranges::find_if(
      storages, [&](const auto& storage) { return storage.torch == name; });
  const int64_t numbers = node(items[4]).integer;
  if (known == std::end(storages) || numbers < 0 ||
      static_cast<uint64_t>(numbers) > uint64_t{1} << 48)
    bad_(fmt::format("its pickle has a storage of {} numbers", numbers));
  PickledTensor storage;
  storage.type = known->type;
  storage.storage = node(items[2]).text;
  storage.storage_bytes = static_cast<uint64_t>(numbers) * known->bytes;
  tensors_.push_back(std::move(storage));
  Node made;
  made.kind = Node::Kind::storage;
  made.tensor = static_cast<uint32_t>(tensors_.size() - 1);
  push(std::move(made));
}

std::vector<int64_t> Pickle::numbers(Id list, std::string_view what) const {
  const auto& from = node(list);
  if (from.kind != Node::Kind::list || from.items.size() > limits::tensor_dims)
    bad_(fmt::format(
        "its pickle has a tensor whose {} is no list of at most {} numbers",
        what,
        limits::tensor_dims));
  std::vector<int64_t> out;
  for (const Id item : from.items) {
    const auto& number = node(item);
    if (number.kind != Node::Kind::integer || number.integer < 0)
      bad_(fmt::format("its pickle has a tensor whose {} is no number", what));
    out.push_back(number.integer);
  }
  return out;
}

Pickle::Id Pickle::rebuild_tensor(
    const std::string& name, const Node& arguments) {
  const auto& items = arguments.items;
  if (items.size() < 4 || node(items[0]).kind != Node::Kind::storage ||
      node(items[1]).kind != Node::Kind::integer || node(items[1]).integer < 0)
    bad_("its pickle has a tensor without a storage");
  auto tensor = tensors_[node(items[0]).tensor];
  tensor.first = static_cast<uint64_t>(node(items[1]).integer);
  tensor.shape = numbers(items[2], "shape");
  tensor.strides = numbers(items[3], "strides");
  if (name.ends_with("_v3")) {
    if (items.size() < 7 || node(items[6]).kind != Node::Kind::global)
      bad_("its pickle has a tensor without a dtype");
    tensor.type = dtype_of(node(items[6]).text);
  }
  if (tensor.type.empty())
    bad_("its pickle has a tensor of a type that is not read");
  tensors_.push_back(std::move(tensor));
  Node made;
  made.kind = Node::Kind::tensor;
  made.tensor = static_cast<uint32_t>(tensors_.size() - 1);
  return push(std::move(made));
}

void Pickle::reduce() {
  const auto& arguments = node(pop());  // not copied: it may be long
  const auto& function = node(pop());
  if (function.kind != Node::Kind::global || arguments.kind != Node::Kind::list)
    bad_("its pickle calls what is no function");
  const std::string name = function.text;
  if (name.find(" _rebuild_tensor") != name.npos) {
    rebuild_tensor(name, arguments);
  } else if (name.find(" _rebuild_parameter") != name.npos) {
    if (arguments.items.empty() ||
        node(arguments.items[0]).kind != Node::Kind::tensor)
      bad_("its pickle has a parameter that is no tensor");
    stack_.push_back(arguments.items[0]);
  } else if (name == "collections OrderedDict") {
    Node made;
    made.kind = Node::Kind::dict;
    if (!arguments.items.empty())
      for (const Id pair : node(arguments.items[0]).items) {
        if (node(pair).items.size() != 2) bad_("its pickle has a key alone");
        if (++pairs_ > limits::pickle_values)
          bad_(fmt::format(
              "its pickle copies more than {} members", limits::pickle_values));
        made.items.insert(
            made.items.end(), node(pair).items.begin(), node(pair).items.end());
      }
    push(std::move(made));
  } else if (name == "torch Size") {
    if (arguments.items.size() != 1) bad_("its pickle has no size in a Size");
    stack_.push_back(arguments.items[0]);
  } else if (name == "torch device") {
    Node made;
    made.kind = Node::Kind::other;
    push(std::move(made));
  } else {
    bad_(fmt::format("its pickle calls {}", printable(name)));
  }
}

void Pickle::build() {
  const auto& state = node(pop());
  const auto& object = node(top());
  // An OrderedDict's attributes: a state dict's _metadata.
  if (object.kind != Node::Kind::dict || state.kind != Node::Kind::dict)
    bad_("its pickle sets the state of what is no dict");
}

}  // namespace mlxterp
