// The movement of elements between columns (gemm.cpp) and an activation: what a product makes of a
// slice of input rows goes to the output (fold), or is fetched from its gradient (unfold).
#pragma once

#include <vector>

#include "activation.h"

namespace convt3d::cpu {

// Rows [first, first + count) of one group of one sample; a row is a line along the width.
struct Slice {
  int64_t sample, group, first, count;
};

// A slice's columns are (Cout, taps) by positions, in channels-last positions by (taps, Cout).
template <typename T>
class ColumnMovement {
 public:
  ColumnMovement(const Problem& problem, bool channels_last)
      : problem_(problem),
        channels_last_(channels_last),
        tables_{Table(problem.axes[0]), Table(problem.axes[1]), Table(problem.axes[2])},
        out_(problem.out_channels_per_group()),
        taps_(problem.axes[0].kernel * problem.axes[1].kernel * problem.axes[2].kernel),
        width_(problem.axes[2].input) {
    int64_t covered = 0;
    for (int64_t k = 0; k < problem.axes[2].kernel; ++k) {
      along_width_.push_back(partners_of_tap(tables_[2], k));
      covered += along_width_.back().count;
    }
    const Axis& w = problem.axes[2];
    rows_are_covered_ = covered == w.output;
    pairs_ = w.kernel == 2 && w.stride == 2 && w.dilation == 1 && w.padding == 0 &&
             w.output == 2 * w.input;
  }

  // Where no tap reaches, the output is its bias.
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

  // Contiguous. kAdd: taps meet in the output, which holds the bias already.
  template <bool kAdd>
  void fold(const Slice& slice, const T* columns, const T* bias, const Activation<T>& y) const {
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
        const T* from = column_row(columns, piece, row, slice.count);
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

  void fold_channels_last(const Slice& slice, const T* columns, const T* bias,
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
                          column_position(columns, piece, row, k) + tap.tap * out_ * taps_, 1,
                          out_ * taps_, offset, out_, tap.count);
        }
      });
    });
  }

  void unfold(const Slice& slice, T* columns, const Activation<T>& gy) const {
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
                 T* to = channels_last_ ? nullptr : column_row(columns, piece, row, slice.count);
                 if (inside && !channels_last_ && pairs_ && gy.axes[2] == 1) {
                   deinterleave(to, to + tap_step, from, width_);
                   return;
                 }
                 for (int64_t k = 0; k < w.kernel; ++k, to += tap_step) {
                   if (channels_last_) to = column_position(columns, piece, row, k);
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

 private:
  using Table = TapTable<int64_t>;
  static constexpr int64_t kRowBlock = 16;

  struct Row {
    int64_t depth, height;
  };

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
  template <typename Element>
  Element* column_row(Element* columns, const Piece& piece, int64_t row, int64_t count) const {
    const Axis &d = problem_.axes[0], &h = problem_.axes[1], &w = problem_.axes[2];
    const int64_t tap =
        ((piece.channel * d.kernel + piece.tap_depth) * h.kernel + piece.tap_height) * w.kernel;
    return columns + (tap * count + row) * width_;
  }
  // Channels-last columns: the first position of a row at one width tap.
  template <typename Element>
  Element* column_position(Element* columns, const Piece& piece, int64_t row,
                           int64_t tap_width) const {
    const Axis &h = problem_.axes[1], &w = problem_.axes[2];
    const int64_t tap = (piece.tap_depth * h.kernel + piece.tap_height) * w.kernel + tap_width;
    return columns + (row * width_ * taps_ + tap) * out_;
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
  const std::array<Table, 3> tables_;
  const int64_t out_, taps_;                    // channels per group, taps
  const int64_t width_;                         // of the input
  std::vector<Partners<int64_t>> along_width_;  // per width tap
  bool rows_are_covered_;                       // every element of an output row has a tap
  bool pairs_;                                  // width: kernel 2, stride 2, nothing else
};

}  // namespace convt3d::cpu
