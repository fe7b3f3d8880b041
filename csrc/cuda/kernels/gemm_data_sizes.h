// The plan of gemm_data and what follows from it. No CUDA headers: plans are made without a GPU.
#pragma once

#include "tensors.h"
#include "tile_geometry.h"

namespace convt3d {

constexpr int kGemmWarps = 4;
constexpr int kGemmThreads = 32 * kGemmWarps;
constexpr int kUnitBytes = 16;
constexpr int kStages = 3;
constexpr int kStageSteps = 4;  // k-steps per stage
constexpr int kHeaderBytes = 16;

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

// Elements from one staged column (or, channels-last, row) to the next: chosen so that neither
// writing nor reading piles onto one bank.
int staging_pitch(bool channels_last, const GemmDataSizes& sizes, DataType type);

// ---- Rows of the tables that pack_weights leaves beside the weights -----------------------------
struct ColumnTile {
  int plane[3];  // forward: its block's first planes
  int channel;   // first result channel in the group
};
struct Chunk {
  int plane[3];    // grad_input: its block's first planes
  int first_unit;  // of the operand's channels in the group
  int units;
  int offset[3];  // coordinates of its row 0 from those of chunk 0
};
struct RowPlace {  // an operand row; listed in the order of the operand's coordinates
  int offset;      // in the operand tensor from row 0 of the tile, elements
  int dh;          // coordinates from row 0: d * 65536 + h, h as 16 bits
  int w;
  int row;  // in the tile
};
struct ResultPlace {  // a (position, plane) of the tile, planes of w fastest
  int offset;         // in the result tensor from position 0 and plane 0, elements
  int staging;        // in the staging buffer, elements
  int dh;             // d * 65536 + h
  int w;
};

}  // namespace convt3d
