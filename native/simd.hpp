// Vectors of floats as wide as the instruction set that this file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

// Each translation unit that does arithmetic is compiled once per instruction set, in a namespace of its own.
#ifndef STAN_FORM
#error "compile with -DSTAN_FORM=portable, avx2 or avx512"
#endif

namespace STAN_FORM {

#if defined(__AVX512F__)
constexpr int lanes = 16, sums = 24;  // sums: registers that hold a tile, of 32
#elif defined(__AVX__)
constexpr int lanes = 8, sums = 12;  // of 16
#elif defined(__aarch64__)
constexpr int lanes = 4, sums = 24;  // of 32
#else
constexpr int lanes = 4, sums = 12;  // of 16
#endif

typedef float Vector __attribute__((vector_size(lanes * 4)));
typedef int32_t Whole __attribute__((vector_size(lanes * 4)));
typedef uint16_t Short __attribute__((vector_size(lanes * 2)));
typedef float Anywhere __attribute__((vector_size(lanes * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Anywhere*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Anywhere*>(to) = value; }

// The first `count` lanes; the others are zero.
inline Vector load(const float* from, int count) {
    if (count >= lanes) return load(from);
    Vector value = {};
    if (count > 0) std::memcpy(&value, from, sizeof(float) * count);
    return value;
}

inline void store(float* to, Vector value, int count) {
    if (count >= lanes)
        store(to, value);
    else if (count > 0)
        std::memcpy(to, &value, sizeof(float) * count);
}

inline Short load(const uint16_t* from, int count) {
    Short value = {};
    // Of a known size it is one instruction, otherwise a call or a loop.
    if (count >= lanes)
        std::memcpy(&value, from, sizeof value);
    else
        std::memcpy(&value, from, sizeof(uint16_t) * count);
    return value;
}

inline void store(uint16_t* to, Short value, int count) {
    if (count >= lanes)
        std::memcpy(to, &value, sizeof value);
    else
        std::memcpy(to, &value, sizeof(uint16_t) * count);
}

// std::copy_n for a few vectors' worth, without a call where there are whole ones.
inline void copy(const float* from, int count, float* to) {
    if (count % lanes) {
        std::memcpy(to, from, sizeof(float) * count);
        return;
    }
    for (int i = 0; i < count; i += lanes) store(to + i, load(from + i));
}

inline Vector all(float value) { return value - Vector{}; }
inline Whole all(int32_t value) { return value - Whole{}; }

// max(value, 0) that lets NaN through, as PyTorch's.
inline Vector relu(Vector value) { return value <= all(0.0f) ? all(0.0f) : value; }
inline float relu(float value) { return value <= 0.0f ? 0.0f : value; }

#define STAN_INLINE __attribute__((always_inline))

// Calls body(0), body(1), ... with constants. Arrays of vectors that are indexed by such constants alone are registers;
// indexed in a loop, they are in memory before and after it, even where the compiler unrolls it.
template <int number, class Body>
STAN_INLINE inline void unrolled(const Body& body) {
    [&]<int... i>(std::integer_sequence<int, i...>) STAN_INLINE {
        (body(std::integral_constant<int, i>()), ...);
    }(std::make_integer_sequence<int, number>());
}

inline int vectors_of(int floats) { return (floats + lanes - 1) / lanes; }

}  // namespace STAN_FORM
