// Numbers and vectors of them, for any processor and for both GNU's compiler and clang.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__clang__)
#define UNROLLED(most) _Pragma("clang loop unroll(full)")
#else
#define UNROLLED(most) UNROLLED_TEXT(GCC unroll most)
#define UNROLLED_TEXT(text) _Pragma(#text)
#endif

namespace {

struct BFloat16 {
    std::uint16_t bits;
};

inline float widen(float x) {
    return x;
}

inline float widen(BFloat16 x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

inline void store(float& place, float x) {
    place = x;
}

inline void store(BFloat16& place, float x) {  // to the nearest, ties to even
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    place.bits = static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline void store(BFloat16& place, BFloat16 x) {
    place = x;
}

template <class T>
inline float rounded(float x) {
    T place;
    store(place, x);
    return widen(place);
}

// As many floats as one register holds: of wider vectors the compiler makes code that is ten times as slow.
#if defined(__AVX512F__)
constexpr std::int64_t kVector = 16;
#elif defined(__AVX__)
constexpr std::int64_t kVector = 8;
#else
constexpr std::int64_t kVector = 4;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr std::int64_t kRegisters = 32;
#else
constexpr std::int64_t kRegisters = 16;
#endif
constexpr std::int64_t kVectorBytes = kVector * sizeof(float);
using Vector = float __attribute__((vector_size(kVectorBytes)));
using VectorBits = std::uint32_t __attribute__((vector_size(kVectorBytes)));

template <class X>
using Bits = std::conditional_t<std::is_same_v<X, float>, std::uint32_t, VectorBits>;

inline VectorBits lanes() {  // 0, 1, 2 and so on; a constant to the compiler
    VectorBits numbers{};
    for (std::uint32_t i = 0; i < kVector; ++i) numbers[i] = i;
    return numbers;
}

inline Vector load(const float* from) {
    Vector x;
    std::memcpy(&x, from, sizeof x);  // one instruction; floats need not lie where vectors do
    return x;
}

inline void store(float* to, Vector x) {
    std::memcpy(to, &x, sizeof x);
}

inline Vector sum(Vector x, Vector y) {
    return x + y;
}

inline Vector larger(Vector x, Vector y) {
    return y > x ? y : x;
}

// Numbers that lie so far apart in each other's place.
template <std::uint32_t kDistance, std::size_t... kPlaces>
inline Vector exchanged(Vector x, std::index_sequence<kPlaces...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, x, (kPlaces ^ kDistance)...);
#else
    return __builtin_shuffle(x, VectorBits{(kPlaces ^ kDistance)...});
#endif
}

// One number of a vector, halves joined at a time: one by one, each would wait for the one before it.
template <std::uint32_t kDistance = kVector / 2, class Join>
inline float joined(Vector x, const Join& join) {
    if constexpr (kDistance == 0)
        return x[0];
    else
        return joined<kDistance / 2>(join(x, exchanged<kDistance>(x, std::make_index_sequence<kVector>())), join);
}

// e^x with a relative error below 3e-7, of a float or of a vector of them; beyond 88 a large finite number, below -87
// a tiny one. 2^n times a polynomial of the rest, as in Cephes' expf; compilers turn a loop of it into vector
// instructions. A NaN stays a NaN.
template <class X>
inline X exponential(X x) {
    const X least = X{} - 87.0f;
    x = x < least ? least : x;
    const X shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the last bits are those of the nearest integer
    const X n = shifted - 12582912.0f;
    const X r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    X p = X{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    // The upper end is cut off here: of two comparisons of x compilers make branches.
    const Bits<X> bits = __builtin_bit_cast(Bits<X>, shifted), most = Bits<X>{} + (0x4b400000 + 127);
    return p * __builtin_bit_cast(X, ((bits < most ? bits : most) + 127) << 23);
}

// tanh x with a relative error below 6e-7: by e^-2|x|, and near 0, where that loses digits, by the first terms of its
// series.
inline Vector hyperbolic_tangent(Vector x) {
    const Vector positive = x < Vector{} ? -x : x, square = x * x;
    const Vector power = exponential(positive * -2.0f);
    const Vector far = (1.0f - power) / (1.0f + power);
    Vector near = Vector{} + 62.0f / 2835.0f;
    near = near * square - 17.0f / 315.0f;
    near = near * square + 2.0f / 15.0f;
    near = near * square - 1.0f / 3.0f;
    near = near * square * positive + positive;
    const Vector found = positive < Vector{} + 0.25f ? near : far;
    return x < Vector{} ? -found : found;
}

}  // namespace
