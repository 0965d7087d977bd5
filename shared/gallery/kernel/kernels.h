/* The instruction sets, and which of them runs here. */

typedef struct {
    const char *name;
    int (*runs_here)(void);
    void (*products)(const Book *, const uint8_t *, const uint8_t *, int64_t, const Block *,
                     int32_t *, int64_t);
    int32_t (*low_product)(const Book *, const uint8_t *, const Probe *);
    void (*admit)(const int32_t *, const uint16_t *, int64_t, float, float, uint16_t *);
    void (*rotate)(const Book *, float *);
    void (*encode)(const Book *, const uint16_t *, int, Planes *, int64_t, EncodeScratch *);
    double (*similarity)(const uint16_t *, const float *, int);
    void (*halve)(const float *, uint16_t *, int64_t);
} Kernel;

#if defined(__x86_64__)
#include <immintrin.h>

#define FLAVOUR avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define BYTES 64
#define LOOK(t, i) ((V)_mm512_shuffle_epi8((__m512i)(t), (__m512i)(i)))
#define DOT(s, c, q) \
    ((NAME(ints_))_mm512_dpbusd_epi32((__m512i)(s), (__m512i)(c), _mm512_set1_epi32(*(q))))
#define DOTROW(s, c, q) \
    ((NAME(ints_))_mm512_dpbusd_epi32((__m512i)(s), (__m512i)(c), _mm512_loadu_si512(q)))
#include "flavour.h"
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
#define DOT(s, c, q) DOT256(s, c, _mm256_set1_epi32(*(q)))
#define DOTROW(s, c, q) DOT256(s, c, _mm256_loadu_si256((const __m256i *)(q)))
#include "flavour.h"
static int runs_avx2(void) { return __builtin_cpu_supports("avx2"); }

#elif defined(__aarch64__)
#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

#define FLAVOUR dotprod
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define BYTES 16
#define LOOK(t, i) ((V)vqtbl1q_u8((uint8x16_t)(t), (uint8x16_t)(i)))
#define DOT(s, c, q) \
    ((NAME(ints_))vdotq_s32((int32x4_t)(s), (int8x16_t)(c), (int8x16_t)vdupq_n_s32(*(q))))
#define DOTROW(s, c, q) ((NAME(ints_))vdotq_s32((int32x4_t)(s), (int8x16_t)(c), vld1q_s8(q)))
#include "flavour.h"
static int runs_dotprod(void) {
#ifdef __linux__
    return (getauxval(AT_HWCAP) & (1 << 20)) != 0; /* ASIMDDP */
#else
    return 1; /* every processor that Apple builds */
#endif
}

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
                           (int8x16_t)vdupq_n_s32(*(q))))
#define DOTROW(s, c, q) ((NAME(ints_))neon_dot((int32x4_t)(s), (int8x16_t)(c), vld1q_s8(q)))
#include "flavour.h"
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
#define DOT(s, c, q) ((NAME(ints_))portable_dot((ints4)(s), (bytes16)(c), (const int8_t *)(q), 0))
#define DOTROW(s, c, q) ((NAME(ints_))portable_dot((ints4)(s), (bytes16)(c), q, 4))
#include "flavour.h"
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

