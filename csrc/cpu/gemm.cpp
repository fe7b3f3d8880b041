// Data flow of one slice of input rows (x: Cin by positions, W: Cin by Cout*taps), per group:
//
//   forward      columns = W^T x        by BLAS, then every element goes to its output (fold)
//   grad_input   columns = unfold(gy),  then gx = W columns by BLAS
//   grad_weight  columns = unfold(gy),  then gW += x columns^T by BLAS
//
// A column is (Cout, taps) by positions; in channels-last it is positions by (taps, Cout) and all
// products are transposed. A slice's columns stay in cache between the product and the movement,
// and are reused for the next slice: a whole column matrix would be as large as the output (k = s)
// or several times that, and its first touch costs more than the arithmetic. Each thread does whole
// slices, product and movement (BLAS inside a parallel region keeps to its thread): one parallel
// region per operator, and results that do not depend on the number of threads.
#include "gemm.h"

#include "column_movement.h"

namespace convt3d::cpu {
namespace {

constexpr int64_t kColumnBytes = 1 << 20;  // per thread: a second-level cache
constexpr int64_t kMinPositions = 128;     // per slice, for BLAS to be efficient
constexpr int64_t kPartialSumBytes = 64 << 20;
// BLAS sums in an order that may depend on how its operands are aligned. Where samples are a
// multiple of this many bytes apart they all look alike to it; elsewhere slices are copied.
constexpr int64_t kAlignment = 64;

template <typename T>
class Gemm {
 public:
  Gemm(const Problem& problem, bool channels_last)
      : problem_(problem),
        channels_last_(channels_last),
        disjoint_(taps_are_disjoint(problem)),
        movement_(problem, channels_last),
        in_(problem.in_channels_per_group()),
        out_(problem.out_channels_per_group()),
        taps_(problem.axes[0].kernel * problem.axes[1].kernel * problem.axes[2].kernel),
        width_(problem.axes[2].input),
        rows_(problem.axes[0].input * problem.axes[1].input) {
    const int64_t row_bytes = out_ * taps_ * width_ * static_cast<int64_t>(sizeof(T));
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t share = std::max(ceil_div(rows_, threads), ceil_div(kMinPositions, width_));
    slice_ = std::clamp<int64_t>(kColumnBytes / row_bytes, 1, std::min(share, rows_));
    slices_ = ceil_div(rows_, slice_);
    aligned_ =
        problem.in_channels * rows_ * width_ * static_cast<int64_t>(sizeof(T)) % kAlignment == 0;
  }

  void forward(const Activation<T>& x, const T* weight, const T* bias, const Activation<T>& y) {
    load_weight(weight);
    const auto product = [&](const Slice& slice, const Workspace& space) {
      const Tensor positions = read_slice(x, slice, space);
      channels_last_ ? mm_out(positions, weight_of(slice.group), columns(slice, space))
                     : mm_out(weight_of(slice.group), positions, columns(slice, space));
    };
    if (disjoint_) {
      movement_.fill_rows_without_tap(y, bias);
      in_parallel(slices(), [&](const Slice& slice, const Workspace& space) {
        product(slice, space);
        channels_last_ ? movement_.fold_channels_last(slice, memory_of(space), bias, y)
                       : movement_.template fold<false>(slice, memory_of(space), bias, y);
      });
    } else {
      // Slices meet in the output: one after the other, threads inside.
      fill_output(problem_, y, bias);
      const Workspace space(*this);
      for (int64_t i = 0; i < slices(); ++i) {
        product(slice_at(i), space);
        movement_.template fold<true>(slice_at(i), memory_of(space), bias, y);
      }
    }
  }

  void grad_input(const Activation<T>& gy, const T* weight, const Activation<T>& gx) {
    load_weight(weight);
    in_parallel(slices(), [&](const Slice& slice, const Workspace& space) {
      movement_.unfold(slice, memory_of(space), gy);
      const Tensor target = slice_of(gx, slice);
      const Tensor positions = aligned_ ? target : staging(slice, space);
      const Tensor transposed = torch::stable::transpose(weight_of(slice.group), 0, 1);
      channels_last_ ? mm_out(columns(slice, space), transposed, positions)
                     : mm_out(transposed, columns(slice, space), positions);
      if (!aligned_) copy_slice(target, positions);
    });
  }

