// What lies between the matrix products of a training step on a CPU, each in one pass where PyTorch takes several.
//
// The products of the layers stay with PyTorch. Work is shared out among PyTorch's own OpenMP threads by rows, in
// attention by sequences and key heads, and each is computed by one thread from beginning to end: results do not depend
// on the number of threads. Arithmetic is in float32; results are rounded once, except where the models themselves
// round in between. The formulas are those of pointwise.py, row_attention.py and loss.py; test_kernels.py holds both
// ways of computing against each other.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

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

template <class T>
inline float rounded(float x) {
    T place;
    store(place, x);
    return widen(place);
}

// e^x with a relative error below 3e-7. 2^n times a polynomial of the rest, as in Cephes' expf; compilers turn a loop
// of it into vector instructions. A NaN stays a NaN.
inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float n = std::nearbyint(x * 1.44269504f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

template <class T>
inline float largest_of(const T* x, std::int64_t elements) {
    float largest = widen(x[0]);
#pragma omp simd reduction(max : largest)
    for (std::int64_t i = 0; i < elements; ++i) largest = widen(x[i]) > largest ? widen(x[i]) : largest;
    return largest;
}

template <class T>
void rms_norm_forward(const T* x, const T* weight, T* y, float* inverse, std::int64_t rows, std::int64_t width,
                      float epsilon) {
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
        const T* in = x + row * width;
        T* out = y + row * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (std::int64_t i = 0; i < width; ++i) squares += widen(in[i]) * widen(in[i]);
        const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon);
        inverse[row] = scale;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) store(out[i], rounded<T>(widen(in[i]) * scale) * widen(weight[i]));
    }
}

template <class T>
void rms_norm_backward(const T* grad, const T* x, const T* weight, const float* inverse, T* grad_x, std::int64_t rows,
                       std::int64_t width) {
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
        const T *g = grad + row * width, *in = x + row * width;
        T* out = grad_x + row * width;
        float product = 0;
#pragma omp simd reduction(+ : product)
        for (std::int64_t i = 0; i < width; ++i) product += widen(g[i]) * widen(weight[i]) * widen(in[i]);
        const float scale = inverse[row];
        const float share = product * scale * scale / static_cast<float>(width);
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i)
            store(out[i], (widen(g[i]) * widen(weight[i]) - widen(in[i]) * share) * scale);
    }
}

// x and y: [heads, tokens, size] with strides of heads and tokens; cos and sin: [tokens, size]. sign: -1 turns back.
template <class T>
void rotary(const T* x, const T* cos, const T* sin, T* y, std::int64_t heads, std::int64_t tokens, std::int64_t size,
            std::int64_t x_head, std::int64_t x_token, std::int64_t y_head, std::int64_t y_token, float sign) {
    const std::int64_t half = size / 2;
#pragma omp parallel for schedule(static)
    for (std::int64_t token = 0; token < tokens; ++token) {
        const T *c = cos + token * size, *s = sin + token * size;
        for (std::int64_t head = 0; head < heads; ++head) {
            const T* in = x + head * x_head + token * x_token;
            T* out = y + head * y_head + token * y_token;
            const std::int64_t other = sign > 0 ? 0 : half;  // turning back, each half takes the other's sine
#pragma omp simd
            for (std::int64_t i = 0; i < half; ++i) {
                const float first = widen(in[i]), second = widen(in[i + half]);
                store(out[i], first * widen(c[i]) - sign * second * widen(s[i + other]));
                store(out[i + half], second * widen(c[i + half]) + sign * first * widen(s[i + half - other]));
            }
        }
    }
}

template <class T>
void gated_forward(const T* gate, const T* up, T* y, std::int64_t elements) {
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < elements; ++i) {
        const float g = widen(gate[i]);
        store(y[i], rounded<T>(g / (1.0f + exponential(-g))) * widen(up[i]));
    }
}

