# What setup.py and CMakeLists.txt share: sources, flags and CUDA archs stand here and nowhere else.
# setup.py reads the set(NAME words) lines below itself, so keep to plain words, no variables.

# The versions that are built and tested; csrc/torch_compat.h holds what differs between them.
set(POSENC_TORCH_VERSIONS 2.10 2.11 2.12 2.13 2.14)

set(POSENC_SOURCES
    csrc/*.cpp csrc/ops/*.cpp csrc/autograd/*.cpp csrc/cpu/*.cpp csrc/cpu/kernels/*.cpp)
set(POSENC_CUDA_SOURCES csrc/cuda/*.cpp csrc/cuda/kernels/*.cu)
set(POSENC_PYTHON_SOURCES csrc/python_module.cpp)
# Files outside kernels/ read torch's headers, which is most of the time that each takes: both builds compile them as
# one translation unit. So names in unnamed namespaces are unique within a folder, whose namespace they stand in.

# No -march: csrc/cpu/kernels picks the CPU level at run time. -ffp-contract=off and --fmad=false: no a*b+c becomes an
# FMA unasked, so every CPU level computes the same bits and the exact arithmetic in csrc/core holds. No -fopenmp:
# csrc/cpu/parallel.cpp calls the OpenMP run-time that torch has loaded, ruled by torch.set_num_threads.
set(POSENC_CXX_FLAGS -std=c++20 -fvisibility=hidden -ffp-contract=off -Wall -Wextra)
set(POSENC_NVCC_FLAGS
    -std=c++20 --fmad=false --expt-relaxed-constexpr -Xcompiler=-fvisibility=hidden -Xfatbin=-compress-all)
set(POSENC_DEFAULT_CUDA_ARCHS 7.5 8.0 8.6 9.0 10.0 12.0+PTX)
