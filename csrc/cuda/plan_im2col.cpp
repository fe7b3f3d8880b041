#include "plan_im2col.h"

#include <algorithm>
#include <cmath>

#include "kernels/gemm_data_sizes.h"
#include "plan_cache.h"
#include "plan_gathered_grad_weight.h"

namespace convt3d {
namespace {

// Tiles of eight columns of the instances: what fewer columns would save is not worth compiling.
// With more than eight, sums of forward and grad_weight leave no registers for a second block, and
// they were slower than other engines; grad_input in 16 bits keeps gathered columns instead, two to
// a register.
constexpr int kInstances[] = {8, 12, 20};
int most_columns(Im2colPass pass, DataType type) {
  return pass == Im2colPass::kGradInput && type != DataType::kFloat32 ? 8 * 20 : 8 * 8;
}

// Where the result has more output channels, or the input fewer channels, others are faster.
constexpr int64_t kMostOutChannels = 8, kLeastInChannels = 16;
constexpr int64_t kMostWorkspace = 64 << 20;   // bytes
constexpr int kMostForwardWeights = 64 << 10;  // bytes: more leave too little room for products
constexpr int64_t kMostLineOffset = 1 << 30;   // elements
constexpr int64_t kMostReach = 4096;  // of the taps of an axis; also positions of a tile's line

// ---- Costs, in clocks of a multiprocessor ------------------------------------------------------
constexpr double kMemory = 16;      // bytes per clock
constexpr double kProduct = 2;      // of 16 x 8 results and 32 bytes of depth
constexpr double kTerm = 0.15;      // a tap of an output, gathered
constexpr double kOutput = 0.3;     // an output and a plane that adds to it
constexpr double kGathered = 0.3;   // an element copied to shared memory
constexpr double kColumn = 0.07;    // a value of the gathered matrix
constexpr double kPlane = 5000;     // latencies of a tile in one plane
constexpr double kPrologue = 8000;  // launch, packing of weights

struct Costs {
  const Problem& problem;
  Im2colPass pass;
  DataType type;
  bool allow_tf32, input_channels_last;
  const Device& device;

  // Blocks that run together on a multiprocessor: as registers and shared memory allow.
  int resident(const Im2colPlan& plan, const Im2colSizes& sizes) const {
    const int words = element_bytes(type) * plan.tiles;
    const bool accurate = type == DataType::kFloat32 && !allow_tf32;
    const bool large = pass == Im2colPass::kGradInput    ? words > 24
                       : pass == Im2colPass::kGradWeight ? words > 16
                                                         : false;
    return std::min(accurate || large ? 1 : 2,
                    device.shared_per_multiprocessor / (sizes.shared_bytes + 1024));
  }

  // What the blocks of a multiprocessor share, and what each waits for meanwhile.
  struct Work {
    double shared, waiting;
    double clocks(int blocks) const { return std::max(shared * blocks, shared + waiting); }
  };

  double clocks(const Im2colPlan& plan, const Im2colSizes& sizes) const {
    const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
    const int bytes = element_bytes(type);
    const double product = bytes == 4 && !allow_tf32 ? 3 * kProduct : kProduct;
    const double row_bytes = double(sizes.channels) * bytes;
    const auto rounds = [](double quads) { return std::ceil(quads / 8 / kIm2colWarps); };
    const double positions = plan.tile_h * plan.tile_w;
    const double slots = double(device.multiprocessors) * plan.blocks;
    if (pass == Im2colPass::kForward) {
      const double rows = widest_input(h, plan.tile_h, 1) * widest_input(w, plan.tile_w, 4);
      const double terms = double(sizes.columns) * plan.tile_h * plan.tile_w;
      const Work plane{
          rows * row_bytes / kMemory +
              rounds(rows / 4) * kIm2colWarps * sizes.depth_chunks * 4 * plan.tiles * product +
              sizes.outputs * touched_planes(plan) * kOutput + terms * kTerm,
          kPlane};
      const int planes = std::min(plan.segment, d.positions) + d.window - 1;
      return kPrologue +
             std::ceil(sizes.items * problem.groups / slots) * planes * plane.clocks(plan.blocks);
    }
    const double gathered =
        gathered_tile(plan).elements(static_cast<int>(problem.out_channels_per_group()),
                                     plan.kernel[0]) *
        kGathered;
    const double channel_tiles = std::ceil(double(sizes.channels) / kIm2colRows);
    if (pass == Im2colPass::kGradInput) {
      // Contiguous results of short lines are parts of 32-byte sectors.
      const double line = std::min(plan.tile_w, w.operand_extent) * bytes;
      const double whole = input_channels_last ? 1 : std::ceil(line / 32) * 32 / line;
      const double steps = plan.tiles * bytes / 4.0;
      const Work tile{positions * row_bytes * whole / kMemory + gathered +
                          rounds(positions / 4) * kIm2colWarps *
                              (32 * sizes.columns * kColumn + steps * channel_tiles * 8 * product),
                      kPlane};
      return kPrologue + std::ceil(sizes.items * problem.groups / slots) * tile.clocks(plan.blocks);
    }
    const double warps = channel_tiles / sizes.channel_blocks;
    const Work tile{positions * warps * kIm2colRows * bytes / kMemory + gathered +
                        positions * plan.tiles * 8 * kColumn +
                        warps * positions / 16 * (bytes / 2) * plan.tiles * 2 * product,
                    kPlane};
    return kPrologue + std::ceil(double(sizes.items) / plan.splits) * tile.clocks(plan.blocks) +
           sizes.workspace_bytes / (kMemory * device.multiprocessors);
  }

