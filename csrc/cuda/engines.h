// The engines: kernels with their plans, in the order in which they are asked to take a call.
#pragma once

#include <cuda_runtime_api.h>

#include <string_view>

#include "../operators.h"
#include "kernels/direct.h"
#include "kernels/tile_geometry.h"
#include "plan.h"

namespace convt3d {

// The engine that the public operators ask for: the first that takes the call.
constexpr std::string_view kAutomatic = "auto";

// Forward (operand: input) or grad_input (operand: grad_output); no result is empty.
struct DataCall {
  Problem problem;
  Pass pass;
  DataType type;
  TensorPointer operand, weight;
  VectorPointer bias;
  TensorPointer result;
  bool allow_tf32;
  Device device;
  cudaStream_t stream;
  const Tensor& like;  // scratch memory is allocated where it is
};

struct GradWeightCall {
  Problem problem;
  DataType type;
  TensorPointer grad_output, input, result;
  bool allow_tf32;
  Device device;
  cudaStream_t stream;
  const Tensor& like;
};

// Throws std::runtime_error, with the names there are, unless `engine` is one of them.
void require_data_engine(std::string_view engine);
void require_grad_weight_engine(std::string_view engine);

// Enqueues the call in this engine and no other. Throws std::runtime_error, with the engine's
// reason, where it cannot take the call.
void run(const DataCall& call, std::string_view engine);
void run(const GradWeightCall& call, std::string_view engine);

}  // namespace convt3d
