/* The scan of the gallery: which templates can be among the best, proven, at the speed of memory.
 *
 * Every stored row x (float16) has, besides itself, a code: the rotated row is step * c plus a
 * remainder, c whole numbers in three nested planes of 2, 2 and 4 bits a dimension. The first two
 * bits choose one of 4 levels, the first four one of 16, and the low four correct that level to
 * the exact c. For each depth the length of what is left out is kept, rounded up. docs/gallery.md
 * proves how this bounds the similarity from above; here the bound decides what is read next:
 *
 *   high plane -> high and middle plane -> low plane -> the row itself, in double precision.
 *
 * The interpreter lock is not held in any of this. All integer results, and the float comparisons
 * made of them, are the same on every instruction set (build with -ffp-contract=off). */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

#define ALWAYS inline __attribute__((always_inline))
#define AHEAD 4096       /* bytes that a plane is prefetched ahead */
#define CHUNK 64         /* groups of 16 that a thread takes at a time */
#define BLOCK_PROBES 16  /* probes that share one pass over a chunk in the nearest cache */
#define COARSE_PROBES 4  /* up to here a scan waits for memory, and reading less is faster */
#define BIAS 63          /* tables hold level + 63: 0..126 times a signed byte, twice, fits 16 bits */
#define ERROR_UNIT 0x1p-15
#define ROTATION_ERROR 0x1p-18 /* of a rotated vector, relative to its length; docs/gallery.md */

typedef struct {
    int dimension, width; /* of a row, and rounded up to a multiple of 128 */
    int span;             /* power of two that one Hadamard transform covers */
    float step, reach;    /* reach: no row is longer */
    uint8_t table2[64], table4[64];
    int8_t levels2[4], levels4[16], bounds[16]; /* c >= bounds[i] is at least the i-th level */
    int least, most;      /* range of c */
    const int8_t *signs;  /* 2 * width of +1 and -1 */
} Book;

typedef struct {
    uint8_t *high, *mid, *low;
    uint16_t *errors[3]; /* what 2, 4 and 8 bits leave out, in units of 2^-15 */
} Planes;

typedef struct {
    Planes planes;
    const uint16_t *rows, *alive; /* float16 bits; one bit a template, 16 a group */
    const uint64_t *ids;
    int64_t groups;
} Shelf;

typedef struct {
    double similarity;
    uint64_t id;
} Found;

typedef struct {
    const float *row;
    int8_t *code;
    int32_t bias, low_bias;
    /* similarity <= unit * product + margin * error + allowance, error as a length; the same,
     * divided by unit, in single precision: product + weight * error (in its units) >= cut */
    double unit, margin, allowance, slack;
    float weight;
    double threshold;
    _Atomic double floor; /* what a candidate must reach by now */
    pthread_mutex_t lock;
    Found *best; /* heap, worst first */
    int64_t found, limit;
} Probe;

/* ---- arithmetic that each instruction set compiles for itself ---------------------------- */

static ALWAYS uint32_t bits_of(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static ALWAYS float float_of(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }

static ALWAYS float from_half(uint16_t h) { /* finite halves; no subnormal float on the way */
    uint32_t magnitude = (uint32_t)(h & 0x7fff);
    float normal = float_of((magnitude << 13) + 0x38000000u);
    float tiny = (float)(int32_t)magnitude * 0x1p-24f;
    return float_of(bits_of(magnitude < 0x400 ? tiny : normal) | (uint32_t)(h & 0x8000) << 16);
}

static ALWAYS uint16_t to_half(float f) { /* nearest, ties to even; |f| below 65,520 */
    uint32_t u = bits_of(f), magnitude = u & 0x7fffffffu;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t tiny = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    return (uint16_t)((magnitude < 0x38800000u ? tiny : normal) | (u >> 16 & 0x8000u));
}

/* Sum of the products, as if in twice double precision (Ogita, Rump and Oishi 2005, Dot2): each
 * product of a half and a float is exact in a double, so only the sums need their errors carried.
 * The order of summation cannot be seen in the result, so equal rows have equal similarities. */
static ALWAYS void two_sum(double *sum, double *rest, double term) {
    double total = *sum + term, part = total - *sum;
    *rest += (*sum - (total - part)) + (term - part);
    *sum = total;
}
static ALWAYS double similarity_body(const uint16_t *row, const float *probe, int dimension) {
    double sum[8] = {0}, rest[8] = {0};
    int i = 0;
    for (; i + 8 <= dimension; i += 8)
        for (int l = 0; l < 8; l++)
            two_sum(&sum[l], &rest[l], (double)from_half(row[i + l]) * (double)probe[i + l]);
    for (; i < dimension; i++)
        two_sum(&sum[0], &rest[0], (double)from_half(row[i]) * (double)probe[i]);
    for (int l = 1; l < 8; l++) {
        two_sum(&sum[0], &rest[0], sum[l]);
        rest[0] += rest[l];
    }
    return sum[0] + rest[0];
}

/* Two rounds of random signs and Hadamard transforms, over 16 vectors side by side: [width][16].
 * Where the width is no power of two, two transforms overlap. */
static ALWAYS void hadamard(float *lanes, int span) {
    for (int stride = 1; stride < span; stride *= 2)
        for (int start = 0; start < span; start += 2 * stride)
            for (int i = start; i < start + stride; i++) {
                float *a = lanes + 16 * i, *b = a + 16 * stride;
                for (int l = 0; l < 16; l++) {
                    float sum = a[l] + b[l], difference = a[l] - b[l];
                    a[l] = sum;
                    b[l] = difference;
                }
            }
    float scale = (float)(1.0 / sqrt((double)span));
    for (int i = 0; i < 16 * span; i++) lanes[i] *= scale;
}
static ALWAYS void rotate_body(const Book *book, float *lanes) {
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < book->width; i++)
            for (int l = 0; l < 16; l++) lanes[16 * i + l] *= book->signs[round * book->width + i];
        hadamard(lanes, book->span);
        if (book->span < book->width) hadamard(lanes + 16 * (book->width - book->span), book->span);
    }
}

