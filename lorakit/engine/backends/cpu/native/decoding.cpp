// The next tokens of a Llama-like model on a CPU: embedding, all layers, and the output projection in one call.
//
// One token reads every weight once, so its time is that of reading memory: weights come as they are stored (float32,
// bfloat16, float16) or packed (8 bits, 4 bits; decoding_weights.py), and are widened in registers. Activations are
// float32 from the first layer to the last; keys and values are kept in the format of the model. With packed weights
// the activations of a product are rounded to 8 bits in groups, as llama.cpp does.
//
// The outputs of a matrix are shared out among PyTorch's own OpenMP threads in one contiguous part each, and each
// number is added up by one thread in one order: results do not depend on the number of threads, nor on which other
// tokens are computed in the same call.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <type_traits>
#include <vector>

#include "function_table.h"
#include "threads.h"
#include "vectors.h"
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace {

using Index = std::int64_t;

constexpr Index kUnit = 16;   // outputs of a matrix that are computed together; the rows of a packed block
constexpr Index kGroup = 32;  // inputs with a scale of their own in packed matrices
constexpr Index kTile = 4;    // rows of a matrix, and tokens, whose sums wait in registers
constexpr Index kLineBytes = 64;
constexpr Index kAheadBytes = 8192;  // of the address that is asked for in advance

struct Float16 {
    std::uint16_t bits;
};
struct Bits8 {};  // packed weights
struct Bits4 {};

constexpr Index kPieces = kUnit / kVector;  // registers for one number of each output
using Integers = std::int32_t __attribute__((vector_size(kVectorBytes)));
using HalfBits = std::uint16_t __attribute__((vector_size(kVectorBytes / 2)));

template <class To, class From>
inline To as(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float widen(Float16 x) {
    const std::uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    if (rest >= 0x7c00u) return as<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);  // infinite, or no number
    return as<float>(sign | as<std::uint32_t>(as<float>(rest << 13) * 5.192296858534828e33f));  // 2^112
}

inline Vector load(const BFloat16* from) {
#if defined(__AVX512F__)
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return as<Vector>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
#elif defined(__AVX2__)
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return as<Vector>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#else
    HalfBits bits;
    std::memcpy(&bits, from, sizeof bits);
    return as<Vector>(__builtin_convertvector(bits, VectorBits) << 16);
#endif
}

inline Vector load(const Float16* from) {
#if defined(__AVX512F__)
    return as<Vector>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    return as<Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    Vector x;
    for (Index i = 0; i < kVector; ++i) x[i] = widen(from[i]);
    return x;
#endif
}

inline float total(Vector x) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(as<__m512>(x));
#elif defined(__AVX__)
    const __m256 wide = as<__m256>(x);
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(wide), _mm256_extractf128_ps(wide, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
    return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}

// Signed products of four neighbouring 8-bit numbers, added to each of kVector sums: of weights (4 kVector of them,
// raised by 128) and four activations that are the same for all sums.
#if defined(__AVX512VNNI__)
constexpr bool kIsRaised = true;  // the sums begin with what the 128 are to be undone by

inline Integers multiplied(Integers sums, const std::uint8_t* weights, std::int32_t four) {
    return as<Integers>(_mm512_dpbusd_epi32(as<__m512i>(sums), _mm512_loadu_si512(weights), _mm512_set1_epi32(four)));
}

inline Integers multiplied_small(Integers sums, Integers weights, std::int32_t four) {
    return as<Integers>(_mm512_dpbusd_epi32(as<__m512i>(sums), as<__m512i>(weights), _mm512_set1_epi32(four)));
}
#elif defined(__AVX512BW__)
constexpr bool kIsRaised = false;

inline Integers in_pairs(Integers sums, __m512i positive, __m512i other) {
    const __m512i pairs = _mm512_maddubs_epi16(positive, other);
    return sums + as<Integers>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

inline Integers multiplied(Integers sums, const std::uint8_t* weights, std::int32_t four) {
    const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(weights), _mm512_set1_epi8(-128));
    const __m512i x = _mm512_set1_epi32(four);
    const __m512i turned = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
    return in_pairs(sums, _mm512_abs_epi8(w), turned);
}

inline Integers multiplied_small(Integers sums, Integers weights, std::int32_t four) {
    return in_pairs(sums, as<__m512i>(weights), _mm512_set1_epi32(four));
}
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
constexpr bool kIsRaised = true;

inline Integers multiplied_small(Integers sums, Integers weights, std::int32_t four) {
    return as<Integers>(
        _mm256_dpbusd_avx_epi32(as<__m256i>(sums), as<__m256i>(weights), _mm256_set1_epi32(four)));
}

inline Integers multiplied(Integers sums, const std::uint8_t* weights, std::int32_t four) {
    Integers w;
    std::memcpy(&w, weights, sizeof w);
    return multiplied_small(sums, w, four);
}
#elif defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool kIsRaised = false;

inline Integers in_pairs(Integers sums, __m256i positive, __m256i other) {
    const __m256i pairs = _mm256_maddubs_epi16(positive, other);
    return sums + as<Integers>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

inline Integers multiplied(Integers sums, const std::uint8_t* weights, std::int32_t four) {
    const __m256i raised = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i w = _mm256_xor_si256(raised, _mm256_set1_epi8(-128));
    return in_pairs(sums, _mm256_abs_epi8(w), _mm256_sign_epi8(_mm256_set1_epi32(four), w));
}

inline Integers multiplied_small(Integers sums, Integers weights, std::int32_t four) {
    return in_pairs(sums, as<__m256i>(weights), _mm256_set1_epi32(four));
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr bool kIsRaised = false;

inline Integers multiplied(Integers sums, const std::uint8_t* weights, std::int32_t four) {
    const int8x16_t w = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(weights), vdupq_n_u8(128)));
    return as<Integers>(vdotq_s32(as<int32x4_t>(sums), w, vreinterpretq_s8_s32(vdupq_n_s32(four))));
}

inline Integers multiplied_small(Integers sums, Integers weights, std::int32_t four) {
    return as<Integers>(vdotq_s32(as<int32x4_t>(sums), as<int8x16_t>(weights), vreinterpretq_s8_s32(vdupq_n_s32(four))));
}
#else
constexpr bool kIsRaised = false;

inline Integers multiplied_bytes(Integers sums, const std::uint8_t* weights, std::int32_t four, int raised) {
    std::int8_t x[4];
    std::memcpy(x, &four, sizeof x);
    for (Index lane = 0; lane < kVector; ++lane)
        for (Index i = 0; i < 4; ++i) sums[lane] += (weights[4 * lane + i] - raised) * x[i];
    return sums;
}

inline Integers multiplied(Integers sums, const std::uint8_t* weights, std::int32_t four) {
    return multiplied_bytes(sums, weights, four, 128);
}

inline Integers multiplied_small(Integers sums, Integers weights, std::int32_t four) {
    std::uint8_t bytes[kVectorBytes];
    std::memcpy(bytes, &weights, sizeof bytes);
    return multiplied_bytes(sums, bytes, four, 0);
}
#endif

enum Kind : Index { kFloat32, kBFloat16, kFloat16, kBits8, kBits4 };

// y = W x + bias + B A x. The tables of decoding_tables.py have the same fields in the same order.
struct Matrix {
    const void* weight;    // [outputs, inputs], or packed
    const BFloat16* scale;  // of packed weights, [units, groups, 16]; of 4 bits [units, groups, 2, 16]: scale and least
    const float* bias;     // [outputs], or none
    const BFloat16* a;     // [rank, inputs]
    const BFloat16* b;     // [units, rank, 16], with the scaling
    const float *wide_a, *wide_b;  // the same in float32, for models in it
    Index outputs, inputs, kind, rank;
};

struct Layer {
    Matrix query, key, value, output, gate, up, down;
    const float *input_norm, *inner_norm;  // [hidden]
    const float *query_norm, *key_norm;    // [head size], or none
    void *keys, *values;                   // [slots, key heads, capacity, head size]
    Index window;                          // how many tokens a token sees, itself included
};

struct Model {
    const Layer* layers;
    Matrix embedding, head;
    const float* norm;         // [hidden]
    const float *cos, *sin;    // [capacity, head size]
    Index layer_count, hidden, heads, key_heads, head_size, inner, capacity, cache_kind;
    float epsilon, scaling;
};

struct Step {
    const Index *ids, *slots, *positions;  // [tokens]
    const Index* wanted;                   // [answers]: the tokens whose logits are wanted
    float* logits;                         // [answers, vocabulary], or none
    Index* best;                           // [answers]: the likeliest next token; -1 where no logit is a number
    Index tokens, answers;
};

// What a product takes: x [tokens, width]; and for packed weights the same in 8 bits.
struct Input {
    float* x;
    Index tokens, width;         // width: of a row, a multiple of kGroup, filled up with zeros
    std::int8_t* rounded;        // [tokens, width]
    float *scales, *sums;        // [tokens, width / kGroup]: x is about rounded times scale; scale times sum of rounded
    std::int32_t* beginnings;    // [tokens, width / kGroup]: minus 128 times the sum of rounded
};

constexpr Index pieces(Index all, Index size) {
    return (all + size - 1) / size;
}

constexpr Index filled(Index all, Index size) {
    return pieces(all, size) * size;
}

void round_input(const Input& in) {
    for (Index group = 0; group < in.tokens * in.width / kGroup; ++group) {
        const float* x = in.x + group * kGroup;
        std::int8_t* to = in.rounded + group * kGroup;
        float largest = 0;
#pragma omp simd reduction(max : largest)
        for (Index i = 0; i < kGroup; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
        const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
        std::int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
        for (Index i = 0; i < kGroup; ++i) {
            const float shifted = x[i] * inverse + 12582912.0f;  // 1.5 * 2^23: the last bits are the nearest integer
            const std::int32_t nearest = as<std::int32_t>(shifted) - 0x4b400000;
            to[i] = static_cast<std::int8_t>(nearest);
            sum += nearest;
        }
        in.scales[group] = scale;
        in.sums[group] = scale * static_cast<float>(sum);
        in.beginnings[group] = -128 * sum;
    }
}

// Rows of a matrix times some tokens: out[token * kUnit + row].
//
// Processors read ahead of one sequence of addresses well, of four interleaved ones badly: a single token takes row by
// row, several take four rows at once and ask for what comes next in the order in which it lies.
template <class W, Index Rows, Index Tokens>
inline void tile(const W* weight, Index columns, const float* x, Index width, float* out) {
    Vector sums[Rows][Tokens] = {};
    const Index whole = columns / kVector * kVector;
    const char* next = reinterpret_cast<const char*>(weight) + kAheadBytes;
    for (Index k = 0; k < whole; k += kVector) {
        Vector w[Rows];
        for (Index row = 0; row < Rows; ++row) w[row] = load(weight + row * columns + k);
        if constexpr (Rows > 1) {
            for (Index line = 0; line < static_cast<Index>(Rows * kVector * sizeof(W)); line += kLineBytes)
                __builtin_prefetch(next + line);
            next += Rows * kVector * sizeof(W);
        }
        for (Index token = 0; token < Tokens; ++token) {
            Vector v = load(x + token * width + k);
#if defined(__GNUC__) && defined(__AVX__)
            if constexpr (Rows > 1) asm("" : "+v"(v));  // else it is loaded again for each row
#endif
            for (Index row = 0; row < Rows; ++row) sums[row][token] += w[row] * v;
        }
    }
    for (Index row = 0; row < Rows; ++row) {
        for (Index token = 0; token < Tokens; ++token) {
            float sum = total(sums[row][token]);
            for (Index k = whole; k < columns; ++k) sum += widen(weight[row * columns + k]) * x[token * width + k];
            out[token * kUnit + row] = sum;
        }
    }
}

template <class W, Index Tokens>
inline void rows_times(const W* weight, Index rows, Index columns, const float* x, Index width, float* out) {
    constexpr Index together = Tokens == 1 ? 1 : kTile;
    Index row = 0;
    for (; row + together <= rows; row += together)
        tile<W, together, Tokens>(weight + row * columns, columns, x, width, out + row);
    for (; row < rows; ++row) tile<W, 1, Tokens>(weight + row * columns, columns, x, width, out + row);
}

// Of packed rows.
template <class W, Index Tokens>
inline void packed_times(const Matrix& m, Index unit, const Input& in, Index first, float* out) {
    constexpr bool is_8 = std::is_same_v<W, Bits8>;
    constexpr Index bytes = kUnit * kGroup / (is_8 ? 1 : 2);  // of a group
    const Index groups = in.width / kGroup;
    const auto* weight = static_cast<const std::uint8_t*>(m.weight) + unit * groups * bytes;
    const BFloat16* scale = m.scale + unit * groups * (is_8 ? 1 : 2) * kUnit;
    Vector sums[Tokens][kPieces] = {};
    for (Index group = 0; group < groups; ++group) {
        Integers found[Tokens][kPieces];
        const std::int8_t* x[Tokens];
        for (Index token = 0; token < Tokens; ++token) {
            const Index place = (first + token) * groups + group;
            x[token] = in.rounded + place * kGroup;
            for (Index i = 0; i < kPieces; ++i)
                found[token][i] = Integers{} + (is_8 && kIsRaised ? in.beginnings[place] : 0);
        }
        const auto four = [&x](Index token, Index at) {
            std::int32_t numbers;
            std::memcpy(&numbers, x[token] + at, sizeof numbers);
            return numbers;
        };
        for (Index at = 0; at < bytes / (4 * kUnit); ++at) {
            for (Index i = 0; i < kPieces; ++i) {
                const std::uint8_t* from = weight + (at * kPieces + i) * kVectorBytes;
                if constexpr (is_8) {
                    for (Index token = 0; token < Tokens; ++token)
                        found[token][i] = multiplied(found[token][i], from, four(token, 4 * at));
                } else {
                    VectorBits both;
                    std::memcpy(&both, from, sizeof both);
                    const auto low = as<Integers>(both & 0x0f0f0f0f), high = as<Integers>((both >> 4) & 0x0f0f0f0f);
                    for (Index token = 0; token < Tokens; ++token) {
                        found[token][i] = multiplied_small(found[token][i], low, four(token, 8 * at));
                        found[token][i] = multiplied_small(found[token][i], high, four(token, 8 * at + 4));
                    }
                }
            }
        }
        for (Index i = 0; i < kPieces; ++i) {
            const Vector scales = load(scale + i * kVector);
            for (Index token = 0; token < Tokens; ++token) {
                const Index place = (first + token) * groups + group;
                sums[token][i] += __builtin_convertvector(found[token][i], Vector) * (scales * in.scales[place]);
                if constexpr (!is_8) sums[token][i] += load(scale + kUnit + i * kVector) * in.sums[place];
            }
        }
        weight += bytes;
        scale += (is_8 ? 1 : 2) * kUnit;
    }
    for (Index token = 0; token < Tokens; ++token) std::memcpy(out + token * kUnit, sums[token], kUnit * sizeof(float));
}

template <class W, Index Tokens>
inline void unit_times(const Matrix& m, Index unit, const Input& in, Index first, float* out) {
    if constexpr (std::is_same_v<W, Bits8> || std::is_same_v<W, Bits4>) {
        packed_times<W, Tokens>(m, unit, in, first, out);
    } else {
        const Index row = unit * kUnit;
        rows_times<W, Tokens>(static_cast<const W*>(m.weight) + row * m.inputs, std::min(kUnit, m.outputs - row),
                              m.inputs, in.x + first * in.width, in.width, out);
    }
}

template <class W>
void all_tokens(const Matrix& m, Index unit, const Input& in, float* out) {
    Index token = 0;
    for (; token + kTile <= in.tokens; token += kTile) unit_times<W, kTile>(m, unit, in, token, out + token * kUnit);
    for (; token + 2 <= in.tokens; token += 2) unit_times<W, 2>(m, unit, in, token, out + token * kUnit);
    for (; token < in.tokens; ++token) unit_times<W, 1>(m, unit, in, token, out + token * kUnit);
}

// One unit of y for all tokens, out [tokens, kUnit]. small: what A makes of x, [tokens, rank].
void outputs_of(const Matrix& m, Index unit, const Input& in, const float* small, float* out) {
    switch (m.kind) {
        case kFloat32: all_tokens<float>(m, unit, in, out); break;
        case kBFloat16: all_tokens<BFloat16>(m, unit, in, out); break;
        case kFloat16: all_tokens<Float16>(m, unit, in, out); break;
        case kBits8: all_tokens<Bits8>(m, unit, in, out); break;
        default: all_tokens<Bits4>(m, unit, in, out);
    }
    const Index rows = std::min(kUnit, m.outputs - unit * kUnit);
    for (Index token = 0; token < in.tokens; ++token) {
        float* y = out + token * kUnit;
        if (m.bias)
            for (Index row = 0; row < rows; ++row) y[row] += m.bias[unit * kUnit + row];
        for (Index i = 0; i < m.rank; ++i) {
            const float factor = small[token * m.rank + i];
            const Index place = (unit * m.rank + i) * kUnit;
            if (m.wide_b)
                for (Index row = 0; row < rows; ++row) y[row] += factor * m.wide_b[place + row];
            else
                for (Index row = 0; row < rows; ++row) y[row] += factor * widen(m.b[place + row]);
        }
    }
}

// What a thread computes of so many parts.
struct Share {
    Index begin, end;
};

class Team {
   public:
    Team(Index thread, Index threads) : thread_(thread), threads_(threads) {}

    Share share(Index parts) const {
        return {parts * thread_ / threads_, parts * (thread_ + 1) / threads_};
    }

    Index thread() const {
        return thread_;
    }

    static void wait() {
        wait_for_all();
    }

   private:
    Index thread_, threads_;
};

// Numbers that begin with a cache line: a register's worth of them never lies across two.
template <class T>
struct Allocator {
    using value_type = T;
    Allocator() = default;
    template <class U>
    Allocator(const Allocator<U>&) {}
    T* allocate(std::size_t count) {
        return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(kLineBytes)));
    }
    void deallocate(T* place, std::size_t) {
        ::operator delete(place, std::align_val_t(kLineBytes));
    }
    friend bool operator==(const Allocator&, const Allocator&) {
        return true;
    }
    friend bool operator!=(const Allocator&, const Allocator&) {
        return false;
    }
};

