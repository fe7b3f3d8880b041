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

namespace convt3d::cpu {
namespace {

using Table = TapTable<int64_t>;

constexpr int64_t kColumnBytes = 1 << 20;  // per thread: a second-level cache
constexpr int64_t kMinPositions = 128;     // per slice, for BLAS to be efficient
constexpr int64_t kPartialSumBytes = 64 << 20;
// BLAS sums in an order that may depend on how its operands are aligned. Where samples are a
// multiple of this many bytes apart they all look alike to it; elsewhere slices are copied.
constexpr int64_t kAlignment = 64;
constexpr int64_t kRowBlock = 16;

template <typename T>
class Gemm {
 public:
  Gemm(const Problem& problem, bool channels_last)
      : problem_(problem),
        channels_last_(channels_last),
        disjoint_(taps_are_disjoint(problem)),
        tables_{Table(problem.axes[0]), Table(problem.axes[1]), Table(problem.axes[2])},
        in_(problem.in_channels_per_group()),
        out_(problem.out_channels_per_group()),
        taps_(problem.axes[0].kernel * problem.axes[1].kernel * problem.axes[2].kernel),
        width_(problem.axes[2].input),
        rows_(problem.axes[0].input * problem.axes[1].input) {
    int64_t covered = 0;
    for (int64_t k = 0; k < problem.axes[2].kernel; ++k) {
      along_width_.push_back(partners_of_tap(tables_[2], k));
      covered += along_width_.back().count;
    }
    const Axis& w = problem.axes[2];
    rows_are_covered_ = covered == w.output;
    pairs_ = w.kernel == 2 && w.stride == 2 && w.dilation == 1 && w.padding == 0 &&
             w.output == 2 * w.input;
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
      fill_rows_without_tap(y, bias);
      in_parallel(slices(), [&](const Slice& slice, const Workspace& space) {
        product(slice, space);
        channels_last_ ? fold_channels_last(slice, space, bias, y)
                       : fold<false>(slice, space, bias, y);
      });
    } else {
      // Slices meet in the output: one after the other, threads inside.
      fill_output(problem_, y, bias);
      const Workspace space(*this);
      for (int64_t i = 0; i < slices(); ++i) {
        product(slice_at(i), space);
        fold<true>(slice_at(i), space, bias, y);
      }
    }
  }