static uint16_t error_unit(const Book *book, float squares) {
    double error = sqrt((double)squares) * (1 + book->width * 0x1p-23) + 0x1p-22 +
                   ROTATION_ERROR * book->reach;
    double units = ceil(error / ERROR_UNIT);
    return units < 65535 ? (uint16_t)units : 65535;
}

/* Codes of up to 16 rows, written to the places from `at` on, all of one group. */
static ALWAYS void encode_body(const Book *book, const uint16_t *rows, int count, Planes *out,
                               int64_t at, float *scratch) {
    const int width = book->width, first = (int)(at & 15);
    float *lanes = scratch;
    int8_t *low = (int8_t *)(scratch + 16 * width);
    memset(lanes, 0, sizeof(float) * 16 * (size_t)width);
    for (int t = 0; t < count; t++)
        for (int i = 0; i < book->dimension; i++)
            lanes[16 * i + first + t] = from_half(rows[(int64_t)t * book->dimension + i]);
    rotate_body(book, lanes);
    const float inverse = 1.0f / book->step, step = book->step;
    const float least = (float)book->least, most = (float)book->most;
    float squares[3][16] = {{0}};
    uint8_t *high = out->high + (at >> 4) * width * 4, *mid = out->mid + (at >> 4) * width * 4;
    for (int k = 0; k < width / 16; k++)
        for (int b = 0; b < 4; b++) {
            uint8_t first_bits[16] = {0}, second_bits[16] = {0};
            for (int j = 0; j < 4; j++) {
                const int i = 16 * k + 4 * j + b;
                const float *x = lanes + 16 * i;
                for (int l = 0; l < 16; l++) {
                    float scaled = x[l] * inverse;
                    scaled = scaled < least ? least : scaled > most ? most : scaled;
                    int32_t c = (int32_t)((scaled + 0x1.8p23f) - 0x1.8p23f);
                    int32_t index = 0, level = book->levels4[0];
                    for (int n = 1; n < 16; n++) {
                        int32_t above = -(c >= book->bounds[n]);
                        index -= above;
                        level += above & (book->levels4[n] - book->levels4[n - 1]);
                    }
                    int32_t coarse = book->levels2[0];
                    for (int n = 1; n < 4; n++)
                        coarse += -(c >= book->bounds[4 * n]) &
                                  (book->levels2[n] - book->levels2[n - 1]);
                    float e2 = x[l] - step * (float)coarse, e4 = x[l] - step * (float)level,
                          e8 = x[l] - step * (float)c;
                    squares[0][l] += e2 * e2;
                    squares[1][l] += e4 * e4;
                    squares[2][l] += e8 * e8;
                    first_bits[l] |= (uint8_t)((index >> 2) << (2 * j));
                    second_bits[l] |= (uint8_t)((index & 3) << (2 * j));
                    low[16 * i + l] = (int8_t)(c - level + 8);
                }
            }
            for (int l = first; l < first + count; l++) {
                high[64 * k + 4 * l + b] = first_bits[l];
                mid[64 * k + 4 * l + b] = second_bits[l];
            }
        }
    for (int l = first; l < first + count; l++) {
        int64_t place = (at & ~(int64_t)15) + l;
        uint8_t *row = out->low + place * (width / 2);
        for (int i = 0; i < width / 2; i++)
            row[i] = (uint8_t)(low[16 * i + l] | low[16 * (i + width / 2) + l] << 4);
        for (int depth = 0; depth < 3; depth++)
            out->errors[depth][place] = error_unit(book, squares[depth][l]);
    }
}

/* For each group the templates whose bound reaches the floor: product + weight*error >= cut. */
static ALWAYS void admit_body(const int32_t *products, const uint16_t *errors, int64_t groups,
                              float weight, float cut, uint16_t *masks) {
    for (int64_t g = 0; g < groups; g++) {
        int32_t mask = 0;
        for (int l = 0; l < 16; l++) {
            float bound = (float)products[16 * g + l] + weight * (float)errors[16 * g + l];
            mask |= -(bound >= cut) & (1 << l);
        }
        masks[g] = (uint16_t)mask;
    }
}

