#include "im2col_launch.cuh"

namespace convt3d {
template cudaError_t launch_im2col_typed<float, true>(const Im2colArguments&, Im2colPass, bool, int,
                                                      int, cudaStream_t);
}  // namespace convt3d
