// The halves of a decoder layer, and what linear layers with adapters compute, each in one go: norm, products, adapters,
// gated product and the sum with what came before, for as many rows as a thread has.
//
// Threads wait for each other once a function, not once a product: beside other work they lose what that takes and no
// more. Each row is computed by one thread from beginning to end: results do not depend on the number of threads.
// Sums are taken in float32 and rounded once. The formulas are those of torch_parts.py; test_block_parts.py holds both
// against float64.

#include <cmath>
#include <cstdlib>
#include <memory>

#include "function_table.h"
#include "matmul.h"
#include "threads.h"

namespace {

using T = FORMAT;

// As in kernel_parts.py. Of an adapter: a [rank, in], b [out, rank], in float32; rank 0 without one. Where units are
// pairs, all three sizes are even.
struct Linear {
    const T* weight;  // [out, in]
    Index by_out, by_in;
    const T* bias;
    const float *a, *b;
    Index out, in, rank;
    float scaling;
};

struct Norm {
    const T* weight;
    Index width;
    float epsilon;
};

struct Rows {
    Index first, after;

    Index count() const {
        return after - first;
    }
};

// As many rows for each thread as for the others; what a row becomes does not depend on where it is cut.
Rows part(Index rows, Index me, Index of) {
    return {rows * me / of, rows * (me + 1) / of};
}

// Memory of the calling thread, kept for the next call: fresh, it would cost as much as writing to it.
char* kept_memory(std::size_t bytes) {
    struct Free {
        void operator()(void* memory) const {
            std::free(memory);
        }
    };
    thread_local std::unique_ptr<void, Free> memory;
    thread_local std::size_t size = 0;
    if (size < bytes) {
        memory.reset();
        memory.reset(std::aligned_alloc(64, bytes));
        size = memory ? bytes : 0;
    }
    return static_cast<char*>(memory.get());
}

// Hands out pieces of a thread's memory; first counted, then taken.
class Pieces {
    char* memory = nullptr;
    std::size_t used = 0;

public:
    template <class X>
    X* take(Index numbers) {
        char* place = memory + used;
        used += (static_cast<std::size_t>(numbers) * sizeof(X) + 127) / 64 * 64;  // products read beyond an odd end
        return reinterpret_cast<X*>(place);
    }

