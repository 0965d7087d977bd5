/* The integer products of one instruction set. Included once for each, with these defined:
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

TARGET static void NAME(admit_)(const int32_t *products, const uint16_t *errors, int64_t groups,
                                float weight, float cut, uint16_t *masks) {
    admit_body(products, errors, groups, weight, cut, masks);
}
TARGET static void NAME(rotate_)(const Book *book, float *lanes) { rotate_body(book, lanes); }
TARGET static void NAME(encode_)(const Book *book, const uint16_t *rows, int count, Planes *out,
                                 int64_t at, float *scratch) {
    encode_body(book, rows, count, out, at, scratch);
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
