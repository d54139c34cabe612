// Holds matmul.h against sums in double: every shape that a tile, a panel or a part can have. Prints the worst distance
// as a share of what roundings allow, and ends with 1 where that is more than all of it.

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "matmul.h"

using T = FORMAT;

namespace {

std::mt19937 generator(0);

template <class X>
std::vector<X> drawn(Index count) {
    std::normal_distribution<float> normal;
    std::vector<X> numbers(count + 64);
    for (Index i = 0; i < count; ++i) store(numbers[i], normal(generator));
    return numbers;
}

// Of one sum with two terms, a weight and a factor of an adapter, or of two such sums at a time.
double worst(Index rows, Index columns, Index depth, Index rank, bool is_across, Index apart) {
    const auto left = drawn<T>(rows * (depth + apart)), small = drawn<T>(rows * rank);
    const auto weight = drawn<T>(depth * columns);
    const auto factor = drawn<float>(rank * columns);
    std::vector<UnitOf<T>> packed(kPackedUnits);
    std::vector<float> sums((rows + kTileRows) * kMostColumns), found(rows * columns * 2, NAN);
    std::vector<T> copied(kLeftUnits * kNumbers<UnitOf<T>>);
    const Room<T> room{packed.data(), sums.data(), copied.data()};
    Sum<T> sum, other;
    sum += {left.data(), depth + apart, depth, weight.data(), is_across ? columns : 1, is_across ? 1 : depth};
    other = sum;
    if (rank) other += {small.data(), rank, rank, factor.data(), is_across ? columns : 1, is_across ? 1 : rank, true, 0.5f};
    multiply(std::array{sum, other}, rows, columns, room,
             [&](Index row, Index some, Index column, Index wide, const auto& finished, Index finished_apart) {
                 for (int o = 0; o < 2; ++o)
                     for (Index r = 0; r < some; ++r)
                         std::copy_n(finished[o] + r * finished_apart, wide,
                                     found.data() + (o * rows + row + r) * columns + column);
             });
    double most = 0;
    for (Index row = 0; row < rows; ++row) {
        for (Index column = 0; column < columns; ++column) {
            double exact = 0, size = 0, of_factor = 0;
            for (Index k = 0; k < depth; ++k) {
                const double one = double{widen(left[row * (depth + apart) + k])} *
                                   widen(weight[is_across ? k * columns + column : column * depth + k]);
                exact += one;
                size += std::fabs(one);
            }
            for (int o = 0; o < 2; ++o) {
                for (Index k = 0; o && k < rank; ++k) {
                    float number = factor[is_across ? k * columns + column : column * rank + k] * 0.5f;
                    number = rounded<T>(number);
                    const double one = double{widen(small[row * rank + k])} * number;
                    of_factor += one;
                    size += std::fabs(one);
                }
                const double off = std::fabs(found[o * rows * columns + row * columns + column] - exact - of_factor);
                // Of n terms, each rounded when it is added: n u times the sum of their sizes at most.
                const double allowed = (depth + rank + 1) * std::ldexp(1.0, -24) * size;
                most = std::max(most, off <= allowed ? off / allowed : 2.0);  // NaN as well
            }
        }
    }
    return most;
}

}  // namespace

int main() {
    double most = 0;
    for (const Index rows : {1, 2, 5, 13, 14, 15, 29, 61})
        for (const Index columns : {1, 3, 16, 17, 33, 64, 300})
            for (const Index depth : {2, 6, 34, 70})
                for (const Index rank : {0, 2, 18})
                    for (const bool is_across : {false, true})
                        most = std::max(most, worst(rows, columns, depth, rank, is_across, rows % 2 * 6));
    for (const bool is_across : {false, true}) {
        most = std::max(most, worst(9, 70, 3400, 4, is_across, 0));  // in parts
        most = std::max(most, worst(17, 40, 2048, 4, is_across, 0));  // rows a power of two apart
    }
    std::printf("%.3f of what roundings allow\n", most);
    return most > 1.0;
}
