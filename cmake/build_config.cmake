# Sources, flags and CUDA architectures for setup.py, CMakeLists.txt and the Makefile: their only place.
# setup.py parses the set(NAME words) lines below, so use plain words only, no variables.

# The supported versions, all built and tested; csrc/torch_compat.h contains the differences between them.
set(POSENC_TORCH_VERSIONS 2.10 2.11 2.12 2.13 2.14)

set(POSENC_SOURCES
    csrc/*.cpp csrc/ops/*.cpp csrc/autograd/*.cpp csrc/cpu/*.cpp csrc/cpu/kernels/*.cpp)
set(POSENC_CUDA_SOURCES csrc/cuda/*.cpp csrc/cuda/kernels/*.cu)
set(POSENC_PYTHON_SOURCES csrc/python_module.cpp)
# Files outside kernels/ include torch's headers, which take most of their compile time: both builds compile them as one
# translation unit. Names in unnamed namespaces must therefore be unique within a folder, which has its own namespace.

# No -march: csrc/cpu/kernels selects the CPU level at run time. -ffp-contract=off and --fmad=false: a*b+c does not become
# an FMA, so every CPU level computes the same bits and the exact arithmetic in csrc/core is valid. No -fopenmp:
# csrc/cpu/parallel.cpp calls the OpenMP runtime that torch has loaded, which torch.set_num_threads controls.
set(POSENC_CXX_FLAGS -std=c++20 -fvisibility=hidden -ffp-contract=off -Wall -Wextra)
set(POSENC_NVCC_FLAGS
    -std=c++20 --fmad=false --expt-relaxed-constexpr -Xcompiler=-fvisibility=hidden -Xfatbin=-compress-all)
set(POSENC_DEFAULT_CUDA_ARCHS 7.5 8.0 8.6 9.0 10.0 12.0+PTX)
