/* What each instruction set compiles for itself. Included once for each, with these defined:
 *
 *   FLAVOUR    suffix of the functions
 *   TARGET     attribute that switches the instruction set on
 *   BYTES      width of a vector: 16, 32 or 64
 *   LOOK(t,i)  bytes of table t (16 entries, repeated) at the indices i (0..15)
 *   DOT(s,c,q) for each 4-byte lane: s + sum of 4 codes (0..127) times 4 signed probe bytes
 *
 * A group is 16 templates. One line (64 bytes) of a plane holds 4 bytes for each of them, and each
 * byte 4 two-bit codes: byte b of template t, bits 2j and 2j+1, is dimension 16*line + 4*j + b. So
 * a line shifted by 2j meets the same 4 probe bytes in all lanes, and no sum crosses lanes. */

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define NAME(stem) PASTE(stem, FLAVOUR)
#define V NAME(bytes_)
#define W NAME(words_)
#define LANES ((int)(BYTES / 4))

typedef uint8_t V __attribute__((vector_size(BYTES), aligned(1), may_alias));
typedef uint16_t W __attribute__((vector_size(BYTES), aligned(1), may_alias));
typedef int32_t NAME(ints_) __attribute__((vector_size(BYTES), aligned(1), may_alias));

#define RIGHT(v, n) ((V)((W)(v) >> (n)))
#define LEFT(v, n) ((V)((W)(v) << (n)))

/* ---- products of codes ---------------------------------------------------------------------- */

/* n probes against `groups` groups, by the high plane alone or by both. */
TARGET static ALWAYS void NAME(block_)(const int n, const int both, const Book *book,
                                       const uint8_t *high, const uint8_t *mid, int64_t groups,
                                       const Block *block, int32_t *out, int64_t stride) {
    const int lines = book->width / 16;
    const V table = *(const V *)(both ? book->table4 : book->table2);
    for (int64_t g = 0; g < groups; g++)
        for (int part = 0; part < 64 / BYTES; part++) {
            const uint8_t *a = high + g * lines * 64 + part * BYTES;
            const uint8_t *b = mid + g * lines * 64 + part * BYTES;
            const int32_t *q = block->words;
            NAME(ints_) sum[16], other = {0};
            for (int p = 0; p < n; p++) sum[p] = (NAME(ints_)){0} - block->probes[p].bias;
            for (int k = 0; k < lines; k++, a += 64, b += 64, q += 4 * n) {
                V codes[4], va = *(const V *)a;
                __builtin_prefetch(a + AHEAD);
                if (both) {
                    V vb = *(const V *)b;
                    __builtin_prefetch(b + AHEAD);
                    V even = (LEFT(va, 2) & 0xCC) | (vb & 0x33);
                    V odd = (va & 0xCC) | (RIGHT(vb, 2) & 0x33);
                    codes[0] = LOOK(table, even & 15);
                    codes[1] = LOOK(table, odd & 15);
                    codes[2] = LOOK(table, RIGHT(even, 4) & 15);
                    codes[3] = LOOK(table, RIGHT(odd, 4) & 15);
                } else {
                    for (int j = 0; j < 4; j++) codes[j] = LOOK(table, RIGHT(va, 2 * j) & 3);
                }
                if (n == 1) { /* two chains of sums hide the latency of one */
                    for (int j = 0; j < 4; j += 2) {
                        sum[0] = DOT(sum[0], codes[j], q + j);
                        other = DOT(other, codes[j + 1], q + j + 1);
                    }
                } else {
                    for (int j = 0; j < 4; j++)
                        for (int p = 0; p < n; p++) sum[p] = DOT(sum[p], codes[j], q + j * n + p);
                }
            }
            if (n == 1) sum[0] += other;
            for (int p = 0; p < n; p++)
                *(NAME(ints_) *)(out + p * stride + g * 16 + part * LANES) = sum[p];
        }
}

