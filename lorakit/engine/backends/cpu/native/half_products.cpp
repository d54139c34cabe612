// Products of float32 activations and frozen float16 weights, for processors that multiply float16 numbers twice as
// fast as float32 ones (AVX512-FP16) and have nothing faster.
//
// c = a b, or c += a b, where b is the weight or its transpose. Numbers of a are scaled by a power of two, common to a
// row's next kDepth numbers, so that float16 holds them without overflow and, down to a 2^18th of their largest, with
// all its 11 bits; so many products are added up in float16, and these sums in float32. That is more exact than
// bfloat16, whose numbers have 8 bits, added up in float32 (test_products.py). Each number of c is computed by one
// thread: results do not depend on the number of threads.
//
// How blocks of a and b wait in the caches: Goto and van de Geijn, 2008, "Anatomy of High-Performance Matrix
// Multiplication", doi 10.1145/1356052.1356053.
//
// Without AVX512-FP16 the same is computed slowly, for tests of this file to run everywhere: with AVX-512 all but the
// sums in float16 is as it is here, without it half_products_portable.h rounds in the same places.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "function_table.h"
#include "threads.h"
#include "vectors.h"

namespace {

using Half = std::uint16_t;  // its bits
using Index = std::int64_t;

struct Product {
    const float* a;  // [rows, depth], a_row apart
    const Half* b;   // of row k and column n: b[k * b_row + n * b_column]; one of the two is 1
    float* c;        // [rows, columns], c_row apart
    Index rows, depth, columns, a_row, b_row, b_column, c_row;
    bool adds;  // to what is in c
};

constexpr Index kDepth = 64;       // products added up in float16
constexpr float kLargest = 32.0f;  // of scaled numbers; times kDepth products with weights under 32, float16 holds
constexpr Index kFewRows = 8;      // so few are multiplied in float32

}  // namespace

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#include <immintrin.h>

namespace {

// 32 numbers in float16.
#ifdef __AVX512FP16__
using Halves = __m512h;

inline Halves no_halves() {
    return _mm512_setzero_ph();
}

inline Halves load_halves(const Half* from) {
    return _mm512_loadu_ph(from);
}

inline Halves spread(std::int32_t twice) {
    return _mm512_castsi512_ph(_mm512_set1_epi32(twice));
}

inline Halves plus_product(Halves x, Halves y, Halves sum) {
    return _mm512_fmadd_ph(x, y, sum);
}

inline __m256i lower(Halves x) {
    return _mm512_castsi512_si256(_mm512_castph_si512(x));
}

inline __m256i upper(Halves x) {
    return _mm512_extracti64x4_epi64(_mm512_castph_si512(x), 1);
}
#else
struct Halves {
    __m512 low, high;
};

inline __m256i narrowed(__m512 x) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

inline Halves halves(__m512i bits) {
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(bits)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1))};
}

inline Halves no_halves() {
    return {_mm512_setzero_ps(), _mm512_setzero_ps()};
}

inline Halves load_halves(const Half* from) {
    return halves(_mm512_loadu_si512(from));
}

inline Halves spread(std::int32_t twice) {
    return halves(_mm512_set1_epi32(twice));
}

inline Halves plus_product(const Halves& x, const Halves& y, const Halves& sum) {
    return {_mm512_cvtph_ps(narrowed(_mm512_fmadd_ps(x.low, y.low, sum.low))),
            _mm512_cvtph_ps(narrowed(_mm512_fmadd_ps(x.high, y.high, sum.high)))};
}

inline __m256i lower(const Halves& x) {
    return narrowed(x.low);
}

inline __m256i upper(const Halves& x) {
    return narrowed(x.high);
}
#endif

constexpr Index kRows = 14;         // of a tile of c: with kColumns, its sums and one step's factors fill 31 registers
constexpr Index kColumns = 64;      // of a tile of c
constexpr Index kBlockDepths = 10;  // kDepths of the blocks of a and b that wait in the second-level cache
constexpr Index kBlockTiles = 12;   // tiles of rows in a block of a
constexpr Index kPanelTiles = 12;   // tiles of columns in a block of b
constexpr Index kMostWhole = 1 << 23;  // numbers of a that are packed once for all blocks of b; else once for each

constexpr Index pieces(Index all, Index size) {
    return (all + size - 1) / size;
}

inline __mmask16 mask16(Index numbers) {
    return numbers >= 16 ? 0xffff : numbers <= 0 ? 0 : static_cast<__mmask16>((1u << numbers) - 1);
}

