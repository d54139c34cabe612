// What lies between the matrix products of a training step on a CPU, each in one pass where PyTorch takes several.
//
// The products of the layers stay with PyTorch. Work is shared out among PyTorch's own threads by rows, in
// attention by sequences and key heads, and each is computed by one thread from beginning to end: results do not depend
// on the number of threads. Arithmetic is in float32; results are rounded once, except where the models themselves
// round in between, and where attention multiplies numbers in pairs. The formulas are those of pointwise.py,
// row_attention.py and loss.py; test_kernels.py holds both ways of computing against each other.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <numeric>
#include <optional>
#include <type_traits>
#include <vector>

#include "function_table.h"
#include "threads.h"
#include "units.h"

namespace {

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
    for_each(rows, [=](std::int64_t row) {
        const T* in = x + row * width;
        T* out = y + row * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (std::int64_t i = 0; i < width; ++i) squares += widen(in[i]) * widen(in[i]);
        const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + epsilon);
        inverse[row] = scale;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) store(out[i], rounded<T>(widen(in[i]) * scale) * widen(weight[i]));
    });
}

// rest: what is added to the gradient of x, of its shape; or none.
template <class T>
void rms_norm_backward(const T* grad, const T* x, const T* weight, const float* inverse, const T* rest, T* grad_x,
                       std::int64_t rows, std::int64_t width) {
    for_each(rows, [=](std::int64_t row) {
        const T *g = grad + row * width, *in = x + row * width;
        T* out = grad_x + row * width;
        float product = 0;
#pragma omp simd reduction(+ : product)
        for (std::int64_t i = 0; i < width; ++i) product += widen(g[i]) * widen(weight[i]) * widen(in[i]);
        const float scale = inverse[row];
        const float share = product * scale * scale / static_cast<float>(width);
        const auto at = [&](std::int64_t i) { return (widen(g[i]) * widen(weight[i]) - widen(in[i]) * share) * scale; };
        if (rest == nullptr) {
#pragma omp simd
            for (std::int64_t i = 0; i < width; ++i) store(out[i], at(i));
            return;
        }
        const T* more = rest + row * width;
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) store(out[i], widen(more[i]) + at(i));
    });
}

// x and y: [heads, tokens, size] with strides of heads and tokens; cos and sin: [tokens, size]. sign: -1 turns back.
template <class T>
void rotary(const T* x, const T* cos, const T* sin, T* y, std::int64_t heads, std::int64_t tokens, std::int64_t size,
            std::int64_t x_head, std::int64_t x_token, std::int64_t y_head, std::int64_t y_token, float sign) {
    const std::int64_t half = size / 2;
    for_each(tokens, [=](std::int64_t token) {
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
    });
}

constexpr std::int64_t kPiece = 1024;  // elements

template <class T>
void gated_forward(const T* gate, const T* up, T* y, std::int64_t elements) {
    for_pieces(elements, kPiece, [=](std::int64_t first, std::int64_t after) {
#pragma omp simd
        for (std::int64_t i = first; i < after; ++i) {
            const float g = widen(gate[i]);
            store(y[i], rounded<T>(g / (1.0f + exponential(-g))) * widen(up[i]));
        }
    });
}

