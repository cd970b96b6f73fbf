// An op as a Python function of plain arguments. torch.ops looks for every argument of a schema by name, and
// takes as long to read a dtype or a text as a small kernel takes to run; here a call is read in one pass,
// and goes to the same dispatcher. What is no plain call (a subclass of Tensor, a symbolic size, a mode of
// torch functions, a wrong type) is left to torch.ops, which has the words for it.
#include "python_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/empty.h>

#include <array>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// Of torch/csrc/autograd/python_variable.h and torch/csrc/Exceptions.h, which need more than the stable C
// API. knows_tensors() compares PythonTensor below with a tensor.
extern PyObject *THPVariableClass, *ParameterClass;
PyObject* THPVariable_Wrap(at::TensorBase&& tensor);
namespace torch {
void translate_exception_to_python(const std::exception_ptr& exception);
}

namespace posenc_ext {
namespace {

struct PythonTensor {
  PyObject_HEAD at::Tensor value;
};

struct Release {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Owned = std::unique_ptr<PyObject, Release>;

struct Parameter {
  Owned name;                   // interned, as the names of a call are
  c10::TypeKind kind, element;  // element: of a list
  bool optional, by_position;
  std::optional<c10::IValue> value;  // where none is given
};

constexpr size_t kMostParameters = 16;

constexpr std::pair<const char*, at::ScalarType> kTypes[] = {
    {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}, {"float64", at::kDouble}};

struct Op {
  c10::OperatorHandle handle;
  std::vector<Parameter> parameters;
  std::vector<std::pair<Owned, at::ScalarType>> dtypes;  // each of them is one object
};

bool to_int(PyObject* from, int64_t* to) {
  if (!PyLong_CheckExact(from)) return false;
  int overflow = 0;
  *to = PyLong_AsLongLongAndOverflow(from, &overflow);
  return overflow == 0;
}

bool to_tensor(PyObject* from, at::Tensor* to) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(from));
  if (type != THPVariableClass && type != ParameterClass) return false;
  *to = reinterpret_cast<PythonTensor*>(from)->value;
  return true;
}

template <class T, class Convert>
bool to_list(PyObject* from, Convert convert, c10::IValue* to) {
  const bool tuple = PyTuple_CheckExact(from);
  if (!tuple && !PyList_CheckExact(from)) return false;
  const Py_ssize_t size = tuple ? PyTuple_Size(from) : PyList_Size(from);
  c10::List<T> list;
  list.reserve(static_cast<size_t>(size));
  for (Py_ssize_t i = 0; i < size; ++i) {
    T value{};
    if (!convert(tuple ? PyTuple_GetItem(from, i) : PyList_GetItem(from, i), &value)) return false;
    list.push_back(std::move(value));
  }
  *to = std::move(list);
  return true;
}

// Whether an argument is a plain one of the parameter's type.
bool to_value(const Op& op, const Parameter& parameter, PyObject* from, c10::IValue* to) {
  if (from == Py_None) return parameter.optional;
  int64_t whole = 0;
  switch (parameter.kind) {
    case c10::TypeKind::TensorType: {
      at::Tensor tensor;
      if (!to_tensor(from, &tensor)) return false;
      *to = std::move(tensor);
      return true;
    }
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      if (!to_int(from, &whole)) return false;
      *to = whole;
      return true;
    case c10::TypeKind::FloatType:
      if (!PyFloat_CheckExact(from) && !to_int(from, &whole)) return false;
      *to = PyFloat_CheckExact(from) ? PyFloat_AsDouble(from) : static_cast<double>(whole);
      return true;
    case c10::TypeKind::BoolType:
      if (from != Py_True && from != Py_False) return false;
      *to = from == Py_True;
      return true;
    case c10::TypeKind::StringType: {
      Py_ssize_t size = 0;
      const char* text = PyUnicode_CheckExact(from) ? PyUnicode_AsUTF8AndSize(from, &size) : nullptr;
      if (text == nullptr) return false;
      *to = std::string(text, static_cast<size_t>(size));
      return true;
    }
    case c10::TypeKind::ListType:
      switch (parameter.element) {
        case c10::TypeKind::TensorType:
          return to_list<at::Tensor>(from, to_tensor, to);
        case c10::TypeKind::IntType:
        case c10::TypeKind::SymIntType:
          return to_list<int64_t>(from, to_int, to);
        default:
          return false;
      }
    case c10::TypeKind::ScalarTypeType:
      for (const auto& [object, dtype] : op.dtypes) {
        if (from != object.get()) continue;
        *to = dtype;
        return true;
      }
      return false;
    default:
      return false;
  }
}

// The argument of each parameter, or null: false if they are no plain call of the op.
bool match(const Op& op, PyObject* args, PyObject* keywords, std::array<PyObject*, kMostParameters>* to) {
  const size_t count = static_cast<size_t>(PyTuple_Size(args));
  if (count > op.parameters.size() || (count > 0 && !op.parameters[count - 1].by_position)) return false;
  for (size_t i = 0; i < count; ++i) (*to)[i] = PyTuple_GetItem(args, static_cast<Py_ssize_t>(i));
  Py_ssize_t place = 0;
  PyObject *name = nullptr, *argument = nullptr;
  while (keywords != nullptr && PyDict_Next(keywords, &place, &name, &argument)) {
    size_t i = count;
    while (i < op.parameters.size() && op.parameters[i].name.get() != name) ++i;
    if (i == op.parameters.size()) return false;
    (*to)[i] = argument;
  }
  return true;
}

void destroy(PyObject* capsule) { delete static_cast<Op*>(PyCapsule_GetPointer(capsule, nullptr)); }

PyObject* call(PyObject* self, PyObject* args, PyObject* keywords) {
  const Op& op = *static_cast<Op*>(PyCapsule_GetPointer(self, nullptr));
  std::array<PyObject*, kMostParameters> given{};
  bool plain = !at::impl::torch_function_mode_enabled() && match(op, args, keywords, &given);
  try {
    torch::jit::Stack stack(op.parameters.size());
    for (size_t i = 0; plain && i < stack.size(); ++i) {
      const Parameter& parameter = op.parameters[i];
      if (given[i] != nullptr) {
        plain = to_value(op, parameter, given[i], &stack[i]);
      } else {
        plain = parameter.value.has_value();
        if (plain) stack[i] = *parameter.value;
      }
    }
    if (!plain) {
      PyErr_Clear();  // of a text that is none
      return Py_NewRef(Py_NotImplemented);
    }
    PyThreadState* state = PyEval_SaveThread();
    try {
      op.handle.callBoxed(stack);
    } catch (...) {
      PyEval_RestoreThread(state);
      throw;
    }
    PyEval_RestoreThread(state);
    return THPVariable_Wrap(std::move(stack.back()).toTensor());
  } catch (...) {
    torch::translate_exception_to_python(std::current_exception());
    return nullptr;
  }
}

PyMethodDef kCall = {"plain_call", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(call)),
                     METH_VARARGS | METH_KEYWORDS, "A call of an op; NotImplemented where it is not plain."};

