// Data flow of one slice of input rows (x: Cin by positions, W: Cin by Cout*taps), per group:
//
//   forward      columns = W^T x      (BLAS)     then every column element goes to its output
//   (fold) grad_input   columns = unfold(gy)            then gx = W columns                  (BLAS)
//   grad_weight  columns = unfold(gy)            then gW += x columns^T               (BLAS)
//
// A column is (Cout, taps) by positions; in channels-last it is positions by (taps, Cout) and all
// products are transposed. A slice's columns stay in cache between the product and the movement,
// and are reused for the next slice: a whole column matrix would be as large as the output (k = s)
// or several times that, and its first touch costs more than the arithmetic.
#include "gemm.h"

namespace convt3d::cpu {
namespace {

using Table = TapTable<int64_t>;

constexpr int64_t kColumnBytesPerThread = 1 << 20;

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
    rows_are_covered_ = covered == problem.axes[2].output;
    const int64_t row_bytes = out_ * taps_ * width_ * static_cast<int64_t>(sizeof(T));
    slice_ = std::clamp<int64_t>(
        kColumnBytesPerThread * torch::stable::get_num_threads() / row_bytes, 1, rows_);
    columns_ = scratch<T>({out_ * taps_ * slice_ * width_});
  }

  void forward(const Activation<T>& x, const T* weight, const T* bias, const Activation<T>& y) {
    load_weight(weight);
    if (disjoint_) {
      fill_rows_without_tap(y, bias);
    } else {
      fill_output(problem_, y, bias);
    }
    for_each_slice([&](int64_t n, int64_t group, int64_t first, int64_t count) {
      const Tensor positions = slice_of(x, n, group, first, count);
      if (channels_last_) {
        mm_out(positions, weight_of(group), columns(count));
        fold_channels_last(n, group, first, count, bias, y);
      } else {
        mm_out(weight_of(group), positions, columns(count));
        disjoint_ ? fold<false>(n, group, first, count, bias, y)
                  : fold<true>(n, group, first, count, bias, y);
      }
    });
  }

  void grad_input(const Activation<T>& gy, const T* weight, const Activation<T>& gx) {
    load_weight(weight);
    for_each_slice([&](int64_t n, int64_t group, int64_t first, int64_t count) {
      unfold(n, group, first, count, gy);
      const Tensor positions = slice_of(gx, n, group, first, count);
      const Tensor transposed = torch::stable::transpose(weight_of(group), 0, 1);
      channels_last_ ? mm_out(columns(count), transposed, positions)
                     : mm_out(transposed, columns(count), positions);
    });
  }

  void grad_weight(const Activation<T>& gy, const Activation<T>& x, T* gw) {
    const int64_t size = in_ * out_ * taps_;
    const Tensor sum = scratch<T>({size * problem_.groups});
    const Tensor part = scratch<T>({in_, out_ * taps_});
    std::memset(data<T>(sum), 0, size * problem_.groups * sizeof(T));
    for_each_slice([&](int64_t n, int64_t group, int64_t first, int64_t count) {
      unfold(n, group, first, count, gy);
      const Tensor positions = slice_of(x, n, group, first, count);
      channels_last_ ? mm_out(torch::stable::transpose(positions, 0, 1), columns(count), part)
                     : mm_out(positions, torch::stable::transpose(columns(count), 0, 1), part);
      T* to = data<T>(sum) + group * size;
      const T* from = data<T>(part);
      parallel(in_, out_ * taps_, [&](int64_t c) {
        const int64_t end = (c + 1) * out_ * taps_;
        for (int64_t i = c * out_ * taps_; i < end; ++i) to[i] += from[i];
      });
    });
    permute_weight(data<T>(sum), gw, false);
  }

 private:
  // Slices never span samples, so that a sample's sums do not depend on its neighbours.
  template <typename Body>
  void for_each_slice(const Body& body) {
    for (int64_t n = 0; n < problem_.batch; ++n)
      for (int64_t group = 0; group < problem_.groups; ++group)
        for (int64_t first = 0; first < rows_; first += slice_)
          body(n, group, first, std::min(slice_, rows_ - first));
  }