template <class T>
void gated_backward(const T* grad, const T* gate, const T* up, T* grad_gate, T* grad_up, std::int64_t elements) {
    for_pieces(elements, kPiece, [=](std::int64_t first, std::int64_t after) {
#pragma omp simd
        for (std::int64_t i = first; i < after; ++i) {
            const float g = widen(gate[i]), d = widen(grad[i]);
            const float sigmoid = 1.0f / (1.0f + exponential(-g));
            store(grad_gate[i], d * widen(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
            store(grad_up[i], d * g * sigmoid);
        }
    });
}

// Attention --------------------------------------------------------------------------------------------------------

constexpr std::int64_t kVectors = 2, kRows = kRegisters / 2 / kVectors;  // half of the registers hold sums
constexpr std::int64_t kColumns = kVector * kVectors;
constexpr std::int64_t kDepth = 128;
constexpr std::int64_t kTile = 32;  // queries at a time: what causal order forbids is hardly ever computed

inline std::int64_t padded(std::int64_t count, std::int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

template <class U>
inline std::int64_t units(std::int64_t numbers) {
    return padded(numbers, kNumbers<U>) / kNumbers<U>;
}

// c [rows, columns] = a b, or c += a b, summed over a depth in units. Element (row, k) of a lies at row * a_row + k *
// a_depth; rows is a multiple of kRows and columns of kColumns: what lies beyond a matrix is zero, or is never read.
template <class U>
[[gnu::noinline]] void multiply(const U* a, std::int64_t a_row, std::int64_t a_depth, const U* b, std::int64_t b_row,
                                float* c, std::int64_t c_row, std::int64_t rows, std::int64_t columns,
                                std::int64_t depth, bool adds) {
    if (depth > kDepth) {  // in parts, each of which finds its share of b in the first cache
        multiply(a, a_row, a_depth, b, b_row, c, c_row, rows, columns, kDepth, adds);
        multiply(a + kDepth * a_depth, a_row, a_depth, b + kDepth * b_row, b_row, c, c_row, rows, columns,
                 depth - kDepth, true);
        return;
    }
    for (std::int64_t column = 0; column < columns; column += kColumns) {
        for (std::int64_t row = 0; row < rows; row += kRows) {
            const U *from = a + row * a_row, *right = b + column;
            float* to = c + row * c_row + column;
            // Unrolled, so that the sums stay in registers.
            Vector sums[kRows][kVectors];
            UNROLLED(8)
            for (int r = 0; r < kRows; ++r)
                UNROLLED(2)
                for (int v = 0; v < kVectors; ++v) sums[r][v] = adds ? load(to + r * c_row + v * kVector) : Vector{};
            for (std::int64_t k = 0; k < depth; ++k) {
                UNROLLED(8)
                for (int r = 0; r < kRows; ++r)
                    UNROLLED(2)
                    for (int v = 0; v < kVectors; ++v)
                        sums[r][v] =
                            plus_product(sums[r][v], from[r * a_row + k * a_depth], right + k * b_row + v * kVector);
            }
            UNROLLED(8)
            for (int r = 0; r < kRows; ++r)
                UNROLLED(2)
                for (int v = 0; v < kVectors; ++v)
                    store(to + r * c_row + v * kVector, sums[r][v]);
        }
    }
}

// In the order of attention.py. Strides are those of heads and tokens, in elements; no window and no chunk are 0.
struct Layout {
    std::int64_t spans, shared, heads, key_heads, size, asking;
    std::int64_t query_head, query_token, key_head, key_token, value_head, value_token;
    std::int64_t window, chunk;

    // The first key that the query at a place sees.
    std::int64_t first_seen(std::int64_t place) const {
        const std::int64_t in_window = window ? std::max(place + 1 - window, std::int64_t{0}) : 0;
        return chunk ? std::max(in_window, place / chunk * chunk) : in_window;
    }
};

struct Span {
    std::int64_t ask_start, asked, own_start, own;
};

// What one thread computes from beginning to end: one span with one key head, and the query heads of that.
struct Task {
    Span span;
    std::int64_t number, key_head, first_head, after_head, shared, keys;  // shared ones, and all that the span sees

    Task(const Layout& at, const Span* spans, std::int64_t task) : span(spans[task / at.key_heads]), number(task) {
        key_head = number % at.key_heads;
        first_head = key_head * (at.heads / at.key_heads);
        after_head = first_head + at.heads / at.key_heads;
        shared = number < at.key_heads ? 0 : at.shared;  // the first span is the shared beginning, if there is one
        keys = shared + span.own;
    }
};

// Some queries of a task: how many, which is the first, and the keys that any of them sees: the first of these (none
// that the first query sees comes before it), how many there are, and how many come before the first query.
struct Tile {
    const Layout& at;
    std::int64_t rows, first, begin, before, seen;

    Tile(const Layout& layout, const Task& task, std::int64_t start) : at(layout) {
        rows = std::min(task.span.asked - start, kTile);
        first = task.span.ask_start + start;
        const std::int64_t place = task.keys - task.span.asked + start;
        begin = at.first_seen(place) / kColumns * kColumns;
        before = place - begin;
        seen = before + rows;
    }

    // Up to which of the tile's keys a row sees them; to none where it only fills the tile.
    std::int64_t visible(std::int64_t row) const {
        return row < rows ? before + row + 1 : 0;
    }

    // How many of the tile's first keys a row does not see.
    std::int64_t hidden(std::int64_t row) const {
        return row < rows ? at.first_seen(begin + before + row) - begin : 0;
    }
};

// A matrix whose rows lie in two places: shared ones, then own ones.
template <class T>
struct Rows {
    const T *beginning, *own;
    std::int64_t stride, shared, count;

    Rows(const T* from, std::int64_t stride, std::int64_t count)
        : beginning(from), own(from), stride(stride), shared(0), count(count) {}

    Rows(const T* from, std::int64_t stride, const Task& task)
        : beginning(from),
          own(from + task.span.own_start * stride),
          stride(stride),
          shared(task.shared),
          count(task.keys) {}

    const T* operator[](std::int64_t row) const {
        return row < shared ? beginning + row * stride : own + (row - shared) * stride;
    }
};

// Copies a matrix into units of neighbours in a row.
template <class T, class U>
void gather_along(const Rows<T>& from, std::int64_t size, U* to, std::int64_t to_row) {
    for (std::int64_t row = 0; row < from.count; ++row) {
        const T* in = from[row];
        U* out = to + row * to_row;
        for (std::int64_t i = 0; i < size / kNumbers<U>; ++i)
            join(out[i], in[i * kNumbers<U>], in[(i + 1) * kNumbers<U> - 1]);
        if (size % kNumbers<U>) join(out[size / kNumbers<U>], in[size - 1], T{});
    }
}

// The same turned: a row becomes a column. Some rows at a time, so that what is written lies together.
template <class T, class U>
void gather_turned(const Rows<T>& from, std::int64_t size, U* to, std::int64_t to_unit) {
    for (std::int64_t first = 0; first < from.count; first += kVector) {
        const std::int64_t rows = std::min(from.count - first, kVector);
        const T* in[kVector];
        for (std::int64_t row = 0; row < kVector; ++row) in[row] = from[first + std::min(row, rows - 1)];
        for (std::int64_t i = 0; i < units<U>(size); ++i) {
            U* out = to + i * to_unit + first;
            const std::int64_t at = i * kNumbers<U>, next = at + kNumbers<U> - 1;
            UNROLLED(16)
            for (std::int64_t row = 0; row < kVector; ++row)
                join(out[row], in[row][at], next < size ? in[row][next] : T{});
        }
    }
}

// Copies a matrix into units of neighbours in a column.
template <class T, class U>
void gather_across(const Rows<T>& from, std::int64_t size, U* to, std::int64_t to_row) {
    for (std::int64_t unit = 0; unit < units<U>(from.count); ++unit) {
        const T* in = from[unit * kNumbers<U>];
        U* out = to + unit * to_row;
        if ((unit + 1) * kNumbers<U> > from.count) {
            for (std::int64_t i = 0; i < size; ++i) join(out[i], in[i], T{});
            continue;
        }
        const T* next = from[(unit + 1) * kNumbers<U> - 1];
        for (std::int64_t i = 0; i < size; ++i) join(out[i], in[i], next[i]);
    }
}

template <class T>
void scatter(const float* from, std::int64_t from_row, std::int64_t rows, std::int64_t size, T* to,
             std::int64_t to_row) {
    for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < size; ++i) store(to[row * to_row + i], from[row * from_row + i]);
}

// What one thread works with; all matrices are padded, and zero where nothing was written.
template <class U>
struct Workspace {
    std::int64_t keys, size;  // padded
    std::vector<U> key, key_turned, value, value_turned, query, query_across, grad, grad_across, rounded;
    std::vector<float> scores, slopes, grad_scores, grad_key, grad_value, output;

    Workspace(std::int64_t seen, std::int64_t head_size, bool is_backward, bool is_bent)
        : keys(padded(seen, kVector * 2)),
          size(padded(head_size, kVector * 2)),
          key(is_backward ? keys * size : 0),
          key_turned(keys * size),
          value(is_backward ? 0 : keys * size),
          value_turned(is_backward ? keys * size : 0),
          query(kTile * size),
          query_across(is_backward && kNumbers<U> > 1 ? kTile * size : 0),
          grad(is_backward ? kTile * size : 0),
          grad_across(is_backward && kNumbers<U> > 1 ? kTile * size : 0),
          rounded(kNumbers<U> == 1 ? 0 : kTile * keys),
          scores(kTile * keys),
          slopes(is_backward && is_bent ? kTile * keys : 0),
          grad_scores(is_backward ? kTile * keys : 0),
          grad_key(is_backward ? keys * size : 0),
          grad_value(is_backward ? keys * size : 0),
          output(kTile * size) {}

    // A tile of queries or gradients in units along its rows, with zeros in the rows that it lacks.
    template <class T>
    void gather_tile(const Rows<T>& from, std::int64_t head_size, std::vector<U>& to) {
        if (from.count < kTile) std::fill(to.begin(), to.end(), U{});
        gather_along(from, head_size, to.data(), size);
    }

    // The same in units across its rows; itself where a unit is one number.
    template <class T>
    const U* tile_across(const Rows<T>& from, std::int64_t head_size, const std::vector<U>& tile, std::vector<U>& to) {
        if constexpr (kNumbers<U> == 1) return tile.data();
        if (from.count < kTile) std::fill(to.begin(), to.end(), U{});
        gather_across(from, head_size, to.data(), size);
        return to.data();
    }

    // A tile of scores in units along its rows, or across them; itself where a unit is one number. Valid until the
    // next.
    const U* along(const std::vector<float>& tile, std::int64_t rows, std::int64_t columns) {
        if constexpr (kNumbers<U> == 1)
            return tile.data();
        else
            gather_along(Rows<float>(tile.data(), keys, rows), columns, rounded.data(), keys);
        return rounded.data();
    }

    const U* across(const std::vector<float>& tile, std::int64_t rows, std::int64_t columns) {
        if constexpr (kNumbers<U> == 1)
            return tile.data();
        else
            gather_across(Rows<float>(tile.data(), keys, rows), columns, rounded.data(), keys);
        return rounded.data();
    }
};

// Replaces what lies behind the visible ones, vector by vector up to the end of one.
inline void blank(float* row, std::int64_t visible, std::int64_t after, float value) {
    const Vector lane = __builtin_convertvector(lanes(), Vector);
    for (std::int64_t i = visible / kVector * kVector; i < after; i += kVector)
        store(row + i, lane < static_cast<float>(visible - i) ? load(row + i) : Vector{} + value);
}

// Replaces the first ones.
inline void blank_first(float* row, std::int64_t hidden, float value) {
    const Vector lane = __builtin_convertvector(lanes(), Vector);
    for (std::int64_t i = 0; i < hidden; i += kVector)
        store(row + i, lane < static_cast<float>(hidden - i) ? Vector{} + value : load(row + i));
}

// What follows is done with a row of a tile's scores, each for all rows before the next: what a row ends in takes a
// while, in which the processor goes on with other rows. Rows have room up to a whole vector.

// Scores become those that are bent to stay below a cap; by how much they grow there is kept where a place is given.
inline void bend(float* scores, float* slopes, std::int64_t visible, float scaling, float cap) {
    for (std::int64_t i = 0; i < visible; i += kVector) {
        const Vector bent = hyperbolic_tangent(load(scores + i) * (scaling / cap));
        store(scores + i, bent * cap);
        if (slopes != nullptr) store(slopes + i, 1.0f - bent * bent);
    }
}

inline float largest_visible(float* scores, std::int64_t hidden, std::int64_t visible) {
    blank(scores, visible, visible, -INFINITY);
    blank_first(scores, hidden, -INFINITY);
    Vector found = load(scores);
    for (std::int64_t i = kVector; i < visible; i += kVector) found = larger(found, load(scores + i));
    return joined(found, larger);
}

// Scores become e^((score - largest) * scaling): probabilities times the total that is returned. To divide what they
// are multiplied by is cheaper.
inline float exponentiate(float* scores, std::int64_t visible, float largest, float scaling) {
    Vector totals{};
    for (std::int64_t i = 0; i < visible; i += kVector) {
        const Vector some = exponential((load(scores + i) - largest) * scaling);
        store(scores + i, some);
        totals += some;
    }
    return joined(totals, sum);
}

// Scores become probabilities again; returns the sum of these times their gradients.
inline float probabilities_again(float* scores, float* grad, std::int64_t hidden, std::int64_t visible, float divisor,
                                 float scaling) {
    blank(scores, visible, visible, -INFINITY);
    blank(grad, visible, visible, 0.0f);
    blank_first(scores, hidden, -INFINITY);
    blank_first(grad, hidden, 0.0f);
    Vector products{};
    for (std::int64_t i = 0; i < visible; i += kVector) {
        const Vector some = exponential(load(scores + i) * scaling - divisor);
        store(scores + i, some);
        products += some * load(grad + i);
    }
    return joined(products, sum);
}

// The gradient of probabilities becomes that of scores.
inline void to_scores(const float* probabilities, float* grad, std::int64_t visible, float product, float scaling) {
    for (std::int64_t i = 0; i < visible; i += kVector)
        store(grad + i, load(probabilities + i) * (load(grad + i) - product) * scaling);
}

inline void scale_by(float* numbers, const float* factors, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += kVector) store(numbers + i, load(numbers + i) * load(factors + i));
}

// Computes every task with a workspace of its thread, the largest tasks first, so that threads end at about one time;
// false where memory does not suffice for all workspaces.
template <class U, class Compute>
bool compute_tasks(const Layout& at, const Span* spans, bool is_backward, bool is_bent, const Compute& compute) {
    std::int64_t most_keys = 0;
    for (std::int64_t i = 0; i < at.spans; ++i) most_keys = std::max(most_keys, at.shared + spans[i].own);
    std::vector<std::int64_t> order(at.spans);
    std::iota(order.begin(), order.end(), 0);
    const auto size = [&](std::int64_t i) { return spans[i].asked * (at.shared + spans[i].own); };
    std::stable_sort(order.begin(), order.end(), [&](auto first, auto second) { return size(first) > size(second); });
    const std::int64_t tasks = at.spans * at.key_heads;
    std::atomic<bool> is_short = false;
    Queue queue;
    in_parallel([&](std::int64_t, std::int64_t) {
        std::optional<Workspace<U>> workspace;
        try {  // what is thrown must not leave the thread
            workspace.emplace(most_keys, at.size, is_backward, is_bent);
        } catch (const std::bad_alloc&) {
            is_short = true;
        }
        wait_for_all();
        if (is_short) return;
        for (std::int64_t i = queue.next(); i < tasks; i = queue.next())
            compute(*workspace, Task(at, spans, order[i / at.key_heads] * at.key_heads + i % at.key_heads));
    });
    return !is_short;
}

// query: [heads, asking, size]; key, value: [key heads, tokens, size]; output: [asking, heads, size]; normaliser: the
// logarithm of the sum that each query divides by, [heads, asking]. cap: 0 for none; sinks: [heads], scores of a place
// that takes its share and gives nothing, or none.
template <class T>
bool attention_forward(const T* query, const T* key, const T* value, const float* sinks, T* output, float* normaliser,
                       const Span* spans, const Layout* layout, float scaling, float cap) {
    using U = UnitOf<T>;
    const Layout& at = *layout;
    const float scale = cap > 0.0f ? 1.0f : scaling;  // bent scores are scaled
    return compute_tasks<U>(at, spans, false, cap > 0.0f, [&](Workspace<U>& w, const Task& task) {
        gather_turned(Rows<T>(key + task.key_head * at.key_head, at.key_token, task), at.size, w.key_turned.data(),
                      w.keys);
        gather_across(Rows<T>(value + task.key_head * at.value_head, at.value_token, task), at.size, w.value.data(),
                      w.size);
        for (std::int64_t head = task.first_head; head < task.after_head; ++head) {
            for (std::int64_t start = 0; start < task.span.asked; start += kTile) {
                const Tile tile(at, task, start);
                const T* asking = query + head * at.query_head + tile.first * at.query_token;
                w.gather_tile(Rows<T>(asking, at.query_token, tile.rows), at.size, w.query);
                multiply(w.query.data(), w.size, 1, w.key_turned.data() + tile.begin, w.keys, w.scores.data(), w.keys,
                         padded(tile.rows, kRows), padded(tile.seen, kColumns), units<U>(at.size), false);
                float largest[kTile], totals[kTile];
                for (std::int64_t row = 0; row < tile.rows; ++row) {
                    float* scores = w.scores.data() + row * w.keys;
                    if (cap > 0.0f) bend(scores, nullptr, tile.visible(row), scaling, cap);
                    largest[row] = largest_visible(scores, tile.hidden(row), tile.visible(row));
                    if (sinks != nullptr) largest[row] = std::max(largest[row], sinks[head] / scale);
                }
                for (std::int64_t row = 0; row < tile.rows; ++row) {
                    float* scores = w.scores.data() + row * w.keys;
                    totals[row] = exponentiate(scores, tile.visible(row), largest[row], scale);
                    if (sinks != nullptr) totals[row] += std::exp(sinks[head] - largest[row] * scale);
                    blank(scores, tile.visible(row), tile.seen, 0.0f);
                    blank_first(scores, tile.hidden(row), 0.0f);
                }
                float* normalisers = normaliser + head * at.asking + tile.first;
                for (std::int64_t row = 0; row < tile.rows; ++row)
                    normalisers[row] = largest[row] * scale + std::log(totals[row]);
                multiply(w.along(w.scores, tile.rows, tile.seen), w.keys, 1,
                         w.value.data() + tile.begin / kNumbers<U> * w.size, w.size, w.output.data(), w.size,
                         padded(tile.rows, kRows), w.size, units<U>(tile.seen), false);
                for (std::int64_t row = 0; row < tile.rows; ++row) {
                    const float *sums = w.output.data() + row * w.size, share = 1.0f / totals[row];
                    T* out = output + ((tile.first + row) * at.heads + head) * at.size;
                    for (std::int64_t i = 0; i < at.size; ++i) store(out[i], sums[i] * share);
                }
            }
        }
    });
}

// Gradients: grad as output; grad_query as query, grad_key as key, both contiguous; grad_value: [tokens, key heads,
// size]; those of the shared keys and values span by span, [spans, key heads, shared, size].
template <class T>
bool attention_backward(const T* query, const T* key, const T* value, const T* grad, const float* normaliser,
                        T* grad_query, T* grad_key, T* grad_value, float* shared_key, float* shared_value,
                        const Span* spans, const Layout* layout, float scaling, float cap, std::int64_t tokens) {
    using U = UnitOf<T>;
    const Layout& at = *layout;
    const float scale = cap > 0.0f ? 1.0f : scaling;
    return compute_tasks<U>(at, spans, true, cap > 0.0f, [&](Workspace<U>& w, const Task& task) {
        const Rows<T> keys(key + task.key_head * at.key_head, at.key_token, task);
        gather_across(keys, at.size, w.key.data(), w.size);
        gather_turned(keys, at.size, w.key_turned.data(), w.keys);
        gather_turned(Rows<T>(value + task.key_head * at.value_head, at.value_token, task), at.size,
                      w.value_turned.data(), w.keys);
        std::fill(w.grad_key.begin(), w.grad_key.end(), 0.0f);
        std::fill(w.grad_value.begin(), w.grad_value.end(), 0.0f);
        for (std::int64_t head = task.first_head; head < task.after_head; ++head) {
            for (std::int64_t start = 0; start < task.span.asked; start += kTile) {
                const Tile tile(at, task, start);
                const std::int64_t some = padded(tile.rows, kRows), wide = padded(tile.seen, kColumns);
                const Rows<T> queries(query + head * at.query_head + tile.first * at.query_token, at.query_token,
                                      tile.rows);
                const Rows<T> grads(grad + (tile.first * at.heads + head) * at.size, at.heads * at.size, tile.rows);
                w.gather_tile(queries, at.size, w.query);
                w.gather_tile(grads, at.size, w.grad);
                const U* queries_across = w.tile_across(queries, at.size, w.query, w.query_across);
                const U* grads_across = w.tile_across(grads, at.size, w.grad, w.grad_across);
                multiply(w.query.data(), w.size, 1, w.key_turned.data() + tile.begin, w.keys, w.scores.data(), w.keys,
                         some, wide, units<U>(at.size), false);
                multiply(w.grad.data(), w.size, 1, w.value_turned.data() + tile.begin, w.keys, w.grad_scores.data(),
                         w.keys, some, wide, units<U>(at.size), false);
                const float* normalisers = normaliser + head * at.asking + tile.first;
                float products[kTile];
                for (std::int64_t row = 0; row < tile.rows; ++row) {
                    float* scores = w.scores.data() + row * w.keys;
                    if (cap > 0.0f) bend(scores, w.slopes.data() + row * w.keys, tile.visible(row), scaling, cap);
                    products[row] = probabilities_again(scores, w.grad_scores.data() + row * w.keys, tile.hidden(row),
                                                        tile.visible(row), normalisers[row], scale);
                }
                for (std::int64_t row = 0; row < some; ++row) {
                    float *scores = w.scores.data() + row * w.keys, *grads = w.grad_scores.data() + row * w.keys;
                    to_scores(scores, grads, tile.visible(row), products[row], scaling);
                    if (cap > 0.0f) scale_by(grads, w.slopes.data() + row * w.keys, tile.visible(row));
                    for (float* numbers : {scores, grads}) {
                        blank(numbers, tile.visible(row), wide, 0.0f);
                        blank_first(numbers, tile.hidden(row), 0.0f);
                    }
                }
                multiply(w.along(w.grad_scores, some, tile.seen), w.keys, 1,
                         w.key.data() + tile.begin / kNumbers<U> * w.size, w.size, w.output.data(), w.size, some,
                         w.size, units<U>(tile.seen), false);
                scatter(w.output.data(), w.size, tile.rows, at.size,
                        grad_query + (head * at.asking + tile.first) * at.size, at.size);
                multiply(w.across(w.grad_scores, some, wide), 1, w.keys, queries_across, w.size,
                         w.grad_key.data() + tile.begin * w.size, w.size, padded(tile.seen, kRows), w.size,
                         units<U>(tile.rows), true);
                multiply(w.across(w.scores, some, wide), 1, w.keys, grads_across, w.size,
                         w.grad_value.data() + tile.begin * w.size, w.size, padded(tile.seen, kRows), w.size,
                         units<U>(tile.rows), true);
            }
        }
        const std::int64_t of_shared = task.number * at.shared * at.size, own = task.shared * w.size;
        scatter(w.grad_key.data(), w.size, task.shared, at.size, shared_key + of_shared, at.size);
        scatter(w.grad_value.data(), w.size, task.shared, at.size, shared_value + of_shared, at.size);
        scatter(w.grad_key.data() + own, w.size, task.span.own, at.size,
                grad_key + (task.key_head * tokens + task.span.own_start) * at.size, at.size);
        scatter(w.grad_value.data() + own, w.size, task.span.own, at.size,
                grad_value + (task.span.own_start * at.key_heads + task.key_head) * at.size, at.key_heads * at.size);
    });
}

// logits: [rows, vocabulary], replaced by softmax - one-hot; nats: [rows].
template <class T>
void cross_entropy(T* logits, const std::int64_t* targets, float* nats, std::int64_t rows, std::int64_t vocabulary,
                   std::int64_t wants_gradient) {
    for_each(rows, [=](std::int64_t row) {
        T* l = logits + row * vocabulary;
        const float largest = largest_of(l, vocabulary);
        float total = 0;
#pragma omp simd reduction(+ : total)
        for (std::int64_t i = 0; i < vocabulary; ++i) total += exponential(widen(l[i]) - largest);
        const std::int64_t target = targets[row];
        const float at_target = widen(l[target]) - largest;
        nats[row] = std::log(total) - at_target;
        if (!wants_gradient) return;
        const float share = 1.0f / total;
#pragma omp simd
        for (std::int64_t i = 0; i < vocabulary; ++i) store(l[i], exponential(widen(l[i]) - largest) * share);
        store(l[target], exponential(at_target) * share - 1.0f);
    });
}

}  // namespace

// For the number format that the compiler is given.
extern "C" const Function* functions() {
    static const Function table[] = {
        function("rms_norm_forward", rms_norm_forward<FORMAT>),
        function("rms_norm_backward", rms_norm_backward<FORMAT>),
        function("rotary", rotary<FORMAT>),
        function("gated_forward", gated_forward<FORMAT>),
        function("gated_backward", gated_backward<FORMAT>),
        function("attention_forward", attention_forward<FORMAT>),
        function("attention_backward", attention_backward<FORMAT>),
        function("cross_entropy", cross_entropy<FORMAT>),
        {},
    };
    return table;
}