template <class T>
using Numbers = std::vector<T, Allocator<T>>;

struct Shared {  // by all threads
    Numbers<float> x, query, key, value, attended, inner, small, logit;
    std::vector<Index> best;
};

struct Own {  // of each thread
    Numbers<float> x, scales, sums, out, gate, scores;
    Numbers<std::int8_t> rounded;
    Numbers<std::int32_t> beginnings;

    Own(const Model& model, const Step& step) {
        const Index width = filled(std::max({model.hidden, model.inner, model.heads * model.head_size}), kGroup);
        x.resize(step.tokens * width);
        rounded.resize(step.tokens * width);
        scales.resize(step.tokens * width / kGroup);
        sums.resize(scales.size());
        beginnings.resize(scales.size());
        out.resize(step.tokens * kUnit);
        gate.resize(step.tokens * kUnit);
        scores.resize(model.capacity);
    }

    Input input(Index tokens, Index columns, std::initializer_list<const Matrix*> matrices) {
        const Input in{x.data(), tokens, filled(columns, kGroup), rounded.data(), scales.data(), sums.data(),
                       beginnings.data()};
        bool is_packed = false;
        for (const Matrix* m : matrices) is_packed |= m->kind == kBits8 || m->kind == kBits4;
        if (is_packed) round_input(in);
        return in;
    }
};