  void grad_weight(const Activation<T>& gy, const Activation<T>& x, T* gw) {
    const int64_t group_size = in_ * out_ * taps_, size = group_size * problem_.groups;
    const auto add_slice = [&](int64_t i, const Workspace& space, const Tensor& part, T* sums) {
      const Slice slice = slice_at(i);
      movement_.unfold(slice, memory_of(space), gy);
      const Tensor positions = read_slice(x, slice, space), column = columns(slice, space);
      channels_last_ ? mm_out(torch::stable::transpose(positions, 0, 1), column, part)
                     : mm_out(positions, torch::stable::transpose(column, 0, 1), part);
      T* to = sums + slice.group * group_size;
      const T* from = data<T>(part);
      parallel(in_, out_ * taps_, [&](int64_t c) {
        const int64_t end = (c + 1) * out_ * taps_;
        for (int64_t j = c * out_ * taps_; j < end; ++j) to[j] += from[j];
      });
    };
    // Every thread sums its share of the slices; the sums are then added in order.
    const int64_t shares =
        std::clamp<int64_t>(kPartialSumBytes / (size * static_cast<int64_t>(sizeof(T))), 1,
                            std::min<int64_t>(torch::stable::get_num_threads(), slices()));
    const Tensor sums = scratch<T>({shares, size});
    T* totals = data<T>(sums);
    const auto add_share = [&](int64_t share) {
      const Workspace space(*this);
      const Tensor part = scratch<T>({in_, out_ * taps_});
      std::fill_n(totals + share * size, size, T(0));
      for (int64_t i = share * slices() / shares; i < (share + 1) * slices() / shares; ++i)
        add_slice(i, space, part, totals + share * size);
    };
    if (shares == 1) {
      add_share(0);
    } else {
      torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
        for (int64_t share = begin; share < end; ++share) add_share(share);
      });
    }
    torch::stable::parallel_for(0, size, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t share = 1; share < shares; ++share)
        for (int64_t j = begin; j < end; ++j) totals[j] += totals[share * size + j];
    });
    permute_weight(totals, gw, false);
  }

 private:
  // Slices never span samples, so that a sample's sums do not depend on its neighbours.
  int64_t slices() const { return problem_.batch * problem_.groups * slices_; }
  Slice slice_at(int64_t i) const {
    const int64_t outer = i / slices_, first = i % slices_ * slice_;
    return {outer / problem_.groups, outer % problem_.groups, first,
            std::min(slice_, rows_ - first)};
  }

  // What one thread works in.
  struct Workspace {
    explicit Workspace(const Gemm& gemm)
        : columns(scratch<T>({gemm.out_ * gemm.taps_ * gemm.slice_ * gemm.width_})) {
      if (!gemm.aligned_) staging = scratch<T>({gemm.in_ * gemm.slice_ * gemm.width_});
    }
    Tensor columns, staging;
  };

  static T* memory_of(const Workspace& space) { return data<T>(space.columns); }

  // body(slice, workspace), slices shared out among the threads. A single slice goes the same way,
  // with an idle second one: BLAS must find itself in a parallel region for every batch size.
  template <typename Body>
  void in_parallel(int64_t count, const Body& body) const {
    torch::stable::parallel_for(0, std::max<int64_t>(count, 2), 1, [&](int64_t begin, int64_t end) {
      const Workspace space(*this);
      for (int64_t i = begin; i < std::min(end, count); ++i) body(slice_at(i), space);
    });
  }

  Tensor columns(const Slice& slice, const Workspace& space) const {
    const int64_t positions = slice.count * width_, column = out_ * taps_;
    return channels_last_ ? over(data<T>(space.columns), {positions, column}, {column, 1})
                          : over(data<T>(space.columns), {column, positions}, {positions, 1});
  }

  // Channels by positions, in channels-last positions by channels.
  Tensor slice_of(const Activation<T>& x, const Slice& slice) const {
    const int64_t position = channels_last_ ? problem_.in_channels : 1;
    const int64_t positions = slice.count * width_;
    const T* start = x.data + slice.sample * x.batch + slice.group * in_ * x.channel +
                     slice.first * width_ * position;
    return channels_last_ ? over(start, {positions, in_}, {position, 1})
                          : over(start, {in_, positions}, {rows_ * width_, 1});
  }

  Tensor staging(const Slice& slice, const Workspace& space) const {
    const int64_t positions = slice.count * width_;
    return channels_last_ ? over(data<T>(space.staging), {positions, in_}, {in_, 1})
                          : over(data<T>(space.staging), {in_, positions}, {positions, 1});
  }

  static void copy_slice(const Tensor& to, const Tensor& from) {
    const int64_t length = from.size(1), to_step = to.stride(0), from_step = from.stride(0);
    T* target = data<T>(to);
    const T* source = data<T>(from);
    parallel(from.size(0), length,
             [&](int64_t i) { std::copy_n(source + i * from_step, length, target + i * to_step); });
  }

  Tensor read_slice(const Activation<T>& x, const Slice& slice, const Workspace& space) const {
    const Tensor positions = slice_of(x, slice);
    if (aligned_) return positions;
    const Tensor copy = staging(slice, space);
    copy_slice(copy, positions);
    return copy;
  }

  // (Cin, Cout, taps) to (Cin, taps, Cout), the order of channels-last columns, or back.
  void permute_weight(const T* from, T* to, bool forth) const {
    const int64_t outer = forth || !channels_last_ ? out_ : taps_;
    const int64_t inner = forth || !channels_last_ ? taps_ : out_;
    parallel(problem_.in_channels, out_ * taps_, [&](int64_t c) {
      const T* source = from + c * out_ * taps_;
      T* target = to + c * out_ * taps_;
      if (!channels_last_) {
        std::copy_n(source, out_ * taps_, target);
        return;
      }
      for (int64_t i = 0; i < outer; ++i)
        for (int64_t j = 0; j < inner; ++j) target[j * outer + i] = source[i * inner + j];
    });
  }

  void load_weight(const T* weight) {
    weight_ = weight;
    if (!channels_last_) return;
    permuted_ = scratch<T>({problem_.in_channels * out_ * taps_});
    permute_weight(weight, data<T>(permuted_), true);
    weight_ = data<T>(permuted_);
  }

  // The left (contiguous) or right (channels-last) operand of the forward product.
  Tensor weight_of(int64_t group) const {
    const T* start = weight_ + group * in_ * out_ * taps_;
    return channels_last_ ? over(start, {in_, out_ * taps_}, {out_ * taps_, 1})
                          : over(start, {out_ * taps_, in_}, {1, out_ * taps_});
  }

  const Problem& problem_;
  const bool channels_last_;
  const bool disjoint_;
  const ColumnMovement<T> movement_;
  const int64_t in_, out_, taps_;  // channels per group, taps
  const int64_t width_, rows_;     // of the input; rows: depth by height
  int64_t slice_, slices_;         // rows in one, how many per sample and group
  bool aligned_;                   // every sample, like the first
  Tensor permuted_;
  const T* weight_ = nullptr;
};