/* ---- instruction sets -------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int (*runs_here)(void);
    void (*products)(const Book *, const uint8_t *, const uint8_t *, int64_t, const Probe *const *,
                     int, int32_t *, int64_t);
    int32_t (*low_product)(const Book *, const uint8_t *, const Probe *);
    void (*admit)(const int32_t *, const uint16_t *, int64_t, float, float, uint16_t *);
    void (*rotate)(const Book *, float *);
    void (*encode)(const Book *, const uint16_t *, int, Planes *, int64_t, float *);
    double (*similarity)(const uint16_t *, const float *, int);
    void (*halve)(const float *, uint16_t *, int64_t);
} Kernel;

static ALWAYS int32_t four_bytes(const int8_t *q) { int32_t v; memcpy(&v, q, 4); return v; }

#if defined(__x86_64__)
#include <immintrin.h>

#define FLAVOUR avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define BYTES 64
#define LOOK(t, i) ((V)_mm512_shuffle_epi8((__m512i)(t), (__m512i)(i)))
#define DOT(s, c, q) \
    ((NAME(ints_))_mm512_dpbusd_epi32((__m512i)(s), (__m512i)(c), _mm512_set1_epi32(four_bytes(q))))
#define DOTROW(s, c, q) \
    ((NAME(ints_))_mm512_dpbusd_epi32((__m512i)(s), (__m512i)(c), _mm512_loadu_si512(q)))
#include "products.h"
static int runs_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

#define FLAVOUR avx2
#define TARGET __attribute__((target("avx2")))
#define BYTES 32
#define LOOK(t, i) ((V)_mm256_shuffle_epi8((__m256i)(t), (__m256i)(i)))
#define DOT256(s, c, q)                                                                      \
    ((NAME(ints_))_mm256_add_epi32(                                                          \
        (__m256i)(s), _mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)(c), (q)),             \
                                        _mm256_set1_epi16(1))))
#define DOT(s, c, q) DOT256(s, c, _mm256_set1_epi32(four_bytes(q)))
#define DOTROW(s, c, q) DOT256(s, c, _mm256_loadu_si256((const __m256i *)(q)))
#include "products.h"
static int runs_avx2(void) { return __builtin_cpu_supports("avx2"); }

#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>

#define FLAVOUR dotprod
#define TARGET __attribute__((target("+dotprod")))
#define BYTES 16
#define LOOK(t, i) ((V)vqtbl1q_u8((uint8x16_t)(t), (uint8x16_t)(i)))
#define DOT(s, c, q) \
    ((NAME(ints_))vdotq_s32((int32x4_t)(s), (int8x16_t)(c), (int8x16_t)vdupq_n_s32(four_bytes(q))))
#define DOTROW(s, c, q) ((NAME(ints_))vdotq_s32((int32x4_t)(s), (int8x16_t)(c), vld1q_s8(q)))
#include "products.h"
static int runs_dotprod(void) { return (getauxval(AT_HWCAP) & (1 << 20)) != 0; /* ASIMDDP */ }

#define FLAVOUR neon
#define TARGET
#define BYTES 16
static ALWAYS int32x4_t neon_dot(int32x4_t sum, int8x16_t codes, int8x16_t probe) {
    int16x8_t first = vmull_s8(vget_low_s8(codes), vget_low_s8(probe));
    int16x8_t second = vmull_high_s8(codes, probe);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(second)));
}
#define LOOK(t, i) ((V)vqtbl1q_u8((uint8x16_t)(t), (uint8x16_t)(i)))
#define DOT(s, c, q)                                                  \
    ((NAME(ints_))neon_dot((int32x4_t)(s), (int8x16_t)(c),            \
                           (int8x16_t)vdupq_n_s32(four_bytes(q))))
#define DOTROW(s, c, q) ((NAME(ints_))neon_dot((int32x4_t)(s), (int8x16_t)(c), vld1q_s8(q)))
#include "products.h"
static int runs_neon(void) { return 1; }
#endif

#define FLAVOUR portable
#define TARGET
#define BYTES 16
typedef uint8_t bytes16 __attribute__((vector_size(16), aligned(1), may_alias));
typedef int32_t ints4 __attribute__((vector_size(16), aligned(1), may_alias));
static ALWAYS bytes16 portable_look(bytes16 table, bytes16 index) {
    bytes16 out;
    for (int i = 0; i < 16; i++) out[i] = table[index[i]];
    return out;
}
static ALWAYS ints4 portable_dot(ints4 sum, bytes16 codes, const int8_t *probe, int next) {
    for (int l = 0; l < 4; l++)
        for (int b = 0; b < 4; b++) sum[l] += codes[4 * l + b] * probe[next * l + b];
    return sum;
}
#define LOOK(t, i) ((V)portable_look((bytes16)(t), (bytes16)(i)))
#define DOT(s, c, q) ((NAME(ints_))portable_dot((ints4)(s), (bytes16)(c), q, 0))
#define DOTROW(s, c, q) ((NAME(ints_))portable_dot((ints4)(s), (bytes16)(c), q, 4))
#include "products.h"
static int runs_portable(void) { return 1; }

#define KERNEL(title, suffix)                                                                 \
    {title, runs_##suffix, products_##suffix, low_product_##suffix, admit_##suffix,           \
     rotate_##suffix, encode_##suffix, similarity_##suffix, halve_##suffix}
static const Kernel KERNELS[] = {
#if defined(__x86_64__)
    KERNEL("avx512-vnni", avx512),
    KERNEL("avx2", avx2),
#elif defined(__aarch64__)
    KERNEL("neon-dotprod", dotprod),
    KERNEL("neon", neon),
#endif
    KERNEL("portable", portable),
};
#define KERNEL_COUNT ((int)(sizeof KERNELS / sizeof *KERNELS))

/* ---- workers: kept between searches, never on the caller's processor ---------------------- */

typedef void (*Task)(void *);
static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    pthread_t threads[64];
    int started, wanted, active;
    Task task;
    void *argument;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER,
          .idle = PTHREAD_COND_INITIALIZER};

static void *work(void *unused) {
    (void)unused;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.wanted) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.wanted--;
        pool.active++;
        Task task = pool.task;
        void *argument = pool.argument;
        pthread_mutex_unlock(&pool.lock);
        task(argument);
        pthread_mutex_lock(&pool.lock);
        if (!--pool.active) pthread_cond_signal(&pool.idle);
    }
    return NULL;
}

static void forget_workers(void) { /* in the child of a fork no worker lives on */
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.idle, NULL);
    pool.started = pool.wanted = pool.active = 0;
    pool.task = NULL;
}