inline __mmask32 mask32(Index numbers) {
    return numbers >= 32 ? 0xffffffffu : numbers <= 0 ? 0 : (1u << numbers) - 1;
}

// Of every two registers that lie D apart, their lower numbers in turns, and their higher ones; of each quarter by
// itself.
template <int D, int N, class Low, class High>
inline void interleave(const __m512i (&from)[N], __m512i (&to)[N], Low low, High high) {
    for (int group = 0; group < N; group += 2 * D) {
        for (int i = 0; i < D; ++i) {
            to[group + 2 * i] = low(from[group + i], from[group + i + D]);
            to[group + 2 * i + 1] = high(from[group + i], from[group + i + D]);
        }
    }
}

constexpr auto kLow16 = [](__m512i a, __m512i b) { return _mm512_unpacklo_epi16(a, b); };
constexpr auto kHigh16 = [](__m512i a, __m512i b) { return _mm512_unpackhi_epi16(a, b); };
constexpr auto kLow32 = [](__m512i a, __m512i b) { return _mm512_unpacklo_epi32(a, b); };
constexpr auto kHigh32 = [](__m512i a, __m512i b) { return _mm512_unpackhi_epi32(a, b); };
constexpr auto kLow64 = [](__m512i a, __m512i b) { return _mm512_unpacklo_epi64(a, b); };
constexpr auto kHigh64 = [](__m512i a, __m512i b) { return _mm512_unpackhi_epi64(a, b); };

// 16 rows of 16 numbers to 16 columns.
inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    interleave<1>(r, t, kLow32, kHigh32);
    interleave<2>(t, r, kLow64, kHigh64);
    for (int i = 0; i < 4; ++i) {  // r[4 g + i]: of rows 4 g to 4 g + 3 the columns i, 4 + i, 8 + i, 12 + i
        const __m512i even01 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88),
                      odd01 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        const __m512i even23 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88),
                      odd23 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(even01, even23, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
        t[4 + i] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
    }
    for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// Of a tile's rows, one kDepth: packed[k * kRows + row], each number twice in 32 bits, which one instruction spreads
// over a register; scales[row] undoes the scaling.
inline void pack_rows(const float* a, Index a_row, Index rows, Index depth, std::int32_t* packed, float* scales) {
    __m512i pairs[kDepth / 16][16];
    for (Index row = 0; row < 16; ++row) {
        __m512 numbers[kDepth / 16], largest = _mm512_setzero_ps();
        for (Index i = 0; i < kDepth / 16; ++i) {
            numbers[i] = row < rows ? _mm512_maskz_loadu_ps(mask16(depth - 16 * i), a + row * a_row + 16 * i)
                                    : _mm512_setzero_ps();
            largest = _mm512_max_ps(largest, _mm512_abs_ps(numbers[i]));
        }
        const __m128 most = _mm_set_ss(_mm512_reduce_max_ps(largest));
        float scale = 1.0f;  // for zeros, and for what is not a number
        if (_mm_cvtss_f32(most) > 1e-30f && _mm_cvtss_f32(most) < 1e30f)
            scale = kLargest / 2 / _mm_cvtss_f32(_mm_scalef_ss(_mm_set_ss(1.0f), _mm_getexp_ss(most, most)));
        if (row < kRows) scales[row] = 1.0f / scale;  // exact
        for (Index i = 0; i < kDepth / 16; ++i) {
            const __m256i half =
                _mm512_cvtps_ph(_mm512_mul_ps(numbers[i], _mm512_set1_ps(scale)), _MM_FROUND_TO_NEAREST_INT);
            const __m512i wide = _mm512_cvtepu16_epi32(half);
            pairs[i][row] = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
        }
    }
    for (Index i = 0; i < kDepth / 16; ++i) {
        transpose(pairs[i]);
        for (Index k = 0; k < 16; ++k)
            _mm512_mask_storeu_epi32(packed + (16 * i + k) * kRows, mask16(kRows), pairs[i][k]);
    }
}

// A tile's columns of b, whose rows are stored one after the other: packed[k * kColumns + column].
inline void pack_along(const Product& p, Index first, Index column, Index depth, Half* packed) {
    const Index columns = p.columns - column;
    for (Index k = 0; k < depth; ++k) {
        const bool is_there = first + k < p.depth;
        const Half* from = p.b + (first + k) * p.b_row + column;
        for (Index i = 0; i < kColumns; i += 32)
            _mm512_storeu_si512(packed + k * kColumns + i, is_there
                                                               ? _mm512_maskz_loadu_epi16(mask32(columns - i), from + i)
                                                               : _mm512_setzero_si512());
    }
}