template <typename T>
bool is_channels_last(const Problem& problem, const Activation<T>& input) {
  return taps_are_disjoint(problem) && problem.in_channels > 1 && input.channel == 1;
}

}  // namespace

bool taps_are_disjoint(const Problem& problem) {
  return std::all_of(problem.axes.begin(), problem.axes.end(), [](const Axis& axis) {
    // Taps k and k + period share a residue (see TapTable): they meet as soon as both exist.
    return axis.kernel <= TapTable<int64_t>(axis).period;
  });
}

template <typename T>
void gemm_forward(const Problem& problem, const Activation<T>& input, const T* weight,
                  const T* bias, const Activation<T>& output) {
  Gemm<T>(problem, is_channels_last(problem, input)).forward(input, weight, bias, output);
}

template <typename T>
void gemm_grad_input(const Problem& problem, const Activation<T>& grad_output, const T* weight,
                     const Activation<T>& grad_input) {
  Gemm<T>(problem, is_channels_last(problem, grad_input))
      .grad_input(grad_output, weight, grad_input);
}

template <typename T>
void gemm_grad_weight(const Problem& problem, const Activation<T>& grad_output,
                      const Activation<T>& input, T* grad_weight) {
  Gemm<T>(problem, is_channels_last(problem, input)).grad_weight(grad_output, input, grad_weight);
}

#define INSTANTIATE(T)                                                                 \
  template void gemm_forward(const Problem&, const Activation<T>&, const T*, const T*, \
                             const Activation<T>&);                                    \
  template void gemm_grad_input(const Problem&, const Activation<T>&, const T*,        \
                                const Activation<T>&);                                 \
  template void gemm_grad_weight(const Problem&, const Activation<T>&, const Activation<T>&, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(int64_t)
#undef INSTANTIATE

}  // namespace convt3d::cpu
