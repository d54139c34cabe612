// Matrix products whose left side is read where it lies and whose right side, a weight, is packed a few columns at a time.
//
// What is multiplied by several weights one after the other, or comes from an adapter as well, is one sum: the terms of
// a sum are added up in registers and written once, by a function of the caller that does what comes after the product.
// A thread works alone on its rows: nobody waits for another's packing.
//
// How blocks wait in the caches: Goto and van de Geijn, 2008, "Anatomy of High-Performance Matrix Multiplication",
// doi 10.1145/1356052.1356053.

#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "units.h"

namespace {

using Index = std::int64_t;

// Of a tile of sums, which fill the registers but for some.
constexpr Index kTileVectors = 2;
constexpr Index kTileRows = kVector == 16 ? 14 : kRegisters == 32 ? 12 : 6;
constexpr Index kTileColumns = kVector * kTileVectors;
constexpr Index kMostColumns = 256;         // packed at a time
constexpr Index kPackedBytes = 288 * 1024;  // what is packed waits in the second-level cache
constexpr Index kPackedUnits = kPackedBytes / 4;
constexpr Index kMostUnits = 1600;  // of depth; deeper sums are taken in parts
// Rows that lie so far apart fall into the same places of the first-level cache: they are copied to lie otherwise.
constexpr Index kUnluckyBytes = 4096;
constexpr Index kLeftUnits = kTileRows * (kMostUnits + 16);

constexpr Index pieces(Index all, Index size) {
    return (all + size - 1) / size;
}

constexpr Index padded(Index count, Index multiple) {
    return pieces(count, multiple) * multiple;
}

// left [rows, depth] times right [depth, columns]. right is a weight in T; or, of an adapter, in float32 and to be
// scaled. One of its strides is 1. Where units are pairs, depth is even.
template <class T>
struct Term {
    const T* left;
    Index left_row, depth;
    const void* right;
    Index right_depth, right_column;
    bool is_factor = false;
    float scale = 1.0f;
};

// Packing ----------------------------------------------------------------------------------------------------------

template <std::uint32_t kDistance, std::size_t... kLanes>
inline void exchange(VectorBits& low, VectorBits& high, std::index_sequence<kLanes...>) {
    const VectorBits first = low, second = high;
#if defined(__clang__)
    low = __builtin_shufflevector(first, second, (kLanes & kDistance ? kVector + kLanes - kDistance : kLanes)...);
    high = __builtin_shufflevector(first, second, (kLanes & kDistance ? kVector + kLanes : kLanes + kDistance)...);
#else
    low = __builtin_shuffle(first, second, VectorBits{(kLanes & kDistance ? kVector + kLanes - kDistance : kLanes)...});
    high = __builtin_shuffle(first, second, VectorBits{(kLanes & kDistance ? kVector + kLanes : kLanes + kDistance)...});
#endif
}

template <std::uint32_t kDistance = kVector / 2>
inline void transpose(VectorBits (&rows)[kVector]) {
    if constexpr (kDistance > 0) {
        UNROLLED(16)
        for (Index i = 0; i < kVector; ++i)
            if (!(i & kDistance))
                exchange<kDistance>(rows[i], rows[i + kDistance], std::make_index_sequence<kVector>());
        transpose<kDistance / 2>(rows);
    }
}

// As many units as a vector has, from where they lie one after the other.
inline VectorBits units_at(const float* from, float) {
    return __builtin_bit_cast(VectorBits, load(from));
}

#ifdef IN_PAIRS
inline VectorBits units_at(const BFloat16* from, Pair) {
    VectorBits bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}
#endif

inline void store_units(void* to, VectorBits units) {
    std::memcpy(to, &units, sizeof units);
}

// One panel of so many columns, the rest zero: to[unit * kTileColumns + column].
template <class U, class W>
void pack_panel(const W* from, Index by_depth, Index by_column, Index depths, Index columns, float scale, U* to) {
    const auto at = [&](Index k, Index column) { return widen(from[k * by_depth + column * by_column]) * scale; };
    const auto pack_some = [&](Index first, Index after) {
        for (Index unit = first; unit < after; ++unit) {
            U* out = to + unit * kTileColumns;
            const Index k = unit * kNumbers<U>;
            for (Index column = 0; column < columns; ++column)
                join(out[column], at(k, column), at(k + kNumbers<U> - 1, column));
            for (Index column = columns; column < kTileColumns; ++column) out[column] = U{};
        }
    };
    const Index all = depths / kNumbers<U>;
    if constexpr (std::is_same_v<W, typename NumberOf<U>::Type>) {
        if (by_depth == 1 && columns == kTileColumns && scale == 1.0f) {
            const Index whole = all / kVector * kVector;
            for (Index unit = 0; unit < whole; unit += kVector) {
                for (Index column = 0; column < kTileColumns; column += kVector) {
                    VectorBits some[kVector];
                    UNROLLED(16)
                    for (Index i = 0; i < kVector; ++i)
                        some[i] = units_at(from + (column + i) * by_column + unit * kNumbers<U>, U{});
                    transpose(some);
                    UNROLLED(16)
                    for (Index i = 0; i < kVector; ++i) store_units(to + (unit + i) * kTileColumns + column, some[i]);
                }
            }
            pack_some(whole, all);
            return;
        }
        if (by_column == 1 && columns == kTileColumns && scale == 1.0f) {
            for (Index unit = 0; unit < all; ++unit) {
                const W *first = from + unit * kNumbers<U> * by_depth, *last = first + (kNumbers<U> - 1) * by_depth;
                U* out = to + unit * kTileColumns;
                for (Index column = 0; column < kTileColumns; ++column) copy_unit(out[column], first[column], last[column]);
            }
            return;
        }
    }
    pack_some(0, all);
}

// Some depths of a term's right side, for some columns, panel by panel; panels lie so many units apart.
template <class U, class T>
void pack(const Term<T>& term, Index first, Index depths, Index column, Index columns, Index apart, U* to) {
    for (Index panel = 0; panel * kTileColumns < columns; ++panel) {
        const Index at = column + panel * kTileColumns, some = std::min(columns - panel * kTileColumns, kTileColumns);
        const Index place = first * term.right_depth + at * term.right_column;
        if (term.is_factor)
            pack_panel(static_cast<const float*>(term.right) + place, term.right_depth, term.right_column, depths, some,
                       term.scale, to + panel * apart);
        else
            pack_panel(static_cast<const T*>(term.right) + place, term.right_depth, term.right_column, depths, some,
                       term.scale, to + panel * apart);
    }
}

// Multiplying ------------------------------------------------------------------------------------------------------

constexpr Index kMostTerms = 8;

template <class T>
struct Slice {  // some depths of the left side of a term
    const T* left;
    Index row, units;
};

template <class T>
struct Slices {
    std::array<Slice<T>, kMostTerms> each;
    Index count = 0;
};

// sums [R, V vectors], or what is there already and they.
template <class T, Index R, Index V>
[[gnu::noinline]] void multiply_tile(const Slices<T>& slices, Index row, const UnitOf<T>* right, float* sums,
                                     Index apart, bool adds) {
    using U = UnitOf<T>;
    Vector some[R][V];
    UNROLLED(16)
    for (Index r = 0; r < R; ++r)
        UNROLLED(2)
        for (Index v = 0; v < V; ++v) some[r][v] = adds ? load(sums + r * apart + v * kVector) : Vector{};
    for (Index slice = 0; slice < slices.count; ++slice) {
        const Index stride = slices.each[slice].row, units = slices.each[slice].units;
        const T* left = slices.each[slice].left + row * stride;
        for (Index unit = 0; unit < units; ++unit) {
            UNROLLED(16)
            for (Index r = 0; r < R; ++r) {
                const U number = unit_at<U>(left + r * stride + unit * kNumbers<U>);
                UNROLLED(2)
                for (Index v = 0; v < V; ++v) some[r][v] = plus_product(some[r][v], number, right + v * kVector);
            }
            right += kTileColumns;
        }
    }
    UNROLLED(16)
    for (Index r = 0; r < R; ++r)
        UNROLLED(2)
        for (Index v = 0; v < V; ++v) store(sums + r * apart + v * kVector, some[r][v]);
}

template <class T>
using MultiplyTile = void (*)(const Slices<T>&, Index, const UnitOf<T>*, float*, Index, bool);

template <class T, Index V, std::size_t... R>
constexpr std::array<MultiplyTile<T>, sizeof...(R)> tiles_by_rows(std::index_sequence<R...>) {
    return {multiply_tile<T, static_cast<Index>(R) + 1, V>...};
}

template <class T, Index V>
constexpr auto kByRows = tiles_by_rows<T, V>(std::make_index_sequence<kTileRows>());

// Where a thread packs, and adds up.
template <class T>
struct Room {
    UnitOf<T>* packed;  // kPackedUnits
    float* sums;        // kMostColumns for each row of a tile; for each row that is multiplied, where depths are cut
    T* left;            // kLeftUnits: rows of a tile, copied
};

template <class T>
struct Sum {  // of products with the same rows and columns
    std::array<Term<T>, kMostTerms> terms;
    Index count = 0;