void normed(const float* x, const float* weight, Index size, float epsilon, float* y) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (Index i = 0; i < size; ++i) squares += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(size) + epsilon);
#pragma omp simd
    for (Index i = 0; i < size; ++i) y[i] = x[i] * scale * weight[i];
}

// Rows of some width laid out anew, filled up with zeros; normed where there is a weight.
void lay_out(const float* from, Index tokens, Index columns, const float* norm, float epsilon, float* to) {
    const Index width = filled(columns, kGroup);
    for (Index token = 0; token < tokens; ++token) {
        float* row = to + token * width;
        if (norm)
            normed(from + token * columns, norm, columns, epsilon, row);
        else
            std::memcpy(row, from + token * columns, columns * sizeof(float));
        std::fill(row + columns, row + width, 0.0f);
    }
}

// small = A x of one or several matrices of one input, one after the other; waits until all threads have theirs.
void adapt(const Team& team, const Input& in, std::initializer_list<const Matrix*> matrices, float* small) {
    bool has_any = false;
    for (const Matrix* m : matrices) {
        const auto [begin, end] = team.share(m->rank);
        for (Index i = begin; i < end; ++i) {
            for (Index token = 0; token < in.tokens; ++token) {
                float* place = small + token * m->rank + i;
                const float* x = in.x + token * in.width;
                if (m->wide_a)
                    tile<float, 1, 1>(m->wide_a + i * m->inputs, m->inputs, x, in.width, place);
                else
                    tile<BFloat16, 1, 1>(m->a + i * m->inputs, m->inputs, x, in.width, place);
            }
        }
        has_any |= m->rank > 0;
        small += in.tokens * m->rank;
    }
    if (has_any) Team::wait();
}

