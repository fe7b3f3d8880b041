// Kernels with one fault each, which the emulated device must report.
//
//   faults NAME    fails with the message that tests/test_emulator.py expects
#include <cstdio>
#include <map>
#include <string>

#include "launch.cuh"
#include "wgmma.cuh"

namespace convt3d {

constexpr int kThreads = 128, kBytes = 4096;

__global__ void missing_arrival() {
  extern __shared__ __align__(1024) char base[];
  const uint32_t barrier = shared_address(base);
  if (threadIdx.x == 0) {
    barrier_init(barrier, 2);
    barrier_arrive(barrier);
  }
  __syncthreads();
  barrier_wait(barrier, 0);
}

__global__ void another_arrival() {
  extern __shared__ __align__(1024) char base[];
  if (threadIdx.x != 0) return;
  barrier_init(shared_address(base), 1);
  barrier_expect(shared_address(base), 16);
  barrier_arrive(shared_address(base));
}

__global__ void no_barrier() {
  extern __shared__ __align__(1024) char base[];
  barrier_wait(shared_address(base), 0);
}

__global__ void missing_warp() {
  if (threadIdx.x >= 32) named_barrier(1, kThreads);
}

__global__ void barrier_in_branch() {
  if (threadIdx.x < 64)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void diverging_lanes() {
  if (threadIdx.x % 2 == 0)
    __syncwarp();
  else
    __any_sync(0xffffffffu, 1);
}

__global__ void store_outside() {
  extern __shared__ __align__(1024) char base[];
  store_shared(shared_address(base) + threadIdx.x * 16 + kBytes - 16 * (kThreads - 1), uint4{});
}

__global__ void write_outside() {
  extern __shared__ __align__(1024) char base[];
  if (threadIdx.x == 0) base[kBytes + 100] = 1;
}

__global__ void product_outside() {
  extern __shared__ __align__(1024) char base[];
  const MatrixAddress at(shared_address(base), kBytes - 256, 128);
  float sums[8];
  Wgmma<__nv_bfloat16, 16>::multiply(sums, at.with(at.low), at.with(at.low), 0);
  wgmma_commit();
  wgmma_wait<0>();
}

__global__ void store_not_fenced() {
  extern __shared__ __align__(1024) char base[];
  const uint32_t address = shared_address(base);
  store_shared(address + threadIdx.x * 16, uint4{});
  if (threadIdx.x != 5) fence_for_wgmma();
  __syncthreads();
  const MatrixAddress at(address, 128, 256);
  float sums[8];
  Wgmma<__nv_bfloat16, 16>::multiply(sums, at.with(at.low), at.with(at.low), 0);
  wgmma_commit();
  wgmma_wait<0>();
  for (float sum : sums)
    if (sum != 0) emulator::fail("a product of zeros is %g", static_cast<double>(sum));
}

__global__ void product_not_waited_for() {
  extern __shared__ __align__(1024) char base[];
  const MatrixAddress at(shared_address(base), 128, 256);
  float sums[8];
  Wgmma<__nv_bfloat16, 16>::multiply(sums, at.with(at.low), at.with(at.low), 0);
  wgmma_commit();
}

__global__ void different_products() {
  extern __shared__ __align__(1024) char base[];
  const MatrixAddress at(shared_address(base) + threadIdx.x / 16 % 2 * 16, 128, 256);
  float sums[8];
  Wgmma<__nv_bfloat16, 16>::multiply(sums, at.with(at.low), at.with(at.low), 0);
  wgmma_commit();
  wgmma_wait<0>();
}

__global__ void copy_not_waited_for(const void* source) {
  extern __shared__ __align__(1024) char base[];
  if (threadIdx.x != 0) return;
  barrier_init(shared_address(base), 1);
  barrier_expect(shared_address(base), 16);
  copy_bulk(shared_address(base) + 16, source, 16, shared_address(base));
}

int run(const std::string& name) {
  constexpr unsigned kBlocks = 64;  // the order is random
  const auto launch = [](auto kernel, auto... arguments) {
    return [=] { launch_kernel(kernel, kBlocks, kThreads, kBytes, nullptr, arguments...); };
  };
  alignas(16) static const char source[16] = {};
  const std::map<std::string, std::function<void()>> faults = {
      {"missing_arrival", launch(missing_arrival)},
      {"another_arrival", launch(another_arrival)},
      {"no_barrier", launch(no_barrier)},
      {"missing_warp", launch(missing_warp)},
      {"barrier_in_branch", launch(barrier_in_branch)},
      {"diverging_lanes", launch(diverging_lanes)},
      {"store_outside", launch(store_outside)},
      {"write_outside", launch(write_outside)},
      {"product_outside", launch(product_outside)},
      {"store_not_fenced", launch(store_not_fenced)},
      {"product_not_waited_for", launch(product_not_waited_for)},
      {"different_products", launch(different_products)},
      {"copy_not_waited_for", launch(copy_not_waited_for, static_cast<const void*>(source))},
  };
  faults.at(name)();
  std::printf("no fault was found\n");
  return 0;
}

}  // namespace convt3d

int main(int, char** words) { return convt3d::run(words[1]); }