/* A woken worker tends to land where it slept last, which may be where the caller runs now. */
static void keep_off_this_processor(int workers) {
#ifdef __linux__
    cpu_set_t allowed;
    int here = sched_getcpu();
    if (here < 0 || sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < 2) return;
    CPU_CLR((size_t)here, &allowed);
    for (int i = 0; i < workers; i++)
        pthread_setaffinity_np(pool.threads[i], sizeof allowed, &allowed);
#else
    (void)workers;
#endif
}

/* Runs the task in the caller and in up to threads - 1 workers; returns when all have ended. The
 * task shares its work out itself, so it is right with any number; a busy pool means one. */
static void in_parallel(Task task, void *argument, int threads) {
    int helpers = threads - 1 > 64 ? 64 : threads - 1, mine = 0;
    if (helpers > 0) {
        pthread_mutex_lock(&pool.lock);
        if (!pool.task) {
            while (pool.started < helpers &&
                   !pthread_create(&pool.threads[pool.started], NULL, work, NULL))
                pool.started++;
            if (helpers > pool.started) helpers = pool.started;
            pool.task = task;
            pool.argument = argument;
            pool.wanted = helpers;
            mine = 1;
            keep_off_this_processor(helpers);
            pthread_cond_broadcast(&pool.wake);
        }
        pthread_mutex_unlock(&pool.lock);
    }
    task(argument);
    if (!mine) return;
    pthread_mutex_lock(&pool.lock);
    pool.wanted = 0; /* who has not come by now is not needed */
    while (pool.active) pthread_cond_wait(&pool.idle, &pool.lock);
    pool.task = NULL;
    pthread_mutex_unlock(&pool.lock);
}

/* ---- search ------------------------------------------------------------------------------ */

static int worse(const Found *a, const Found *b) { /* lower, or as high with a larger id */
    return a->similarity < b->similarity || (a->similarity == b->similarity && a->id > b->id);
}

static void sift(Found *heap, int64_t count, int64_t at) {
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && worse(&heap[child + 1], &heap[child])) child++;
        if (!worse(&heap[child], &heap[at])) return;
        Found swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

static void offer(Probe *probe, double similarity, uint64_t id) {
    Found found = {similarity, id};
    if (similarity < probe->threshold) return;
    pthread_mutex_lock(&probe->lock);
    Found *heap = probe->best;
    if (probe->found < probe->limit) {
        int64_t at = probe->found++;
        for (; at && worse(&found, &heap[(at - 1) / 2]); at = (at - 1) / 2)
            heap[at] = heap[(at - 1) / 2];
        heap[at] = found;
    } else if (worse(&heap[0], &found)) {
        heap[0] = found;
        sift(heap, probe->found, 0);
    }
    if (probe->found == probe->limit && heap[0].similarity > probe->floor)
        probe->floor = heap[0].similarity;
    pthread_mutex_unlock(&probe->lock);
}

/* The least product + weight*error that can still mean a similarity of the probe's floor. */
static float cut_of(const Probe *probe) {
    double cut = (probe->floor - probe->allowance) / probe->unit - probe->slack;
    return cut < -1e30 ? -INFINITY : nextafterf((float)cut, -INFINITY);
}

typedef struct {
    int32_t product, place;
} Survivor;

typedef struct {
    const Kernel *kernel;
    const Book *book;
    const Shelf *shelves;
    int shelf_count, probe_count;
    Probe *probes;
    int64_t chunks;
    _Atomic int64_t next;
    _Atomic int failed; /* no memory for a thread's scratch */
} Search;

typedef struct {
    int32_t products[BLOCK_PROBES][16 * CHUNK];
    uint16_t wanted[CHUNK], masks[CHUNK];
    Survivor survivors[16 * CHUNK];
    int64_t coarse_again, pause; /* chunks to go before the high plane alone is tried again */
} Scratch;

static int by_product(const void *a, const void *b) {
    int32_t first = ((const Survivor *)a)->product, second = ((const Survivor *)b)->product;
    return (first < second) - (first > second);
}

/* Follows one survivor of the scan down to its row. */
static void settle(const Search *search, const Shelf *shelf, Probe *probe, Survivor survivor) {
    const Kernel *kernel = search->kernel;
    const Book *book = search->book;
    const int64_t place = survivor.place;
    const float weight = probe->weight, cut = cut_of(probe);
    if ((float)survivor.product + weight * shelf->planes.errors[1][place] < cut) return;
    const uint8_t *low = shelf->planes.low + place * (book->width / 2);
    int32_t product = survivor.product + kernel->low_product(book, low, probe);
    if ((float)product + weight * shelf->planes.errors[2][place] < cut) return;
    const uint16_t *row = shelf->rows + place * book->dimension;
    offer(probe, kernel->similarity(row, probe->row, book->dimension), shelf->ids[place]);
}

/* The likely ones first: each raises the floor for those that follow. */
static void settle_all(const Search *search, Scratch *scratch, const Shelf *shelf, Probe *probe,
                       const int32_t *products, int64_t first_group, int64_t groups) {
    Survivor *list = scratch->survivors;
    int64_t count = 0;
    for (int64_t g = 0; g < groups; g++)
        for (unsigned mask = scratch->masks[g]; mask; mask &= mask - 1) {
            int l = __builtin_ctz(mask);
            list[count++] = (Survivor){products[16 * g + l], (int32_t)(16 * (first_group + g) + l)};
        }
    if (!count) return;
    const size_t low_bytes = (size_t)search->book->width / 2;
    double likely = probe->floor / probe->unit;
    if (probe->found < probe->limit) qsort(list, (size_t)count, sizeof *list, by_product);
    else
        for (int64_t i = 0, front = 0; i < count; i++)
            if (list[i].product >= likely) {
                Survivor swap = list[front];
                list[front++] = list[i];
                list[i] = swap;
            }
    for (int64_t i = 0; i < count; i++) {
        if (i + 4 < count)
            for (size_t line = 0; line < low_bytes; line += 64)
                __builtin_prefetch(shelf->planes.low + (size_t)list[i + 4].place * low_bytes + line);
        settle(search, shelf, probe, list[i]);
    }
}

