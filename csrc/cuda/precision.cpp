#include "precision.h"

#include <atomic>

namespace {

std::atomic<int (*)()> tf32_query{nullptr};

}  // namespace

void convt3d_set_tf32_query(int (*query)()) { tf32_query = query; }

namespace convt3d {

bool allows_tf32(const Tensor& tensor) {
  if (tensor.scalar_type() != ScalarType::Float) return false;
  int (*const query)() = tf32_query;
  return query != nullptr && query() != 0;
}

}  // namespace convt3d
