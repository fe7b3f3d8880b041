// Hopper's own instructions (sm_90a): warpgroup matrix products, bulk copies and the barriers that
// go with them. Shared-memory addresses are 32-bit.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "matrix_address.cuh"
#include "mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CONVT3D_HAS_WGMMA 1
#endif

namespace convt3d {

constexpr int kWarpgroupThreads = 128;

// ---- Barriers in shared memory ---------------------------------------------------------------
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits for the phase of this parity to complete.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "AGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra READY;\nbra AGAIN;\nREADY:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ bool barrier_test(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred done;\nmbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.b32 %0, 1, 0, done;\n}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}
// Makes the initialized barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Memory ----------------------------------------------------------------------------------
// Copies `bytes` (a multiple of 16) and completes them on `barrier`.
__device__ __forceinline__ void copy_bulk(uint32_t destination, const void* source, uint32_t bytes,
                                          uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}
// Copies a box of a tensor from these coordinates on and completes its bytes on `barrier`.
__device__ __forceinline__ void copy_tensor(uint32_t destination, const CUtensorMap* map,
                                            uint32_t barrier, int c, int x, int y, int z, int n) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(c), "r"(x), "r"(y), "r"(z), "r"(n)
      : "memory");
}
// Stores two or four 8 x 8 matrices of 16-bit elements, transposed: lane l gives the address of row
// l % 8 of the stored matrix l / 8; it holds elements (l / 4, 2 * (l % 4)) and the next of each.
__device__ __forceinline__ void store_matrices_transposed(uint32_t row, const uint32_t (&m)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(row),
               "r"(m[0]), "r"(m[1])
               : "memory");
}
__device__ __forceinline__ void store_matrices_transposed(uint32_t row, const uint32_t (&m)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, uint4 value) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t address, uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
__device__ __forceinline__ uint32_t load_shared(uint32_t address) {
  uint32_t value;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}