/* Products of the groups that are wanted, run by run. */
static void products_of_wanted(const Search *search, Scratch *scratch, const Shelf *shelf,
                               const Probe *const *probes, int count, int both, int64_t first_group,
                               int64_t groups) {
    const int64_t bytes = 4 * (int64_t)search->book->width;
    for (int64_t g = 0, end; g < groups; g = end) {
        for (end = g; end < groups && scratch->wanted[end]; end++) {}
        if (end > g)
            search->kernel->products(search->book, shelf->planes.high + (first_group + g) * bytes,
                                     both ? shelf->planes.mid + (first_group + g) * bytes : NULL,
                                     end - g, probes, count, scratch->products[0] + 16 * g,
                                     16 * CHUNK);
        else end++;
    }
}

static void scan_chunk(const Search *search, Scratch *scratch, const Shelf *shelf,
                       int64_t first, int64_t groups) {
    const Kernel *kernel = search->kernel;
    const uint16_t *const *errors = (const uint16_t *const *)shelf->planes.errors;
    for (int from = 0; from < search->probe_count; from += BLOCK_PROBES) {
        int count = search->probe_count - from < BLOCK_PROBES ? search->probe_count - from
                                                              : BLOCK_PROBES;
        const Probe *block[BLOCK_PROBES];
        for (int p = 0; p < count; p++) block[p] = &search->probes[from + p];
        memcpy(scratch->wanted, shelf->alive + first, sizeof(uint16_t) * (size_t)groups);
        int settled = 1; /* has every probe a floor that the high plane alone could tell from? */
        for (int p = 0; p < count; p++) settled &= block[p]->floor > -1.0;
        if (search->probe_count <= COARSE_PROBES && settled && --scratch->coarse_again < 0) {
            products_of_wanted(search, scratch, shelf, block, count, 0, first, groups);
            uint16_t any[CHUNK] = {0};
            int64_t left = 0, before = 0;
            for (int p = 0; p < count; p++) {
                kernel->admit(scratch->products[p], errors[0] + 16 * first, groups,
                              block[p]->weight, cut_of(block[p]), scratch->masks);
                for (int64_t g = 0; g < groups; g++) any[g] |= scratch->masks[g];
            }
            for (int64_t g = 0; g < groups; g++) {
                before += scratch->wanted[g] != 0;
                left += (scratch->wanted[g] &= any[g]) != 0;
            }
            if (3 * left < before) scratch->pause = 1;
            else if (scratch->pause < 256) scratch->pause *= 2;
            scratch->coarse_again = 3 * left < before ? 0 : scratch->pause;
        }
        products_of_wanted(search, scratch, shelf, block, count, 1, first, groups);
        for (int p = 0; p < count; p++) {
            kernel->admit(scratch->products[p], errors[1] + 16 * first, groups,
                          block[p]->weight, cut_of(block[p]), scratch->masks);
            for (int64_t g = 0; g < groups; g++) scratch->masks[g] &= scratch->wanted[g];
            settle_all(search, scratch, shelf, &search->probes[from + p], scratch->products[p],
                       first, groups);
        }
    }
}

static void search_task(void *argument) {
    Search *search = argument;
    Scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch) {
        search->failed = 1;
        return;
    }
    scratch->pause = 1;
    for (int64_t chunk; (chunk = search->next++) < search->chunks;) {
        const Shelf *shelf = search->shelves;
        for (; chunk >= (shelf->groups + CHUNK - 1) / CHUNK; shelf++)
            chunk -= (shelf->groups + CHUNK - 1) / CHUNK;
        int64_t first = chunk * CHUNK, left = shelf->groups - first;
        scan_chunk(search, scratch, shelf, first, left < CHUNK ? left : CHUNK);
    }
    free(scratch);
}

/* Codes of the probes and what their rounding may hide; docs/gallery.md has the names. */
static void prepare(const Kernel *kernel, const Book *book, const float *rows, Probe *probes,
                    int count, float *lanes) {
    const int width = book->width, dimension = book->dimension;
    for (int from = 0; from < count; from += 16) {
        int block = count - from < 16 ? count - from : 16;
        memset(lanes, 0, sizeof(float) * 16 * (size_t)width);
        for (int l = 0; l < block; l++)
            for (int i = 0; i < dimension; i++)
                lanes[16 * i + l] = rows[(int64_t)(from + l) * dimension + i];
        kernel->rotate(book, lanes);
        for (int l = 0; l < block; l++) {
            Probe *probe = &probes[from + l];
            double norm = 0, lost = 0;
            float largest = 0x1p-60f;
            probe->row = rows + (int64_t)(from + l) * dimension;
            for (int i = 0; i < dimension; i++) norm += (double)probe->row[i] * probe->row[i];
            for (int i = 0; i < width; i++) largest = fmaxf(largest, fabsf(lanes[16 * i + l]));
            const double step = (double)largest / 127;
            for (int i = 0; i < width; i++) {
                double x = lanes[16 * i + l], c = nearbyint(x / step);
                probe->code[i] = (int8_t)c;
                probe->bias += BIAS * (int32_t)c;
                probe->low_bias += 8 * (int32_t)c;
                lost += (x - step * c) * (x - step * c);
            }
            norm = sqrt(norm) * (1 + 1e-9);
            lost = (sqrt(lost) + ROTATION_ERROR * norm) * (1 + 1e-9);
            probe->unit = step * (double)book->step;
            probe->margin = norm + lost;
            probe->allowance = lost * book->reach;
            double weight = probe->margin * ERROR_UNIT / probe->unit;
            probe->weight = nextafterf((float)weight, INFINITY);
            probe->slack = 0x1p-21 * (128.0 * 127 * width + 65536 * weight);
        }
    }
}