// The same where its columns are: 8 of them, 32 numbers long, at a time.
inline void pack_across(const Product& p, Index first, Index column, Index depth, Half* packed) {
    for (Index n = 0; n < kColumns; n += 8) {
        for (Index k = 0; k < depth; k += 32) {
            __m512i r[8], t[8];
            for (Index i = 0; i < 8; ++i) {
                const Index at = column + n + i;
                r[i] = at < p.columns
                           ? _mm512_maskz_loadu_epi16(mask32(p.depth - first - k), p.b + at * p.b_column + first + k)
                           : _mm512_setzero_si512();
            }
            interleave<1>(r, t, kLow16, kHigh16);
            interleave<2>(t, r, kLow32, kHigh32);
            interleave<4>(r, t, kLow64, kHigh64);
            for (int i = 0; i < 8; ++i) {  // t[i]: of each quarter's number i
                Half* to = packed + (k + i) * kColumns + n;
                _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(t[i]));
                _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8 * kColumns), _mm512_extracti32x4_epi32(t[i], 1));
                _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * kColumns), _mm512_extracti32x4_epi32(t[i], 2));
                _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 24 * kColumns), _mm512_extracti32x4_epi32(t[i], 3));
            }
        }
    }
}

// sums [R, kColumns] of so many kDepths of a packed tile of rows and one of columns.
template <Index R>
void multiply(const std::int32_t* a, const float* scales, const Half* b, Index depths, float* sums) {
    for (Index depth = 0; depth < depths; ++depth) {
        Halves left[R], right[R];
        for (Index row = 0; row < R; ++row) left[row] = right[row] = no_halves();
        for (Index k = 0; k < kDepth; ++k) {
            const Halves b_left = load_halves(b), b_right = load_halves(b + 32);
            UNROLLED(16)
            for (Index row = 0; row < R; ++row) {
                const Halves number = spread(a[row]);
                left[row] = plus_product(number, b_left, left[row]);
                right[row] = plus_product(number, b_right, right[row]);
            }
            a += kRows;
            b += kColumns;
        }
        UNROLLED(16)
        for (Index row = 0; row < R; ++row) {
            const __m512 scale = _mm512_set1_ps(scales[row]);
            float* to = sums + row * kColumns;
            const __m256i parts[4] = {lower(left[row]), upper(left[row]), lower(right[row]), upper(right[row])};
            UNROLLED(4)
            for (int i = 0; i < 4; ++i) {
                const __m512 before = depth ? _mm512_load_ps(to + 16 * i) : _mm512_setzero_ps();
                _mm512_store_ps(to + 16 * i,
                                _mm512_fmadd_ps(_mm512_cvtph_ps(parts[i]), scale, before));
            }
        }
        scales += kRows;
    }
}

using Multiply = void (*)(const std::int32_t*, const float*, const Half*, Index, float*);

template <std::size_t... R>
constexpr std::array<Multiply, sizeof...(R)> kernels_by_rows(std::index_sequence<R...>) {
    return {multiply<static_cast<Index>(R) + 1>...};
}
constexpr auto kByRows = kernels_by_rows(std::make_index_sequence<kRows>());

void put(const float* sums, float* c, Index c_row, Index rows, Index columns, bool adds) {
    for (Index row = 0; row < rows; ++row) {
        for (Index i = 0; i < kColumns; i += 16) {
            const __mmask16 mask = mask16(columns - i);
            float* to = c + row * c_row + i;
            __m512 sum = _mm512_load_ps(sums + row * kColumns + i);
            if (adds) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to));
            _mm512_mask_storeu_ps(to, mask, sum);
        }
    }
}

// What one thread multiplies: rows of a with a packed panel of b.
struct Share {
    Index first_row, after_row, first_tile, after_tile;
};

constexpr Index kTileDepth = kDepth * kRows;  // packed numbers of a tile's kDepth

struct Packed {  // tiles of rows of a, so many kDepths of each
    std::int32_t* numbers;
    float* scales;
    Index depths;