// The outputs that are this thread's of several matrices, given to use(unit, rows, out, which).
template <class Use>
void project(const Team& team, const Input& in, std::initializer_list<const Matrix*> matrices, const float* small,
             float* out, Use use) {
    Index all = 0;
    for (const Matrix* m : matrices) all += pieces(m->outputs, kUnit);
    const auto [begin, end] = team.share(all);
    Index first = 0, which = 0;
    for (const Matrix* m : matrices) {
        const Index units = pieces(m->outputs, kUnit);
        for (Index unit = std::max(begin - first, Index{0}); unit < std::min(end - first, units); ++unit) {
            outputs_of(*m, unit, in, small, out);
            use(unit * kUnit, std::min(kUnit, m->outputs - unit * kUnit), out, which);
        }
        first += units;
        small += in.tokens * m->rank;
        ++which;
    }
}

// Normed where the family does so, and rotated to its position.
void place_head(const float* from, const float* norm, const float* cos, const float* sin, Index size, float epsilon,
                float* to) {
    float head[1024];
    if (norm)
        normed(from, norm, size, epsilon, head);
    else
        std::memcpy(head, from, size * sizeof(float));
    const Index half = size / 2;
    for (Index i = 0; i < half; ++i) {
        to[i] = head[i] * cos[i] - head[half + i] * sin[i];
        to[half + i] = head[half + i] * cos[half + i] + head[i] * sin[half + i];
    }
}