Parameter to_parameter(const c10::Argument& argument) {
  c10::TypePtr type = argument.real_type();
  const bool optional = type->kind() == c10::TypeKind::OptionalType;
  if (optional) type = type->expectRef<c10::OptionalType>().getElementType();
  const c10::TypeKind kind = type->kind();
  const bool list = kind == c10::TypeKind::ListType;
  return {Owned(PyUnicode_InternFromString(argument.name().c_str())),
          kind,
          list ? type->expectRef<c10::ListType>().getElementType()->kind() : kind,
          optional,
          !argument.kwarg_only(),
          argument.default_value()};
}

}  // namespace

bool knows_tensors() {
  const at::Tensor tensor = at::empty({0});
  const Owned wrapped(THPVariable_Wrap(at::Tensor(tensor)));
  return wrapped != nullptr && reinterpret_cast<PythonTensor*>(wrapped.get())->value.is_same(tensor);
}

PyObject* plain_call(PyObject*, PyObject* name) {
  const char* text = PyUnicode_AsUTF8AndSize(name, nullptr);
  if (text == nullptr) return nullptr;
  try {
    auto op = std::make_unique<Op>(Op{c10::Dispatcher::singleton().findSchemaOrThrow(text, ""), {}, {}});
    for (const c10::Argument& argument : op->handle.schema().arguments()) {
      op->parameters.push_back(to_parameter(argument));
    }
    TORCH_CHECK(op->parameters.size() <= kMostParameters, text, ": a plain call takes at most ",
                kMostParameters, " parameters, got ", op->parameters.size());
    const Owned torch(PyImport_ImportModule("torch"));
    for (const auto& [dtype, type] : kTypes) {
      op->dtypes.emplace_back(PyObject_GetAttrString(torch.get(), dtype), type);
    }
    const Owned capsule(PyCapsule_New(op.get(), nullptr, destroy));
    if (capsule == nullptr) return nullptr;
    op.release();
    return PyCFunction_NewEx(&kCall, capsule.get(), nullptr);
  } catch (...) {
    torch::translate_exception_to_python(std::current_exception());
    return nullptr;
  }
}

}  // namespace posenc_ext
