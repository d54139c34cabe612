// half_products.cpp in plain C++, which rounds where that does; included by it.

#pragma once

#include <cmath>
#include <cstring>
#include <vector>

namespace {

inline float from_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// A finite number.
inline float widened(Half x) {
    const float size = from_bits((x & 0x7fffu) << 13) * 0x1p112f;  // exponents begin elsewhere
    return x & 0x8000u ? -size : size;
}

// To the nearest number that float16 has, ties to even: what is added and taken away again lets no finer bits through.
inline float rounded_to_half(float x) {
    const float exponent = from_bits(bits_of(x) & 0x7f800000u), step = std::max(exponent, 0x1p-14f) * (1.5f * 0x1p13f);
    return (x + step) - step;
}

// The power of two that brings the largest of some numbers up to kLargest.
inline float scale_of(const float* numbers, Index count) {
    float largest = 0;
    for (Index k = 0; k < count; ++k) largest = std::max(largest, std::fabs(numbers[k]));
    if (!(largest > 1e-30f && largest < 1e30f)) return 1.0f;  // zeros, and what is not a number
    return kLargest / 2 / from_bits(bits_of(largest) & 0x7f800000u);
}

inline void multiply_row(const Product& p, Index row) {
    const float* a = p.a + row * p.a_row;
    std::vector<float> totals(p.columns), sums(p.columns);
    for (Index first = 0; first < p.depth; first += kDepth) {
        const Index after = std::min(first + kDepth, p.depth);
        const float scale = scale_of(a + first, after - first);
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (Index k = first; k < after; ++k) {
            const float number = rounded_to_half(a[k] * scale);
            const Half* b = p.b + k * p.b_row;
            for (Index n = 0; n < p.columns; ++n)
                sums[n] = rounded_to_half(std::fma(number, widened(b[n * p.b_column]), sums[n]));
        }
        for (Index n = 0; n < p.columns; ++n) totals[n] += sums[n] * (1.0f / scale);
    }
    float* c = p.c + row * p.c_row;
    for (Index n = 0; n < p.columns; ++n) c[n] = totals[n] + (p.adds ? c[n] : 0.0f);
}

inline bool multiply_all(const Product& p) {
    std::atomic<bool> is_short = false;
    for_each(p.rows, [&p, &is_short](Index row) {
        try {  // what is thrown must not leave the thread
            multiply_row(p, row);
        } catch (const std::bad_alloc&) {
            is_short = true;
        }
    });
    return !is_short;
}

inline void multiply_few_rows(const Product& p) {
    for_each(p.columns, [&p](Index n) {
        for (Index row = 0; row < p.rows; ++row) {
            float sum = 0;
            for (Index k = 0; k < p.depth; ++k) sum += p.a[row * p.a_row + k] * widened(p.b[k + n * p.b_column]);
            float& to = p.c[row * p.c_row + n];
            to = sum + (p.adds ? to : 0.0f);
        }
    });
}

}  // namespace
