// What products are summed up by: one float; or, where the processor multiplies such pairs faster than floats, two
// bfloat16 numbers that are neighbours in the direction of the sum.

#pragma once

#include "vectors.h"

#if defined(__AVX512BF16__) && !defined(ONE_BY_ONE)
#define IN_PAIRS
#include <immintrin.h>
#endif

namespace {

template <class T>
struct UnitFor {
    using Type = float;
};

template <class U>
struct NumberOf {
    using Type = float;
};

template <class X>
inline void join(float& unit, X first, X) {
    unit = widen(first);
}

inline void copy_unit(float& unit, float first, float) {
    unit = first;
}

inline Vector plus_product(Vector sum, float left, const float* right) {
    return sum + left * load(right);
}

#ifdef IN_PAIRS
struct Pair {
    BFloat16 first, second;
};

template <>
struct UnitFor<BFloat16> {
    using Type = Pair;
};

template <>
struct NumberOf<Pair> {
    using Type = BFloat16;
};

template <class X>
inline void join(Pair& unit, X first, X second) {
    store(unit.first, first);
    store(unit.second, second);
}

inline void copy_unit(Pair& unit, BFloat16 first, BFloat16 second) {
    const std::uint32_t bits = first.bits | static_cast<std::uint32_t>(second.bits) << 16;
    std::memcpy(&unit, &bits, sizeof unit);
}

inline Vector plus_product(Vector sum, Pair left, const Pair* right) {
    std::int32_t bits;
    std::memcpy(&bits, &left, sizeof bits);
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(bits),
                                    (__m512bh)_mm512_loadu_si512(right));
}
#endif

template <class T>
using UnitOf = typename UnitFor<T>::Type;

template <class U>
constexpr std::int64_t kNumbers = std::is_same_v<U, float> ? 1 : 2;  // in a unit

template <class U, class T>
inline U unit_at(const T* numbers) {
    U unit;
    std::memcpy(&unit, numbers, sizeof unit);
    return unit;
}

}  // namespace
