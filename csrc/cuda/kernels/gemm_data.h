// Forward and grad_input on tensor cores, for compute capability 8.0 and later (launch interface).
#pragma once

#include "direct.h"
#include "tile_geometry.h"

namespace convt3d {

// Most plane blocks along an axis; with it the largest stride.
constexpr int kMostPlaneBlocks = 64;

// What the plan decides for a data pass. A block owns kBlockRows positions and walks over
// `columns_per_block` column tiles; a column tile is a block of result planes times a slice of
// result channels.
struct GemmDataPlan {
  TileAxis axes[3];
  int row_fragments;       // 16-row fragments per warp: 2 or 4; a block has 4 warps
  int column_groups;       // 16-column groups per column tile: 1 to 4
  int channels_per_tile;   // result channels of one column tile
  int chunk_units;         // 16-byte units of operand channels that are in shared memory at once
  int columns_per_block;   // column tiles that share one filled operand tile
  bool asynchronous_fill;  // 16-byte cp.async from a channels-last operand
};

// Facts that follow from a problem and a plan.
struct GemmDataSizes {
  int block_rows;
  int column_width;    // columns of a tile, padding included
  int units;           // 16-byte units of operand channels per group
  int channel_chunks;  // chunks of channels per plane block of the operand
  int chunks;          // in all
  int channel_tiles;   // per group
  int column_tiles;    // per group
  int steps;           // most k-steps of a column tile and chunk, a multiple of kStageSteps
  int operand_rows;    // rows of the operand tile
  int row_pitch;       // bytes of one operand row in shared memory
  int places;          // (position, plane) pairs of a tile
  // Shared memory: operand tile, ring, staging.
  int ring_at;
  int staging_at;
  int shared_bytes;
  // Scratch memory: packed weights and the tables that go with them.
  int64_t packed_bytes;
  int64_t scratch_bytes;
};
GemmDataSizes gemm_data_sizes(const Problem& problem, Pass pass, DataType type,
                              const GemmDataPlan& plan);

// Whether 16-byte accesses can serve the channels of one position: channels side by side, every
// group and position on a 16-byte boundary.
bool loads_in_vectors(const TensorPointer& tensor, int64_t channels_per_group, DataType type);

// Whether offsets inside one tile fit the kernel's 32 bits for tensors of these strides.
bool tile_offsets_fit(const GemmDataPlan& plan, const TensorPointer& operand,
                      const TensorPointer& result);

// Packs the weights into `scratch` (gemm_data_sizes().scratch_bytes, 16-byte aligned) and runs the
// product; both are enqueued on `stream`. For kFloat16, kBFloat16 and kFloat32 only; float32
// products are three TF32 products each, which keeps float32's order of error.
cudaError_t launch_gemm_data(const Problem& problem, Pass pass, DataType type,
                             const GemmDataPlan& plan, TensorPointer operand, TensorPointer weight,
                             VectorPointer bias, TensorPointer result, bool allow_tf32,
                             void* scratch, cudaStream_t stream);

}  // namespace convt3d