static int by_rank(const void *a, const void *b) { return worse(a, b) ? 1 : -1; }

/* ---- Python ------------------------------------------------------------------------------ */

/* What a call borrows from Python objects, given back together. */
typedef struct {
    Py_buffer *views;
    Py_ssize_t count, room;
} Borrowed;

static void *borrow(Borrowed *all, PyObject *object, Py_ssize_t bytes, int writable) {
    if (all->count == all->room) {
        PyErr_SetString(PyExc_SystemError, "more buffers than a call has");
        return NULL;
    }
    Py_buffer *view = &all->views[all->count];
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)) return NULL;
    all->count++;
    if (view->len >= bytes) return view->buf;
    PyErr_Format(PyExc_ValueError, "a buffer of %zd bytes where %zd are needed", view->len, bytes);
    return NULL;
}

static void give_back(Borrowed *all) {
    for (Py_ssize_t i = 0; i < all->count; i++) PyBuffer_Release(&all->views[i]);
}

static const Kernel *kernel_named(const char *name) {
    for (int i = 0; i < KERNEL_COUNT; i++)
        if (!strcmp(KERNELS[i].name, name) && KERNELS[i].runs_here()) return &KERNELS[i];
    PyErr_Format(PyExc_ValueError, "no kernel %s on this processor", name);
    return NULL;
}

static int read_book(Borrowed *all, PyObject *tuple, Book *book) {
    PyObject *signs, *levels2, *levels4, *bounds;
    const int8_t *l2, *l4, *b;
    if (!PyArg_ParseTuple(tuple, "iiffiiOOOO:book", &book->dimension, &book->width, &book->step,
                          &book->reach, &book->least, &book->most, &levels2, &levels4, &bounds,
                          &signs))
        return 0;
    if (book->dimension < 1 || book->width < book->dimension || book->width % 128 ||
        book->width > 4096) {
        PyErr_SetString(PyExc_ValueError, "a width is a multiple of 128, up to 4096");
        return 0;
    }
    if (!(l2 = borrow(all, levels2, 4, 0)) || !(l4 = borrow(all, levels4, 16, 0)) ||
        !(b = borrow(all, bounds, 16, 0)) || !(book->signs = borrow(all, signs, 2 * book->width, 0)))
        return 0;
    memcpy(book->levels2, l2, 4);
    memcpy(book->levels4, l4, 16);
    memcpy(book->bounds, b, 16);
    for (int i = 0; i < 64; i++) {
        book->table2[i] = (uint8_t)(l2[i & 3] + BIAS);
        book->table4[i] = (uint8_t)(l4[i & 15] + BIAS);
    }
    for (book->span = 128; 2 * book->span <= book->width;) book->span *= 2;
    return 1;
}

/* planes: (groups, high, mid, low, errors), errors as rows of 16 * groups for the three depths */
static int read_planes(Borrowed *all, PyObject *tuple, const Book *book, int writable,
                       Planes *planes, int64_t *groups) {
    PyObject *high, *mid, *low, *errors;
    uint16_t *lengths;
    long long count;
    if (!PyArg_ParseTuple(tuple, "LOOOO:planes", &count, &high, &mid, &low, &errors)) return 0;
    if (count < 0 || count > INT32_MAX / 16) {
        PyErr_SetString(PyExc_ValueError, "a shelf has 0 to 2^27 groups");
        return 0;
    }
    const Py_ssize_t places = 16 * (Py_ssize_t)count, width = book->width;
    if (!(planes->high = borrow(all, high, places * width / 4, writable)) ||
        !(planes->mid = borrow(all, mid, places * width / 4, writable)) ||
        !(planes->low = borrow(all, low, places * width / 2, writable)) ||
        !(lengths = borrow(all, errors, places * 6, writable)))
        return 0;
    for (int depth = 0; depth < 3; depth++) planes->errors[depth] = lengths + depth * places;
    *groups = count;
    return 1;
}

#define SHELF_BUFFERS 7
static int read_shelf(Borrowed *all, PyObject *tuple, const Book *book, Shelf *shelf) {
    PyObject *planes, *rows, *ids, *alive;
    return PyArg_ParseTuple(tuple, "OOOO:shelf", &planes, &rows, &ids, &alive) &&
           read_planes(all, planes, book, 0, &shelf->planes, &shelf->groups) &&
           (shelf->rows = borrow(all, rows, 32 * shelf->groups * book->dimension, 0)) &&
           (shelf->ids = borrow(all, ids, 128 * shelf->groups, 0)) &&
           (shelf->alive = borrow(all, alive, 2 * shelf->groups, 0));
}