template <class T>
inline float dot(const float* x, const T* y, Index size) {
    Vector sums{};
    Index i = 0;
    for (; i + kVector <= size; i += kVector) sums += load(x + i) * load(y + i);
    float sum = total(sums);
    for (; i < size; ++i) sum += x[i] * widen(y[i]);
    return sum;
}

template <class T>
void store_keys(const Model& model, const Layer& layer, const Step& step, const Team& team, const Shared& shared) {
    const Index size = model.head_size;
    const auto [begin, end] = team.share(step.tokens * model.key_heads);
    for (Index part = begin; part < end; ++part) {
        const Index token = part / model.key_heads, head = part % model.key_heads, position = step.positions[token];
        const Index place = ((step.slots[token] * model.key_heads + head) * model.capacity + position) * size;
        T *keys = static_cast<T*>(layer.keys) + place, *values = static_cast<T*>(layer.values) + place;
        float rotated[1024];
        place_head(shared.key.data() + part * size, layer.key_norm, model.cos + position * size,
                   model.sin + position * size, size, model.epsilon, rotated);
        for (Index i = 0; i < size; ++i) store(keys[i], rotated[i]);
        for (Index i = 0; i < size; ++i) store(values[i], shared.value[part * size + i]);
    }
}

template <class T>
void attend(const Model& model, const Layer& layer, const Step& step, const Team& team, Shared& shared, Own& own) {
    const Index size = model.head_size;
    const auto [begin, end] = team.share(step.tokens * model.heads);
    for (Index part = begin; part < end; ++part) {
        const Index token = part / model.heads, head = part % model.heads, position = step.positions[token];
        const Index key_head = head / (model.heads / model.key_heads);
        const Index place = (step.slots[token] * model.key_heads + key_head) * model.capacity * size;
        const T *keys = static_cast<const T*>(layer.keys) + place, *values = static_cast<const T*>(layer.values) + place;
        float query[1024];
        place_head(shared.query.data() + part * size, layer.query_norm, model.cos + position * size,
                   model.sin + position * size, size, model.epsilon, query);
        const Index first = std::max(position + 1 - layer.window, Index{0}), seen = position + 1 - first;
        float *scores = own.scores.data(), largest = -INFINITY, sum = 0;
        for (Index i = 0; i < seen; ++i) scores[i] = model.scaling * dot(query, keys + (first + i) * size, size);
        for (Index i = 0; i < seen; ++i) largest = std::max(largest, scores[i]);
#pragma omp simd reduction(+ : sum)
        for (Index i = 0; i < seen; ++i) sum += scores[i] = exponential(scores[i] - largest);
        float* attended = shared.attended.data() + part * size;
        const float inverse = 1.0f / sum;
        Index at = 0;
        for (; at + kVector <= size; at += kVector) {
            Vector mixed{};
            for (Index i = 0; i < seen; ++i) mixed += scores[i] * load(values + (first + i) * size + at);
            mixed *= inverse;
            std::memcpy(attended + at, &mixed, sizeof mixed);
        }
        for (; at < size; ++at) {
            float mixed = 0;
            for (Index i = 0; i < seen; ++i) mixed += scores[i] * widen(values[(first + i) * size + at]);
            attended[at] = mixed * inverse;
        }
    }
}

