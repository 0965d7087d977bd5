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
 * All integer results, and the float comparisons made of them, are the same on every instruction
 * set (build with -ffp-contract=off). */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS inline __attribute__((always_inline))
#define AHEAD 4096      /* bytes that a plane is prefetched ahead */
#define CHUNK 64        /* groups of 16 that a thread takes at a time */
#define STRIDE (16 * CHUNK + 16) /* of products; not a power of two, which caches dislike */
#define COARSE_PROBES 4 /* up to here a scan waits for memory, and reading less is faster */
#define BIAS 63 /* tables hold level + 63: 0..126 times a signed byte, twice, fits 16 bits */
#define ERROR_UNIT 0x1p-15
#define ROTATION_ERROR 0x1p-18 /* of a rotated vector, relative to its length; docs/gallery.md */

typedef struct {
    int dimension, width; /* of a row, and rounded up to a multiple of 128 */
    int span;             /* power of two that one Hadamard transform covers */
    float step, reach;    /* reach: no row is longer */
    int least, most;      /* range of c */
    int8_t levels2[4], levels4[16], bounds[16]; /* c >= bounds[i] is at least the i-th level */
    uint8_t table2[64], table4[64];             /* the levels with their bias, repeated */
    const int8_t *signs;                        /* 2 * width of +1 and -1 */
} Book;

typedef struct {
    uint8_t *high, *mid, *low;
    uint16_t *errors[3]; /* what 2, 4 and 8 bits leave out, in units of 2^-15 */
} Planes;

typedef struct {
    float *lanes, *row;        /* [width][16], and one row */
    uint8_t *high, *mid, *low; /* lines of 64 bytes; [width][16] */
} EncodeScratch;

typedef struct {
    Planes planes;
    const uint16_t *rows, *alive; /* float16 bits; one bit a template, 16 a group */
    const uint64_t *ids;
    int64_t groups;
} Segment;

typedef struct {
    double similarity;
    uint64_t id;
} Hit;

typedef struct {
    const float *row;
    int8_t *code;
    int32_t sum; /* of the code */
    /* similarity <= unit * product + margin * error + allowance, error as a length; the same,
     * divided by unit, in single precision: product + weight * error (in its units) >= cut */
    double unit, margin, allowance, slack;
    float weight;
    double threshold;
    _Atomic double floor; /* what a candidate must reach by now */
    _Atomic float cut;    /* the least product + weight * error that can still reach it */
    pthread_mutex_t lock;
    Hit *best; /* heap, worst first */
    _Atomic int64_t hits;
    int64_t limit;
} Probe;

/* Up to 32 probes that share the unpacking of codes: 4 bytes of each in turn. */
typedef struct {
    int count; /* 1, 2, 4, 8 or 16; with a wide kernel any up to 32 */
    Probe *probes;
    int32_t *words; /* [width / 4][count] */
} Block;

typedef struct {
    Probe *probes;
    Block *blocks;
    int32_t *words;
    int count, block_count, largest; /* largest: number of probes of the largest block */
} Batch;
