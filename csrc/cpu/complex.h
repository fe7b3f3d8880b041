// Complex operands as real ones with twice the channels: per group all real parts, then all
// imaginary parts. One real transposed convolution then does all four real products.
//
// T: float or double; complex memory is contiguous pairs of T, real memory is contiguous.
// `groups` and the other sizes are those of the complex tensors.
#pragma once

#include "activation.h"

namespace convt3d::cpu {

// (batch, groups, channels, positions), the latter three also for a bias (positions 1).
struct ComplexActivation {
  int64_t batch, groups, channels, positions;
};

template <typename T>
void split_activation(const ComplexActivation& size, const T* from, T* to) {
  parallel(size.batch * size.groups * 2 * size.channels, size.positions, [&](int64_t i) {
    const int64_t outer = i / (2 * size.channels), part = i / size.channels % 2;
    const T* source =
        from + 2 * (outer * size.channels + i % size.channels) * size.positions + part;
    T* target = to + i * size.positions;
    for (int64_t p = 0; p < size.positions; ++p) target[p] = source[2 * p];
  });
}

template <typename T>
void merge_activation(const ComplexActivation& size, const T* from, T* to) {
  parallel(size.batch * size.groups * 2 * size.channels, size.positions, [&](int64_t i) {
    const int64_t outer = i / (2 * size.channels), part = i / size.channels % 2;
    const T* source = from + i * size.positions;
    T* target = to + 2 * (outer * size.channels + i % size.channels) * size.positions + part;
    for (int64_t p = 0; p < size.positions; ++p) target[2 * p] = source[p];
  });
}

// (groups, in, out, taps): `in` and `out` channels per group.
struct ComplexWeight {
  int64_t groups, in, out, taps;
};

// Real and imaginary part of the input (rows) to those of the output (columns):
//   [  re  im ]                                        [  re -im ]
//   [ -im  re ]  for the forward map, and transposed:  [  im  re ]  for grad_input.
template <typename T>
void split_weight(const ComplexWeight& size, bool transposed, const T* from, T* to) {
  const T sign = transposed ? T(-1) : T(1);
  parallel(size.groups * size.in, 4 * size.out * size.taps, [&](int64_t i) {
    const int64_t group = i / size.in, channel = i % size.in, elements = size.out * size.taps;
    const T* source = from + 2 * i * elements;
    T* real_row = to + (group * 2 * size.in + channel) * 2 * elements;
    T* imaginary_row = real_row + size.in * 2 * elements;
    for (int64_t e = 0; e < elements; ++e) {
      const T re = source[2 * e], im = source[2 * e + 1];
      real_row[e] = imaginary_row[elements + e] = re;
      real_row[elements + e] = sign * im;
      imaginary_row[e] = -sign * im;
    }
  });
}

// Of the four products of parts in a weight gradient: re re - im im, re im + im re.
template <typename T>
void merge_weight(const ComplexWeight& size, const T* from, T* to) {
  parallel(size.groups * size.in, 4 * size.out * size.taps, [&](int64_t i) {
    const int64_t group = i / size.in, channel = i % size.in, elements = size.out * size.taps;
    const T* real_row = from + (group * 2 * size.in + channel) * 2 * elements;
    const T* imaginary_row = real_row + size.in * 2 * elements;
    T* target = to + 2 * i * elements;
    for (int64_t e = 0; e < elements; ++e) {
      target[2 * e] = real_row[e] - imaginary_row[elements + e];
      target[2 * e + 1] = real_row[elements + e] + imaginary_row[e];
    }
  });
}

}  // namespace convt3d::cpu