    Sum& operator+=(const Term<T>& term) {
        terms[count++] = term;
        return *this;
    }

    Index units() const {
        Index all = 0;
        for (Index i = 0; i < count; ++i) all += terms[i].depth / kNumbers<UnitOf<T>>;
        return all;
    }

    // The units from first on, which fit: packed, and the left sides that belong to them.
    Slices<T> packed(Index first, Index after, Index column, Index columns, UnitOf<T>* to) const {
        constexpr Index numbers = kNumbers<UnitOf<T>>;
        Slices<T> slices;
        Index start = 0, place = 0;
        for (Index i = 0; i < count; ++i) {
            const Index units = terms[i].depth / numbers, from = std::max(first - start, Index{0}),
                        to_unit = std::min(after - start, units);
            start += units;
            if (from >= to_unit) continue;
            const Index some = to_unit - from;
            pack(terms[i], from * numbers, some * numbers, column, columns, (after - first) * kTileColumns,
                 to + place * kTileColumns);
            slices.each[slices.count++] = {terms[i].left + from * numbers, terms[i].left_row, some};
            place += some;
        }
        return slices;
    }
};

template <class T>
bool is_unlucky(const Slices<T>& slices) {
    for (Index i = 0; i < slices.count; ++i)
        if (slices.each[i].row * Index{sizeof(T)} % kUnluckyBytes == 0) return true;
    return false;
}

// Copies the rows of a tile: what the slices become for it.
template <class T>
Slices<T> copied(const Slices<T>& slices, Index row, Index rows, T* to) {
    Slices<T> own = slices;
    for (Index i = 0; i < slices.count; ++i) {
        const Index numbers = slices.each[i].units * kNumbers<UnitOf<T>>, apart = padded(numbers, 16) + 16;
        for (Index r = 0; r < rows; ++r)
            std::copy_n(slices.each[i].left + (row + r) * slices.each[i].row, numbers, to + r * apart);
        own.each[i] = {to, apart, slices.each[i].units};
        to += rows * apart;
    }
    return own;
}

// How sums of so many units are cut: how many panels are packed at a time, and in how many parts their depth is.
struct Cut {
    Index panels, parts;