    void pack(const Product& p, Index tile, Index row, Index rows, Index first) const {
        for (Index depth = 0; depth < depths; ++depth) {
            const Index at = tile * depths + depth, k = first + depth * kDepth;
            pack_rows(p.a + row * p.a_row + k, p.a_row, rows, p.depth - k, numbers + at * kTileDepth,
                      scales + at * kRows);
        }
    }
};

struct Room {  // of one thread
    alignas(64) std::int32_t packed[kBlockTiles * kBlockDepths * kTileDepth];
    float scales[kBlockTiles * kBlockDepths * kRows];
    alignas(64) float sums[kRows * kColumns];
};

struct Panel {  // of b: depths * kDepth of its rows, tiles * kColumns of its columns
    const Product& p;
    Index first, depths, column, tiles;

    Panel(const Product& product, Index number, Index blocks, Index block_depths)
        : p(product),
          first(number % blocks * block_depths * kDepth),
          depths(std::min(block_depths, pieces(product.depth - first, kDepth))),
          column(number / blocks * kPanelTiles * kColumns),
          tiles(std::min(kPanelTiles, pieces(product.columns - column, kColumns))) {
    }

    void pack(Index tile, Half* panel) const {
        const auto pack = p.b_column == 1 ? pack_along : pack_across;
        pack(p, first, column + tile * kColumns, depths * kDepth, panel + tile * depths * kDepth * kColumns);
    }
};

// whole: all of a, where it was packed beforehand.
void multiply_panel(const Panel& of, const Half* panel, const Share& share, const Packed* whole, Room& room) {
    const Product& p = of.p;
    const Packed block{room.packed, room.scales, of.depths}, &packed = whole ? *whole : block;
    for (Index start = share.first_row; start < share.after_row; start += kBlockTiles * kRows) {
        const Index after = std::min(start + kBlockTiles * kRows, share.after_row),
                    tiles = pieces(after - start, kRows);
        const Index before = whole ? start / kRows * packed.depths + of.first / kDepth : 0;  // kDepths
        for (Index tile = 0; !whole && tile < tiles; ++tile)
            block.pack(p, tile, start + tile * kRows, std::min(kRows, after - start - tile * kRows), of.first);
        for (Index columns = share.first_tile; columns < share.after_tile; ++columns) {
            for (Index tile = 0; tile < tiles; ++tile) {
                const Index row = start + tile * kRows, rows = std::min(kRows, after - row),
                            column = of.column + columns * kColumns, at = before + tile * packed.depths;
                kByRows[rows - 1](packed.numbers + at * kTileDepth, packed.scales + at * kRows,
                                  panel + columns * of.depths * kDepth * kColumns, of.depths, room.sums);
                put(room.sums, p.c + row * p.c_row + column, p.c_row, rows, p.columns - column, p.adds || of.first > 0);
            }
        }
    }
}

template <Index R>
constexpr Index kTogether = R > 2 ? 2 : 4;  // columns

// Few rows have no use for blocks: every weight is read once, widened, and multiplied in float32.
template <Index R>
void multiply_few(const Product& p) {
    for_each(pieces(p.columns, kTogether<R>), [p](Index piece) {
        constexpr Index kTogether = ::kTogether<R>;
        const Index first = piece * kTogether;
        const Half* b[kTogether];
        for (Index i = 0; i < kTogether; ++i) b[i] = p.b + std::min(first + i, p.columns - 1) * p.b_column;
        __m512 sums[kTogether][R];
        for (Index i = 0; i < kTogether; ++i)
            for (Index row = 0; row < R; ++row) sums[i][row] = _mm512_setzero_ps();
        for (Index k = 0; k < p.depth; k += 16) {
            const __mmask16 mask = mask16(p.depth - k);
            __m512 a[R];
            for (Index row = 0; row < R; ++row) a[row] = _mm512_maskz_loadu_ps(mask, p.a + row * p.a_row + k);
            for (Index i = 0; i < kTogether; ++i) {
                const __m512 weights = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, b[i] + k));
                for (Index row = 0; row < R; ++row) sums[i][row] = _mm512_fmadd_ps(a[row], weights, sums[i][row]);
            }
        }
        for (Index i = 0; i < kTogether && first + i < p.columns; ++i) {
            for (Index row = 0; row < R; ++row) {
                float& to = p.c[row * p.c_row + first + i];
                to = _mm512_reduce_add_ps(sums[i][row]) + (p.adds ? to : 0.0f);
            }
        }
    });
}