  Tensor columns(int64_t count) const {
    const int64_t positions = count * width_;
    return channels_last_ ? over(data<T>(columns_), {positions, out_ * taps_}, {out_ * taps_, 1})
                          : over(data<T>(columns_), {out_ * taps_, positions}, {positions, 1});
  }

  // Channels by positions, in channels-last positions by channels.
  Tensor slice_of(const Activation<T>& x, int64_t n, int64_t group, int64_t first,
                  int64_t count) const {
    const int64_t position = channels_last_ ? problem_.in_channels : 1;
    const T* start = x.data + n * x.batch + group * in_ * x.channel + first * width_ * position;
    return channels_last_ ? over(start, {count * width_, in_}, {position, 1})
                          : over(start, {in_, count * width_}, {rows_ * width_, 1});
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

  // Output position of an input row (depth, height) and a tap of these axes; false: cropped away.
  struct Row {
    int64_t depth, height;
  };
  bool output_row(int64_t input_row, int64_t tap_depth, int64_t tap_height, Row& row) const {
    const Axis &d = problem_.axes[0], &h = problem_.axes[1];
    row.depth = input_row / h.input * d.stride - d.padding + tap_depth * d.dilation;
    row.height = input_row % h.input * h.stride - h.padding + tap_height * h.dilation;
    return row.depth >= 0 && row.depth < d.output && row.height >= 0 && row.height < h.output;
  }

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

  // Splits a slice's index (channel, tap_depth, tap_height, row), row fastest.
  struct Piece {
    int64_t channel, tap_depth, tap_height, row;
  };
  Piece piece_of(int64_t i, int64_t count) const {
    const int64_t kernel_d = problem_.axes[0].kernel, kernel_h = problem_.axes[1].kernel;
    Piece piece;
    piece.row = i % count;
    i /= count;
    piece.tap_height = i % kernel_h;
    i /= kernel_h;
    piece.tap_depth = i % kernel_d;
    piece.channel = i / kernel_d;
    return piece;
  }
  // Contiguous columns: where the row of a piece and its first width tap starts.
  int64_t column_of(const Piece& piece, int64_t count) const {
    const Axis &d = problem_.axes[0], &h = problem_.axes[1], &w = problem_.axes[2];
    const int64_t tap =
        ((piece.channel * d.kernel + piece.tap_depth) * h.kernel + piece.tap_height) * w.kernel;
    return (tap * count + piece.row) * width_;
  }

  template <bool kAdd>
  void fold(int64_t n, int64_t group, int64_t first, int64_t count, const T* bias,
            const Activation<T>& y) const {
    const int64_t pieces = problem_.axes[0].kernel * problem_.axes[1].kernel * count;
    const int64_t stride = problem_.axes[2].stride, width = y.axes[2];
    const auto fold_piece = [&](int64_t i) {
      const Piece piece = piece_of(i, count);
      Row row;
      if (!output_row(first + piece.row, piece.tap_depth, piece.tap_height, row)) return;
      const int64_t channel = group * out_ + piece.channel;
      T* to = y.at(n, channel, row.depth, row.height);
      const T offset = bias ? bias[channel] : T(0);
      if (!kAdd && !rows_are_covered_)
        fill_row(to, int64_t{0}, width, &offset, 1, problem_.axes[2].output);
      const T* from = data<T>(columns_) + column_of(piece, count);
      for (const auto& tap : along_width_) {
        copy_row<kAdd>(to + tap.position * width, 0, stride * width, from + tap.tap, 0, 1, &offset,
                       1, tap.count);
        from += count * width_;
      }
    };
    if constexpr (kAdd) {
      // Pieces of one channel meet in the same elements: one thread, in order.
      parallel(out_, pieces * problem_.axes[2].kernel * width_, [&](int64_t channel) {
        for (int64_t i = channel * pieces; i < (channel + 1) * pieces; ++i) fold_piece(i);
      });
    } else {
      parallel(out_ * pieces, problem_.axes[2].kernel * width_, fold_piece);
    }
  }

  void fold_channels_last(int64_t n, int64_t group, int64_t first, int64_t count, const T* bias,
                          const Activation<T>& y) const {
    const Axis& w = problem_.axes[2];
    const int64_t pieces = problem_.axes[0].kernel * problem_.axes[1].kernel * count;
    const T* offset = bias ? bias + group * out_ : nullptr;
    parallel(pieces, out_ * w.kernel * width_, [&](int64_t i) {
      const Piece piece = piece_of(i, count);
      Row row;
      if (!output_row(first + piece.row, piece.tap_depth, piece.tap_height, row)) return;
      T* to = y.at(n, group * out_, row.depth, row.height);
      if (!rows_are_covered_) fill_row(to, y.channel, y.axes[2], offset, out_, w.output);
      for (int64_t k = 0; k < w.kernel; ++k) {
        const auto& tap = along_width_[k];
        copy_row<false>(to + tap.position * y.axes[2], y.channel, w.stride * y.axes[2],
                        channels_last_column(piece, k) + tap.tap * out_ * taps_, 1, out_ * taps_,
                        offset, out_, tap.count);
      }
    });
  }

  // Channels-last columns: the first position of a piece's row at one width tap.
  T* channels_last_column(const Piece& piece, int64_t tap_width) const {
    const Axis &h = problem_.axes[1], &w = problem_.axes[2];
    const int64_t tap = (piece.tap_depth * h.kernel + piece.tap_height) * w.kernel + tap_width;
    return data<T>(columns_) + (piece.row * width_ * taps_ + tap) * out_;
  }

  void unfold(int64_t n, int64_t group, int64_t first, int64_t count,
              const Activation<T>& gy) const {
    const Axis& w = problem_.axes[2];
    const int64_t pieces = problem_.axes[0].kernel * problem_.axes[1].kernel * count;
    // One channel at a time, or in channels-last all of them.
    const int64_t channels = channels_last_ ? out_ : 1;
    const int64_t to_channel = channels_last_ ? 1 : 0;
    const int64_t to_width = channels_last_ ? out_ * taps_ : 1;
    parallel(pieces * (out_ / channels), channels * w.kernel * width_, [&](int64_t i) {
      const Piece piece = piece_of(i, count);
      Row row;
      const bool inside = output_row(first + piece.row, piece.tap_depth, piece.tap_height, row);
      const T* from =
          inside ? gy.at(n, group * out_ + piece.channel, row.depth, row.height) : nullptr;
      T* to = data<T>(columns_) + column_of(piece, count);
      for (int64_t k = 0; k < w.kernel; ++k, to += count * width_) {
        if (channels_last_) to = channels_last_column(piece, k);
        Partners<int64_t> tap = along_width_[k];
        if (!inside) tap.count = tap.tap = 0;
        const T* none = nullptr;
        fill_row(to, to_channel, to_width, none, channels, tap.tap);
        if (tap.count > 0)
          copy_row<false>(to + tap.tap * to_width, to_channel, to_width,
                          from + tap.position * gy.axes[2], gy.channel, w.stride * gy.axes[2], none,
                          channels, tap.count);
        const int64_t end = tap.tap + tap.count;
        fill_row(to + end * to_width, to_channel, to_width, none, channels, width_ - end);
      }
    });
  }

  const Problem& problem_;
  const bool channels_last_;
  const bool disjoint_;
  const std::array<Table, 3> tables_;
  const int64_t in_, out_, taps_;               // channels per group, taps
  const int64_t width_, rows_;                  // of the input; rows: depth by height
  std::vector<Partners<int64_t>> along_width_;  // per width tap
  bool rows_are_covered_;                       // every element of an output row has a tap
  int64_t slice_;                               // rows
  Tensor columns_, permuted_;
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