  bool complete(Im2colPlan& plan, Im2colSizes& sizes) const {
    sizes = im2col_sizes(problem, pass, type, allow_tf32, plan);
    if (sizes.shared_bytes > device.shared_per_block || sizes.items >= (int64_t{1} << 31))
      return false;
    plan.blocks = resident(plan, sizes);
    return plan.blocks > 0;
  }
};

// Whether four neighbours along w can be loaded at once wherever a line begins.
bool starts_in_quads(const TensorPointer& tensor, int element_bytes) {
  bool result =
      tensor.stride[4] == 1 && reinterpret_cast<uintptr_t>(tensor.data) % (4 * element_bytes) == 0;
  for (int dim = 0; dim < 4; ++dim) result = result && tensor.stride[dim] % 4 == 0;
  return result;
}

const char* refusal_of(const Problem& problem, Im2colPass pass, DataType type,
                       const TensorPointer& input, const TensorPointer& output, bool allow_tf32,
                       bool forced) {
  if (type != DataType::kFloat16 && type != DataType::kBFloat16 && type != DataType::kFloat32)
    return "it has kernels of float16, bfloat16 and float32 only";
  int64_t columns = problem.out_channels_per_group();
  bool fits = fits_data_kernels(problem) && problem.groups < 65536;
  for (const Axis& axis : problem.axes) {
    columns *= axis.kernel;
    fits = fits && axis.dilation * (axis.kernel - 1) <= kMostReach;
  }
  if (!fits) return "its sizes exceed what the kernel counts";
  if (columns > most_columns(pass, type))
    return pass == Im2colPass::kGradInput && type != DataType::kFloat32
               ? "it has more than 160 pairs of output channel and tap"
               : "it has more than 64 pairs of output channel and tap";
  if (!forced && (problem.out_channels_per_group() > kMostOutChannels ||
                  problem.in_channels_per_group() < kLeastInChannels))
    return "it is for up to eight output channels per group of sixteen or more input channels";
  const int64_t weight_bytes = columns * problem.in_channels_per_group() * element_bytes(type) *
                               (type == DataType::kFloat32 && !allow_tf32 ? 2 : 1);
  if (!forced && pass == Im2colPass::kForward && weight_bytes > kMostForwardWeights)
    return "its weights would leave too little shared memory for their products";
  const bool channels_lead = output.stride[1] < output.stride[4];  // a line has all of them
  if (output.stride[4] * problem.axes[2].output +
          (channels_lead ? output.stride[1] * problem.out_channels_per_group() : 0) >
      kMostLineOffset)
    return "the strides within a line exceed 32 bits";
  const bool channels_last = input.stride[1] < input.stride[4];
  if (channels_last
          ? !loads_in_vectors(input, problem.in_channels_per_group(), type)
          : !starts_in_quads(input, element_bytes(type)) || problem.axes[2].input % 4 != 0)
    return "its loads need input channels (channels_last_3d) in runs of 16 bytes or lines "
           "(contiguous) in runs of four elements";
  return nullptr;
}

Planned<Im2colPlan> search(const Problem& problem, Im2colPass pass, DataType type, bool allow_tf32,
                           bool input_channels_last, const Device& device,
                           Alternatives<Im2colPlan>* alternatives) {
  Im2colPlan plan{};
  int columns = static_cast<int>(problem.out_channels_per_group());
  for (int a = 0; a < 3; ++a) {
    const Axis& axis = problem.axes[a];
    const auto window = window_axis(Pass::kForward, axis);
    if (!window) return Refusal{"a kernel extent is over 16 or a stride over 8"};
    plan.axes[a] = *window;
    plan.stride[a] = static_cast<int>(axis.stride);
    plan.padding[a] = static_cast<int>(axis.padding);
    plan.dilation[a] = static_cast<int>(axis.dilation);
    plan.kernel[a] = static_cast<int>(axis.kernel);
    columns *= plan.kernel[a];
  }
  plan.tiles = *std::find_if(std::begin(kInstances), std::end(kInstances),
                             [&](int tiles) { return columns <= 8 * tiles; });
  plan.segment = plan.splits = 1;
  const bool forward = pass == Im2colPass::kForward;
  const WindowAxis &d = plan.axes[0], &h = plan.axes[1], &w = plan.axes[2];
  const int lines = forward ? h.positions : h.operand_extent;
  const int line = forward ? w.positions : w.operand_extent;
  const int channel_tiles =
      static_cast<int>((problem.in_channels_per_group() + kIm2colRows - 1) / kIm2colRows);
  // As few blocks as possible gather the same.
  const int channel_blocks = (channel_tiles + kIm2colWarps - 1) / kIm2colWarps;
  plan.channel_warps = (channel_tiles + channel_blocks - 1) / channel_blocks;

  const Costs costs{problem, pass, type, allow_tf32, input_channels_last, device};
  Im2colPlan best{};
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](Im2colPlan candidate) {
    Im2colSizes sizes;
    if (!costs.complete(candidate, sizes)) return;
    if (pass == Im2colPass::kGradWeight) {
      const int64_t places = std::max<int64_t>(int64_t{device.multiprocessors} * candidate.blocks /
                                                   (sizes.channel_blocks * problem.groups),
                                               1);
      const int64_t slot_bytes = sizes.workspace_bytes;
      candidate.splits = static_cast<int>(
          std::clamp<int64_t>(std::min(places, kMostWorkspace / slot_bytes), 1, sizes.items));
      if (!costs.complete(candidate, sizes)) return;
    }
    const double clocks = costs.clocks(candidate, sizes);
    if (alternatives != nullptr)
      alternatives->offer({candidate.tile_h, candidate.tile_w, candidate.segment}, candidate,
                          clocks);
    if (clocks < least) {
      least = clocks;
      best = candidate;
    }
  };
  // Whole lines, or parts of them.
  for (int tile_w = round_to_quads(std::min<int>(line, kMostReach));;
       tile_w = round_to_quads((tile_w + 1) / 2)) {
    plan.tile_w = tile_w;
    for (plan.tile_h = 1; plan.tile_h < 2 * lines && plan.tile_h <= 64; plan.tile_h *= 2) {
      if (!forward) {
        consider(plan);
        continue;
      }
      for (int segments = 1; segments <= d.positions; segments *= 2) {
        plan.segment = (d.positions + segments - 1) / segments;
        consider(plan);
      }
    }
    if (tile_w <= 8) break;
  }
  if (!std::isfinite(least)) return Refusal{"no tile of it fits shared memory"};
  return {best, least};
}

}  // namespace

