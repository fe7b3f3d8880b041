#include "depthwise_data.cuh"

namespace convt3d {
template cudaError_t launch_depthwise_data_typed<__nv_bfloat16>(const DepthwiseArguments&,
                                                                DepthwiseShape, Pass, bool,
                                                                cudaStream_t);
}