/* mid: NULL for the high plane alone. */
TARGET static void NAME(products_)(const Book *book, const uint8_t *high, const uint8_t *mid,
                                   int64_t groups, const Block *block, int32_t *out,
                                   int64_t stride) {
#define CASE(n)                                                                               \
    case n:                                                                                   \
        if (mid) NAME(block_)(n, 1, book, high, mid, groups, block, out, stride);             \
        else NAME(block_)(n, 0, book, high, high, groups, block, out, stride);                \
        return;
    switch (block->count) { CASE(1) CASE(2) CASE(4) CASE(8) CASE(16) }
#undef CASE
}

/* What the low plane adds to the product of one template: its row of nibbles, each 8 too large. */
TARGET static int32_t NAME(low_product_)(const Book *book, const uint8_t *row, const Probe *probe) {
    const int half = book->width / 2;
    NAME(ints_) sum = {0};
    for (int i = 0; i < half; i += BYTES) {
        V v = *(const V *)(row + i);
        sum = DOTROW(sum, v & 15, probe->code + i);
        sum = DOTROW(sum, RIGHT(v, 4) & 15, probe->code + half + i);
    }
    int32_t total = 0;
    for (int i = 0; i < LANES; i++) total += sum[i];
    return total - probe->low_bias;
}

/* ---- rotation and codes: 16 rows side by side, [width][16], some lanes at a time -------------- */

typedef float NAME(floats_) __attribute__((vector_size(BYTES), may_alias));
typedef int8_t NAME(nibbles_) __attribute__((vector_size(BYTES / 4), may_alias));
#define FLOATS NAME(floats_)
#define INTS NAME(ints_)
#define NIBBLES NAME(nibbles_)
#define PARTS (64 / BYTES)

TARGET static ALWAYS void NAME(hadamard_)(FLOATS *x, int span) {
    for (int stride = 1; stride < span; stride *= 2)
        for (int start = 0; start < span; start += 2 * stride)
            for (int i = start; i < start + stride; i++) {
                FLOATS *a = x + PARTS * i, *b = a + PARTS * stride, first = *a, second = *b;
                *a = first + second;
                *b = first - second;
            }
    const float scale = (float)(1.0 / sqrt((double)span));
    for (int i = 0; i < span; i++) x[PARTS * i] *= scale;
}

/* Two rounds of random signs and Hadamard transforms. Where the width is no power of two, two
 * transforms overlap. */
TARGET static void NAME(rotate_)(const Book *book, float *lanes) {
    const int width = book->width, rest = width - book->span;
    for (int part = 0; part < PARTS; part++) {
        FLOATS *x = (FLOATS *)lanes + part;
        for (int round = 0; round < 2; round++) {
            for (int i = 0; i < width; i++) x[PARTS * i] *= (float)book->signs[round * width + i];
            NAME(hadamard_)(x, book->span);
            if (rest) NAME(hadamard_)(x + PARTS * rest, book->span);
        }
    }
}

TARGET static ALWAYS FLOATS NAME(either_)(INTS mask, FLOATS yes, FLOATS no) {
    return (FLOATS)(((INTS)yes & mask) | ((INTS)no & ~mask));
}

/* The codes of some lanes: 4 bytes a line for the high and middle plane, a nibble a coordinate for
 * the low one, and the squares of what each depth leaves out. */