template <std::size_t... R>
constexpr std::array<void (*)(const Product&), sizeof...(R)> few_by_rows(std::index_sequence<R...>) {
    return {multiply_few<static_cast<Index>(R) + 1>...};
}
constexpr auto kFewByRows = few_by_rows(std::make_index_sequence<kFewRows>());

// An equal part of so many tiles.
std::pair<Index, Index> part(Index tiles, Index number, Index of) {
    return {tiles * number / of, tiles * (number + 1) / of};
}

// Memory of the calling thread, kept for the next product: fresh, it would cost as much as packing into it.
char* workspace(Index bytes) {
    struct Free {
        void operator()(void* memory) const {
            std::free(memory);
        }
    };
    thread_local std::unique_ptr<void, Free> memory;
    thread_local Index size = 0;
    if (size < bytes) {
        memory.reset(std::aligned_alloc(64, bytes));
        size = memory ? bytes : 0;
    }
    return static_cast<char*>(memory.get());
}

void multiply_few_rows(const Product& p) {
    kFewByRows[p.rows - 1](p);
}

bool multiply_all(const Product& p) {
    const Index rows = p.rows, most = most_threads(), all_depths = pieces(p.depth, kDepth),
                blocks = pieces(all_depths, kBlockDepths);
    const Index row_tiles = pieces(rows, kRows), panels = pieces(p.columns, kPanelTiles * kColumns);
    const bool by_rows = row_tiles >= (p.columns < kPanelTiles * kColumns ? 2 : 24) * most;
    const Index block_depths = pieces(all_depths, blocks),
                panel_numbers = kPanelTiles * kColumns * block_depths * kDepth;
    const Index panel_bytes = 2 * panel_numbers * sizeof(Half), room_bytes = most * sizeof(Room);
    const Index whole_numbers = row_tiles * all_depths * kTileDepth, whole_scales = row_tiles * all_depths * kRows;
    const bool is_whole = panels > 1 && whole_numbers <= kMostWhole;
    char* memory = workspace(panel_bytes + room_bytes + is_whole * pieces(whole_numbers + whole_scales, 16) * 64);
    if (memory == nullptr) return false;
    Half* two_panels = reinterpret_cast<Half*>(memory);
    Room* rooms = reinterpret_cast<Room*>(memory + panel_bytes);
    std::int32_t* numbers = reinterpret_cast<std::int32_t*>(memory + panel_bytes + room_bytes);
    const Packed whole{numbers, reinterpret_cast<float*>(numbers + whole_numbers), all_depths};
    in_parallel([&](Index me, Index of) {
        const auto [first_rows, after_rows] = part(row_tiles, me, of);
        for (Index tile = first_rows; is_whole && tile < after_rows; ++tile)
            whole.pack(p, tile, tile * kRows, std::min(kRows, rows - tile * kRows), 0);
        // While one panel is multiplied, the next one is packed: threads wait for each other once a panel.
        for (Index turn = -1; turn < panels * blocks; ++turn) {
            if (turn + 1 < panels * blocks) {
                const Panel next(p, turn + 1, blocks, block_depths);
                const auto [first, after] = part(next.tiles, me, of);
                for (Index tile = first; tile < after; ++tile)
                    next.pack(tile, two_panels + (turn + 1) % 2 * panel_numbers);
            }
            if (turn >= 0) {
                const Panel panel(p, turn, blocks, block_depths);
                const auto [first, after] = part(panel.tiles, me, of);
                const Share share = by_rows
                                        ? Share{first_rows * kRows, std::min(after_rows * kRows, rows), 0, panel.tiles}
                                        : Share{0, rows, first, after};
                multiply_panel(panel, two_panels + turn % 2 * panel_numbers, share, is_whole ? &whole : nullptr,
                               rooms[me]);
            }
            wait_for_all();
        }
    });
    return true;
}

}  // namespace

#else
#include "half_products_portable.h"
#endif

namespace {

bool half_product(const float* a, const Half* b, float* c, Index rows, Index depth, Index columns, Index a_row,
                  Index b_row, Index b_column, Index c_row, Index adds) {
    const Product p{a, b, c, rows, depth, columns, a_row, b_row, b_column, c_row, adds != 0};
    if (b_row != 1 || rows > kFewRows) return multiply_all(p);
    multiply_few_rows(p);
    return true;
}

}  // namespace

extern "C" const Function* functions() {
    static const Function table[] = {function("half_product", half_product), {}};
    return table;
}