static PyObject *py_kernels(PyObject *self, PyObject *none) {
    (void)self, (void)none;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < KERNEL_COUNT; i++) {
        if (!KERNELS[i].runs_here()) continue;
        PyObject *name = PyUnicode_FromString(KERNELS[i].name);
        if (!name || PyList_Append(names, name)) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

typedef struct {
    const Kernel *kernel;
    const Book *book;
    const float *vectors; /* to be halved first, or none */
    uint16_t *rows;       /* of the place 0 */
    Planes planes;
    int64_t first, last;
    _Atomic int64_t next; /* group */
    _Atomic int failed;
} Encoding;

static void encode_task(void *argument) {
    Encoding *job = argument;
    const size_t width = (size_t)job->book->width, dimension = (size_t)job->book->dimension;
    float *scratch = aligned_alloc(64, 16 * width * (sizeof(float) + 1));
    if (!scratch) {
        job->failed = 1;
        return;
    }
    for (int64_t group; (group = job->next++) * 16 < job->last;) {
        int64_t from = group * 16 < job->first ? job->first : group * 16;
        int64_t to = group * 16 + 16 < job->last ? group * 16 + 16 : job->last;
        uint16_t *rows = job->rows + (size_t)from * dimension;
        if (job->vectors)
            job->kernel->halve(job->vectors + (size_t)(from - job->first) * dimension, rows,
                               (to - from) * (int64_t)dimension);
        job->kernel->encode(job->book, rows, (int)(to - from), &job->planes, from, scratch);
    }
    free(scratch);
}

#define CALL_BUFFERS 12

/* encode(kernel, threads, book, vectors | None, rows, planes, first, last) */
static PyObject *py_encode(PyObject *self, PyObject *args) {
    (void)self;
    Py_buffer views[CALL_BUFFERS];
    Borrowed all = {views, 0, CALL_BUFFERS};
    Book book = {0};
    Encoding job = {.book = &book};
    const char *name;
    int threads, fine = 0;
    PyObject *book_tuple, *vectors, *rows, *planes;
    long long first, last;
    int64_t groups;
    if (!PyArg_ParseTuple(args, "siOOOOLL:encode", &name, &threads, &book_tuple, &vectors, &rows,
                          &planes, &first, &last))
        return NULL;
    if (!(job.kernel = kernel_named(name)) || !read_book(&all, book_tuple, &book) ||
        !read_planes(&all, planes, &book, 1, &job.planes, &groups))
        goto end;
    if (first < 0 || last < first || last > 16 * groups) {
        PyErr_SetString(PyExc_ValueError, "places run from first to last, within the planes");
        goto end;
    }
    job.first = first;
    job.last = last;
    job.next = first / 16;
    if (!(job.rows = borrow(&all, rows, 2 * last * book.dimension, vectors != Py_None)) ||
        (vectors != Py_None &&
         !(job.vectors = borrow(&all, vectors, 4 * (last - first) * book.dimension, 0))))
        goto end;
    Py_BEGIN_ALLOW_THREADS
    in_parallel(encode_task, &job, last - first < 256 ? 1 : threads);
    Py_END_ALLOW_THREADS
    fine = !job.failed;
    if (!fine) PyErr_NoMemory();
end:
    give_back(&all);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

/* Probes with room for their codes; release with free. The rows must outlive them. */
static Probe *new_probes(const Kernel *kernel, const Book *book, const float *rows, int count,
                         int64_t limit, double threshold) {
    const size_t width = (size_t)book->width;
    Probe *probes = calloc((size_t)count, sizeof *probes);
    int8_t *codes = malloc((size_t)count * width);
    Found *found = malloc((size_t)count * (size_t)limit * sizeof *found);
    float *lanes = aligned_alloc(64, 16 * width * sizeof(float));
    if (!probes || !codes || !found || !lanes) {
        free(probes), free(codes), free(found), free(lanes);
        return NULL;
    }
    for (int p = 0; p < count; p++) {
        probes[p].code = codes + (size_t)p * width;
        probes[p].best = found + (size_t)p * (size_t)limit;
        probes[p].limit = limit;
        probes[p].floor = probes[p].threshold = threshold;
        pthread_mutex_init(&probes[p].lock, NULL);
    }
    prepare(kernel, book, rows, probes, count, lanes);
    free(lanes);
    return probes;
}
static void free_probes(Probe *probes) {
    if (probes) free(probes->code), free(probes->best);
    free(probes);
}

/* search(kernel, threads, book, shelves, probes, limit, threshold, ids, similarities, counts)
 * writes, for each probe, up to `limit` ids (uint64), similarities (float64) and their number
 * (int64). */
static PyObject *py_search(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int threads, count, fine = 0;
    long long limit;
    double threshold;
    PyObject *book_tuple, *shelf_list, *rows, *outputs[3];
    if (!PyArg_ParseTuple(args, "siOO!OiLdOOO:search", &name, &threads, &book_tuple, &PyList_Type,
                          &shelf_list, &rows, &count, &limit, &threshold, &outputs[0], &outputs[1],
                          &outputs[2]))
        return NULL;
    if (count < 1 || limit < 1) {
        PyErr_SetString(PyExc_ValueError, "a search has probes and a limit of at least 1");
        return NULL;
    }
    Book book = {0};
    const Py_ssize_t shelf_count = PyList_Size(shelf_list);
    const Py_ssize_t room = CALL_BUFFERS + SHELF_BUFFERS * shelf_count;
    Py_buffer *views = malloc(sizeof *views * (size_t)room);
    Shelf *shelves = malloc(sizeof *shelves * (size_t)(shelf_count + 1));
    Probe *probes = NULL;
    Borrowed all = {views, 0, room};
    Search search = {.book = &book, .shelves = shelves, .shelf_count = (int)shelf_count,
                     .probe_count = count};
    if (!views || !shelves) {
        PyErr_NoMemory();
        goto end;
    }
    if (!(search.kernel = kernel_named(name)) || !read_book(&all, book_tuple, &book)) goto end;
    for (Py_ssize_t i = 0; i < shelf_count; i++) {
        if (!read_shelf(&all, PyList_GetItem(shelf_list, i), &book, &shelves[i])) goto end;
        search.chunks += (shelves[i].groups + CHUNK - 1) / CHUNK;
    }
    const float *probe_rows = borrow(&all, rows, 4 * (Py_ssize_t)count * book.dimension, 0);
    uint64_t *ids = borrow(&all, outputs[0], 8 * count * limit, 1);
    double *similarities = borrow(&all, outputs[1], 8 * count * limit, 1);
    int64_t *counts = borrow(&all, outputs[2], 8 * count, 1);
    if (!probe_rows || !ids || !similarities || !counts) goto end;
    Py_BEGIN_ALLOW_THREADS
    search.probes = probes = new_probes(search.kernel, &book, probe_rows, count, limit, threshold);
    if (probes) in_parallel(search_task, &search, threads);
    for (int p = 0; probes && p < count; p++) {
        qsort(probes[p].best, (size_t)probes[p].found, sizeof(Found), by_rank);
        counts[p] = probes[p].found;
        for (int64_t i = 0; i < probes[p].found; i++) {
            ids[p * limit + i] = probes[p].best[i].id;
            similarities[p * limit + i] = probes[p].best[i].similarity;
        }
    }
    Py_END_ALLOW_THREADS
    fine = probes && !search.failed;
    if (!fine) PyErr_NoMemory();
end:
    free_probes(probes);
    give_back(&all);
    free(views);
    free(shelves);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

/* bounds(kernel, book, shelf, probe, depth, estimates, margins): for each template what the planes
 * down to depth 0, 1 or 2 say of its similarity, and how far from it the truth can be. */
static PyObject *py_bounds(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    int depth, fine = 0;
    PyObject *book_tuple, *shelf_tuple, *row, *outputs[2];
    if (!PyArg_ParseTuple(args, "sOOOiOO:bounds", &name, &book_tuple, &shelf_tuple, &row, &depth,
                          &outputs[0], &outputs[1]))
        return NULL;
    Py_buffer views[CALL_BUFFERS + SHELF_BUFFERS];
    Borrowed all = {views, 0, CALL_BUFFERS + SHELF_BUFFERS};
    Book book = {0};
    Shelf shelf;
    Probe *probe = NULL;
    int32_t *products = NULL;
    const Kernel *kernel = kernel_named(name);
    if (!kernel || !read_book(&all, book_tuple, &book) ||
        !read_shelf(&all, shelf_tuple, &book, &shelf))
        goto end;
    const float *probe_row = borrow(&all, row, 4 * book.dimension, 0);
    double *estimates = borrow(&all, outputs[0], 128 * shelf.groups, 1);
    double *margins = borrow(&all, outputs[1], 128 * shelf.groups, 1);
    if (!probe_row || !estimates || !margins) goto end;
    Py_BEGIN_ALLOW_THREADS
    probe = new_probes(kernel, &book, probe_row, 1, 1, -1);
    products = malloc(64 * (size_t)shelf.groups + 64);
    if (probe && products) {
        const Probe *one = probe;
        kernel->products(&book, shelf.planes.high, depth ? shelf.planes.mid : NULL, shelf.groups,
                         &one, 1, products, 0);
        for (int64_t i = 0; i < 16 * shelf.groups; i++) {
            const uint8_t *low = shelf.planes.low + i * (book.width / 2);
            int32_t product = products[i] + (depth > 1 ? kernel->low_product(&book, low, one) : 0);
            estimates[i] = one->unit * product;
            margins[i] = one->margin * ERROR_UNIT * shelf.planes.errors[depth][i] + one->allowance;
        }
        fine = 1;
    }
    Py_END_ALLOW_THREADS
    if (!fine) PyErr_NoMemory();
end:
    free(products);
    free_probes(probe);
    give_back(&all);
    if (!fine) return NULL;
    Py_RETURN_NONE;
}

typedef struct {
    const uint64_t *words;
    int64_t blocks; /* of 64 KiB */
    _Atomic int64_t next;
    _Atomic uint64_t sum;
} Reading;

static void read_task(void *argument) {
    Reading *job = argument;
    uint64_t sums[8] = {0};
    for (int64_t block; (block = job->next++) < job->blocks;)
        for (const uint64_t *w = job->words + block * 8192, *end = w + 8192; w < end; w += 8)
            for (int l = 0; l < 8; l++) sums[l] += w[l];
    for (int l = 0; l < 8; l++) job->sum += sums[l];
}

/* read(buffer, threads): reads every word once, for measuring how fast memory is. */
static PyObject *py_read(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *object;
    Py_buffer view;
    int threads;
    if (!PyArg_ParseTuple(args, "Oi:read", &object, &threads) ||
        PyObject_GetBuffer(object, &view, PyBUF_SIMPLE))
        return NULL;
    Reading job = {.words = view.buf, .blocks = view.len / 65536};
    Py_BEGIN_ALLOW_THREADS
    in_parallel(read_task, &job, threads);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(job.sum);
}

static PyMethodDef METHODS[] = {
    {"kernels", py_kernels, METH_NOARGS, "Names of the kernels that run here, fastest first."},
    {"encode", py_encode, METH_VARARGS, "Rows to halves, codes and error lengths."},
    {"search", py_search, METH_VARARGS, "The best rows for each probe, proven."},
    {"bounds", py_bounds, METH_VARARGS, "Estimates and margins of every template, for tests."},
    {"read", py_read, METH_VARARGS, "The sum of a buffer's words: reads it all, once."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    static int prepared;
    if (!prepared++) pthread_atfork(NULL, NULL, forget_workers);
    return PyModule_Create(&MODULE);
}