void compute_layer(const Model& model, const Layer& layer, const Step& step, const Team& team, Shared& shared,
                   Own& own) {
    const Index tokens = step.tokens, hidden = model.hidden, wide = model.heads * model.head_size;
    float *x = shared.x.data(), *small = shared.small.data(), *out = own.out.data();
    const auto put = [tokens](float* to, Index width, Index row, Index rows, const float* from) {
        for (Index token = 0; token < tokens; ++token)
            std::memcpy(to + token * width + row, from + token * kUnit, rows * sizeof(float));
    };
    const auto add = [=](Index row, Index rows, const float* from, Index) {
        for (Index token = 0; token < tokens; ++token)
            for (Index i = 0; i < rows; ++i) x[token * hidden + row + i] += from[token * kUnit + i];
    };

    lay_out(x, tokens, hidden, layer.input_norm, model.epsilon, own.x.data());
    Input in = own.input(tokens, hidden, {&layer.query, &layer.key, &layer.value});
    adapt(team, in, {&layer.query, &layer.key, &layer.value}, small);
    float* places[] = {shared.query.data(), shared.key.data(), shared.value.data()};
    const Index widths[] = {layer.query.outputs, layer.key.outputs, layer.value.outputs};
    project(team, in, {&layer.query, &layer.key, &layer.value}, small, out,
            [&](Index row, Index rows, const float* from, Index which) {
                put(places[which], widths[which], row, rows, from);
            });
    team.wait();
    const bool is_wide = model.cache_kind == kFloat32;
    is_wide ? store_keys<float>(model, layer, step, team, shared)
            : store_keys<BFloat16>(model, layer, step, team, shared);
    team.wait();
    is_wide ? attend<float>(model, layer, step, team, shared, own)
            : attend<BFloat16>(model, layer, step, team, shared, own);
    team.wait();

    lay_out(shared.attended.data(), tokens, wide, nullptr, 0, own.x.data());
    in = own.input(tokens, wide, {&layer.output});
    adapt(team, in, {&layer.output}, small);
    project(team, in, {&layer.output}, small, out, add);
    team.wait();

    lay_out(x, tokens, hidden, layer.inner_norm, model.epsilon, own.x.data());
    in = own.input(tokens, hidden, {&layer.gate, &layer.up});
    adapt(team, in, {&layer.gate, &layer.up}, small);
    project(team, in, {&layer.gate}, small, own.gate.data(), [&](Index row, Index rows, float* gate, Index) {
        outputs_of(layer.up, row / kUnit, in, small + tokens * layer.gate.rank, out);
        for (Index token = 0; token < tokens; ++token) {
            float* to = shared.inner.data() + token * model.inner + row;
            const float *g = gate + token * kUnit, *u = out + token * kUnit;
            for (Index i = 0; i < rows; ++i) to[i] = g[i] / (1.0f + exponential(-g[i])) * u[i];
        }
    });
    team.wait();

    lay_out(shared.inner.data(), tokens, model.inner, nullptr, 0, own.x.data());
    in = own.input(tokens, model.inner, {&layer.down});
    adapt(team, in, {&layer.down}, small);
    project(team, in, {&layer.down}, small, out, add);
    team.wait();
}