    // Whether there is memory for what was counted.
    bool begin() {
        memory = kept_memory(used);
        used = 0;
        return memory != nullptr;
    }
};

Room<T> take_room(Pieces& pieces, Index rows) {
    UnitOf<T>* packed = pieces.take<UnitOf<T>>(kPackedUnits);
    float* sums = pieces.take<float>(std::max(rows, kTileRows) * kMostColumns);
    return {packed, sums, pieces.take<T>(kLeftUnits * kNumbers<UnitOf<T>>)};
}

// What can fail is memory alone: then every thread still ends, and the caller is told.
template <class Prepare, class Compute>
bool compute_rows(Index rows, const Prepare& prepare, const Compute& compute) {
    std::atomic<bool> is_short{false};
    in_parallel([&](Index me, Index of) {
        const Rows own = part(rows, me, of);
        if (own.count() == 0) return;
        Pieces pieces;
        take_room(pieces, own.count());
        prepare(pieces, own);
        if (!pieces.begin()) {
            is_short = true;
            return;
        }
        const Room<T> room = take_room(pieces, own.count());
        compute(room, prepare(pieces, own), own);
    });
    return !is_short;
}

void rms_norm(const Norm& norm, const T* x, T* y, float* rstd, Index rows) {
    for (Index row = 0; row < rows; ++row) {
        const T* in = x + row * norm.width;
        T* out = y + row * norm.width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (Index i = 0; i < norm.width; ++i) squares += widen(in[i]) * widen(in[i]);
        const float scale = 1.0f / std::sqrt(squares / static_cast<float>(norm.width) + norm.epsilon);
        rstd[row] = scale;
#pragma omp simd
        for (Index i = 0; i < norm.width; ++i)
            store(out[i], rounded<T>(widen(in[i]) * scale) * widen(norm.weight[i]));
    }
}

void rms_norm_again(const Norm& norm, const T* x, const float* rstd, T* y, Index rows) {
    for (Index row = 0; row < rows; ++row) {
        const T* in = x + row * norm.width;
        T* out = y + row * norm.width;
#pragma omp simd
        for (Index i = 0; i < norm.width; ++i)
            store(out[i], rounded<T>(widen(in[i]) * rstd[row]) * widen(norm.weight[i]));
    }
}

// grad: of y; rest: what is added to the gradient of x.
void rms_norm_backward(const Norm& norm, const float* grad, const T* x, const float* rstd, const T* rest, T* grad_x,
                       Index rows) {
    for (Index row = 0; row < rows; ++row) {
        const T *in = x + row * norm.width, *more = rest + row * norm.width;
        const float* g = grad + row * norm.width;
        T* out = grad_x + row * norm.width;
        float product = 0;
#pragma omp simd reduction(+ : product)
        for (Index i = 0; i < norm.width; ++i) product += g[i] * widen(norm.weight[i]) * widen(in[i]);
        const float scale = rstd[row], share = product * scale * scale / static_cast<float>(norm.width);
#pragma omp simd
        for (Index i = 0; i < norm.width; ++i)
            store(out[i], widen(more[i]) + (g[i] * widen(norm.weight[i]) - widen(in[i]) * share) * scale);
    }
}

Term<T> weight_forward(const Linear& of, const T* left) {
    return {left, of.in, of.in, of.weight, of.by_in, of.by_out};
}

Term<T> factor_forward(const Linear& of, const T* small) {
    return {small, of.rank, of.rank, of.b, 1, of.rank, true, of.scaling};
}

Term<T> weight_backward(const Linear& of, const T* grad) {
    return {grad, of.out, of.out, of.weight, of.by_out, of.by_in};
}

Term<T> factor_backward(const Linear& of, const T* grad_small) {
    return {grad_small, of.rank, of.rank, of.a, of.in, 1, true};
}

// To a finished piece of sums, those of a linear layer's columns from one on.
inline void add_bias(const Linear& of, Index column, Index columns, float* sums) {
    if (of.bias == nullptr) return;
    const T* bias = of.bias + column;
#pragma omp simd
    for (Index i = 0; i < columns; ++i) sums[i] += widen(bias[i]);
}

// A write that stores rows in T, a row apart.
auto storing(T* to, Index apart) {
    return [=](Index row, Index rows, Index column, Index columns, const std::array<float*, 1>& sums,
               Index sums_apart) {
        for (Index r = 0; r < rows; ++r) {
            const float* from = sums[0] + r * sums_apart;
            T* out = to + (row + r) * apart + column;
#pragma omp simd
            for (Index i = 0; i < columns; ++i) store(out[i], from[i]);
        }
    };
}

// What adapters see of one input [rows, in] becomes what their a make of it.
void small_forward(const Linear* linears, Index count, const T* x, T* const* smalls, Index rows, const Room<T>& room) {
    for (Index i = 0; i < count; ++i) {
        const Linear& of = linears[i];
        if (of.rank == 0) continue;
        Sum<T> sum;
        sum += {x, of.in, of.in, of.a, 1, of.in, true};
        multiply(std::array{sum}, rows, of.rank, room, storing(smalls[i], of.rank));
    }
}

void small_backward(const Linear& of, const T* grad, T* grad_small, Index rows, const Room<T>& room) {
    if (of.rank == 0) return;
    Sum<T> sum;
    sum += {grad, of.out, of.out, of.b, of.rank, 1, true, of.scaling};
    multiply(std::array{sum}, rows, of.rank, room, storing(grad_small, of.rank));
}

// Adds a projection of left, whose adapter made small of it.
void add_forward(Sum<T>& sum, const Linear& of, const T* left, const T* small) {
    sum += weight_forward(of, left);
    if (of.rank) sum += factor_forward(of, small);
}

void add_backward(Sum<T>& sum, const Linear& of, const T* grad, const T* grad_small) {
    sum += weight_backward(of, grad);
    if (of.rank) sum += factor_backward(of, grad_small);
}

template <class X>
X* at_row(X* of, Index row, Index width) {
    return of ? of + row * width : nullptr;
}

// y = x w^T and what its adapter adds; plus bias, plus rest [rows, out]. Writes what the adapter made of x as well.
void project(const Linear& of, const T* x, T* small, const T* rest, T* y, Index rows, const Room<T>& room) {
    small_forward(&of, 1, x, &small, rows, room);
    Sum<T> sum;
    add_forward(sum, of, x, small);
    multiply(std::array{sum}, rows, of.out, room,
             [&](Index row, Index some, Index column, Index columns, const auto& sums, Index apart) {
                 for (Index r = 0; r < some; ++r) {
                     float* from = sums[0] + r * apart;
                     add_bias(of, column, columns, from);
                     const Index place = (row + r) * of.out + column;
                     T* out = y + place;
                     if (rest) {
                         const T* more = rest + place;
#pragma omp simd
                         for (Index i = 0; i < columns; ++i) store(out[i], from[i] + widen(more[i]));
                     } else {
#pragma omp simd
                         for (Index i = 0; i < columns; ++i) store(out[i], from[i]);
                     }
                 }
             });
}

// y_i = linear_i(norm(x)), or of x itself without a norm; the first with rest added.
bool project_forward(const T* x, Index rows, const Norm* norm, float* rstd, const Linear* linears, Index count,
                     T* const* outputs, T* const* smalls, const T* rest) {
    const Index width = linears[0].in;
    return compute_rows(
        rows, [&](Pieces& pieces, Rows own) { return norm ? pieces.take<T>(own.count() * width) : nullptr; },
        [&](const Room<T>& room, T* normed, Rows own) {
            const T* input = x + own.first * width;
            if (norm) {
                rms_norm(*norm, input, normed, rstd + own.first, own.count());
                input = normed;
            }
            for (Index i = 0; i < count; ++i)
                project(linears[i], input, at_row(smalls[i], own.first, linears[i].rank),
                        i == 0 ? at_row(rest, own.first, linears[i].out) : nullptr,
                        outputs[i] + own.first * linears[i].out, own.count(), room);
        });
}

// The gradients for those of y_i. normed: what norm made of x, for the factors' gradients, or none. grad_x: or none.
bool project_backward(const T* const* grads, Index rows, const Linear* linears, Index count, const Norm* norm,
                      const T* x, const float* rstd, const T* rest, T* const* grad_smalls, T* normed, T* grad_x) {
    const Index width = linears[0].in;
    return compute_rows(
        rows, [&](Pieces& pieces, Rows own) { return norm && grad_x ? pieces.take<float>(own.count() * width) : nullptr; },
        [&](const Room<T>& room, float* grad_normed, Rows own) {
            Sum<T> sum;
            for (Index i = 0; i < count; ++i) {
                const T* grad = grads[i] + own.first * linears[i].out;
                T* grad_small = at_row(grad_smalls[i], own.first, linears[i].rank);
                small_backward(linears[i], grad, grad_small, own.count(), room);
                add_backward(sum, linears[i], grad, grad_small);
            }
            const T* input = at_row(x, own.first, width);
            if (normed) rms_norm_again(*norm, input, rstd + own.first, normed + own.first * width, own.count());
            if (grad_x == nullptr) return;
            T* to = grad_x + own.first * width;
            if (norm == nullptr) {
                multiply(std::array{sum}, own.count(), width, room, storing(to, width));
                return;
            }
            multiply(std::array{sum}, own.count(), width, room,
                     [&](Index row, Index some, Index column, Index columns, const auto& sums, Index apart) {
                         for (Index r = 0; r < some; ++r)
                             std::copy_n(sums[0] + r * apart, columns, grad_normed + (row + r) * width + column);
                     });
            rms_norm_backward(*norm, grad_normed, input, rstd + own.first, rest + own.first * width, to, own.count());
        });
}

inline float sigmoid(float x) {
    return 1.0f / (1.0f + exponential(-x));
}

// y = x + down(silu(gate(norm(x))) * up(norm(x))). linears: gate, up, down.
bool mlp_forward(const T* x, Index rows, const Norm* norm, float* rstd, const Linear* linears, T* gate, T* up,
                 T* const* smalls, T* y) {
    const Index width = linears[0].in, inner = linears[0].out;
    struct Buffers {
        T *normed, *product;
    };
    return compute_rows(
        rows,
        [&](Pieces& pieces, Rows own) {
            T* normed = pieces.take<T>(own.count() * width);
            return Buffers{normed, pieces.take<T>(own.count() * inner)};
        },
        [&](const Room<T>& room, const Buffers& own_buffers, Rows own) {
            const T* input = x + own.first * width;
            T *normed = own_buffers.normed, *product = own_buffers.product;
            rms_norm(*norm, input, normed, rstd + own.first, own.count());
            std::array<T*, 3> own_smalls;
            for (Index i = 0; i < 3; ++i) own_smalls[i] = at_row(smalls[i], own.first, linears[i].rank);
            small_forward(linears, 2, normed, own_smalls.data(), own.count(), room);
            std::array<Sum<T>, 2> both;
            for (Index i = 0; i < 2; ++i) add_forward(both[i], linears[i], normed, own_smalls[i]);
            T *own_gate = gate + own.first * inner, *own_up = up + own.first * inner;
            multiply(both, own.count(), inner, room,
                     [&](Index row, Index some, Index column, Index columns, const auto& sums, Index apart) {
                         for (Index r = 0; r < some; ++r) {
                             const Index place = (row + r) * inner + column;
                             float *from_gate = sums[0] + r * apart, *from_up = sums[1] + r * apart;
                             add_bias(linears[0], column, columns, from_gate);
                             add_bias(linears[1], column, columns, from_up);
                             T *to_gate = own_gate + place, *to_up = own_up + place, *to = product + place;
#pragma omp simd
                             for (Index i = 0; i < columns; ++i) {
                                 store(to_gate[i], from_gate[i]);
                                 store(to_up[i], from_up[i]);
                                 const float g = rounded<T>(from_gate[i]);
                                 store(to[i], rounded<T>(g * sigmoid(g)) * rounded<T>(from_up[i]));
                             }
                         }
                     });
            project(linears[2], product, own_smalls[2], input, y + own.first * width, own.count(), room);
        });
}

// product: for the gradient of down's factors, or none; normed, grad_x: as in project_backward.
bool mlp_backward(const T* grad, Index rows, const Norm* norm, const T* x, const float* rstd, const Linear* linears,
                  const T* gate, const T* up, T* grad_gate, T* grad_up, T* const* grad_smalls, T* product, T* normed,
                  T* grad_x) {
    const Index width = linears[0].in, inner = linears[0].out;
    return compute_rows(
        rows, [&](Pieces& pieces, Rows own) { return grad_x ? pieces.take<float>(own.count() * width) : nullptr; },
        [&](const Room<T>& room, float* grad_normed, Rows own) {
            std::array<T*, 3> own_smalls;
            for (Index i = 0; i < 3; ++i) own_smalls[i] = at_row(grad_smalls[i], own.first, linears[i].rank);
            const T* own_grad = grad + own.first * width;
            small_backward(linears[2], own_grad, own_smalls[2], own.count(), room);
            Sum<T> down;
            add_backward(down, linears[2], own_grad, own_smalls[2]);
            const Index offset = own.first * inner;
            multiply(std::array{down}, own.count(), inner, room,
                     [&](Index row, Index some, Index column, Index columns, const auto& sums, Index apart) {
                         for (Index r = 0; r < some; ++r) {
                             const Index place = offset + (row + r) * inner + column;
                             const float* from = sums[0] + r * apart;
                             const T *g = gate + place, *u = up + place;
                             T *to_gate = grad_gate + place, *to_up = grad_up + place;
#pragma omp simd
                             for (Index i = 0; i < columns; ++i) {
                                 const float number = widen(g[i]), share = sigmoid(number), d = from[i];
                                 store(to_gate[i], d * widen(u[i]) * share * (1.0f + number * (1.0f - share)));
                                 store(to_up[i], d * number * share);
                             }
                             if (product == nullptr) continue;
                             T* to = product + place;
#pragma omp simd
                             for (Index i = 0; i < columns; ++i) {
                                 const float number = widen(g[i]);
                                 store(to[i], rounded<T>(number * sigmoid(number)) * widen(u[i]));
                             }
                         }
                     });
            const std::array<const T*, 2> grads{grad_gate + offset, grad_up + offset};
            Sum<T> sum;
            for (Index i = 0; i < 2; ++i) {
                small_backward(linears[i], grads[i], own_smalls[i], own.count(), room);
                add_backward(sum, linears[i], grads[i], own_smalls[i]);
            }
            const T* input = x + own.first * width;
            if (normed) rms_norm_again(*norm, input, rstd + own.first, normed + own.first * width, own.count());
            if (grad_x == nullptr) return;
            multiply(std::array{sum}, own.count(), width, room,
                     [&](Index row, Index some, Index column, Index columns, const auto& sums, Index apart) {
                         for (Index r = 0; r < some; ++r)
                             std::copy_n(sums[0] + r * apart, columns, grad_normed + (row + r) * width + column);
                     });
            rms_norm_backward(*norm, grad_normed, input, rstd + own.first, own_grad, grad_x + own.first * width,
                              own.count());
        });
}

// small^T wide, times scale: the gradient of a factor. by_rank, by_column: where a number of it goes.
struct Gradient {
    const T* small;  // [rows, rank]
    const T* wide;   // [rows, columns]
    float* to;
    Index rank, columns, by_rank, by_column;
    float scale;
};

constexpr Index kFactorRanks = 4, kFactorVectors = kRegisters == 32 ? 4 : 2, kFactorColumns = kFactorVectors * kVector;

// Some ranks of some columns, summed over all rows. small: [rows, kFactorRanks]; wide in float32 or T.
void multiply_factor(const float* small, const T* wide, Index rows, Index wide_row, Index columns, float* sums) {
    Vector some[kFactorRanks][kFactorVectors]{};
    for (Index row = 0; row < rows; ++row) {
        alignas(64) float numbers[kFactorColumns];
        const T* from = wide + row * wide_row;
        if (columns == kFactorColumns) {
#pragma omp simd
            for (Index i = 0; i < kFactorColumns; ++i) numbers[i] = widen(from[i]);
        } else {
            for (Index i = 0; i < kFactorColumns; ++i) numbers[i] = i < columns ? widen(from[i]) : 0.0f;
        }
        UNROLLED(4)
        for (Index v = 0; v < kFactorVectors; ++v) {
            const Vector right = load(numbers + v * kVector);
            UNROLLED(4)
            for (Index r = 0; r < kFactorRanks; ++r)
                some[r][v] = some[r][v] + small[row * kFactorRanks + r] * right;
        }
    }
    for (Index r = 0; r < kFactorRanks; ++r)
        for (Index v = 0; v < kFactorVectors; ++v) store(sums + r * kFactorColumns + v * kVector, some[r][v]);
}

// Each thread computes some columns of each, over all rows.
bool factor_gradients(const Gradient* gradients, Index count, Index rows) {
    std::atomic<bool> is_short{false};
    in_parallel([&](Index me, Index of) {
        Pieces pieces_of_memory;
        pieces_of_memory.take<float>(rows * kFactorRanks);
        if (!pieces_of_memory.begin()) {
            is_short = true;
            return;
        }
        float* small = pieces_of_memory.take<float>(rows * kFactorRanks);
        for (const Gradient* each = gradients; each < gradients + count; ++each) {
            const Index all = pieces(each->columns, kFactorColumns), first = all * me / of, after = all * (me + 1) / of;
            for (Index rank = 0; rank < each->rank && first < after; rank += kFactorRanks) {
                const Index ranks = std::min(each->rank - rank, kFactorRanks);
                for (Index row = 0; row < rows; ++row)
                    for (Index r = 0; r < kFactorRanks; ++r)
                        small[row * kFactorRanks + r] =
                            r < ranks ? widen(each->small[row * each->rank + rank + r]) * each->scale : 0.0f;
                for (Index piece = first; piece < after; ++piece) {
                    const Index column = piece * kFactorColumns, columns = std::min(each->columns - column, kFactorColumns);
                    alignas(64) float sums[kFactorRanks * kFactorColumns];
                    multiply_factor(small, each->wide + column, rows, each->columns, columns, sums);
                    for (Index r = 0; r < ranks; ++r)
                        for (Index i = 0; i < columns; ++i)
                            each->to[(rank + r) * each->by_rank + (column + i) * each->by_column] =
                                sums[r * kFactorColumns + i];
                }
            }
        }
    });
    return !is_short;
}

}  // namespace

extern "C" const Function* functions() {
    // bfloat16 is multiplied in pairs or left to PyTorch.
    static const Function none[] = {{}};
    if constexpr (std::is_same_v<T, BFloat16> && kNumbers<UnitOf<T>> == 1) return none;
    static const Function table[] = {
        function("project_forward", project_forward),
        function("project_backward", project_backward),
        function("mlp_forward", mlp_forward),
        function("mlp_backward", mlp_backward),
        function("factor_gradients", factor_gradients),
        {},
    };
    return table;
}