Planned<Im2colPlan> plan_im2col(const Problem& problem, Im2colPass pass, DataType type,
                                const TensorPointer& input, const TensorPointer& output,
                                bool allow_tf32, const Device& device, bool forced,
                                Alternatives<Im2colPlan>* alternatives) {
  if (const char* reason = refusal_of(problem, pass, type, input, output, allow_tf32, forced))
    return Refusal{reason};
  const bool channels_last = input.stride[1] < input.stride[4];
  const auto find = [&] {
    return search(problem, pass, type, allow_tf32, channels_last, device, alternatives);
  };
  static PlanCache<Im2colPlan> cache;
  const PlanKey key(
      problem, {static_cast<int64_t>(pass), static_cast<int64_t>(type), allow_tf32, channels_last,
                device.multiprocessors, device.shared_per_block, device.shared_per_multiprocessor});
  const Planned<Im2colPlan> planned = alternatives ? find() : cache.find(key, find);
  if (planned && !forced && pass == Im2colPass::kGradWeight) {
    const auto gathered =
        plan_gathered_grad_weight(problem, type, output, input, allow_tf32, device);
    if (gathered && gathered.clocks() < planned.clocks())
      return Refusal{"gathered rows are predicted to be faster"};
  }
  return planned;
}

}  // namespace convt3d