void choose(const Model& model, const Step& step, const Team& team, Shared& shared, Own& own) {
    for (Index answer = 0; answer < step.answers; ++answer)
        lay_out(shared.x.data() + step.wanted[answer] * model.hidden, 1, model.hidden, model.norm, model.epsilon,
                own.x.data() + answer * filled(model.hidden, kGroup));
    const Input in = own.input(step.answers, model.hidden, {&model.head});
    adapt(team, in, {&model.head}, shared.small.data());
    float* largest = shared.logit.data() + team.thread() * step.answers;
    Index* best = shared.best.data() + team.thread() * step.answers;
    std::fill(largest, largest + step.answers, -INFINITY);
    std::fill(best, best + step.answers, -1);
    project(team, in, {&model.head}, shared.small.data(), own.out.data(),
            [&](Index row, Index rows, const float* from, Index) {
                for (Index answer = 0; answer < step.answers; ++answer) {
                    const float* found = from + answer * kUnit;
                    if (step.logits)
                        std::memcpy(step.logits + answer * model.head.outputs + row, found, rows * sizeof(float));
                    for (Index i = 0; i < rows; ++i) {
                        if (found[i] > largest[answer]) {
                            largest[answer] = found[i];
                            best[answer] = row + i;
                        }
                    }
                }
            });
}

