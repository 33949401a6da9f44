// d^-p of vectors, for the local response normalisation.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "simd.hpp"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace STAN_FORM {

inline Vector bits(Whole value) {
    Vector same;
    std::memcpy(&same, &value, sizeof same);
    return same;
}

inline Whole bits(Vector value) {
    Whole same;
    std::memcpy(&same, &value, sizeof same);
    return same;
}

// The powers that roots give: faster than the general one.
#if defined(__AVX512F__)

constexpr bool roots_are_cheap = true;  // cheaper than to write a power and read it back

// Estimates to 14 bits and a step of Newton's method, which leaves less than a rounding: roots and divisions of 16
// numbers take several times as long. They are for a d of 1 or more; what an infinite d and NaN give, estimates alone
// tell: 0 and NaN.
inline Vector finite_or(Vector d, Vector value, Vector otherwise) {
    return d < all(std::numeric_limits<float>::infinity()) ? value : otherwise;
}

inline Vector better_inverse_root(Vector d, Vector guess) {
    return guess + guess * (all(0.5f) - all(0.5f) * d * guess * guess);
}

inline Vector root_guess(Vector d) { return (Vector)_mm512_rsqrt14_ps((__m512)d); }

inline Vector inverse(Vector d) {
    const Vector guess = (Vector)_mm512_rcp14_ps((__m512)d);
    return finite_or(d, guess + guess * (all(1.0f) - d * guess), guess);
}

struct NegativeHalf {
    Vector operator()(Vector d) const {
        const Vector guess = root_guess(d);
        return finite_or(d, better_inverse_root(d, guess), guess);
    }
};

struct NegativeThreeQuarters {
    Vector operator()(Vector d) const {
        const Vector guess = root_guess(d), half = better_inverse_root(d, guess);
        return finite_or(d, half * half * better_inverse_root(half, root_guess(half)), guess);
    }
};

#else

constexpr bool roots_are_cheap = false;

inline Vector root(Vector value) {
    Vector result;
    for (int lane = 0; lane < lanes; ++lane) result[lane] = std::sqrt(value[lane]);  // one instruction
    return result;
}

inline Vector inverse(Vector d) { return all(1.0f) / d; }

struct NegativeHalf {
    Vector operator()(Vector d) const { return all(1.0f) / root(d); }
};

struct NegativeThreeQuarters {
    Vector operator()(Vector d) const {
        const Vector half = root(d);
        return all(1.0f) / (half * root(half));
    }
};

#endif

struct NegativeOne {
    Vector operator()(Vector d) const { return inverse(d); }
};

// d^-power for a d of 1 or more, within a few units in the last place for powers up to 3; 0 for an infinite d.
//
// d = 2^e · m with m in [sqrt(1/2), sqrt(2)), so the result is 2^-(power · (e + log2 m)). The power is split into a
// part whose product with e is exact and the rest: the large whole part of the exponent then costs no precision.
class NegativePower {
  public:
    // Beyond 2^32 every number above 1 gives 0 already, and the products would overflow.
    explicit NegativePower(double power) {
        power = -std::min(power, 4294967296.0);
        power_ = static_cast<float>(power);
        int32_t kept;
        std::memcpy(&kept, &power_, sizeof kept);
        kept &= ~0xFFF;  // 12 bits of mantissa; an exponent e has no more than 8
        std::memcpy(&coarse_, &kept, sizeof kept);
        fine_ = static_cast<float>(power - coarse_);
    }

    Vector operator()(Vector d) const {
        constexpr int32_t root_half = 0x3F3504F3;
        const Whole exponent = (bits(d) - all(root_half)) >> 23;
        const Vector e = __builtin_convertvector(exponent, Vector);
        const Vector f = bits(bits(d) - (exponent << 23)) - all(1.0f);

        // log2(1 + f) = f / ln 2 + f² q(f); q fits to 3e-8 (Chebyshev).
        const Vector square = f * f;
        const Vector low = (all(-0.72134744f) + all(0.48090306f) * f) + square * (all(-0.36069705f) + all(0.28815109f) * f);
        const Vector high = (all(-0.23912585f) + all(0.21360963f) * f) + square * (all(-0.20570612f) + all(0.12992163f) * f);
        const Vector log = f * all(1.44269504f) + square * (low + square * square * high);

        // 1.5 · 2^23: adding it rounds to a whole number, which then stands in the lowest bits.
        const Vector magic = all(12582912.0f);
        const Vector rest = all(fine_) * e + all(power_) * log;
        const Vector sum = all(coarse_) * e + rest;
        const Vector rounded = sum + magic;
        const Vector r = (all(coarse_) * e - (rounded - magic)) + rest;

        // 2^r for |r| <= 1/2; fits to 5e-9.
        const Vector r2 = r * r;
        const Vector tail = (all(0.24022651f) + all(0.05550357f) * r) +
                            r2 * ((all(0.0096180567f) + all(0.0013390867f) * r) + r2 * all(0.00015461447f));
        const Vector root = all(1.0f) + (r * all(0.69314719f) + r2 * tail);
        const Vector result = bits(bits(root) + (bits(rounded) << 23));

        const Vector infinite = all(std::numeric_limits<float>::infinity());
        const Vector normal = sum < all(-125.0f) ? Vector{} : result;
        return d < infinite ? normal : (d == infinite ? Vector{} : d);  // the last is NaN
    }

  private:
    float power_, coarse_, fine_;
};

}  // namespace STAN_FORM