template <class T>
void gated_backward(const T* grad, const T* gate, const T* up, T* grad_gate, T* grad_up, std::int64_t elements) {
#pragma omp parallel for simd schedule(static)
    for (std::int64_t i = 0; i < elements; ++i) {
        const float g = widen(gate[i]), d = widen(grad[i]);
        const float sigmoid = 1.0f / (1.0f + exponential(-g));
        store(grad_gate[i], d * widen(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
        store(grad_up[i], d * g * sigmoid);
    }
}

// Attention --------------------------------------------------------------------------------------------------------

using Vector = float __attribute__((vector_size(64)));
using Unaligned = float __attribute__((vector_size(64), aligned(4), may_alias));
constexpr std::int64_t kVector = 16;  // floats
#ifdef __AVX512F__
constexpr std::int64_t kRows = 8, kVectors = 2;  // 16 of 32 registers hold sums
#else
constexpr std::int64_t kRows = 4, kVectors = 1;  // 8 of 16, a vector in two of them
#endif
constexpr std::int64_t kColumns = kVector * kVectors;
constexpr std::int64_t kDepth = 128;
constexpr std::int64_t kTile = 32;  // queries at a time: what causal order forbids is hardly ever computed

inline std::int64_t padded(std::int64_t count, std::int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

inline Vector load(const float* from) {
    return *reinterpret_cast<const Unaligned*>(from);
}

// c [rows, columns] = a b, or c += a b. Element (row, k) of a lies at row * a_row + k * a_depth; rows is a multiple of
// kRows and columns of kColumns: what lies beyond a matrix is zero, or is never read.
[[gnu::noinline]] void multiply(const float* a, std::int64_t a_row, std::int64_t a_depth, const float* b,
                                std::int64_t b_row, float* c, std::int64_t c_row, std::int64_t rows,
                                std::int64_t columns, std::int64_t depth, bool adds) {
    if (depth > kDepth) {  // in parts, each of which finds its share of b in the first cache
        multiply(a, a_row, a_depth, b, b_row, c, c_row, rows, columns, kDepth, adds);
        multiply(a + kDepth * a_depth, a_row, a_depth, b + kDepth * b_row, b_row, c, c_row, rows, columns,
                 depth - kDepth, true);
        return;
    }
    for (std::int64_t column = 0; column < columns; column += kColumns) {
        for (std::int64_t row = 0; row < rows; row += kRows) {
            const float *from = a + row * a_row, *right = b + column;
            float* to = c + row * c_row + column;
            // Unrolled, so that the sums stay in registers.
            Vector sums[kRows][kVectors];
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < kVectors; ++v) sums[r][v] = adds ? load(to + r * c_row + v * kVector) : Vector{};
            for (std::int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 8
                for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
                    for (int v = 0; v < kVectors; ++v)
                        sums[r][v] += from[r * a_row + k * a_depth] * load(right + k * b_row + v * kVector);
            }
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
                for (int v = 0; v < kVectors; ++v)
                    *reinterpret_cast<Unaligned*>(to + r * c_row + v * kVector) = sums[r][v];
        }
    }
}

// In the order of row_attention.py. Strides are those of heads and tokens, in elements.
struct Layout {
    std::int64_t spans, shared, heads, key_heads, size, asking;
    std::int64_t query_head, query_token, key_head, key_token, value_head, value_token;
};

struct Span {
    std::int64_t ask_start, asked, own_start, own;
};

// Copies rows of one head into float32, or transposes them.
template <class T>
void gather(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t size, float* to, std::int64_t to_row,
            std::int64_t to_column) {
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < size; ++i) to[row * to_row + i * to_column] = widen(from[row * stride + i]);
}

// The way back.
template <class T>
void scatter(const float* from, std::int64_t from_row, std::int64_t rows, std::int64_t size, T* to,
             std::int64_t to_row) {
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < size; ++i) store(to[row * to_row + i], from[row * from_row + i]);
}