__device__ __forceinline__ uint32_t load_shared_half(uint32_t address) {
  uint32_t value;
  asm volatile("{\n.reg .u16 half;\nld.shared.u16 half, [%1];\ncvt.u32.u16 %0, half;\n}"
               : "=r"(value)
               : "r"(address)
               : "memory");
  return value;
}
__device__ __forceinline__ void store_shared(uint32_t address, uint2 value) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(value.x), "r"(value.y)
               : "memory");
}
__device__ __forceinline__ uint2 load_shared_pair(uint32_t address) {
  uint2 value;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];"
               : "=r"(value.x), "=r"(value.y)
               : "r"(address)
               : "memory");
  return value;
}
__device__ __forceinline__ uint4 load_shared_unit(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}
// Programmatic dependent launch: the next kernel in the stream may start, if it was launched so;
// and waits here until the one before has ended and its writes can be read.
__device__ __forceinline__ void launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ __forceinline__ void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
// Makes this thread's stores to shared memory visible to the matrix units.
__device__ __forceinline__ void fence_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Matrix products -------------------------------------------------------------------------
// A register that the tensor cores write: keeps the compiler from moving other accesses across.
__device__ __forceinline__ void pin(float& sum) { asm volatile("" : "+f"(sum)::"memory"); }
// The same of one that they read.
__device__ __forceinline__ void pin(uint32_t& fragment) {
  asm volatile("" : "+r"(fragment)::"memory");
}
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// A value that all lanes of a warp have, in a register of the warp: the addresses of products are
// computed from it once, where those of single lanes would be moved to such registers one by one.
__device__ __forceinline__ unsigned uniform(unsigned value) {
  return __reduce_or_sync(0xffffffffu, value);
}
// The same of a value that one lane has: that of lane `source`, for lane `lane`.
__device__ __forceinline__ unsigned uniform_of(int source, int lane, unsigned value) {
  return uniform(lane == source ? value : 0);
}
// Another lane's sum or word. With the compiler's own shuffle, ptxas serialises the products
// (C7511).
__device__ __forceinline__ uint32_t shuffle_word(uint32_t word, int lane) {
  uint32_t other;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, -1;" : "=r"(other) : "r"(word), "r"(lane));
  return other;
}
__device__ __forceinline__ float shuffle_sum(float sum, int lane) {
  float other;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, -1;" : "=f"(other) : "f"(sum), "r"(lane));
  return other;
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// d (64 x kColumns, float32) += a (64 x k) * b (k x kColumns), k: 32 bytes. A thread holds kColumns
// / 2 sums: d[4 * j + 2 * half + e] is row 16 * warp + 8 * half + lane / 4, column 8 * j + 2 *
// (lane % 4) + e.
template <typename T, int kColumns>
struct Wgmma;
// The same of 16-bit operands in which rows (of a) and columns (of b) are fastest, not the depth:
// there, MatrixAddress's depth pitch is the distance of `width` units of these, and its row pitch
// that of eight steps of depth.
template <typename T, int kColumns>
struct WgmmaTransposed;
// Columns of b are fastest, the depth of a.
template <typename T, int kColumns>
struct WgmmaRightTransposed;

// Register lists: eight columns are four registers of a thread.
#define CONVT3D_D16 "%0,%1,%2,%3,%4,%5,%6,%7"
#define CONVT3D_D24 CONVT3D_D16 ",%8,%9,%10,%11"
#define CONVT3D_D32 CONVT3D_D24 ",%12,%13,%14,%15"
#define CONVT3D_D48 CONVT3D_D32 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define CONVT3D_D56 CONVT3D_D48 ",%24,%25,%26,%27"
#define CONVT3D_D64 CONVT3D_D56 ",%28,%29,%30,%31"
#define CONVT3D_D72 CONVT3D_D64 ",%32,%33,%34,%35"
#define CONVT3D_D96 CONVT3D_D72 ",%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define CONVT3D_D112 CONVT3D_D96 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define CONVT3D_D128 CONVT3D_D112 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define CONVT3D_R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CONVT3D_R8(i) CONVT3D_R4(i), CONVT3D_R4(i + 4)
#define CONVT3D_R16 CONVT3D_R8(0)
#define CONVT3D_R24 CONVT3D_R16, CONVT3D_R4(8)
#define CONVT3D_R32 CONVT3D_R16, CONVT3D_R8(8)
#define CONVT3D_R48 CONVT3D_R32, CONVT3D_R8(16)
#define CONVT3D_R56 CONVT3D_R48, CONVT3D_R4(24)
#define CONVT3D_R64 CONVT3D_R48, CONVT3D_R8(24)
#define CONVT3D_R72 CONVT3D_R64, CONVT3D_R4(32)
#define CONVT3D_R96 CONVT3D_R64, CONVT3D_R8(32), CONVT3D_R8(40)
#define CONVT3D_R112 CONVT3D_R96, CONVT3D_R8(48)
#define CONVT3D_R128 CONVT3D_R112, CONVT3D_R8(56)
#define CONVT3D_WGMMA(Struct, Type, name, columns, a, b, c, major)                             \
  template <>                                                                                  \
  struct Struct<Type, columns> {                                                               \
    static __device__ __forceinline__ void multiply(float (&d)[columns / 2], uint64_t left,    \
                                                    uint64_t right, int accumulate) {          \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" c                                      \
                   ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." name "." name \
                   " {" CONVT3D_D##columns "}, %" a ", %" b ", p, 1, 1, " major ";\n}"         \
                   : CONVT3D_R##columns                                                        \
                   : "l"(left), "l"(right), "r"(accumulate));                                  \
    }                                                                                          \
  };
#define CONVT3D_WGMMA_OF(Struct, Type, name, major)               \
  CONVT3D_WGMMA(Struct, Type, name, 16, "8", "9", "10", major)    \
  CONVT3D_WGMMA(Struct, Type, name, 24, "12", "13", "14", major)  \
  CONVT3D_WGMMA(Struct, Type, name, 32, "16", "17", "18", major)  \
  CONVT3D_WGMMA(Struct, Type, name, 48, "24", "25", "26", major)  \
  CONVT3D_WGMMA(Struct, Type, name, 56, "28", "29", "30", major)  \
  CONVT3D_WGMMA(Struct, Type, name, 64, "32", "33", "34", major)  \
  CONVT3D_WGMMA(Struct, Type, name, 72, "36", "37", "38", major)  \
  CONVT3D_WGMMA(Struct, Type, name, 96, "48", "49", "50", major)  \
  CONVT3D_WGMMA(Struct, Type, name, 112, "56", "57", "58", major) \
  CONVT3D_WGMMA(Struct, Type, name, 128, "64", "65", "66", major)
