/* Runs the compiled network beside this file:
 *
 *     runner LIBRARY INPUTS OUTPUTS [RUNS]
 *
 * INPUTS holds raw float32 images one after the other, OUTPUTS gets the raw float32 results. Each image is run RUNS
 * times (1 if left out); the mean time of a run is printed. CMakeLists.txt builds it. Without CMake, with PACKAGES the
 * folder that holds the Python packages tvm and tvm_ffi:
 *
 *     g++ -std=c++17 -O2 runner.cc -o runner -isystem $PACKAGES/tvm_ffi/include -Wl,--no-as-needed
 *       $PACKAGES/tvm/lib/libtvm_runtime.so $PACKAGES/tvm_ffi/lib/libtvm_ffi.so
 *       -Wl,-rpath,$PACKAGES/tvm/lib:$PACKAGES/tvm_ffi/lib
 */
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "network.h"  // INPUT_SHAPE and THREADS of this network

namespace ffi = tvm::ffi;

namespace {

constexpr int kPooledAllocator = 2;

struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    const size_t bytes = (ffi::GetDataSize(*tensor) + 63) / 64 * 64;
    tensor->data = std::aligned_alloc(64, bytes);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

ffi::Function function_of(const ffi::Module& module, const char* name) {
  auto found = module->GetFunction(name);
  if (!found.has_value()) throw std::runtime_error(std::string("the library has no function ") + name);
  return found.value();
}

ffi::Function load_network(const char* library) {
  // The pool of threads must know its size before anything runs; 1 is "the big cores first".
  if (std::getenv("TVM_NUM_THREADS") == nullptr) {
    ffi::Function::GetGlobalRequired("runtime.config_threadpool")(1, THREADS);
  }
  ffi::Module machine =
      function_of(ffi::Module::LoadFromFile(library), "vm_load_executable")().cast<ffi::Module>();
  function_of(machine, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);
  return function_of(machine, "main");
}

std::vector<char> read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string(path) + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int run(const char* library, const char* inputs, const char* outputs, int runs) {
  ffi::Tensor image = ffi::Tensor::FromNDAlloc(
      AlignedMemory(), ffi::Shape({INPUT_SHAPE}), DLDataType{kDLFloat, 32, 1}, DLDevice{kDLCPU, 0});
  const size_t image_bytes = image.numel() * sizeof(float);
  const std::vector<char> bytes = read_file(inputs);
  if (bytes.empty() || bytes.size() % image_bytes != 0) {
    throw std::runtime_error(std::string(inputs) + ": holds " + std::to_string(bytes.size()) +
                             " bytes, needed is a multiple of " + std::to_string(image_bytes));
  }
  const ffi::Function network = load_network(library);
  std::ofstream results(outputs, std::ios::binary);
  std::chrono::duration<double> spent{0};
  for (size_t start = 0; start < bytes.size(); start += image_bytes) {
    std::copy_n(bytes.data() + start, image_bytes, static_cast<char*>(image.data_ptr()));
    const auto began = std::chrono::steady_clock::now();
    for (int i = 1; i < runs; ++i) network(image);
    const ffi::Tensor result = network(image).cast<ffi::Tensor>();
    spent += std::chrono::steady_clock::now() - began;
    results.write(static_cast<const char*>(result.data_ptr()), result.numel() * sizeof(float));
  }
  results.close();
  if (!results) throw std::runtime_error(std::string(outputs) + ": cannot be written");
  const size_t images = bytes.size() / image_bytes;
  std::printf("%zu images, %d runs each, %.9g s a run\n", images, runs, spent.count() / (images * runs));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4 || count > 5) {
    std::fprintf(stderr, "usage: runner LIBRARY INPUTS OUTPUTS [RUNS]\n");
    return 2;
  }
  const int runs = count > 4 ? std::atoi(arguments[4]) : 1;
  if (runs < 1) {
    std::fprintf(stderr, "runner: RUNS: got %s, allowed are whole numbers from 1\n", arguments[4]);
    return 2;
  }
  try {
    return run(arguments[1], arguments[2], arguments[3], runs);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "runner: %s\n", error.what());
    return 1;
  }
}