// The keys or values that a span sees: the shared ones, then its own. [seen, size], or transposed.
template <class T>
void gather_seen(const T* from, std::int64_t stride, const Layout& at, const Span& span, float* to, std::int64_t to_row,
                 std::int64_t to_column) {
    gather(from, stride, at.shared, at.size, to, to_row, to_column);
    gather(from + span.own_start * stride, stride, span.own, at.size, to + at.shared * to_row, to_row, to_column);
}

// What one thread works with; all matrices are padded, and zero where nothing was written.
struct Workspace {
    std::int64_t keys, size;  // padded
    std::vector<float> key, key_turned, value, value_turned, query, grad, scores, grad_scores, grad_key, grad_value,
        output;

    Workspace(std::int64_t seen, std::int64_t head_size, bool is_backward)
        : keys(padded(seen, kVector * 2)),
          size(padded(head_size, kVector * 2)),
          key(is_backward ? keys * size : 0),
          key_turned(keys * size),
          value(is_backward ? 0 : keys * size),
          value_turned(is_backward ? keys * size : 0),
          query(kTile * size),
          grad(is_backward ? kTile * size : 0),
          scores(kTile * keys),
          grad_scores(is_backward ? kTile * keys : 0),
          grad_key(is_backward ? keys * size : 0),
          grad_value(is_backward ? keys * size : 0),
          output(kTile * size) {}
};

// A tile of queries in float32, and zeros in the rows that it lacks.
template <class T>
void gather_tile(const T* from, std::int64_t stride, std::int64_t rows, std::int64_t size, std::vector<float>& to,
                 std::int64_t to_row) {
    if (rows < kTile) std::fill(to.begin(), to.end(), 0.0f);
    gather(from, stride, rows, size, to.data(), to_row, 1);
}

// Scores of visible keys become probabilities; returns the logarithm of what they were divided by.
inline float softmax(float* scores, std::int64_t visible, float scaling) {
    const float largest = largest_of(scores, visible);
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t i = 0; i < visible; ++i) {
        scores[i] = exponential((scores[i] - largest) * scaling);
        total += scores[i];
    }
    const float share = 1.0f / total;
#pragma omp simd
    for (std::int64_t i = 0; i < visible; ++i) scores[i] *= share;
    return largest * scaling + std::log(total);
}

// Scores become probabilities again, and the gradient of these that of the scores.
inline void softmax_backward(float* scores, float* grad, std::int64_t visible, float divisor, float scaling) {
    float product = 0;
#pragma omp simd reduction(+ : product)
    for (std::int64_t i = 0; i < visible; ++i) {
        scores[i] = exponential(scores[i] * scaling - divisor);
        product += scores[i] * grad[i];
    }
#pragma omp simd
    for (std::int64_t i = 0; i < visible; ++i) grad[i] = scores[i] * (grad[i] - product) * scaling;
}

inline std::int64_t most_seen(const Layout& at, const Span* spans) {
    std::int64_t most = 0;
    for (std::int64_t i = 0; i < at.spans; ++i) most = spans[i].own > most ? spans[i].own : most;
    return most + at.shared;
}

// The first span is the shared beginning itself where there is one: it sees nothing but itself.
inline Layout layout_of(const Layout& at, std::int64_t span) {
    Layout own = at;
    if (span == 0) own.shared = 0;
    return own;
}

