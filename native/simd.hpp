// Vectors of floats as wide as the instruction set that this file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Each translation unit that does arithmetic is compiled once per instruction set, in a namespace of its own.
#ifndef STAN_FORM
#error "compile with -DSTAN_FORM=portable, avx2 or avx512"
#endif

namespace STAN_FORM {

#define STAN_INLINE __attribute__((always_inline))

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
typedef uint8_t Byte __attribute__((vector_size(lanes)));
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

// The same of narrower numbers, which go with a vector's lanes. Of a known size it is one instruction, otherwise a call.
template <class Narrow, class Number>
STAN_INLINE inline Narrow load_narrow(const Number* from, int count) {
    typedef Narrow Unaligned __attribute__((aligned(sizeof(Number)), may_alias));
    if (count >= lanes) return *reinterpret_cast<const Unaligned*>(from);
    Narrow value = {};
    std::memcpy(&value, from, sizeof(Number) * count);
    return value;
}

template <class Narrow, class Number>
STAN_INLINE inline void store_narrow(Number* to, Narrow value, int count) {
    typedef Narrow Unaligned __attribute__((aligned(sizeof(Number)), may_alias));
    if (count >= lanes)
        *reinterpret_cast<Unaligned*>(to) = value;
    else
        std::memcpy(to, &value, sizeof(Number) * count);
}

// From narrower numbers and back. Of a conversion by more than one step, compilers make one of each lane by itself.
#if defined(__AVX512F__)
inline Whole widened(Short value) { return (Whole)_mm512_cvtepu16_epi32((__m256i)value); }
inline Whole widened(Byte value) { return (Whole)_mm512_cvtepu8_epi32((__m128i)value); }
inline Short shorts(Whole value) { return (Short)_mm512_cvtepi32_epi16((__m512i)value); }
inline Byte bytes(Whole value) { return (Byte)_mm512_cvtepi32_epi8((__m512i)value); }
#elif defined(__AVX2__)
inline Whole widened(Short value) { return (Whole)_mm256_cvtepu16_epi32((__m128i)value); }
inline Whole widened(Byte value) { return (Whole)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)value)); }
inline Short shorts(Whole value) {
    const __m256i both = (__m256i)value;
    return (Short)_mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}
inline Byte bytes(Whole value) {
    const __m128i own = (__m128i)shorts(value);
    return (Byte)_mm_cvtsi128_si64(_mm_packus_epi16(own, own));
}
#else
inline Whole widened(Short value) { return __builtin_convertvector(value, Whole); }
inline Whole widened(Byte value) { return __builtin_convertvector(value, Whole); }
inline Short shorts(Whole value) { return __builtin_convertvector(value, Short); }
inline Byte bytes(Whole value) { return __builtin_convertvector(value, Byte); }
#endif

inline Short load(const uint16_t* from, int count) { return load_narrow<Short>(from, count); }
inline Byte load(const uint8_t* from, int count) { return load_narrow<Byte>(from, count); }
inline void store(uint16_t* to, Short value, int count) { store_narrow(to, value, count); }
inline void store(uint8_t* to, Byte value, int count) { store_narrow(to, value, count); }

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