CONVT3D_WGMMA_OF(Wgmma, __half, "f16", "0, 0")
CONVT3D_WGMMA_OF(Wgmma, __nv_bfloat16, "bf16", "0, 0")
CONVT3D_WGMMA_OF(WgmmaTransposed, __half, "f16", "1, 1")
CONVT3D_WGMMA_OF(WgmmaTransposed, __nv_bfloat16, "bf16", "1, 1")
CONVT3D_WGMMA_OF(WgmmaRightTransposed, __half, "f16", "0, 1")
CONVT3D_WGMMA_OF(WgmmaRightTransposed, __nv_bfloat16, "bf16", "0, 1")
#undef CONVT3D_WGMMA_OF
#define CONVT3D_WGMMA_TF32(columns, a, b, c)                                                \
  template <>                                                                               \
  struct Wgmma<float, columns> {                                                            \
    static __device__ __forceinline__ void multiply(float (&d)[columns / 2], uint64_t left, \
                                                    uint64_t right, int accumulate) {       \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" c                                   \
                   ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns                       \
                   "k8.f32.tf32.tf32"                                                       \
                   " {" CONVT3D_D##columns "}, %" a ", %" b ", p, 1, 1;\n}"                 \
                   : CONVT3D_R##columns                                                     \
                   : "l"(left), "l"(right), "r"(accumulate));                               \
    }                                                                                       \
  };
// The same, the left operand in registers, words of a TF32 value or of two values of 16 bits: a[i]
// is row 16 * warp + lane / 4 + 8 * (i % 2), word lane % 4 + 4 * (i / 2) of the depth.
template <typename T, int kColumns>
struct WgmmaGathered;
#define CONVT3D_WGMMA_GATHERED(Type, shape, names, major, columns, a0, a1, a2, a3, b)         \
  template <>                                                                                 \
  struct WgmmaGathered<Type, columns> {                                                       \
    static __device__ __forceinline__ void multiply(float (&d)[columns / 2],                  \
                                                    const uint32_t (&a)[4], uint64_t right) { \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns shape ".f32." names           \
                   " {" CONVT3D_D##columns "}, {%" a0 ", %" a1 ", %" a2 ", %" a3 "}, %" b     \
                                           ", 1, 1, 1" major ";"                              \
                   : CONVT3D_R##columns                                                       \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right));                 \
    }                                                                                         \
  };
#define CONVT3D_WGMMA_GATHERED_OF(Type, shape, names, major)                          \
  CONVT3D_WGMMA_GATHERED(Type, shape, names, major, 16, "8", "9", "10", "11", "12")   \
  CONVT3D_WGMMA_GATHERED(Type, shape, names, major, 32, "16", "17", "18", "19", "20") \
  CONVT3D_WGMMA_GATHERED(Type, shape, names, major, 48, "24", "25", "26", "27", "28") \
  CONVT3D_WGMMA_GATHERED(Type, shape, names, major, 64, "32", "33", "34", "35", "36") \
  CONVT3D_WGMMA_GATHERED(Type, shape, names, major, 96, "48", "49", "50", "51", "52") \
  CONVT3D_WGMMA_GATHERED(Type, shape, names, major, 128, "64", "65", "66", "67", "68")
CONVT3D_WGMMA_GATHERED_OF(float, "k8", "tf32.tf32", "")
CONVT3D_WGMMA_GATHERED_OF(__half, "k16", "f16.f16", ", 0")
CONVT3D_WGMMA_GATHERED_OF(__nv_bfloat16, "k16", "bf16.bf16", ", 0")
#undef CONVT3D_WGMMA_GATHERED_OF
#undef CONVT3D_WGMMA_GATHERED
CONVT3D_WGMMA_TF32(16, "8", "9", "10")
CONVT3D_WGMMA_TF32(24, "12", "13", "14")
CONVT3D_WGMMA_TF32(32, "16", "17", "18")
CONVT3D_WGMMA_TF32(48, "24", "25", "26")
CONVT3D_WGMMA_TF32(56, "28", "29", "30")
CONVT3D_WGMMA_TF32(64, "32", "33", "34")
CONVT3D_WGMMA_TF32(72, "36", "37", "38")
CONVT3D_WGMMA_TF32(96, "48", "49", "50")
CONVT3D_WGMMA_TF32(112, "56", "57", "58")
CONVT3D_WGMMA_TF32(128, "64", "65", "66")
#undef CONVT3D_WGMMA_TF32
#undef CONVT3D_WGMMA

}  // namespace convt3d