TARGET static ALWAYS void NAME(quantise_)(const Book *book, const FLOATS *lanes, INTS *high,
                                          INTS *mid, NIBBLES *low, FLOATS squares[3]) {
    const float inverse = 1.0f / book->step, step = book->step;
    const FLOATS least = (FLOATS){0} + (float)book->least, most = (FLOATS){0} + (float)book->most;
    for (int d = 0; d < 3; d++) squares[d] = (FLOATS){0};
    for (int k = 0; k < book->width / 16; k++) {
        INTS first_bits = {0}, second_bits = {0};
        for (int b = 0; b < 4; b++)
            for (int j = 0; j < 4; j++) {
                const int i = 16 * k + 4 * j + b;
                const FLOATS x = lanes[PARTS * i];
                FLOATS scaled = x * inverse;
                scaled = NAME(either_)(scaled > least, scaled, least);
                scaled = NAME(either_)(scaled < most, scaled, most);
                scaled = (scaled + 0x1.8p23f) - 0x1.8p23f; /* to whole numbers */
                const INTS c = __builtin_convertvector(scaled, INTS);
                INTS index = {0}, level = (INTS){0} + book->levels4[0];
                INTS coarse = (INTS){0} + book->levels2[0];
                for (int n = 1; n < 16; n++) {
                    const INTS above = c >= book->bounds[n]; /* -1 or 0 */
                    index -= above;
                    level += above & (book->levels4[n] - book->levels4[n - 1]);
                    if (n % 4 == 0)
                        coarse += above & (book->levels2[n / 4] - book->levels2[n / 4 - 1]);
                }
                const FLOATS rest2 = x - step * __builtin_convertvector(coarse, FLOATS);
                const FLOATS rest4 = x - step * __builtin_convertvector(level, FLOATS);
                const FLOATS rest8 = x - step * scaled;
                squares[0] += rest2 * rest2;
                squares[1] += rest4 * rest4;
                squares[2] += rest8 * rest8;
                first_bits |= (index >> 2) << (8 * b + 2 * j);
                second_bits |= (index & 3) << (8 * b + 2 * j);
                low[PARTS * i] = __builtin_convertvector(c - level + 8, NIBBLES);
            }
        high[PARTS * k] = first_bits;
        mid[PARTS * k] = second_bits;
    }
}

/* Codes of up to 16 rows, written to the places from `at` on, all of one group. */
TARGET static void NAME(encode_)(const Book *book, const uint16_t *rows, int count, Planes *out,
                                 int64_t at, EncodeScratch *scratch) {
    const int width = book->width, dimension = book->dimension, first = (int)(at & 15);
    const int64_t group = at & ~(int64_t)15;
    memset(scratch->lanes, 0, 16 * sizeof(float) * (size_t)width);
    for (int t = 0; t < count; t++) {
        for (int i = 0; i < dimension; i++)
            scratch->row[i] = from_half(rows[(int64_t)t * dimension + i]);
        for (int i = 0; i < dimension; i++) scratch->lanes[16 * i + first + t] = scratch->row[i];
    }
    NAME(rotate_)(book, scratch->lanes);
    for (int part = 0; part < PARTS; part++) {
        FLOATS squares[3];
        NAME(quantise_)(book, (FLOATS *)scratch->lanes + part, (INTS *)scratch->high + part,
                        (INTS *)scratch->mid + part, (NIBBLES *)scratch->low + part, squares);
        for (int l = 0; l < LANES; l++) {
            int lane = part * LANES + l;
            if (lane < first || lane >= first + count) continue;
            for (int depth = 0; depth < 3; depth++)
                out->errors[depth][group + lane] = error_unit(book, squares[depth][l]);
        }
    }
    for (int k = 0; k < width / 16; k++) {
        int64_t line = (group >> 4) * (width / 16) + k, from = 64 * line + 4 * first;
        memcpy(out->high + from, scratch->high + 64 * k + 4 * first, 4 * (size_t)count);
        memcpy(out->mid + from, scratch->mid + 64 * k + 4 * first, 4 * (size_t)count);
    }
    const int half = width / 2;
    for (int l = first; l < first + count; l++)
        for (int i = 0; i < half; i++)
            out->low[(group + l) * half + i] =
                (uint8_t)(scratch->low[16 * i + l] | scratch->low[16 * (i + half) + l] << 4);
}
#undef FLOATS
#undef INTS
#undef NIBBLES
#undef PARTS

/* ---- the rest ---------------------------------------------------------------------------------- */

TARGET static void NAME(admit_)(const int32_t *products, const uint16_t *errors, int64_t groups,
                                float weight, float cut, uint16_t *masks) {
    admit_body(products, errors, groups, weight, cut, masks);
}
TARGET static double NAME(similarity_)(const uint16_t *row, const float *probe, int dimension) {
    return similarity_body(row, probe, dimension);
}
TARGET static void NAME(halve_)(const float *from, uint16_t *to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = to_half(from[i]);
}

#undef FLAVOUR
#undef TARGET
#undef BYTES
#undef LOOK
#undef DOT
#undef DOTROW
#undef NAME
#undef V
#undef W
#undef LANES
#undef RIGHT
#undef LEFT
#undef PASTE
#undef PASTE_