    Cut(Index units, Index columns, Index together) {
        const Index most = std::min(kMostColumns / kTileColumns / together, pieces(columns, kTileColumns));
        const Index of_panel = kTileColumns * together;
        if (units <= kMostUnits) {
            panels = std::clamp(kPackedUnits / std::max(units * of_panel, Index{1}), Index{1}, most);
            parts = 1;
        } else {
            panels = std::min(most, Index{4});
            parts = pieces(units, std::min(kPackedUnits / (panels * of_panel), kMostUnits));
        }
    }
};

// Adds up O sums at a time, and calls write(row, rows, column, columns, sums[O], apart) with each finished piece of them.
template <class T, std::size_t O, class Write>
void multiply(const std::array<Sum<T>, O>& sums, Index rows, Index columns, const Room<T>& room, const Write& write) {
    Index units = 0;
    for (const Sum<T>& sum : sums) units = std::max(units, sum.units());
    const Cut cut(units, columns, Index{O});
    const Index wide = cut.panels * kTileColumns, apart = wide * Index{O};
    for (Index column = 0; column < columns; column += wide) {
        const Index some = std::min(columns - column, wide), panels = pieces(some, kTileColumns);
        for (Index part = 0; part < cut.parts; ++part) {
            const Index first = units * part / cut.parts, after = units * (part + 1) / cut.parts;
            std::array<Slices<T>, O> slices;
            std::array<UnitOf<T>*, O> packed;
            std::array<Index, O> panel_apart;
            std::array<bool, O> is_copied;
            UnitOf<T>* place = room.packed;
            for (std::size_t o = 0; o < O; ++o) {
                const Index last = std::min(after, sums[o].units());
                packed[o] = place;
                panel_apart[o] = std::max(last - first, Index{0}) * kTileColumns;
                slices[o] = sums[o].packed(first, last, column, some, place);
                is_copied[o] = is_unlucky(slices[o]);
                place += panels * panel_apart[o];
            }
            const Index tiles = pieces(rows, kTileRows);  // of about one size
            for (Index tile = 0; tile < tiles; ++tile) {
                const Index row = rows * tile / tiles, together = rows * (tile + 1) / tiles - row;
                float* to = room.sums + (cut.parts > 1 ? row * apart : 0);
                std::array<float*, O> finished;
                for (std::size_t o = 0; o < O; ++o) {
                    float* own = to + static_cast<Index>(o) * wide;
                    finished[o] = own;
                    const Slices<T> lefts = is_copied[o] ? copied(slices[o], row, together, room.left) : slices[o];
                    for (Index panel = 0; panel < panels; ++panel) {
                        const bool is_narrow = some - panel * kTileColumns <= kVector;
                        const auto& by_rows = is_narrow ? kByRows<T, 1> : kByRows<T, kTileVectors>;
                        by_rows[together - 1](lefts, is_copied[o] ? 0 : row, packed[o] + panel * panel_apart[o],
                                              own + panel * kTileColumns, apart, part > 0);
                    }
                }
                if (part == cut.parts - 1) write(row, together, column, some, finished, apart);
            }
        }
    }
}

}  // namespace