// query: [heads, asking, size]; key, value: [key heads, tokens, size]; output: [asking, heads, size]; normaliser: the
// logarithm of the sum that each query divides by, [heads, asking].
template <class T>
void attention_forward(const T* query, const T* key, const T* value, T* output, float* normaliser, const Span* spans,
                       const Layout* layout, float scaling) {
    const std::int64_t tasks = layout->spans * layout->key_heads, repeats = layout->heads / layout->key_heads;
#pragma omp parallel
    {
        Workspace w(most_seen(*layout, spans), layout->size, false);
#pragma omp for schedule(dynamic)
        for (std::int64_t task = 0; task < tasks; ++task) {
            const Span span = spans[task / layout->key_heads];
            const Layout at = layout_of(*layout, task / layout->key_heads);
            const std::int64_t key_head = task % at.key_heads, all = at.shared + span.own;
            gather_seen(key + key_head * at.key_head, at.key_token, at, span, w.key_turned.data(), 1, w.keys);
            gather_seen(value + key_head * at.value_head, at.value_token, at, span, w.value.data(), w.size, 1);
            for (std::int64_t head = key_head * repeats; head < (key_head + 1) * repeats; ++head) {
                for (std::int64_t start = 0; start < span.asked; start += kTile) {
                    const std::int64_t rows = span.asked - start < kTile ? span.asked - start : kTile;
                    const std::int64_t first = span.ask_start + start;
                    const std::int64_t before = all - span.asked + start;  // keys that come before the tile's first
                    const std::int64_t seen = before + rows;
                    gather_tile(query + head * at.query_head + first * at.query_token, at.query_token, rows, at.size,
                                w.query, w.size);
                    multiply(w.query.data(), w.size, 1, w.key_turned.data(), w.keys, w.scores.data(), w.keys,
                             padded(rows, kRows), padded(seen, kColumns), at.size, false);
                    for (std::int64_t row = 0; row < rows; ++row) {
                        float* scores = w.scores.data() + row * w.keys;
                        const std::int64_t visible = before + row + 1;
                        normaliser[head * at.asking + first + row] = softmax(scores, visible, scaling);
                        std::fill(scores + visible, scores + seen, 0.0f);
                    }
                    multiply(w.scores.data(), w.keys, 1, w.value.data(), w.size, w.output.data(), w.size,
                             padded(rows, kRows), w.size, seen, false);
                    scatter(w.output.data(), w.size, rows, at.size, output + (first * at.heads + head) * at.size,
                            at.heads * at.size);
                }
            }
        }
    }
}