template <class W>
void read_row(const void* weight, Index row, Index columns, float* to) {
    const W* from = static_cast<const W*>(weight) + row * columns;
    for (Index i = 0; i < columns; ++i) to[i] = widen(from[i]);
}

void embed(const Model& model, const Step& step, const Team& team, Shared& shared) {
    const auto [begin, end] = team.share(step.tokens);
    for (Index token = begin; token < end; ++token) {
        float* to = shared.x.data() + token * model.hidden;
        switch (model.embedding.kind) {
            case kFloat32: read_row<float>(model.embedding.weight, step.ids[token], model.hidden, to); break;
            case kBFloat16: read_row<BFloat16>(model.embedding.weight, step.ids[token], model.hidden, to); break;
            default: read_row<Float16>(model.embedding.weight, step.ids[token], model.hidden, to);
        }
    }
}

Index most_small(const Model& model) {  // numbers that adapters make of one token
    Index most = model.head.rank;
    for (Index i = 0; i < model.layer_count; ++i) {
        const Layer& l = model.layers[i];
        most = std::max({most, l.query.rank + l.key.rank + l.value.rank, l.output.rank, l.gate.rank + l.up.rank,
                         l.down.rank});
    }
    return most;
}

void compute(const Model& model, const Step& step, const Team& team, Shared& shared, Own& own) {
    embed(model, step, team, shared);
    team.wait();
    for (Index i = 0; i < model.layer_count; ++i) compute_layer(model, model.layers[i], step, team, shared, own);
    if (step.answers > 0) choose(model, step, team, shared, own);
}

// Computes some tokens, each of which sees those before it in its slot, in this call or an earlier one, and itself.
// False where memory does not suffice.
bool decode(const Model* model, const Step* step) {
    const Index most = most_threads();
    Shared shared;
    std::vector<Own> own;
    try {
        const Index tokens = step->tokens, size = model->head_size;
        shared.x.resize(tokens * model->hidden);
        shared.query.resize(tokens * model->heads * size);
        shared.key.resize(tokens * model->key_heads * size);
        shared.value.resize(tokens * model->key_heads * size);
        shared.attended.resize(tokens * model->heads * size);
        shared.inner.resize(tokens * model->inner);
        shared.small.resize(tokens * most_small(*model));
        shared.logit.resize(most * step->answers, -INFINITY);
        shared.best.resize(most * step->answers, -1);
        own.resize(most, Own(*model, *step));
    } catch (const std::bad_alloc&) {
        return false;
    }
    in_parallel([&](Index me, Index of) { compute(*model, *step, Team(me, of), shared, own[me]); });
    for (Index answer = 0; answer < step->answers; ++answer) {
        float largest = -INFINITY;
        step->best[answer] = -1;
        for (Index thread = 0; thread < most; ++thread) {  // the first of equals
            const Index place = thread * step->answers + answer;
            if (shared.logit[place] > largest) {
                largest = shared.logit[place];
                step->best[answer] = shared.best[place];
            }
        }
    }
    return true;
}

}  // namespace

extern "C" const Function* functions() {
    static const Function table[] = {function("decode", decode), {}};
    return table;
}