  void grad_input(const Activation<T>& gy, const T* weight, const Activation<T>& gx) {
    load_weight(weight);
    in_parallel(slices(), [&](const Slice& slice, const Workspace& space) {
      unfold(slice, space, gy);
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
      unfold(slice, space, gy);
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
  // Rows [first, first + count) of one group of one sample. Slices never span samples, so that a
  // sample's sums do not depend on its neighbours.
  struct Slice {
    int64_t sample, group, first, count;
  };
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

  struct Row {
    int64_t depth, height;
  };

  void fill_rows_without_tap(const Activation<T>& y, const T* bias) const {
    const int64_t height = problem_.axes[1].output, width = problem_.axes[2].output;
    std::vector<Row> empty;
    for (int64_t d = 0; d < problem_.axes[0].output; ++d)
      for (int64_t h = 0; h < height; ++h)
        if (partners_of_output(tables_[0], d).count == 0 ||
            partners_of_output(tables_[1], h).count == 0)
          empty.push_back({d, h});
    const int64_t rows = static_cast<int64_t>(empty.size());
    parallel(problem_.batch * rows, problem_.out_channels * width, [&](int64_t i) {
      const Row& row = empty[i % rows];
      fill_row(y.at(i / rows, 0, row.depth, row.height), y.channel, y.axes[2], bias,
               problem_.out_channels, width);
    });
  }

  // One tap (depth, height) of one channel with some rows of a slice.
  struct Piece {
    int64_t channel, tap_depth, tap_height, row;
  };
  int64_t row_blocks(int64_t count) const { return ceil_div(count, kRowBlock); }
  int64_t pieces_per_channel(int64_t count) const {
    return problem_.axes[0].kernel * problem_.axes[1].kernel * row_blocks(count);
  }
  Piece piece_of(int64_t i, int64_t count) const {
    const int64_t kernel_d = problem_.axes[0].kernel, kernel_h = problem_.axes[1].kernel;
    Piece piece;
    piece.row = i % row_blocks(count) * kRowBlock;
    i /= row_blocks(count);
    piece.tap_height = i % kernel_h;
    i /= kernel_h;
    piece.tap_depth = i % kernel_d;
    piece.channel = i / kernel_d;
    return piece;
  }

  // body(row of the slice, its output row, whether that is inside) for the rows of a piece.
  template <typename Body>
  void for_each_row(const Piece& piece, const Slice& slice, const Body& body) const {
    const Axis &d = problem_.axes[0], &h = problem_.axes[1];
    const int64_t end = std::min(piece.row + kRowBlock, slice.count);
    int64_t input_depth = (slice.first + piece.row) / h.input;
    int64_t input_height = (slice.first + piece.row) % h.input;
    for (int64_t row = piece.row; row < end; ++row) {
      const Row to{input_depth * d.stride - d.padding + piece.tap_depth * d.dilation,
                   input_height * h.stride - h.padding + piece.tap_height * h.dilation};
      body(row, to, to.depth >= 0 && to.depth < d.output && to.height >= 0 && to.height < h.output);
      if (++input_height == h.input) {
        input_height = 0;
        ++input_depth;
      }
    }
  }

  // Contiguous columns: a row at the first width tap of a piece.
  T* column_row(const Workspace& space, const Piece& piece, int64_t row, int64_t count) const {
    const Axis &d = problem_.axes[0], &h = problem_.axes[1], &w = problem_.axes[2];
    const int64_t tap =
        ((piece.channel * d.kernel + piece.tap_depth) * h.kernel + piece.tap_height) * w.kernel;
    return data<T>(space.columns) + (tap * count + row) * width_;
  }
  // Channels-last columns: the first position of a row at one width tap.
  T* column_position(const Workspace& space, const Piece& piece, int64_t row,
                     int64_t tap_width) const {
    const Axis &h = problem_.axes[1], &w = problem_.axes[2];
    const int64_t tap = (piece.tap_depth * h.kernel + piece.tap_height) * w.kernel + tap_width;
    return data<T>(space.columns) + (row * width_ * taps_ + tap) * out_;
  }

  template <bool kAdd>
  void fold(const Slice& slice, const Workspace& space, const T* bias,
            const Activation<T>& y) const {
    const int64_t pieces = pieces_per_channel(slice.count);
    const int64_t stride = problem_.axes[2].stride, width = y.axes[2];
    const int64_t tap_step = slice.count * width_;
    const auto fold_piece = [&](int64_t i) {
      const Piece piece = piece_of(i, slice.count);
      const int64_t channel = slice.group * out_ + piece.channel;
      const T offset = bias ? bias[channel] : T(0);
      for_each_row(piece, slice, [&](int64_t row, const Row& target, bool inside) {
        if (!inside) return;
        T* to = y.at(slice.sample, channel, target.depth, target.height);
        const T* from = column_row(space, piece, row, slice.count);
        if (!kAdd && pairs_ && width == 1) {
          interleave(to, from, from + tap_step, offset, width_);
          return;
        }
        if (!kAdd && !rows_are_covered_)
          fill_row(to, int64_t{0}, width, &offset, 1, problem_.axes[2].output);
        for (const auto& tap : along_width_) {
          copy_row<kAdd>(to + tap.position * width, 0, stride * width, from + tap.tap, 0, 1,
                         &offset, 1, tap.count);
          from += tap_step;
        }
      });
    };
    const int64_t elements = problem_.axes[2].kernel * width_ * kRowBlock;
    if constexpr (kAdd) {
      // Pieces of one channel meet in the same elements: one thread, in order.
      parallel(out_, pieces * elements, [&](int64_t channel) {
        for (int64_t i = channel * pieces; i < (channel + 1) * pieces; ++i) fold_piece(i);
      });
    } else {
      parallel(out_ * pieces, elements, fold_piece);
    }
  }

  void fold_channels_last(const Slice& slice, const Workspace& space, const T* bias,
                          const Activation<T>& y) const {
    const Axis& w = problem_.axes[2];
    const T* offset = bias ? bias + slice.group * out_ : nullptr;
    parallel(pieces_per_channel(slice.count), out_ * w.kernel * width_ * kRowBlock, [&](int64_t i) {
      const Piece piece = piece_of(i, slice.count);
      for_each_row(piece, slice, [&](int64_t row, const Row& target, bool inside) {
        if (!inside) return;
        T* to = y.at(slice.sample, slice.group * out_, target.depth, target.height);
        if (!rows_are_covered_) fill_row(to, y.channel, y.axes[2], offset, out_, w.output);
        for (int64_t k = 0; k < w.kernel; ++k) {
          const auto& tap = along_width_[k];
          copy_row<false>(to + tap.position * y.axes[2], y.channel, w.stride * y.axes[2],
                          column_position(space, piece, row, k) + tap.tap * out_ * taps_, 1,
                          out_ * taps_, offset, out_, tap.count);
        }
      });
    });
  }

  void unfold(const Slice& slice, const Workspace& space, const Activation<T>& gy) const {
    const Axis& w = problem_.axes[2];
    // One channel at a time, or in channels-last all of them.
    const int64_t channels = channels_last_ ? out_ : 1;
    const int64_t to_channel = channels_last_ ? 1 : 0;
    const int64_t to_width = channels_last_ ? out_ * taps_ : 1;
    const int64_t tap_step = slice.count * width_;
    const T* none = nullptr;
    parallel(pieces_per_channel(slice.count) * (out_ / channels),
             channels * w.kernel * width_ * kRowBlock, [&](int64_t i) {
               const Piece piece = piece_of(i, slice.count);
               for_each_row(piece, slice, [&](int64_t row, const Row& source, bool inside) {
                 const T* from = inside ? gy.at(slice.sample, slice.group * out_ + piece.channel,
                                                source.depth, source.height)
                                        : none;
                 T* to = channels_last_ ? nullptr : column_row(space, piece, row, slice.count);
                 if (inside && !channels_last_ && pairs_ && gy.axes[2] == 1) {
                   deinterleave(to, to + tap_step, from, width_);
                   return;
                 }
                 for (int64_t k = 0; k < w.kernel; ++k, to += tap_step) {
                   if (channels_last_) to = column_position(space, piece, row, k);
                   Partners<int64_t> tap = along_width_[k];
                   if (!inside) tap.count = tap.tap = 0;
                   fill_row(to, to_channel, to_width, none, channels, tap.tap);
                   if (tap.count > 0)
                     copy_row<false>(to + tap.tap * to_width, to_channel, to_width,
                                     from + tap.position * gy.axes[2], gy.channel,
                                     w.stride * gy.axes[2], none, channels, tap.count);
                   const int64_t end = tap.tap + tap.count;
                   fill_row(to + end * to_width, to_channel, to_width, none, channels,
                            width_ - end);
                 }
               });
             });
  }

  // The commonest rows, kernel 2 and stride 2, in a form that compilers vectorize.
  static void interleave(T* __restrict to, const T* __restrict even, const T* __restrict odd,
                         T offset, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      to[2 * i] = even[i] + offset;
      to[2 * i + 1] = odd[i] + offset;
    }
  }
  static void deinterleave(T* __restrict even, T* __restrict odd, const T* __restrict from,
                           int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      even[i] = from[2 * i];
      odd[i] = from[2 * i + 1];
    }
  }

  const Problem& problem_;
  const bool channels_last_;
  const bool disjoint_;
  const std::array<Table, 3> tables_;
  const int64_t in_, out_, taps_;               // channels per group, taps
  const int64_t width_, rows_;                  // of the input; rows: depth by height
  std::vector<Partners<int64_t>> along_width_;  // per width tap
  bool rows_are_covered_;                       // every element of an output row has a tap
  bool pairs_;                                  // width: kernel 2, stride 2, nothing else
  int64_t slice_, slices_;                      // rows in one, how many per sample and group
  bool aligned_;                                // every sample, like the first
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
