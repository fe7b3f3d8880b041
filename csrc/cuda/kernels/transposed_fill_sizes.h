// Memory of transposed_fill.cuh. Host-device, no CUDA headers.
#pragma once

namespace convt3d {

// A batch: so many neighbouring blocks, of up to so many 16-byte units of channels.
constexpr int kFillBlocks = 4, kFillUnits = 4, kFillBlockBytes = 128;
constexpr int kStagedUnitBytes = kFillBlocks * kFillBlockBytes;
constexpr int fill_batch_bytes(int units) {
  return (units < kFillUnits ? units : kFillUnits) * kStagedUnitBytes;
}

// Whether runs of neighbours along w are copied, not loaded by elements.
constexpr bool copies_runs(int run, int element_bytes) { return run * element_bytes >= 4; }

}  // namespace convt3d