// Gradients: grad as output; grad_query as query, grad_key as key, both contiguous; grad_value: [tokens, key heads,
// size]; those of the shared keys and values span by span, [spans, key heads, shared, size].
template <class T>
void attention_backward(const T* query, const T* key, const T* value, const T* grad, const float* normaliser,
                        T* grad_query, T* grad_key, T* grad_value, float* shared_key, float* shared_value,
                        const Span* spans, const Layout* layout, float scaling, std::int64_t tokens) {
    const std::int64_t tasks = layout->spans * layout->key_heads, repeats = layout->heads / layout->key_heads;
#pragma omp parallel
    {
        Workspace w(most_seen(*layout, spans), layout->size, true);
#pragma omp for schedule(dynamic)
        for (std::int64_t task = 0; task < tasks; ++task) {
            const Span span = spans[task / layout->key_heads];
            const Layout at = layout_of(*layout, task / layout->key_heads);
            const std::int64_t key_head = task % at.key_heads, all = at.shared + span.own;
            const T* keys = key + key_head * at.key_head;
            gather_seen(keys, at.key_token, at, span, w.key.data(), w.size, 1);
            gather_seen(keys, at.key_token, at, span, w.key_turned.data(), 1, w.keys);
            gather_seen(value + key_head * at.value_head, at.value_token, at, span, w.value_turned.data(), 1, w.keys);
            std::fill(w.grad_key.begin(), w.grad_key.end(), 0.0f);
            std::fill(w.grad_value.begin(), w.grad_value.end(), 0.0f);
            for (std::int64_t head = key_head * repeats; head < (key_head + 1) * repeats; ++head) {
                for (std::int64_t start = 0; start < span.asked; start += kTile) {
                    const std::int64_t rows = span.asked - start < kTile ? span.asked - start : kTile;
                    const std::int64_t first = span.ask_start + start;
                    const std::int64_t before = all - span.asked + start, seen = before + rows;
                    const std::int64_t some = padded(rows, kRows), wide = padded(seen, kColumns);
                    gather_tile(query + head * at.query_head + first * at.query_token, at.query_token, rows, at.size,
                                w.query, w.size);
                    gather_tile(grad + (first * at.heads + head) * at.size, at.heads * at.size, rows, at.size, w.grad,
                                w.size);
                    multiply(w.query.data(), w.size, 1, w.key_turned.data(), w.keys, w.scores.data(), w.keys, some,
                             wide, at.size, false);
                    multiply(w.grad.data(), w.size, 1, w.value_turned.data(), w.keys, w.grad_scores.data(), w.keys,
                             some, wide, at.size, false);
                    for (std::int64_t row = 0; row < some; ++row) {
                        float *scores = w.scores.data() + row * w.keys, *grads = w.grad_scores.data() + row * w.keys;
                        const std::int64_t visible = row < rows ? before + row + 1 : 0;
                        if (visible)
                            softmax_backward(scores, grads, visible, normaliser[head * at.asking + first + row],
                                             scaling);
                        std::fill(scores + visible, scores + wide, 0.0f);
                        std::fill(grads + visible, grads + wide, 0.0f);
                    }
                    multiply(w.grad_scores.data(), w.keys, 1, w.key.data(), w.size, w.output.data(), w.size, some,
                             w.size, seen, false);
                    scatter(w.output.data(), w.size, rows, at.size, grad_query + (head * at.asking + first) * at.size,
                            at.size);
                    multiply(w.grad_scores.data(), 1, w.keys, w.query.data(), w.size, w.grad_key.data(), w.size,
                             padded(seen, kRows), w.size, rows, true);
                    multiply(w.scores.data(), 1, w.keys, w.grad.data(), w.size, w.grad_value.data(), w.size,
                             padded(seen, kRows), w.size, rows, true);
                }
            }
            const std::int64_t of_shared = task * at.shared * at.size, own = at.shared * w.size;
            scatter(w.grad_key.data(), w.size, at.shared, at.size, shared_key + of_shared, at.size);
            scatter(w.grad_value.data(), w.size, at.shared, at.size, shared_value + of_shared, at.size);
            scatter(w.grad_key.data() + own, w.size, span.own, at.size,
                    grad_key + (key_head * tokens + span.own_start) * at.size, at.size);
            scatter(w.grad_value.data() + own, w.size, span.own, at.size,
                    grad_value + (span.own_start * at.key_heads + key_head) * at.size, at.key_heads * at.size);
        }
    }
}

// logits: [rows, vocabulary], replaced by softmax - one-hot; nats: [rows].
template <class T>
void cross_entropy(T* logits, const std::int64_t* targets, float* nats, std::int64_t rows, std::int64_t vocabulary,
                   std::int64_t wants_gradient) {
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
        T* l = logits + row * vocabulary;
        const float largest = largest_of(l, vocabulary);
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (std::int64_t i = 0; i < vocabulary; ++i) total += exponential(widen(l[i]) - largest);
        const std::int64_t target = targets[row];
        const float at_target = widen(l[target]) - largest;
        nats[row] = std::log(total) - at_target;
        if (!wants_gradient) continue;
        const float share = 1.0f / total;
#pragma omp simd
        for (std::int64_t i = 0; i < vocabulary; ++i) store(l[i], exponential(widen(l[i]) - largest) * share);
        store(l[target], exponential(at_target) * share - 1.0f);
    }
}

}  // namespace

// For the number format that the compiler is given, in the order of kernels.py.
extern "C" void* const* kernels() {
    static void* const table[] = {
        reinterpret_cast<void*>(rms_norm_forward<FORMAT>),
        reinterpret_cast<void*>(rms_norm_backward<FORMAT>),
        reinterpret_cast<void*>(rotary<FORMAT>),
        reinterpret_cast<void*>(gated_forward<FORMAT>),
        reinterpret_cast<void*>(gated_backward<FORMAT>),
        reinterpret_cast<void*>(attention_forward<FORMAT>),
        reinterpret_cast<void*>(attention_backward<FORMAT>),
        reinterpret_cast<void*>(cross_entropy<FORMAT>),
    };
    return table;
}
